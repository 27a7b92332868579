"""`make docs`: the parts of the documentation that come from the code, so that they can't differ from it.

Writes `.env.example` and `docs/configuration.md`; a test compares both with what this module says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.codes import CODES
from common.settings import Settings, documented
from gateway.cli import schema_text
from gateway.services_file import ServiceEntry
from gateway.settings import GatewaySettings
from order_service.settings import OrderSettings
from product_service.settings import ProductSettings
from user_service.settings import UserSettings

ROOT = Path(__file__).resolve().parents[1]

PROCESSES: Mapping[str, type[Settings]] = {
    "gateway": GatewaySettings,
    "users": UserSettings,
    "orders": OrderSettings,
    "products": ProductSettings,
}

BESIDES_SETTINGS = (
    ("SECRETS_DIR", "", "all", "A folder with one file a setting, as Docker and Kubernetes mount secrets."),
    (
        "ORDER_SERVICE_URL",
        "http://127.0.0.1:5003",
        "gateway",
        "Where order_service is. Any X_SERVICE_URL adds service x.",
    ),
    ("GATEWAY_TOKEN", "", "commands", "An administrator's token, for `flask --app gateway reload` and `rollback`."),
    ("GATEWAY_PUBLISH_ADDRESS", "127.0.0.1", "compose", "The address of this machine on which Compose publishes 5001."),
)
FILLED_IN = {"ENVIRONMENT": "development", "DEMO_DATA": "true"}
"""What `.env.example` sets: without it Compose runs a production system with an empty catalogue."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable, and who reads it. `instead_of` names the variable that wins where both are set."""

    name: str
    default: str
    readers: tuple[str, ...]
    description: str
    instead_of: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        if not self.instead_of:
            return self.description
        verb = "wins" if len(self.instead_of) == 1 else "win"
        return f"Read where {' or '.join(self.instead_of)} is not set, which {verb} over this one."


def variables() -> list[Variable]:
    """Every variable that the code reads, each once, in the order in which the processes name them."""
    found: dict[str, Variable] = {}
    for process, settings in PROCESSES.items():
        for row in documented(settings):
            for position, name in enumerate(row.names):
                known = found.get(name)
                readers = (*(known.readers if known else ()), process)
                others = (row.names[0],) if position else ()
                instead_of = tuple(dict.fromkeys((*(known.instead_of if known else ()), *others)))
                found[name] = Variable(name, row.default, readers, row.description, instead_of)
    for name, default, reader, description in BESIDES_SETTINGS:
        if name not in found:
            found[name] = Variable(name, default, (reader,), description)
    return list(found.values())


def env_example() -> str:
    """`.env.example`: every variable, empty, with a sentence."""
    lines = [
        "# Copy this to .env and change what you need: cp .env.example .env",
        "# An empty value means the default. The environment wins over this file. There is no default secret:",
        "# what is missing is made at random (development, Compose) or asked for (ENVIRONMENT=production).",
    ]
    for variable in variables():
        default = f" Default: {variable.default}." if variable.default and not variable.instead_of else ""
        lines += ["", f"# {variable.sentence}{default}", f"{variable.name}={FILLED_IN.get(variable.name, '')}"]
    return "\n".join(lines) + "\n"


def configuration_page() -> str:
    """`docs/configuration.md`: the environment, then the keys of `services.yaml`."""
    return "\n".join([*_environment_part(), "", *_services_part(), ""])


def _environment_part() -> Iterator[str]:
    yield "# Configuration"
    yield ""
    yield "<!-- Written by `make docs`; change the settings' descriptions in the code instead. -->"
    yield ""
    yield "## The environment"
    yield ""
    yield "Read once, at start. A wrong or missing value stops the start with one message that lists all of them."
    yield "Sources, first wins: the environment, files in `SECRETS_DIR`, `.env`."
    yield ""
    yield "| variable | default | read by | meaning |"
    yield "| --- | --- | --- | --- |"
    for variable in variables():
        readers = "all" if len(variable.readers) == len(PROCESSES) else ", ".join(variable.readers)
        default = f"`{variable.default}`" if variable.default and not variable.instead_of else ""
        yield f"| `{variable.name}` | {default} | {readers} | {variable.sentence} |"


def _services_part() -> Iterator[str]:
    yield "## services.yaml"
    yield ""
    yield "One entry a service; `GATEWAY_SERVICES` names another file. Faults are told as `file:line:column`."
    yield ""
    yield "| key | default | meaning |"
    yield "| --- | --- | --- |"
    for name, field in ServiceEntry.model_fields.items():
        default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)}`"
        yield f"| `{name}` | {'' if default == '`None`' else default} | {field.description} |"
    yield ""
    yield "Rates are written `100/minute`, `5 per second`, `1000/2hours`; sizes `10MB`, `512KB`, `4096`."


MOST_USED = (
    "ENVIRONMENT", "GATEWAY_PORT", "REDIS_URL", "USER_SERVICE_URL", "USERS_DATABASE_URL", "SERVICE_SECRET",
    "JWT_SECRET_KEY", "RATE_LIMIT_REQUESTS", "RATE_LIMIT_WINDOW", "REQUEST_TIMEOUT", "MAX_REQUEST_SIZE",
    "TRUSTED_PROXIES", "WEB_CONCURRENCY", "LOG_LEVEL",
)  # fmt: skip
README_MARKS = ("<!-- settings: written by `make docs` -->", "<!-- settings end -->")


def readme() -> str:
    """`README.md` with its table of settings written anew."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    begin, end = README_MARKS
    head, _, rest = text.partition(begin)
    known = {variable.name: variable for variable in variables()}
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for variable in (known[name] for name in MOST_USED):
        default = f"`{variable.default}`" if variable.default else ""
        rows.append(f"| `{variable.name}` | {default} | {variable.description} |")
    return head + "\n".join([begin, *rows, end]) + rest.partition(end)[2]


def errors_page() -> str:
    """`docs/errors.md`: every code."""
    rows = [f"| {code.status} | `{code.name}` | {code.meaning} | {code.way_out} |" for code in CODES]
    return "\n".join([ERRORS_HEAD, "| status | code | meaning | way out |", "| --- | --- | --- | --- |", *rows, ""])


ERRORS_HEAD = """# Errors

<!-- Written by `make docs` from common/codes.py. -->

Every refusal and failure, of the gateway and of the services, has one shape: `application/problem+json` (RFC 9457).

```json
{
  "type": "/problems/out-of-stock", "title": "Conflict", "status": 409, "detail": "...",
  "error": "Conflict", "message": "...", "code": "OUT_OF_STOCK", "request_id": "req-1f0c...", "source": "order_service"
}
```

`code` is stable: decide by it. `detail` (and `message`, the same for older clients) is for people. `source` says who
refused: `gateway` or a service. `request_id` is in the log lines of every process that saw the request, and in the
`X-Request-ID` field of every answer. Where input is at fault, `errors` has one entry a field: `{"field", "message",
"in"}`. `GET /problems` on the gateway answers with this table.
"""

PAGES: Mapping[str, Callable[[], str]] = {
    ".env.example": env_example,
    "gateway/services.schema.json": schema_text,
    "docs/configuration.md": configuration_page,
    "docs/errors.md": errors_page,
    "README.md": readme,
}


def main() -> None:
    for path, text in PAGES.items():
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_text(text(), encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
