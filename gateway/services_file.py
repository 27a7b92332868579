"""`services.yaml` as it is written: its keys, and where in the file a fault is.

Every fault is found at once and told as `file:line:column`. `services` fills in what the file leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from click import ClickException
from limits import parse_many
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from urllib3.util import parse_url

from gateway.settings import parse_size

Strategy = Literal["round-robin", "least-requests", "peak-ewma", "hash"]
"""How a balancer chooses, see `backend.balancing`."""

NAME = r"^[a-z][a-z0-9-]{0,62}$"
RESERVED = frozenset(
    {"api", "auth", "docs", "health", "metrics", "openapi", "pages", "problems", "ready", "redoc", "services"}
)
"""What the gateway itself answers under these names would be hidden by a service."""

_EXTRA = re.compile(r"[?#]|[^!-~]")  # urllib3 tells an empty query from none only by our looking
_PATH = re.compile(r"/[!-~]*")
_NOT_IN_PATH = re.compile(r"[?#\\]|(^|/)\.\.?(/|$)")


def parse_rate(value: object) -> str:
    """A rate such as `100/minute`, `5 per second` or `1000/2hours`, as it was written. Raises `ValueError`."""
    try:
        rates = parse_many(str(value))
    except ValueError:
        rates = []
    if len(rates) != 1 or not rates[0].amount:
        raise ValueError("must be a rate like 100/minute, 5/second or 1000/2hours")
    return str(value)


def parse_address(value: object) -> str:
    """`http://host:port` without a path. Raises `ValueError`."""
    text = str(value).rstrip("/")
    try:
        parts = parse_url(text) if "://" in text else None
    except ValueError:  # its text would show the address, perhaps with a password
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.host or parts.path or _EXTRA.search(text):
        raise ValueError("must be an address like http://127.0.0.1:8000, without a path")
    if parts.auth:
        raise ValueError("must not carry a user name or password")
    return text


Rate = Annotated[str, BeforeValidator(parse_rate)]
Size = Annotated[int, BeforeValidator(parse_size)]
Address = Annotated[str, BeforeValidator(parse_address)]


def free_name(value: str) -> str:
    """`value`, unless it is one of the gateway's own names. Raises `ValueError`."""
    if value in RESERVED:
        raise ValueError(f"the gateway itself uses the name {value}; call the service something else")
    return value


def _base_path(value: str) -> str:
    if not _PATH.fullmatch(value) or _NOT_IN_PATH.search(value):
        raise ValueError("must begin with a slash, like /students or /, and go out as it is")
    return value.rstrip("/")


class ServiceEntry(BaseModel):
    """One entry under `services:`. Everything but the address has a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Address | None = Field(None, description="Where the service is: http://host:port. X_SERVICE_URL overrides it.")
    instances: list[Address] = Field(default_factory=list, description="Instead of `url`: several addresses.")
    balance: Strategy = Field(
        "round-robin", description="Who gets the next request: round-robin, least-requests, peak-ewma or hash."
    )
    hash_by: str = Field(
        "user",
        pattern=r"^(user|address|header:[A-Za-z0-9-]+|cookie:[A-Za-z0-9_-]+)$",
        description="What `hash` goes by: user (else the address), address, header:NAME or cookie:NAME.",
    )
    retries: int = Field(1, ge=0, le=5, description="How many more instances may be tried, where that can't hurt.")
    retry_on: list[Annotated[int, Field(ge=500, le=599)]] = Field(
        default_factory=lambda: [502, 503, 504], description="Statuses after which another instance is tried."
    )
    retry_budget: float = Field(0.2, ge=0, le=1, description="Retries, as a share of the requests, at most.")
    aliases: list[str] = Field(default_factory=list, description="More names under which X_SERVICE_URL may set it.")
    path: Annotated[str, AfterValidator(_base_path)] | None = Field(
        None, description="What the service itself calls its prefix; default: the same as here. `/` strips it."
    )
    public: bool = Field(False, description="Configured services want a token unless this is true.")
    roles: list[str] = Field(default_factory=list, description="Any of these roles may call; empty: any valid token.")
    cache: bool = Field(False, description="Keep the answers that say they may be kept (RFC 9111).")
    limits: dict[str, Rate] = Field(
        default_factory=dict, description="Rates by name; `default` for the service, others are named by its routes."
    )
    max_body: Size | None = Field(None, description="The largest request body; default: MAX_REQUEST_SIZE.")
    timeout_s: float | None = Field(None, gt=0, le=3600, description="Default: REQUEST_TIMEOUT.")
    try_timeout_s: float | None = Field(None, gt=0, le=3600, description="For one try; default: all of `timeout_s`.")
    connect_timeout_s: float | None = Field(None, gt=0, le=60, description="Default: CONNECT_TIMEOUT.")

    @model_validator(mode="after")
    def _has_an_address(self) -> Self:
        if (self.url is None) == (not self.instances):
            raise ValueError("needs either url or instances")
        if len(set(self.addresses)) < len(self.addresses):
            raise ValueError("the same instance stands twice")
        return self

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self.url,) if self.url else tuple(self.instances)


class ServicesFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    services: dict[Annotated[str, Field(pattern=NAME), AfterValidator(free_name)], ServiceEntry]


class ServicesError(ClickException):
    """The file does not describe services that can be run; `problems` holds one `file:line:column: ...` each.

    A `ClickException`, so that `flask --app gateway ...` shows its text and no stack trace.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("the services file has problems:" + "".join(f"\n  {problem}" for problem in problems))


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key which stands twice: the first one would be lost without a word."""


def _construct_mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be text", key.start_mark)
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
        seen.add(key.value)
    loader.flatten_mapping(node)
    return {
        loader.construct_object(key, deep=True): loader.construct_object(value, deep=True) for key, value in node.value
    }


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def read(path: Path) -> ServicesFile:
    """The file at `path`. Raises `ServicesError`."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ServicesError([f"{path}: can't be read ({error.strerror})"]) from None
    except UnicodeDecodeError:
        raise ServicesError([f"{path}: is not UTF-8 text"]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ServicesError([f"{place}: {error.problem}"]) from None
    except yaml.YAMLError as error:
        raise ServicesError([f"{path}: {error}"]) from None
    try:
        return ServicesFile.model_validate(document)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise ServicesError([f"{path}:{_place(root, fault['loc'])}: {_words(fault)}" for fault in faults]) from None


def _words(fault: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in fault["loc"] if part != "[key]") or "the file"
    if fault["type"] == "extra_forbidden":
        known = ", ".join(ServiceEntry.model_fields if len(fault["loc"]) > 1 else ServicesFile.model_fields)
        return f"{where}: nobody knows this key; known are {known}"
    is_telling = not isinstance(fault["input"], dict) and "@" not in str(fault["input"])  # a password may stand there
    here = f" (here: {fault['input']!r})" if is_telling else ""
    return f"{where}: {str(fault['msg']).removeprefix('Value error, ')}{here}"


def _place(root: yaml.Node | None, location: tuple[int | str, ...]) -> str:
    """`line:column` of the node at `location`, or of the nearest one above it."""
    marks = list(_marks(root, location))
    return f"{marks[-1].line + 1}:{marks[-1].column + 1}" if marks else "1:1"


def _marks(node: yaml.Node | None, location: tuple[int | str, ...]) -> Iterator[yaml.Mark]:
    if node is not None and node.start_mark is not None:
        yield node.start_mark
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                return
            yield pair[0].start_mark
            node = pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            if node is not None and node.start_mark is not None:
                yield node.start_mark
        else:
            return
