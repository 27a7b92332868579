"""What stands behind the gateway: one frozen `Service` for each entry of the services file and for each further version
of it, one `RouteRule` for each of its routes, every number filled in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from click import ClickException
from limits import RateLimitItem, parse

from common import yaml_file
from common.yaml_file import YamlError, YamlFile
from gateway import advice
from gateway.advice import files
from gateway.backend.dns import DnsSource
from gateway.backend.dns import parse_source as parse_dns_source
from gateway.backend.standing import ActiveRule, EjectionRule
from gateway.callers import IPNetwork
from gateway.matching import Conditions
from gateway.notation import REGISTRY, WhenDown, is_rate, parse_source
from gateway.rewriting import HeaderChanges, PathTemplate, Redirect, Rewrite
from gateway.services_file import (
    FIRST_VERSION,
    HeaderChangesEntry,
    InstanceEntry,
    MirrorEntry,
    Place,
    Priority,
    RewriteEntry,
    RouteEntry,
    Rules,
    ServiceEntry,
    ServicesFile,
    SplitEntry,
    Strategy,
    service_name,
)
from gateway.settings import GatewaySettings

DEFAULT_LIMIT, USER_LIMIT, ADDRESS_LIMIT, BURST_LIMIT = "default", "user", "address", "burst"
"""Limits that need not be named by a route, see `limits.tiers`."""
NO_CHANGES = HeaderChanges()


class ServicesError(ClickException):
    """The file does not describe services that can be run; `problems` holds one `file:line:column: ...` each.

    A `ClickException`, so that `flask --app gateway ...` shows its text and no stack trace.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("the services file has problems:" + "".join(f"\n  {problem}" for problem in problems))


@dataclass(frozen=True, slots=True)
class Address:
    """One instance as the configuration names it, or a source of several."""

    url: str
    weight: float = 1.0
    host: str = ""  # what it is called in a request, with a port if need be; "": as in the URL


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a service's instances come from."""

    static: tuple[Address, ...] = ()
    dns: tuple[tuple[DnsSource, float], ...] = ()  # with the weight of each of its addresses
    registered: float | None = None  # weight of registered instances; None: the registry isn't asked

    @property
    def texts(self) -> tuple[str, ...]:
        """As the file writes them."""
        return (
            *(address.url for address in self.static),
            *(source.text for source, _weight in self.dns),
            *((REGISTRY,) if self.registered is not None else ()),
        )


@dataclass(frozen=True, slots=True)
class BreakerRule:
    failures: int  # in a row
    recovery_s: float


@dataclass(frozen=True, slots=True)
class Fallback:
    """What GET gets while no instance can be had."""

    is_stale: bool
    status: int | None
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class HedgeRule:
    budget: float
    after_s: float | None  # None: the 95th percentile


@dataclass(frozen=True, slots=True)
class LoadRule:
    in_flight: int
    queue: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the requests or callers that goes to, or is copied to, the service with this key."""

    service: str
    percent: float


@dataclass(frozen=True, slots=True)
class MaintenanceRule:
    message: str
    until: datetime | None
    retry_after_s: int
    allow_roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TLSRule:
    """Paths of files, "" for none."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    """One version of one service behind the gateway, every number filled in.

    A route that says something for itself carries a copy with these numbers laid over.
    """

    name: str
    sources: Sources
    version: str = FIRST_VERSION
    prefixes: tuple[str, ...] = ()  # "" or "/shop"; without faces
    hosts: tuple[str, ...] = ()  # patterns; none: all
    path: str | None = None  # what the service itself calls its prefix: "" or "/students"; None: the same
    is_public: bool = False
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()  # any of these or of the roles
    wants_second_factor: bool = False
    allow_from: tuple[IPNetwork, ...] = ()  # none: all
    deny_from: tuple[IPNetwork, ...] = ()
    maintenance: MaintenanceRule | None = None
    validation: Literal["report", "enforce"] | None = None
    openapi: str = "/openapi.json"
    tls: TLSRule = TLSRule()
    is_cached: bool = False
    limits: Mapping[str, RateLimitItem] | None = field(default_factory=dict[str, RateLimitItem])  # None: none at all
    max_body_bytes: int | None = 10 << 20  # None: no bound
    timeout_s: float = 30  # for all tries together
    try_timeout_s: float = 30
    connect_timeout_s: float = 2
    balance: Strategy = "round-robin"
    hash_by: str = "user"
    retries: int = 1
    retry_on: frozenset[int] = frozenset({502, 503, 504})
    retry_budget: float = 0.2
    breaker: BreakerRule | None = BreakerRule(5, 10)
    fallback: Fallback | None = None
    check: ActiveRule | None = None
    ejection: EjectionRule | None = None
    slow_start_s: float = 0
    hedge: HedgeRule | None = None
    load: LoadRule | None = None
    priority: Priority = "normal"
    host: str = "instance"  # or "caller", or the Host to tell
    passes_encoded_slashes: bool = False
    is_buffered: bool = True
    is_verbatim: bool = False
    request_headers: HeaderChanges = NO_CHANGES
    response_headers: HeaderChanges = NO_CHANGES
    mirror: Share | None = None
    split: tuple[Share, ...] = ()
    cost: int = 1
    on_store_down: WhenDown = "local"

    @property
    def key(self) -> str:
        """`products`, or `products@2` for a further version."""
        return self.name if self.version == FIRST_VERSION else f"{self.name}@{self.version}"

    def limit(self, name: str) -> RateLimitItem:
        """The rate called `name`, or the service's default one. Only for a service that has limits."""
        assert self.limits is not None
        return self.limits.get(name) or self.limits[DEFAULT_LIMIT]

    def limit_of_callers(self, *, is_known: bool) -> RateLimitItem:
        """What one caller may, with or without a token. Only for a service that has limits."""
        return self.limit(USER_LIMIT if is_known else DEFAULT_LIMIT)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an API key may ask: of each service, and at once of all."""

    default: RateLimitItem
    burst: RateLimitItem | None = None


@dataclass(frozen=True, slots=True)
class RouteRule:
    """One entry of `routes:`, with its service as it is for this route."""

    service: Service
    name: str
    template: str
    methods: tuple[str, ...]
    conditions: Conditions
    limit: str | None
    rewrite: Rewrite | None
    redirect: Redirect | None
    place: str  # file:line


@dataclass(frozen=True, slots=True)
class Configuration:
    """The whole of what a services file and the `X_SERVICE_URL` variables describe."""

    file: YamlFile
    entries: ServicesFile
    services: Mapping[str, Service]  # by key
    routes: Mapping[str, tuple[RouteRule, ...]]  # by key; none: every method and path
    warnings: tuple[str, ...] = ()
    plans: Mapping[str, Plan] = field(default_factory=dict[str, Plan])

    @property
    def are_pages_private(self) -> bool:
        return self.entries.pages == "operations"

    def place(self, service: Service, key: str = "") -> str:
        """`file:line` of a service's entry or of one of its keys, "" where the file does not say it."""
        return self.file.line(("services", service.name, *((key,) if key else ())))


def load_services(path: Path, settings: GatewaySettings, urls: Mapping[str, str]) -> Configuration:
    """What the file at `path` describes, with the addresses of `urls` (see `settings.service_urls`) laid over it.

    Raises `ServicesError` with all that is wrong.
    """
    try:
        return configuration_of(yaml_file.read(path), settings, urls, beside=path.parent)
    except YamlError as error:
        raise ServicesError([str(error)]) from None


def configuration_of(
    file: YamlFile, settings: GatewaySettings, urls: Mapping[str, str], *, beside: Path | None = None
) -> Configuration:
    """As `load_services`, of a file that was read already. The files that it names are looked for in `beside`; None:
    they are not looked at."""
    sound = advice.sound(file)
    entries = dict(sound.entries.services)
    wrong_variables = _lay_over(entries, urls)
    whole = sound.entries.model_copy(update={"services": entries})
    found = advice.faults(whole, sound.damaged, request_timeout_s=settings.request_timeout)
    found += [] if beside is None else files.findings(entries, beside)
    problems = [*advice.texts(file, [*file.faults, *sound.findings, *found]), *wrong_variables]
    if problems:
        raise ServicesError(problems)
    services: dict[str, Service] = {}
    routes: dict[str, tuple[RouteRule, ...]] = {}
    for name, entry in entries.items():
        for service in _versions(name, entry, settings, Path(file.path).parent):
            services[service.key] = service
            routes[service.key] = tuple(
                _route(service, route, file, position) for position, route in enumerate(entry.routes)
            )
    plans = {
        name: Plan(parse(plan.default), parse(plan.burst) if plan.burst else None) for name, plan in whole.plans.items()
    }
    return Configuration(file, whole, services, routes, tuple(advice.texts(file, advice.warnings(whole))), plans)


def _lay_over(entries: dict[str, ServiceEntry], urls: Mapping[str, str]) -> list[str]:
    """Change `entries` by the variables. Returns what is wrong with these."""
    problems: list[str] = []
    for name, url in urls.items():
        owner = next((known for known, entry in entries.items() if name in (known, *entry.aliases)), "")
        try:
            members = [InstanceEntry.model_validate({"url": parse_source(part.strip())}) for part in url.split(",")]
            if len({member.url for member in members}) < len(members):
                raise ValueError("the same address stands twice")
            if not owner:
                service_name(name)
        except ValueError as error:
            problems.append(f"{name.upper().replace('-', '_')}_SERVICE_URL: {error}")
            continue
        if not owner:
            entries[name] = ServiceEntry.model_validate({"instances": members})
        # of several variables for one service its own name wins, then the first alias
        elif name == next(known for known in (owner, *entries[owner].aliases) if known in urls):
            entries[owner] = entries[owner].model_copy(update={"url": None, "instances": members})
    return problems


def _versions(name: str, entry: ServiceEntry, settings: GatewaySettings, folder: Path) -> Iterable[Service]:
    first = replace(_fill(name, entry, settings), tls=_tls(entry, folder), openapi=_openapi(entry, folder))
    yield first
    for version, other in entry.versions.items():
        path = first.path if other.path is None else other.path
        yield _without_itself(replace(first, version=version, sources=_sources(other), path=path))


def _without_itself(service: Service) -> Service:
    """What a service gives to one of its versions, that version keeps."""
    return replace(
        service,
        mirror=None if service.mirror and service.mirror.service == service.key else service.mirror,
        split=tuple(share for share in service.split if share.service != service.key),
    )


def _fill(name: str, entry: ServiceEntry, settings: GatewaySettings) -> Service:
    timeout_s = entry.timeout_s or settings.request_timeout
    service = Service(
        name=name,
        sources=_sources(entry),
        prefixes=tuple(entry.prefixes) or (f"/{name}",),
        hosts=tuple(entry.hosts),
        path=entry.path,
        limits=_limits(entry, settings),
        max_body_bytes=settings.max_request_size,
        timeout_s=timeout_s,
        try_timeout_s=entry.try_timeout_s or timeout_s,
        connect_timeout_s=entry.connect_timeout_s or settings.connect_timeout,
        balance=entry.balance,
        hash_by=entry.hash_by,
        retries=entry.retries,
        retry_on=frozenset(entry.retry_on),
        retry_budget=entry.retry_budget,
        breaker=_breaker(entry, settings),
        fallback=_fallback(entry),
        check=ActiveRule(**entry.health_check.model_dump()) if entry.health_check else None,
        ejection=EjectionRule(**entry.ejection.model_dump()) if entry.ejection else None,
        slow_start_s=entry.slow_start_s,
        hedge=_hedge(entry),
        load=LoadRule(entry.load.in_flight, entry.load.queue, entry.load.wait_ms / 1000) if entry.load else None,
        maintenance=_maintenance(entry),
        host=entry.host,
        passes_encoded_slashes=entry.encoded_slashes,
        is_buffered=entry.buffered,
        is_verbatim=entry.verbatim,
    )
    return _ruled(service, entry)


def _ruled(service: Service, rules: Rules) -> Service:
    """`service` with what `rules` say laid over it."""
    changes: dict[str, object] = {}
    if "max_body" in rules.model_fields_set:
        changes["max_body_bytes"] = rules.max_body
    if rules.timeout_s is not None:
        is_for_all = service.try_timeout_s == service.timeout_s  # one try may take the whole time
        try_timeout_s = rules.timeout_s if is_for_all else min(service.try_timeout_s, rules.timeout_s)
        changes |= {"timeout_s": rules.timeout_s, "try_timeout_s": try_timeout_s}
    if "validation" in rules.model_fields_set:
        changes["validation"] = rules.validation
    given: dict[str, object | None] = {
        **_who_may(rules),
        "allow_from": rules.allow_from and tuple(rules.allow_from),
        "deny_from": (*service.deny_from, *(rules.deny_from or ())),
        "is_cached": rules.cache,
        "priority": rules.priority,
        "cost": rules.cost,
        "on_store_down": rules.on_store_down,
        "request_headers": rules.request_headers and _changes(rules.request_headers),
        "response_headers": rules.response_headers and _changes(rules.response_headers),
        "mirror": rules.mirror and _share(rules.mirror),
        "split": None if rules.split is None else tuple(_share(share) for share in rules.split),
    }
    changes |= {name: value for name, value in given.items() if value is not None}
    return replace(service, **changes)  # pyright: ignore[reportArgumentType] - the names above are its fields


def _who_may(rules: Rules) -> dict[str, object | None]:
    if rules.public:
        return {"is_public": True, "roles": (), "permissions": (), "wants_second_factor": False}
    names_some = rules.roles is not None or rules.permissions is not None
    # both together: a permission that the service names must not open a route that wants a role
    some = {"roles": tuple(rules.roles or ()), "permissions": tuple(rules.permissions or ())} if names_some else {}
    wants_token = names_some or rules.second_factor  # who wants so much does not mean everybody
    return {"is_public": False if wants_token else rules.public, "wants_second_factor": rules.second_factor, **some}


def _route(service: Service, entry: RouteEntry, file: YamlFile, position: int) -> RouteRule:
    own = _without_itself(_ruled(service, entry))
    if entry.rewrite and entry.rewrite.host:
        own = replace(own, host=entry.rewrite.host)
    limit = entry.limit
    if limit is not None and is_rate(limit) and own.limits is not None:
        own = replace(own, limits={**own.limits, entry.own_limit: parse(limit)})
        limit = entry.own_limit
    return RouteRule(
        service=own,
        name=f"{service.name}.{entry.name or entry.path}",
        template=entry.path,
        methods=tuple(entry.methods),
        conditions=entry.conditions,
        limit=limit,
        rewrite=_rewrite(entry.rewrite) if entry.rewrite else None,
        redirect=Redirect(entry.redirect.status, entry.redirect.to) if entry.redirect else None,
        place=file.line(("services", service.name, "routes", position)),
    )


def _sources(place: Place) -> Sources:
    dns = [(parse_dns_source(entry.url), entry.weight) for entry in place.members if entry.url.startswith("dns:")]
    static = [
        Address(entry.url, entry.weight)
        for entry in place.members
        if entry.url != REGISTRY and not entry.url.startswith("dns:")
    ]
    registered = next((entry.weight for entry in place.members if entry.url == REGISTRY), None)
    return Sources(tuple(static), tuple(dns), registered)


def _limits(entry: ServiceEntry, settings: GatewaySettings) -> dict[str, RateLimitItem] | None:
    if entry.limits is None:
        return None
    rates = {name: parse(rate) for name, rate in entry.limits.items()}
    if DEFAULT_LIMIT not in rates:
        window = f"per {settings.rate_limit_window} second"
        rates[DEFAULT_LIMIT] = parse(f"{settings.anonymous_requests} {window}")
        if settings.user_requests != settings.anonymous_requests:
            rates.setdefault(USER_LIMIT, parse(f"{settings.user_requests} {window}"))
    return rates


def _breaker(entry: ServiceEntry, settings: GatewaySettings) -> BreakerRule | None:
    if entry.breaker is None:
        return None
    return BreakerRule(
        entry.breaker.failures or settings.breaker_failures, entry.breaker.recovery_s or settings.breaker_recovery_s
    )


def _fallback(entry: ServiceEntry) -> Fallback | None:
    said = entry.breaker and entry.breaker.fallback
    return Fallback(said.stale, said.status, said.content_type, said.body.encode()) if said else None


def _hedge(entry: ServiceEntry) -> HedgeRule | None:
    if entry.hedge is None:
        return None
    return HedgeRule(entry.hedge.budget, entry.hedge.after_ms / 1000 if entry.hedge.after_ms else None)


def _maintenance(entry: ServiceEntry) -> MaintenanceRule | None:
    said = entry.maintenance
    return said and MaintenanceRule(said.message, said.until, said.retry_after_s, tuple(said.allow_roles))


def _tls(entry: ServiceEntry, folder: Path) -> TLSRule:
    if (said := entry.tls) is None:
        return TLSRule()
    files = (str(folder / path) if path else "" for path in (said.ca, said.client_certificate, said.client_key))
    return TLSRule(*files, server_name=said.server_name or "")


def _openapi(entry: ServiceEntry, folder: Path) -> str:
    """As the entry says; a file's path as it is from here."""
    kind, colon, path = entry.openapi.partition(":")
    return f"{kind}:{folder / path}" if kind == "file" and colon else entry.openapi


def _changes(entry: HeaderChangesEntry) -> HeaderChanges:
    return HeaderChanges(tuple(entry.set.items()), tuple(entry.add.items()), tuple(entry.remove))


def _share(entry: MirrorEntry | SplitEntry) -> Share:
    return Share(entry.service, entry.percent)


def _rewrite(entry: RewriteEntry) -> Rewrite | None:
    if entry.path is not None:
        return Rewrite(template=PathTemplate.parse(entry.path))
    if entry.strip_prefix or entry.add_prefix:
        return Rewrite(strip=entry.strip_prefix or "", put=entry.add_prefix or "")
    return None
