"""Settings from the environment: read once, frozen, and every problem reported at once.

Sources, first wins: the environment, files in `SECRETS_DIR` (one file a name, as Docker and Kubernetes mount
secrets), `.env`. A problem never shows the value it is about: it may be a secret.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from click import ClickException
from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from common import issuers_file
from common.issuers_file import IssuerEntry, IssuersError
from common.secrets import WELL_KNOWN_SECRETS as WELL_KNOWN_SECRETS
from common.secrets import why_weak

_SECRETS = ("jwt_secret_key", "service_secret", "service_secret_previous", "audit_secret", "registry_token")

S = TypeVar("S", bound="Settings")


class SettingsError(ClickException):
    """The environment does not describe a process that can run; `problems` holds one line each.

    A `ClickException`, so that `flask --app ...` shows its text and no stack trace.
    """

    def __init__(self, component: str, problems: Iterable[str]) -> None:
        self.component = component
        self.problems = tuple(problems)
        noun = "setting is" if len(self.problems) == 1 else "settings are"
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"{component} cannot start: {len(self.problems)} {noun} wrong{lines}")


def strong_secret(value: str | None) -> str | None:
    """`value`, if it is a strong secret or None. Raises `ValueError`."""
    if value is not None and (words := why_weak(value)):
        raise ValueError(f"{words}; make one with: openssl rand -base64 48")
    return value


def _empty_is_unset(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


Secret = Annotated[str | None, AfterValidator(strong_secret), BeforeValidator(_empty_is_unset)]
OptionalText = Annotated[str | None, BeforeValidator(_empty_is_unset)]
OptionalPath = Annotated[Path | None, BeforeValidator(_empty_is_unset)]


class Settings(BaseSettings):
    """What all four processes read. Field names are the environment's names in lower case."""

    model_config = SettingsConfigDict(
        frozen=True, env_file=".env", extra="ignore", populate_by_name=True, env_ignore_empty=True
    )

    environment: Literal["development", "test", "production"] = Field(
        "development", description="`production` refuses weak or missing secrets, debug and demo data."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The least level that is logged."
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="`json` for machines, `console` for a person at a terminal."
    )
    caller_timeout: float = Field(
        30, gt=0, le=3600, description="Seconds for which a caller may pause while it sends a body or takes an answer."
    )
    head_timeout: float = Field(
        10, gt=0, le=600, description="Seconds in which the whole head of a request must come, however it trickles."
    )
    body_min_rate: int = Field(
        100,
        ge=0,
        le=1_000_000,
        description="Bytes a second that a body must bring on average, once it was waited for CALLER_TIMEOUT; 0: none.",
    )
    keepalive_requests: int = Field(
        1000, ge=1, le=1_000_000, description="Requests that a caller may make on one connection."
    )
    keepalive_age: float = Field(
        3600, gt=0, le=86_400, description="Seconds after which a caller's connection ends with its next answer."
    )
    max_connections: int = Field(
        2000,
        ge=2,
        le=100_000,
        description="Callers' connections at once, for each worker and listener; beyond them the longest idle ends.",
    )
    worker: Literal["fast", "stock"] = Field(
        "fast",
        description="`stock` reads every request with gunicorn's own parser; `fast` only those that are unusual.",
    )
    debug: bool = Field(False, description="Logs more; never changes what a caller is told. Refused in production.")
    demo_data: bool = Field(
        False,
        description="Compose loads a demo catalogue and accounts with passwords that EVERYBODY KNOWS (admin/admin, "
        "alice and bob/password123). Refused in production, and on any address but loopback: set it to false before "
        "others come.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, file_secret_settings, dotenv_settings

    @property
    def is_production(self) -> bool:
        return self.environment == "production"

    def contradictions(self) -> Iterable[str]:
        """What is wrong between settings that are each right by themselves; one sentence each, the name first."""
        if self.is_production and self.debug:
            yield "DEBUG: must be off when ENVIRONMENT=production"
        if self.is_production and self.demo_data:
            yield "DEMO_DATA: must be off when ENVIRONMENT=production, for everybody knows the passwords of demo users"


class IdentitySettings(Settings):
    """Where the keys come from that tokens are verified with; for the gateway and all services."""

    user_service_url: str = Field(
        "http://127.0.0.1:5002",
        validation_alias=AliasChoices("USER_SERVICE_URL", "AUTH_SERVICE_URL"),
        description="Where user_service is; its public keys are fetched from there.",
    )
    jwt_secret_key: Secret = Field(
        None,
        validation_alias=AliasChoices("JWT_SECRET_KEY", "SECRET_KEY"),
        description="Simple mode: all processes sign and verify tokens with this secret (HS256) instead of EdDSA keys.",
    )
    service_secret: Secret = Field(
        None, description="With it our processes prove to each other who they are. Required in production."
    )
    var_dir: Path = Field(Path("var"), description="Where a development run keeps its databases and secrets.")
    token_issuers: OptionalPath = Field(
        None, description="A YAML file that describes who else may sign tokens; see docs/tokens.md."
    )
    cache_auth_ttl: int = Field(
        600, ge=1, le=86_400, description="Seconds for which a verified token is remembered; revoking it still wins."
    )
    jwks_refresh_s: float = Field(
        60, ge=1, le=3600, description="Seconds after which the keys that issuers publish are fetched anew."
    )
    revocations_lost: Literal["accept", "refuse"] = Field(
        "accept", description="What becomes of tokens while user_service can't be asked which of them were revoked."
    )
    revocations_patience_s: float = Field(
        5, ge=0, le=3600, description="Seconds for which that may last before REVOCATIONS_LOST=refuse refuses tokens."
    )

    def issuers(self) -> tuple[IssuerEntry, ...]:
        """The issuers of `token_issuers`. Raises `IssuersError`."""
        return issuers_file.read(self.token_issuers) if self.token_issuers else ()

    def effective_service_secret(self) -> str:
        """`SERVICE_SECRET`, or on a development run a random one that the processes of this folder share."""
        return self.service_secret or shared_development_secret(self.var_dir / "service_secret")

    def contradictions(self) -> Iterable[str]:
        yield from super().contradictions()
        if self.is_production and not self.service_secret:
            yield "SERVICE_SECRET: is required when ENVIRONMENT=production; make one with: openssl rand -base64 48"
        yield from self._secrets_used_twice()
        try:
            self.issuers()
        except IssuersError as error:
            yield from (f"TOKEN_ISSUERS: {problem}" for problem in error.problems)

    def _secrets_used_twice(self) -> Iterable[str]:
        """Whoever learns one must not have the other."""
        names: dict[str, str] = {}
        for name in _SECRETS:
            value: str | None = getattr(self, name, None)
            if value and self.is_production and names.setdefault(value, name) != name:
                yield f"{name.upper()}: must differ from {names[value].upper()} when ENVIRONMENT=production"


def load(settings: type[S], component: str, **overrides: object) -> S:
    """The settings of `component`, or `SettingsError` with all that is wrong with them."""
    directory = os.environ.get("SECRETS_DIR", "")
    secrets_dir = directory if directory and os.path.isdir(directory) else None
    try:
        loaded = settings(_secrets_dir=secrets_dir, **overrides)  # pyright: ignore[reportCallIssue] - pydantic-settings
    except ValidationError as error:
        # include_input=False: the value may be a secret
        faults = error.errors(include_url=False, include_input=False)
        problems = [_sentence(settings, fault) for fault in faults]
        wrong = {str(fault["loc"][0]) for fault in faults if fault["loc"]}
        told = {problem.partition(":")[0] for problem in problems}
        besides = _contradictions_besides(settings, wrong, {"_secrets_dir": secrets_dir, **overrides})
        problems += [problem for problem in besides if problem.partition(":")[0] not in told]
        raise SettingsError(component, problems) from None
    if contradictions := tuple(loaded.contradictions()):
        raise SettingsError(component, contradictions)
    return loaded


def _contradictions_besides(settings: type[Settings], wrong: set[str], given: dict[str, object]) -> Iterable[str]:
    """What contradicts itself among the values that are right: the wrong ones count as if they were the defaults."""
    defaults = {
        name: field.get_default()
        for field_name, field in settings.model_fields.items()
        for name in (field_name, *environment_names(field_name, field))
        if name in wrong and not field.is_required()
    }
    try:
        return tuple(settings(**{**given, **defaults}).contradictions())  # pyright: ignore[reportArgumentType] - dynamic
    except ValidationError:
        return ()  # a required one is missing; that was told


def load_or_exit(settings: type[S], component: str) -> S:
    """`load`, but a wrong setting ends the process with one message and no stack trace."""
    try:
        return load(settings, component)
    except SettingsError as error:
        raise SystemExit(str(error)) from None


def environment_names(name: str, field: FieldInfo) -> list[str]:
    """The variables that are read for a field, the one that wins first."""
    alias = field.validation_alias
    if alias is None:
        return [name.upper()]
    if isinstance(alias, str):
        return [alias.upper()]
    choices = getattr(alias, "choices", [])
    return [str(choice).upper() for choice in choices]


class Documented(BaseModel):
    """One row of the configuration table and of `.env.example`."""

    model_config = ConfigDict(frozen=True)

    names: tuple[str, ...]
    default: str
    description: str


def documented(settings: type[Settings]) -> list[Documented]:
    """Every variable that `settings` reads, in the order of its fields."""
    rows: list[Documented] = []
    for name, field in settings.model_fields.items():
        default: Any = field.examples[0] if field.examples else field.get_default(call_default_factory=False)
        text = "" if field.is_required() or default in (None, ()) else str(default)
        names = tuple(environment_names(name, field))
        rows.append(Documented(names=names, default=text, description=field.description or ""))
    return rows


def _sentence(settings: type[Settings], item: ErrorDetails) -> str:
    first = str(item["loc"][0]) if item["loc"] else ""
    by_name = {
        name.lower(): " or ".join(environment_names(name, field)) for name, field in settings.model_fields.items()
    }
    by_alias = {alias.lower(): names for names in by_name.values() for alias in names.split(" or ")}
    name = by_name.get(first.lower()) or by_alias.get(first.lower()) or first.upper() or "settings"
    if item["type"] == "missing":
        return f"{name}: is required and not set"
    return f"{name}: {item['msg'].removeprefix('Value error, ')}"


def shared_development_secret(path: Path) -> str:
    """The secret in the file `path`, which is made, readable by its owner only, where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(48))
    try:
        os.link(draft, path)  # atomic, and it loses politely against another process
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    secret = strong_secret(path.read_text().strip())
    assert secret is not None
    return secret
