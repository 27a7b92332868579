"""Which route does a request belong to? One table answers for every proxied path.

A path is a *face* (nothing, `/api`, or `/api/vN`), then the public prefix of a service, then what the route's template
describes: literal segments, `<name>` for one segment, `<path:name>` for all that follow. More specific wins: at each
segment a literal beats `<name>` beats `<path:name>`; a route that does not take the request's method is passed over for
a less specific one that does, and only when none takes it the answer is 405.

Matching is on decoded segments (the target rules have refused every escape that could make two readings of one path),
forwarding is on the raw bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from common.problems import BadRequest, MethodNotAllowed, NotFound
from gateway.exchange import Answer, Exchange, Handler
from gateway.services import Service

VERSIONS = ("1",)
FACES = ("", "/api", *(f"/api/v{version}" for version in VERSIONS))
ANY = ("*",)
"""As `methods` of a route: whatever the service understands."""

_VERSION = re.compile(r"v(\d+)")


@dataclass(frozen=True, slots=True)
class Route:
    """Methods and a path template of a service, with the handler that was composed for it."""

    name: str
    service: Service
    prefix: str
    template: str
    methods: tuple[str, ...]
    handler: Handler


@dataclass(slots=True)
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    one: _Node | None = None
    rest: dict[str, Route] = field(default_factory=dict)  # by method, for `<path:...>`
    here: dict[str, Route] = field(default_factory=dict)


class Router:
    """The table. Filled while the app is made, only read afterwards; greenlets share it without a lock."""

    def __init__(self) -> None:
        self._prefixes: dict[str, _Node] = {}
        self.routes: list[Route] = []

    def add(self, route: Route) -> None:
        """Raises `ValueError` when another route already has this template and one of these methods."""
        node, by_method = self._prefixes.setdefault(route.prefix, _Node()), None
        segments = [segment for segment in route.template.split("/") if segment]
        for segment in segments:
            if segment.startswith("<path:"):
                by_method = node.rest
                break
            if segment.startswith("<"):
                node.one = node.one or _Node()
                node = node.one
            else:
                node = node.literals.setdefault(segment, _Node())
        table = node.here if by_method is None else by_method
        for method in route.methods:
            if method in table:
                raise ValueError(f"{method} /{route.prefix}{route.template} is there twice")
            table[method] = route
        self.routes.append(route)

    @property
    def prefixes(self) -> list[str]:
        return sorted(self._prefixes)

    def match(self, exchange: Exchange) -> Route | None:
        """The route of `exchange`, which then knows its service and route; None for an OPTIONS that we answer.

        Raises `NotFound` and `MethodNotAllowed`, and `BadRequest` for a version that does not exist.
        """
        segments = exchange.target.segments
        skipped = _face_segments(segments, exchange.headers.get("api-version"))
        rest = segments[skipped:]
        node = self._prefixes.get(rest[0]) if rest else None
        if node is None:
            raise NotFound(
                f"There is no such service here; there are {', '.join(self.prefixes)}.", code="SERVICE_NOT_FOUND"
            )
        exchange.prefix_segments = skipped + 1
        allowed: set[str] = set()
        for table in _candidates(node, rest, 1):
            route = table.get(exchange.method) or table.get("*")
            if route is None and exchange.method == "HEAD":
                route = table.get("GET")
            if route is not None:
                exchange.route, exchange.service = route, route.service
                return route
            allowed.update(table)
        if not allowed:
            raise NotFound("There is nothing at this address.", code="ROUTE_NOT_FOUND")
        allow = ", ".join(sorted(allowed | {"OPTIONS"} | ({"HEAD"} if "GET" in allowed else set())))
        if exchange.method == "OPTIONS":
            exchange.answer_headers.append(("Allow", allow))
            return None
        raise MethodNotAllowed(f"This address takes {allow}.", headers=(("Allow", allow),))

    def dispatch(self, exchange: Exchange) -> Answer:
        """Match, then run the route's handler."""
        route = self.match(exchange)
        return Answer(204, [], ()) if route is None else route.handler(exchange)


def _candidates(node: _Node, segments: tuple[str, ...], position: int) -> Iterator[dict[str, Route]]:
    """Method tables that the path leads to, the most specific first."""
    if position == len(segments):
        if node.here:
            yield node.here
    else:
        literal = node.literals.get(segments[position])
        if literal is not None:
            yield from _candidates(literal, segments, position + 1)
        if node.one is not None:
            yield from _candidates(node.one, segments, position + 1)
    if node.rest:
        yield node.rest


def _face_segments(segments: tuple[str, ...], header: str | None) -> int:
    """How many leading segments are the face: 0, 1 for `api`, 2 for `api/vN`. Raises for an unknown version."""
    skipped = 0
    if segments[:1] == ("api",):
        skipped = 1
        if len(segments) > 1 and (match := _VERSION.fullmatch(segments[1])):
            skipped = 2
            if match[1] not in VERSIONS:
                raise NotFound(f"There is no version {match[1]}; known: {', '.join(VERSIONS)}.", code="UNKNOWN_VERSION")
    if header is not None and header.strip().removeprefix("v") not in VERSIONS:
        raise BadRequest(f"API-Version must be one of: {', '.join(VERSIONS)}.", code="UNKNOWN_VERSION")
    return skipped
