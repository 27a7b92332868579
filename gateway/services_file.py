"""`services.yaml` as it is written: its keys, their meaning and what they may say.

`services` fills in what the file leaves out. Each description here is a row of `docs/configuration.md` and a hint in
editors that know the JSON Schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.config import JsonDict

from gateway.matching import Condition, Conditions
from gateway.notation import FIRST_VERSION as FIRST_VERSION
from gateway.notation import (
    NAME,
    BasePath,
    Destination,
    DocumentPath,
    FieldName,
    FilePath,
    Front,
    Given,
    HashKey,
    HeaderName,
    HeaderValue,
    HostPattern,
    Method,
    Moment,
    Name,
    Network,
    OrOff,
    Percent,
    Prefix,
    Priority,
    Rate,
    RouteName,
    Seconds,
    ServerName,
    Size,
    Source,
    Strategy,
    Target,
    Template,
    Version,
    Wanted,
    WhenDown,
)
from gateway.notation import TARGET_NAME as TARGET_NAME
from gateway.notation import parse_address as parse_address

OF_ALL_ROUTES = frozenset({"default", "user", "address", "burst"})
"""Limits of a service that need not be named by a route."""
RESERVED = frozenset(
    {"api", "auth", "docs", "health", "metrics", "openapi", "pages", "problems", "ready", "redoc", "services"}
)
"""What the gateway itself answers under these names would be hidden by a service."""
CODED: Mapping[str, tuple[str, ...]] = {
    "users": ("/users", "/auth"),
    "products": ("/products",),
    "orders": ("/orders",),
}
"""Services whose routes are written in `gateway/blueprints/NAME.py`, with their prefixes."""


def service_name(value: str) -> str:
    """`value`, if a service can be called so. Raises `ValueError`."""
    if not re.fullmatch(NAME, value):
        raise ValueError("must be a name of lower-case letters, digits and hyphens, like grade-books")
    if value in RESERVED:
        raise ValueError(f"the gateway itself uses the name {value}; call the service something else")
    return value


ServiceName = Annotated[str, AfterValidator(service_name), WithJsonSchema({"type": "string", "pattern": NAME})]


def _as_instance(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


def _without_null(schema: JsonDict) -> None:
    """What is left out is not null: editors would offer to write that."""
    properties = schema["properties"]
    for described in properties.values() if isinstance(properties, dict) else ():
        if isinstance(described, dict) and described.get("default", "") is None:
            del described["default"]


class Entry(BaseModel):
    """A part of the file: nothing unknown in it, nothing changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, json_schema_extra=_without_null)


class InstanceEntry(Entry):
    url: Source = Field(description="http://host:port, dns:name:port (every address of the name), or registry.")
    weight: float = Field(1.0, gt=0, le=1000, description="Its share of the requests.")


Instance = Annotated[InstanceEntry, BeforeValidator(_as_instance, json_schema_input_type=Source | InstanceEntry)]


class HeaderChangesEntry(Entry):
    set: dict[HeaderName, HeaderValue] = Field(default_factory=dict, description="These fields, with this value only.")
    add: dict[HeaderName, HeaderValue] = Field(default_factory=dict, description="One more field of that name.")
    remove: list[HeaderName] = Field(default_factory=list, description="Fields that are dropped.")


class MirrorEntry(Entry):
    service: Target = Field(description="Who gets the copy; NAME or NAME@VERSION.")
    percent: Percent = Field(100, description="The share of the requests that is copied.")


class SplitEntry(Entry):
    service: Target = Field(description="Who gets this share; NAME or NAME@VERSION.")
    percent: Percent = Field(description="Its share of the callers; each caller stays where it is.")


class FallbackEntry(Entry):
    stale: bool = Field(False, description="The last kept answer, even if it is too old (wants `cache`).")
    status: Given[Annotated[int, Field(ge=200, le=599)]] = Field(
        None, description="Of the answer that is given instead."
    )
    content_type: HeaderValue = Field("application/json", description="Of that answer.")
    body: str = Field("", description="Of that answer.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.stale and self.status is None:
            raise ValueError("needs a status, or stale: true")
        if self.body and self.status in (204, 304):
            raise ValueError(f"has a body, which an answer with {self.status} can't have")
        return self


class BreakerEntry(Entry):
    failures: Given[Annotated[int, Field(ge=1)]] = Field(
        None, description="In a row, that open it; default: CIRCUIT_BREAKER_FAILURE_THRESHOLD."
    )
    recovery_s: Given[Seconds] = Field(None, description="Until a trial; default: CIRCUIT_BREAKER_RECOVERY_TIMEOUT.")
    fallback: Given[FallbackEntry] = Field(
        None, description="The answer to GET while no instance can be had, instead of 502, 503 or 504."
    )


class HealthCheckEntry(Entry):
    path: BasePath = Field("/health", description="Asked by GET; below 400 is well.")
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
    after_ms: Given[Annotated[float, Field(gt=0, le=60_000)]] = Field(
        None, description="When the second try begins; default: the 95th percentile, as it is learnt."
    )


class LoadEntry(Entry):
    in_flight: int = Field(200, ge=1, le=10_000, description="Requests at once, for each worker.")
    queue: int = Field(100, ge=0, le=10_000, description="How many more may wait for a place.")
    wait_ms: float = Field(500, ge=0, le=60_000, description="How long they may wait, before they are told 503.")


class RewriteEntry(Entry):
    path: Given[Template] = Field(None, description="The whole path at the service: /v2/<id>, names as in `path`.")
    strip_prefix: Given[Front] = Field(None, description="Cut off the front of the path at the service.")
    add_prefix: Given[Front] = Field(None, description="Put in front, after cutting.")
    host: Given[HeaderValue] = Field(None, description="The Host that the service is told.")

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if self.path is not None and (self.strip_prefix or self.add_prefix):
            raise ValueError("has a path; strip_prefix and add_prefix would mean nothing")
        return self


class RedirectEntry(Entry):
    to: Destination = Field(description="A path or an address, with names as in `path`; the caller's query goes along.")
    status: Literal[301, 302, 303, 307, 308] = Field(308, description="307 and 308 keep the method.")


class MaintenanceEntry(Entry):
    message: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        "The service is being worked on and will be back.", description="What callers are told."
    )
    until: Given[Moment] = Field(None, description="When it ends, with a zone; default: when this entry goes.")
    retry_after_s: int = Field(120, ge=1, le=86_400, description="Told as Retry-After where `until` says nothing.")
    allow_roles: list[str] = Field(default_factory=list, description="Who has any of these passes nevertheless.")


class TLSEntry(Entry):
    ca: Given[FilePath] = Field(
        None, description="PEM file of those who may certify its instances, and nobody else; default: the public ones."
    )
    client_certificate: Given[FilePath] = Field(None, description="PEM file with our certificate and its chain.")
    client_key: Given[FilePath] = Field(None, description="PEM file with the key of `client_certificate`.")
    server_name: Given[ServerName] = Field(
        None, description="Whose certificate is wanted; default: the host of the instance's address."
    )

    @model_validator(mode="after")
    def _has_both_halves(self) -> Self:
        if (self.client_certificate is None) != (self.client_key is None):
            raise ValueError("needs client_certificate and client_key together")
        return self


class Rules(Entry):
    """What a service says for all its routes, and a route for itself."""

    public: Given[bool] = Field(None, description="Without it a valid token is wanted.")
    roles: Given[list[str]] = Field(
        None, description="Any of these roles may call; [] is any valid token. A route with roles is not public."
    )
    permissions: Given[list[str]] = Field(
        None, description="Any of these permissions may call, too; a route that names either has both of its own."
    )
    second_factor: Given[bool] = Field(
        None, description="Wants a token of somebody who logged in with a second factor."
    )
    allow_from: Given[Annotated[list[Network], Field(min_length=1)]] = Field(
        None, description="Only callers with these addresses or networks; a route's own list counts instead."
    )
    deny_from: Given[Annotated[list[Network], Field(min_length=1)]] = Field(
        None, description="No callers with these, whatever else is said; a route's list is added."
    )
    validation: OrOff[Literal["report", "enforce"]] = Field(
        None, alias="validate", description="Hold requests against the service's OpenAPI document; default: off."
    )
    cache: Given[bool] = Field(None, description="Keep the answers that say they may be kept (RFC 9111).")
    max_body: OrOff[Size] = Field(None, description="The largest body, or off; default: MAX_REQUEST_SIZE.")
    timeout_s: Given[Seconds] = Field(None, description="For all tries; default: REQUEST_TIMEOUT.")
    priority: Given[Priority] = Field(None, description="Who waits less when there is too much: high, normal or low.")
    request_headers: Given[HeaderChangesEntry] = Field(None, description="Changes on the way to the service.")
    response_headers: Given[HeaderChangesEntry] = Field(None, description="Changes on the way to the caller.")
    mirror: Given[MirrorEntry] = Field(None, description="Another service gets a copy; its answer is dropped.")
    split: Given[list[SplitEntry]] = Field(None, description="Shares of the callers that go to other services.")
    cost: Given[Annotated[int, Field(ge=1, le=1000)]] = Field(
        None, description="As how many requests one counts against all limits; default: 1."
    )
    on_store_down: Given[WhenDown] = Field(
        None,
        description="While Redis is away: local (each worker counts its share; default), open (nothing is counted) or "
        "closed (503).",
    )


class RouteEntry(Rules):
    """One entry under `routes:`."""

    path: Template = Field(description="Below the prefix: /, /reviews, /<id>/reviews or /files/<path:rest>.")
    methods: list[Method] = Field(default_factory=lambda: ["*"], min_length=1, description="* is any method.")
    name: Given[RouteName] = Field(None, description="For logs and metrics.")
    hosts: list[HostPattern] = Field(default_factory=list, description="Only under these: a.example or *.example.")
    headers: dict[FieldName, Wanted] = Field(
        default_factory=dict, description="Only with these: exact text, * for any, ! for none, ~REGEX."
    )
    query: dict[str, Wanted] = Field(default_factory=dict, description="Only with these parameters, as `headers`.")
    limit: Given[str] = Field(
        None, description="What counts besides `default`: the name of one of the service's `limits`, or a rate."
    )
    rewrite: Given[RewriteEntry] = Field(None, description="What the service is asked for instead.")
    redirect: Given[RedirectEntry] = Field(None, description="Answer with this, without asking the service.")

    @property
    def own_limit(self) -> str:
        """What a rate that stands at the route itself is called."""
        return self.name or f"{','.join(self.methods)} {self.path}"

    @property
    def conditions(self) -> Conditions:
        return Conditions(
            hosts=tuple(self.hosts),
            headers=tuple(Condition("header", name.lower(), wanted) for name, wanted in self.headers.items()),
            query=tuple(Condition("query", name, wanted) for name, wanted in self.query.items()),
        )


class Place(Entry):
    """Where instances are."""

    url: Given[Source] = Field(None, description="Where the service is: http://host:port. X_SERVICE_URL overrides it.")
    instances: list[Instance] = Field(
        default_factory=list,
        description="Instead of `url`, several: addresses, dns:name:port, registry, or {url, weight}.",
    )
    path: Given[BasePath] = Field(
        None, description="What the service itself calls its prefix; default: the same as here. `/` strips it."
    )

    @property
    def members(self) -> tuple[InstanceEntry, ...]:
        return (InstanceEntry.model_validate({"url": self.url}),) if self.url else tuple(self.instances)


class VersionEntry(Place):
    """One entry under `versions:`: what this version has otherwise than the service."""


class ServiceEntry(Rules, Place):
    """One entry under `services:`. Everything but the address has a default."""

    prefixes: list[Prefix] = Field(
        default_factory=list, description="Where it is reachable; default: /NAME. / is all that no other one claims."
    )
    hosts: list[HostPattern] = Field(default_factory=list, description="Only under these names of the gateway.")
    versions: dict[Version, VersionEntry] = Field(
        default_factory=dict,
        description="Further versions (/api/v2/..., API-Version: 2) with own instances.",
        json_schema_extra={"additionalProperties": False},
    )
    aliases: list[Name] = Field(default_factory=list, description="More names under which X_SERVICE_URL may set it.")
    routes: list[RouteEntry] = Field(
        default_factory=list, description="All that exists of it; default: every method and path."
    )
    balance: Strategy = Field(
        "round-robin", description="Who gets the next request: round-robin, least-requests, peak-ewma or hash."
    )
    hash_by: HashKey = Field(
        "user",
        description="What `hash` and `split` go by: user (else the address), address, header:NAME or cookie:NAME.",
    )
    connect_timeout_s: Given[Annotated[float, Field(gt=0, le=60)]] = Field(
        None, description="Default: CONNECT_TIMEOUT."
    )
    try_timeout_s: Given[Seconds] = Field(None, description="For one try; default: all of `timeout_s`.")
    retries: int = Field(1, ge=0, le=5, description="More tries, at other instances first, where that can't hurt.")
    retry_on: list[Annotated[int, Field(ge=500, le=599)]] = Field(
        default_factory=lambda: [502, 503, 504], description="Statuses after which it is tried again."
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
        description="Rates by name: `default` of each caller, `user` of those with a token, `address`, `burst`; others "
        "are named by its routes. off: none at all.",
    )
    maintenance: OrOff[MaintenanceEntry] = Field(
        None, description="Answer 503 for the service, with a Retry-After; default: off."
    )
    tls: Given[TLSEntry] = Field(None, description="Whom https:// instances must be certified by, and as whom we call.")
    openapi: DocumentPath = Field(
        "/openapi.json", description="Where its OpenAPI document is: a path at the service, or file:PATH."
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


class PlanEntry(Entry):
    """One entry under `plans:`."""

    default: Rate = Field(description="Of each service, in place of its own `default`.")
    burst: Given[Rate] = Field(None, description="Of all services together; default: BURST_RATE_LIMIT_REQUESTS.")


class ServicesFile(Entry):
    """The whole file."""

    pages: Literal["public", "operations"] = Field(
        "public", description="Where the gateway's own pages are: on both listeners, or on the operations one only."
    )
    plans: dict[Name, PlanEntry] = Field(
        default_factory=dict,
        description="What API keys may, by the name of their plan.",
        json_schema_extra={"additionalProperties": False},
    )
    services: dict[ServiceName, ServiceEntry] = Field(
        description="One entry a service, by name.", json_schema_extra={"additionalProperties": False}
    )
