"""Which route does a request belong to? One table answers for every proxied path.

A service claims *prefixes*, each under every *face*: `/shop` is also `/api/shop`, and `/api/v1/shop` for version 1. The
prefix `/` has no other face. Behind the prefix stands what the route's template describes: literal segments, `<name>`
for one segment, `<path:name>` for all that follow. Who gets a request, in this order:

    1  host       a service that claims the exact host, then `*.example.org` (the longer the better), then any host;
                  within a host, if nobody there claims the path, the next one is asked
    2  prefix     the longest, counted in segments; from here on no other service is asked; of two that are equal the
                  one that is written goes before a face
    3  version    what the path says (`/api/v2/...`), else `API-Version` or `Accept-Version`, else 1
    4  template   at each segment a literal beats `<name>` beats `<path:name>`
    5  method     a route that does not take the method is passed over for a less specific one that does;
                  HEAD is taken by GET where no route that names it holds
    6  conditions of hosts, fields and parameters: the more a route has the earlier it is asked, all must hold; of
                  equally many the more telling host goes first
    7  a named method beats `*`
    8  the order in the file

Nobody claims the path: 404 SERVICE_NOT_FOUND; no template fits, or no conditions hold: 404 ROUTE_NOT_FOUND; none takes
the method: 405. `claims` has 1 to 3, `templates` 4 and 6 to 8.

Matching is on decoded segments (the target rules have refused every escape that could make two readings of one path),
forwarding is on the raw bytes. The cost of a look-up grows with the segments of the path, and with the routes that have
one template between them; not with all other routes and services.
"""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import starmap

from common.problems import BadRequest, MethodNotAllowed, NotFound
from gateway.claims import ANY_HOST, Claims, Found, faces
from gateway.exchange import Answer, Exchange, Handler
from gateway.matching import Conditions
from gateway.rewriting import Rewrite
from gateway.services import FIRST_VERSION, Service
from gateway.templates import Precedence, Templates, precedence

__all__ = ["ANY", "NO_CONDITIONS", "Candidate", "Route", "Router", "faces"]

ANY = ("*",)
"""As `methods` of a route: whatever the service understands."""
VERSION_FIELDS = ("api-version", "accept-version")
MOST_NAMED = 20

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
    backend: str = field(init=False)  # key of its service
    has_conditions: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "backend", self.service.key)
        object.__setattr__(self, "has_conditions", bool(self.conditions))

    def takes(self, method: str) -> bool:
        return method in self.methods or "*" in self.methods


@dataclass(frozen=True, slots=True)
class Candidate:
    """A route that was looked at, and why it was passed over; "" for the one that matches."""

    route: Route
    why_not: str


class Router:
    """The table. Filled while it is made, only read afterwards; greenlets share it without a lock."""

    def __init__(self) -> None:
        self._claims = Claims[Templates[Route]]()
        self.routes: list[Route] = []
        self.prefixes: list[str] = []  # every one that is claimed, sorted
        self._known_prefixes: set[str] = set()
        self.versions: set[str] = {FIRST_VERSION}

    def add(self, route: Route) -> None:
        """Raises `ValueError` when another route already has this template, method and conditions, or prefix."""
        service = route.service
        for host in service.hosts or (ANY_HOST,):
            templates = self._claims.claim(host, route.prefix, service.name, service.version, Templates[Route])
            for other in templates.same(route.template):
                same = [method for method in route.methods if method in other.methods]
                if same and other.conditions == route.conditions:
                    raise ValueError(f"{same[0]} {route.prefix}{route.template} is there twice")
            templates.put(route.template, route, _order)
        self.versions.add(service.version)
        self.routes.append(route)
        if (prefix := route.prefix or "/") not in self._known_prefixes:
            self._known_prefixes.add(prefix)
            insort(self.prefixes, prefix)

    def match(self, exchange: Exchange) -> Route | None:
        """The route of `exchange`, which then knows its service and route; None for an OPTIONS that we answer.

        Raises `NotFound` and `MethodNotAllowed`, and `BadRequest` for a version that does not exist.
        """
        method = exchange.method
        seen: list[Route] = []
        for route, why_not in self._looked_at(exchange):
            if not why_not:
                exchange.route, exchange.service, exchange.backend = route, route.service, route.backend
                return route
            seen.append(route)
        if not seen or any(route.takes(method) or (method == "HEAD" and route.takes("GET")) for route in seen):
            raise NotFound("There is nothing at this address.", code="ROUTE_NOT_FOUND")
        taken = {method for route in seen for method in route.methods}
        allow = ", ".join(sorted(taken | {"OPTIONS"} | ({"HEAD"} if "GET" in taken else set())))
        if method == "OPTIONS":
            exchange.answer_headers.append(("Allow", allow))
            return None
        raise MethodNotAllowed(f"This address takes {allow}.", headers=(("Allow", allow),))

    def candidates(self, exchange: Exchange) -> Iterator[Candidate]:
        """The routes whose template fits, in the order of precedence, up to and with the one that matches.

        Raises `NotFound` and `BadRequest` where no service or version is meant.
        """
        return starmap(Candidate, self._looked_at(exchange))

    def _looked_at(self, exchange: Exchange) -> Iterator[tuple[Route, str]]:
        templates, exchange.prefix_segments = self._find(exchange)
        for routes in templates.fitting(exchange.target.segments, exchange.prefix_segments):
            for asked, method in _tries(routes, exchange.method):
                for route in asked:
                    why_not = _why_not(route, method, exchange)
                    yield route, why_not
                    if not why_not:
                        return

    def dispatch(self, exchange: Exchange) -> Answer:
        """Match, then run the route's handler."""
        route = self.match(exchange)
        if exchange.stages:
            exchange.stages.ended("route")
        return Answer(204, [], ()) if route is None else route.handler(exchange)

    def find_service(self, exchange: Exchange) -> Service | None:
        """The service that claims the path, whatever its routes say; None if nobody does."""
        try:
            templates, _length = self._find(exchange)
        except (NotFound, BadRequest):
            return None
        return next((route.service for route in templates), None)

    def _find(self, exchange: Exchange) -> tuple[Templates[Route], int]:
        """The routes of the service and version that are meant, and how many segments lead there."""
        found = self._claims.find(exchange.forwarding.host, exchange.target.segments)
        if found is None:
            raise self._nobody(exchange)
        return _version_of(found, exchange), found.length

    def _nobody(self, exchange: Exchange) -> NotFound:
        segments = exchange.target.segments
        if len(segments) > 1 and segments[0] == "api" and (match := _VERSION.fullmatch(segments[1])):
            owner = self._claims.find(exchange.forwarding.host, ("api", *segments[2:]))
            known = owner.mount.versions if owner else self.versions
            if match[1] not in known:
                return NotFound(
                    f"There is no version {match[1]} here; known: {', '.join(sorted(known, key=int))}.",
                    code="UNKNOWN_VERSION",
                )
        names = [prefix.removeprefix("/") for prefix in self.prefixes[:MOST_NAMED]]
        more = ["..."] if len(self.prefixes) > MOST_NAMED else []
        return NotFound(
            f"There is no such service here; there are {', '.join(names + more)}.", code="SERVICE_NOT_FOUND"
        )


def _order(route: Route) -> Precedence:
    return precedence(route.conditions, route.methods)


def _tries(routes: Sequence[Route], method: str) -> Iterable[tuple[Sequence[Route], str]]:
    """The routes of one template in their order, with the method that they are asked for."""
    if method != "HEAD":
        return ((routes, method),)
    named = [route for route in routes if "HEAD" in route.methods]
    return (named, "HEAD"), ([route for route in routes if route not in named], "GET")


def _why_not(route: Route, method: str, exchange: Exchange) -> str:
    if not route.takes(method):
        return f"takes {', '.join(route.methods)}, not {exchange.method}"
    if not route.has_conditions:
        return ""
    return route.conditions.why_not(exchange.forwarding.host, exchange.headers, exchange.target.query)


def _version_of(found: Found[Templates[Route]], exchange: Exchange) -> Templates[Route]:
    """The version that the request asks for. Raises `BadRequest` for one that the service does not have."""
    versions, in_path = found.mount.versions, found.version
    asked = exchange.headers.get(VERSION_FIELDS[0])
    if asked is None:
        asked = exchange.headers.get(VERSION_FIELDS[1])
    if in_path is None:
        first = versions.get(FIRST_VERSION) or next(iter(versions.values()))
        if asked is None:
            return first
        if len(versions) == 1 and next((route.service.is_verbatim for route in first), False):
            return first  # what these fields mean is its own affair
    wanted = in_path if asked is None else asked.strip().removeprefix("v")
    if wanted not in versions or (in_path is not None and wanted != in_path):
        known = ", ".join(sorted(versions, key=int))
        at_odds = f", and the path asks for {in_path}" if in_path is not None else ""
        raise BadRequest(f"API-Version must be one of: {known}{at_odds}.", code="UNKNOWN_VERSION")
    return versions[str(wanted)]
