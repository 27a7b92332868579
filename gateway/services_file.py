"""`services.yaml` as it is written: its keys, their meaning and what they may say.

`services` fills in what the file leaves out. Each description here is a row of `docs/configuration.md` and a hint in
editors that know the JSON Schema.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self, TypeVar

from limits import parse_many
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from urllib3.util import parse_url

from gateway.backend.dns import parse_source as parse_dns_source
from gateway.matching import Condition, check_host_pattern
from gateway.rewriting import PathTemplate, check_header_name, check_header_value, check_redirect
from gateway.settings import parse_size

Strategy = Literal["round-robin", "least-requests", "peak-ewma", "hash"]
"""How a balancer chooses, see `backend.balancing`."""
Priority = Literal["high", "normal", "low"]

NAME = r"^[a-z][a-z0-9-]{0,62}$"
TARGET_NAME = r"^[a-z][a-z0-9-]{0,62}(@[1-9][0-9]{0,3})?$"
REGISTRY = "registry"
RESERVED = frozenset(
    {"api", "auth", "docs", "health", "metrics", "openapi", "pages", "problems", "ready", "redoc", "services"}
)
"""What the gateway itself answers under these names would be hidden by a service."""

_EXTRA = re.compile(r"[?#]|[^!-~]")  # urllib3 tells an empty query from none only by our looking
_PATH = re.compile(r"/[!-~]*")
_NOT_IN_PATH = re.compile(r"[?#\\]|(^|/)\.\.?(/|$)")
_METHOD = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"


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


def parse_source(value: object) -> str:
    """An address, `dns:name:port` or `registry`. Raises `ValueError`."""
    text = str(value)
    if text == REGISTRY:
        return text
    if text.startswith("dns:"):
        parse_dns_source(text)
        return text
    return parse_address(value)


def free_name(value: str) -> str:
    """`value`, unless it is one of the gateway's own names. Raises `ValueError`."""
    if value in RESERVED:
        raise ValueError(f"the gateway itself uses the name {value}; call the service something else")
    return value


def _base_path(value: str) -> str:
    if not _PATH.fullmatch(value) or _NOT_IN_PATH.search(value):
        raise ValueError("must begin with a slash, like /students or /, and go out as it is")
    return value.rstrip("/")


def _prefix(value: str) -> str:
    if not _PATH.fullmatch(value) or _NOT_IN_PATH.search(value) or "//" in value or re.search(r"[%<>]", value):
        raise ValueError("must be a path like /shop or /shop/catalogue, or / for everything")
    return value.rstrip("/")


def _template(value: str) -> str:
    PathTemplate.parse(value)
    return value


def _condition(value: str) -> str:
    Condition("header", "x", value)
    return value


def _unless_off(value: object) -> object:
    if value is None:
        raise ValueError("is empty; write off, or what it is to be")
    return None if value is False else value


def _as_instance(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


T = TypeVar("T")
Rate = Annotated[str, BeforeValidator(parse_rate)]
Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=int | str)]
Address = Annotated[str, BeforeValidator(parse_address)]
Source = Annotated[str, BeforeValidator(parse_source, json_schema_input_type=str)]
HeaderName = Annotated[str, AfterValidator(check_header_name)]
HeaderValue = Annotated[str, AfterValidator(check_header_value)]
Template = Annotated[str, AfterValidator(_template)]
Wanted = Annotated[str, AfterValidator(_condition)]
HostPattern = Annotated[str, AfterValidator(check_host_pattern)]
Method = Annotated[str, Field(pattern=_METHOD)]
OrOff = Annotated[T | None, BeforeValidator(_unless_off, json_schema_input_type=T | Literal[False])]


class Entry(BaseModel):
    """A part of the file: nothing unknown in it, nothing changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class InstanceEntry(Entry):
    url: Source = Field(description="http://host:port, dns:name:port (every address of the name), or registry.")
    weight: float = Field(1.0, gt=0, le=1000, description="Its share of the requests.")


Instance = Annotated[InstanceEntry, BeforeValidator(_as_instance, json_schema_input_type=str | InstanceEntry)]


class HeaderChangesEntry(Entry):
    set: dict[HeaderName, HeaderValue] = Field(default_factory=dict, description="These fields, with this value only.")
    add: dict[HeaderName, HeaderValue] = Field(default_factory=dict, description="One more field of that name.")
    remove: list[HeaderName] = Field(default_factory=list, description="Fields that are dropped.")


class MirrorEntry(Entry):
    service: str = Field(pattern=TARGET_NAME, description="Who gets the copy; NAME or NAME@VERSION.")
    percent: float = Field(100, gt=0, le=100, description="The share of the requests that is copied.")


class SplitEntry(Entry):
    service: str = Field(pattern=TARGET_NAME, description="Who gets this share; NAME or NAME@VERSION.")
    percent: float = Field(gt=0, le=100, description="Its share of the callers; each caller stays where it is.")


class FallbackEntry(Entry):
    stale: bool = Field(False, description="The last kept answer, even if it is too old (wants `cache`).")
    status: int | None = Field(None, ge=200, le=599, description="Of the answer that is given instead.")
    content_type: HeaderValue = Field("application/json", description="Of that answer.")
    body: str = Field("", description="Of that answer.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.stale and self.status is None:
            raise ValueError("needs a status, or stale: true")
        return self


class BreakerEntry(Entry):
    failures: int | None = Field(
        None, ge=1, description="In a row, that open it; default: CIRCUIT_BREAKER_FAILURE_THRESHOLD."
    )
    recovery_s: float | None = Field(
        None, gt=0, description="Until a trial; default: CIRCUIT_BREAKER_RECOVERY_TIMEOUT."
    )
    fallback: FallbackEntry | None = Field(
        None, description="The answer to GET while no instance can be had, instead of 502, 503 or 504."
    )


class HealthCheckEntry(Entry):
    path: Annotated[str, AfterValidator(_base_path)] = Field("/health", description="Asked by GET; below 400 is well.")
    interval_s: float = Field(5, ge=0.1, le=3600, description="Between two checks of an instance, with jitter.")
    timeout_s: float = Field(1, gt=0, le=60, description="How long the answer may take.")
    unhealthy_after: int = Field(3, ge=1, le=100, description="Failures in a row after which it gets no request.")
    healthy_after: int = Field(2, ge=1, le=100, description="Good answers in a row after which it does again.")


class EjectionEntry(Entry):
    failures: int = Field(3, ge=1, le=1000, description="In a row, after which an instance is left out for a while.")
    period_s: float = Field(5, gt=0, le=3600, description="The first time; it doubles with each further one.")
    longest_s: float = Field(300, gt=0, le=86_400, description="It never lasts longer than this.")


class HedgeEntry(Entry):
    budget: float = Field(0.05, gt=0, le=1, description="Second tries, as a share of the requests, at most.")
    after_ms: float | None = Field(
        None, gt=0, le=60_000, description="When the second try begins; default: the 95th percentile, as it is learnt."
    )


class LoadEntry(Entry):
    in_flight: int = Field(200, ge=1, le=10_000, description="Requests at once, for each worker.")
    queue: int = Field(100, ge=0, le=10_000, description="How many more may wait for a place.")
    wait_ms: float = Field(500, ge=0, le=60_000, description="How long they may wait, before they are told 503.")


class RewriteEntry(Entry):
    path: Template | None = Field(None, description="The whole path at the service: /v2/<id>, names as in `path`.")
    strip_prefix: str | None = Field(None, pattern=r"^/.+", description="Cut off the front of the path at the service.")
    add_prefix: str | None = Field(None, pattern=r"^/.+", description="Put in front, after cutting.")
    host: HeaderValue | None = Field(None, description="The Host that the service is told.")

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if self.path is not None and (self.strip_prefix or self.add_prefix):
            raise ValueError("has a path; strip_prefix and add_prefix would mean nothing")
        return self


class RedirectEntry(Entry):
    to: Annotated[str, AfterValidator(check_redirect)] = Field(
        description="A path or an address, with names as in `path`; the caller's query goes along."
    )
    status: Literal[301, 302, 303, 307, 308] = Field(308, description="307 and 308 keep the method.")


class Rules(Entry):
    """What a service says for all its routes, and a route for itself."""

    public: bool | None = Field(None, description="Without it a valid token is wanted.")
    roles: list[str] | None = Field(None, description="Any of these roles may call; empty: any valid token.")
    cache: bool | None = Field(None, description="Keep the answers that say they may be kept (RFC 9111).")
    max_body: OrOff[Size] | None = Field(None, description="The largest body, or off; default: MAX_REQUEST_SIZE.")
    timeout_s: float | None = Field(None, gt=0, le=3600, description="For all tries; default: REQUEST_TIMEOUT.")
    priority: Priority | None = Field(None, description="Who waits less when there is too much: high, normal or low.")
    request_headers: HeaderChangesEntry | None = Field(None, description="Changes on the way to the service.")
    response_headers: HeaderChangesEntry | None = Field(None, description="Changes on the way to the caller.")
    mirror: MirrorEntry | None = Field(None, description="Another service gets a copy; its answer is dropped.")
    split: list[SplitEntry] | None = Field(None, description="Shares of the callers that go to other services.")


class RouteEntry(Rules):
    """One entry under `routes:`."""

    path: Template = Field(description="Below the prefix: /, /reviews, /<id>/reviews or /files/<path:rest>.")
    methods: list[Method] = Field(default_factory=lambda: ["*"], min_length=1, description="* is any method.")
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,64}$", description="For logs and metrics.")
    hosts: list[HostPattern] = Field(default_factory=list, description="Only under these: a.example or *.example.")
    headers: dict[HeaderName, Wanted] = Field(
        default_factory=dict, description="Only with these: exact text, * for any, ! for none, ~REGEX."
    )
    query: dict[str, Wanted] = Field(default_factory=dict, description="Only with these parameters, as `headers`.")
    limit: str | None = Field(None, description="Which rate of the service's `limits` counts besides `default`.")
    rewrite: RewriteEntry | None = Field(None, description="What the service is asked for instead.")
    redirect: RedirectEntry | None = Field(None, description="Answer with this, without asking the service.")


class Place(Entry):
    """Where instances are."""

    url: Source | None = Field(None, description="Where the service is: http://host:port. X_SERVICE_URL overrides it.")
    instances: list[Instance] = Field(
        default_factory=list,
        description="Instead of `url`, several: addresses, dns:name:port, registry, or {url, weight}.",
    )
    path: Annotated[str, AfterValidator(_base_path)] | None = Field(
        None, description="What the service itself calls its prefix; default: the same as here. `/` strips it."
    )

    @model_validator(mode="after")
    def _has_an_address(self) -> Self:
        if (self.url is None) == (not self.instances):
            raise ValueError("needs either url or instances")
        if len({entry.url for entry in self.members}) < len(self.members):
            raise ValueError("the same instance stands twice")
        return self

    @property
    def members(self) -> tuple[InstanceEntry, ...]:
        return (InstanceEntry.model_validate({"url": self.url}),) if self.url else tuple(self.instances)


class VersionEntry(Place):
    """One entry under `versions:`: what this version has otherwise than the service."""


class ServiceEntry(Rules, Place):
    """One entry under `services:`. Everything but the address has a default."""

    prefixes: list[Annotated[str, AfterValidator(_prefix)]] = Field(
        default_factory=list, description="Where it is reachable; default: /NAME. / is all that no other one claims."
    )
    hosts: list[HostPattern] = Field(default_factory=list, description="Only under these names of the gateway.")
    versions: dict[Annotated[str, Field(pattern=r"^[1-9][0-9]{0,3}$")], VersionEntry] = Field(
        default_factory=dict, description="Further versions (/api/v2/..., API-Version: 2) with own instances."
    )
    aliases: list[str] = Field(default_factory=list, description="More names under which X_SERVICE_URL may set it.")
    routes: list[RouteEntry] = Field(
        default_factory=list, description="All that exists of it; default: every method and path."
    )
    balance: Strategy = Field(
        "round-robin", description="Who gets the next request: round-robin, least-requests, peak-ewma or hash."
    )
    hash_by: str = Field(
        "user",
        pattern=r"^(user|address|header:[A-Za-z0-9-]+|cookie:[A-Za-z0-9_-]+)$",
        description="What `hash` and `split` go by: user (else the address), address, header:NAME or cookie:NAME.",
    )
    connect_timeout_s: float | None = Field(None, gt=0, le=60, description="Default: CONNECT_TIMEOUT.")
    try_timeout_s: float | None = Field(None, gt=0, le=3600, description="For one try; default: all of `timeout_s`.")
    retries: int = Field(1, ge=0, le=5, description="How many more instances may be tried, where that can't hurt.")
    retry_on: list[Annotated[int, Field(ge=500, le=599)]] = Field(
        default_factory=lambda: [502, 503, 504], description="Statuses after which another instance is tried."
    )
    retry_budget: float = Field(0.2, ge=0, le=1, description="Retries, as a share of the requests, at most.")
    breaker: OrOff[BreakerEntry] = Field(
        default_factory=lambda: BreakerEntry.model_validate({}), description="Of each instance; off for none."
    )
    health_check: OrOff[HealthCheckEntry] = Field(None, description="Ask each instance regularly; default: off.")
    ejection: OrOff[EjectionEntry] = Field(
        default_factory=lambda: EjectionEntry.model_validate({}),
        description="Leave out instances that fail, never more than half; off for none.",
    )
    slow_start_s: float = Field(0, ge=0, le=3600, description="An instance that returns gets its share by and by.")
    hedge: OrOff[HedgeEntry] = Field(None, description="A second try for slow GETs at another instance; default: off.")
    load: OrOff[LoadEntry] = Field(
        default_factory=lambda: LoadEntry.model_validate({}), description="How much at once; off for no bound."
    )
    limits: OrOff[dict[str, Rate]] = Field(
        default_factory=dict,
        description="Rates by name; `default` for the service, others are named by its routes. off: none at all.",
    )
    host: HeaderValue = Field(
        "instance", description="The Host that the service is told: instance (its own), caller (the caller's), a name."
    )
    encoded_slashes: bool = Field(False, description="Let %2F and %5C in paths pass as they are.")
    buffered: bool = Field(
        True, description="Take in short bodies, so that a try can be repeated; false: all bodies pass as they come."
    )
    verbatim: bool = Field(
        False, description="Any method and path; header fields change only where RFC 9110 wants it of a proxy."
    )


class ServicesFile(Entry):
    """The whole file."""

    pages: Literal["public", "operations"] = Field(
        "public", description="Where the gateway's own pages are: on both listeners, or on the operations one only."
    )
    services: dict[Annotated[str, Field(pattern=NAME), AfterValidator(free_name)], ServiceEntry]
