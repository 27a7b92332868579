"""Which route does a request belong to? One table answers for every proxied path.

A service claims *prefixes*, each under every *face*: `/shop` is also `/api/shop`, and `/api/v1/shop` for version 1. The
prefix `/` has no other face. Behind the prefix stands what the route's template describes: literal segments, `<name>`
for one segment, `<path:name>` for all that follow. Who gets a request, in this order:

    1  host       a service that claims the exact host, then `*.example.org` (the longer the better), then any host;
                  within a host, if nobody there claims the path, the next one is asked
    2  prefix     the longest, counted in segments; from here on no other service is asked
    3  version    what the path says (`/api/v2/...`), else `API-Version` or `Accept-Version`, else 1
    4  template   at each segment a literal beats `<name>` beats `<path:name>`
    5  method     a route that does not take the method is passed over for a less specific one that does;
                  HEAD is taken by GET where no route names it
    6  conditions of hosts, fields and parameters: the more a route has the earlier it is asked, all must hold
    7  a named method beats `*`
    8  the order in the file

Nobody claims the path: 404 SERVICE_NOT_FOUND; no template fits, or no conditions hold: 404 ROUTE_NOT_FOUND; none takes
the method: 405.

Matching is on decoded segments (the target rules have refused every escape that could make two readings of one path),
forwarding is on the raw bytes. The cost of a look-up grows with the segments of the path, not with the routes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from common.problems import BadRequest, MethodNotAllowed, NotFound
from gateway.exchange import Answer, Exchange, Handler
from gateway.matching import Conditions, host_matches, host_rank
from gateway.rewriting import Rewrite
from gateway.services import FIRST_VERSION, Service

ANY = ("*",)
"""As `methods` of a route: whatever the service understands."""
VERSION_FIELDS = ("api-version", "accept-version")

_VERSION = re.compile(r"v(\d{1,6})")
NO_CONDITIONS = Conditions()


@dataclass(frozen=True, slots=True)
class Route:
    """Methods and a path template of a service, with the handler that was composed for it."""

    name: str
    service: Service
    prefix: str  # "/shop", or "" for all
    base: str  # what the service itself calls its prefix: "/shop", or ""
    template: str
    methods: tuple[str, ...]
    handler: Handler
    conditions: Conditions = NO_CONDITIONS
    rewrite: Rewrite | None = None
    place: str = ""  # where it is written, file:line

    def takes(self, method: str) -> bool:
        return method in self.methods or "*" in self.methods


@dataclass(frozen=True, slots=True)
class Candidate:
    """A route that was looked at, and why it was passed over; "" for the one that matches."""

    route: Route
    why_not: str


@dataclass(slots=True)
class _Node:
    """Below a prefix: a tree of templates."""

    literals: dict[str, _Node] = field(default_factory=dict)
    one: _Node | None = None
    rest: list[Route] = field(default_factory=list)  # `<path:...>`
    here: list[Route] = field(default_factory=list)


@dataclass(slots=True)
class _Mount:
    """Who claims a prefix, by version."""

    prefix: str
    owner: str  # name of a service
    versions: dict[str, _Node] = field(default_factory=dict)


@dataclass(slots=True)
class _Claim:
    """A tree of prefixes with their faces, by segments."""

    below: dict[str, _Claim] = field(default_factory=dict)
    mount: _Mount | None = None
    version: str | None = None  # that the face says


def faces(version: str) -> tuple[str, ...]:
    """What may stand before a prefix."""
    own = f"/api/v{version}"
    return ("", "/api", own) if version == FIRST_VERSION else (own,)


class Router:
    """The table. Filled while it is made, only read afterwards; greenlets share it without a lock."""

    def __init__(self) -> None:
        self._claims: dict[str, _Claim] = {}  # by host pattern, "" for any
        self._wildcards: list[str] = []
        self._mounts: dict[tuple[str, str], _Mount] = {}
        self.routes: list[Route] = []
        self.versions: set[str] = {FIRST_VERSION}

    def add(self, route: Route) -> None:
        """Raises `ValueError` when another route already has this template, method and conditions, or prefix."""
        for host in route.service.hosts or ("",):
            node, is_rest = self._version_node(host, route), False
            for segment in _segments(route.template):
                if is_rest := segment.startswith("<path:"):
                    break
                if segment.startswith("<"):
                    node.one = node.one or _Node()
                    node = node.one
                else:
                    node = node.literals.setdefault(segment, _Node())
            _insert(node.rest if is_rest else node.here, route)
        self._wildcards = sorted((host for host in self._claims if host.startswith("*")), key=host_rank)
        self.routes.append(route)

    @property
    def prefixes(self) -> list[str]:
        """Every prefix that is claimed, sorted."""
        return sorted({mount.prefix or "/" for mount in self._mounts.values()})

    def match(self, exchange: Exchange) -> Route | None:
        """The route of `exchange`, which then knows its service and route; None for an OPTIONS that we answer.

        Raises `NotFound` and `MethodNotAllowed`, and `BadRequest` for a version that does not exist.
        """
        seen: list[Candidate] = []
        for candidate in self.candidates(exchange):
            if not candidate.why_not:
                exchange.route = candidate.route
                exchange.service = candidate.route.service
                exchange.backend = candidate.route.service.key
                return candidate.route
            seen.append(candidate)
        if not seen or any(candidate.route.takes(exchange.method) for candidate in seen):
            raise NotFound("There is nothing at this address.", code="ROUTE_NOT_FOUND")
        taken = {method for candidate in seen for method in candidate.route.methods}
        allow = ", ".join(sorted(taken | {"OPTIONS"} | ({"HEAD"} if "GET" in taken else set())))
        if exchange.method == "OPTIONS":
            exchange.answer_headers.append(("Allow", allow))
            return None
        raise MethodNotAllowed(f"This address takes {allow}.", headers=(("Allow", allow),))

    def candidates(self, exchange: Exchange) -> Iterator[Candidate]:
        """The routes whose template fits, in the order of precedence, up to and with the one that matches.

        Raises `NotFound` and `BadRequest` where no service or version is meant.
        """
        segments, method = exchange.target.segments, exchange.method
        node, exchange.prefix_segments = self._find(exchange)
        for routes in _fitting(node, segments, exchange.prefix_segments):
            is_get = method == "HEAD" and not any("HEAD" in route.methods for route in routes)
            for route in routes:
                if not route.takes("GET" if is_get else method):
                    yield Candidate(route, f"takes {', '.join(route.methods)}, not {method}")
                    continue
                host, query = exchange.forwarding.host, exchange.target.query
                if route.conditions and not route.conditions.hold(host, exchange.headers, query):
                    yield Candidate(route, route.conditions.why_not(host, exchange.headers, query))
                    continue
                yield Candidate(route, "")
                return

    def dispatch(self, exchange: Exchange) -> Answer:
        """Match, then run the route's handler."""
        route = self.match(exchange)
        return Answer(204, [], ()) if route is None else route.handler(exchange)

    def find_service(self, exchange: Exchange) -> Service | None:
        """The service that claims the path, whatever its routes say; None if nobody does."""
        try:
            node, _skipped = self._find(exchange)
        except (NotFound, BadRequest):
            return None
        return next(_services_of(node), None)

    def _find(self, exchange: Exchange) -> tuple[_Node, int]:
        """The tree of the service and version that are meant, and how many segments lead there."""
        segments = exchange.target.segments
        for claim in self._claims_for(exchange.forwarding.host):
            found, best, best_count = claim, claim, 0
            for count, segment in enumerate(segments, 1):
                found = found.below.get(segment)
                if found is None:
                    break
                if found.mount is not None:
                    best, best_count = found, count
            if best.mount is not None:
                return _version_of(best.mount, best.version, exchange), best_count
        raise self._nobody(segments)

    def _claims_for(self, host: str) -> Iterator[_Claim]:
        if len(self._claims) > 1 or "" not in self._claims:
            name = _host_name(host)
            if name in self._claims and name:
                yield self._claims[name]
            yield from (self._claims[pattern] for pattern in self._wildcards if host_matches(pattern, name))
        if "" in self._claims:
            yield self._claims[""]

    def _nobody(self, segments: Sequence[str]) -> NotFound:
        known = sorted(self.versions, key=int)
        if len(segments) > 1 and segments[0] == "api" and (match := _VERSION.fullmatch(segments[1])):
            claim = self._claims.get("", _Claim()).below.get("api", _Claim())
            mounted = claim.below.get(segments[2]) if len(segments) > 2 else None
            if mounted and mounted.mount:
                known = sorted(mounted.mount.versions, key=int)
            if match[1] not in known:
                return NotFound(
                    f"There is no version {match[1]} here; known: {', '.join(known)}.", code="UNKNOWN_VERSION"
                )
        names = ", ".join(prefix.removeprefix("/") for prefix in self.prefixes)
        return NotFound(f"There is no such service here; there are {names}.", code="SERVICE_NOT_FOUND")

    def _version_node(self, host: str, route: Route) -> _Node:
        version, owner = route.service.version, route.service.name
        self.versions.add(version)
        mount = self._mounts.setdefault((host, route.prefix), _Mount(route.prefix, owner))
        if version not in mount.versions:
            mount.versions[version] = _Node()
            for face in faces(version) if route.prefix else ("",):
                claim = self._claims.setdefault(host, _Claim())
                for segment in _segments(face + route.prefix):
                    claim = claim.below.setdefault(segment, _Claim())
                if claim.mount is not None and claim.mount is not mount:
                    raise ValueError(f"the path {face}{route.prefix} is claimed by {claim.mount.owner} already")
                claim.mount = mount
                claim.version = version if face == f"/api/v{version}" else None
        if mount.owner != owner:
            raise ValueError(f"the prefix {route.prefix or '/'} is claimed by {mount.owner} already")
        return mount.versions[version]


def _insert(routes: list[Route], route: Route) -> None:
    """Put `route` into its place by rules 6 to 8."""
    for other in routes:
        same = [method for method in route.methods if method in other.methods]
        if same and other.conditions == route.conditions:
            raise ValueError(f"{same[0]} {route.prefix}{route.template} is there twice")
    routes.append(route)
    routes.sort(key=lambda each: (-len(each.conditions), "*" in each.methods))  # a stable sort keeps the file's order


def _fitting(node: _Node, segments: Sequence[str], position: int) -> Iterator[list[Route]]:
    """Lists of routes whose template fits, the most specific first."""
    if position >= len(segments):
        if node.here:
            yield node.here
    else:
        literal = node.literals.get(segments[position])
        if literal is not None:
            yield from _fitting(literal, segments, position + 1)
        if node.one is not None:
            yield from _fitting(node.one, segments, position + 1)
    if node.rest:
        yield node.rest


def _version_of(mount: _Mount, in_path: str | None, exchange: Exchange) -> _Node:
    """The version that the request asks for. Raises `BadRequest` for one that the service does not have."""
    asked = next((value for name in VERSION_FIELDS if (value := exchange.headers.get(name)) is not None), None)
    if asked is None and in_path is None:
        return mount.versions.get(FIRST_VERSION) or next(iter(mount.versions.values()))
    wanted = in_path if asked is None else asked.strip().removeprefix("v")
    if wanted not in mount.versions or (in_path is not None and wanted != in_path):
        known = ", ".join(sorted(mount.versions, key=int))
        at_odds = f", and the path asks for {in_path}" if in_path is not None else ""
        raise BadRequest(f"API-Version must be one of: {known}{at_odds}.", code="UNKNOWN_VERSION")
    return mount.versions[str(wanted)]


def _services_of(node: _Node) -> Iterator[Service]:
    yield from (route.service for route in (*node.here, *node.rest))
    for child in (*node.literals.values(), *((node.one,) if node.one else ())):
        yield from _services_of(child)


def _segments(path: str) -> list[str]:
    return [segment for segment in path.split("/") if segment]


def _host_name(host: str) -> str:
    """Lower case, without port and final dot."""
    name = host.lower()
    name = name.partition("]")[0] + "]" if name.startswith("[") else name.partition(":")[0]
    return name.rstrip(".")
