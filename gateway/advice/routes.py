"""The routes of a service, each for itself and against the others: what can't be meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from common.yaml_file import Location
from gateway.advice.findings import Finding, routes_of, unknown
from gateway.rewriting import PathTemplate, Redirect
from gateway.services_file import RouteEntry, ServiceEntry
from gateway.templates import Templates

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def _rewrites(_name: str, entry: ServiceEntry, _around: object) -> Iterator[Finding]:
    for location, route in routes_of(entry):
        if route.rewrite and route.redirect:
            yield Finding((*location, "rewrite"), "means nothing beside redirect; leave one of both out")
        if route.rewrite is not None and not route.rewrite.model_fields_set:
            yield Finding((*location, "rewrite"), "needs path, strip_prefix, add_prefix or host")
        if route.rewrite and route.rewrite.path is not None:
            wanted = PathTemplate.parse(route.rewrite.path).names
            yield from _unbound(route, wanted, (*location, "rewrite", "path"))
        if route.redirect:
            yield from _unbound(
                route, Redirect(route.redirect.status, route.redirect.to).names, (*location, "redirect", "to")
            )


def _unbound(route: RouteEntry, wanted: Iterable[str], location: Location) -> Iterator[Finding]:
    known = PathTemplate.parse(route.path).names
    shown = [f"<{name}>" for name in sorted(known)]
    for name in sorted(set(wanted) - known):
        yield Finding(location, unknown("the route's path has no", f"<{name}>", shown))


def _methods(_name: str, entry: ServiceEntry, _around: object) -> Iterator[Finding]:
    for location, route in routes_of(entry):
        for position, method in enumerate(route.methods):
            if method not in METHODS and method.upper() in METHODS:
                words = f"methods are told apart by case; did you mean {method.upper()}? (here: '{method}')"
                yield Finding((*location, "methods", position), words)
            if method in route.methods[:position]:
                yield Finding((*location, "methods", position), f"{method} stands twice")


def _twins(_name: str, entry: ServiceEntry, _around: object) -> Iterator[Finding]:
    """Routes for the same requests, of which the router could not tell one from the other."""
    known = Templates[object]()
    seen: dict[object, list[tuple[int, RouteEntry]]] = {}
    for position, route in enumerate(entry.routes):
        here = seen.setdefault((id(known.same(route.path)), _wanted(route)), [])
        for other_position, other in here:
            same = [method for method in route.methods if method in other.methods]
            if same:
                words = f"{same[0]} {route.path} is there already, as routes.{other_position}"
                yield Finding(("routes", position), words)
        here.append((position, route))


def _wanted(route: RouteEntry) -> object:
    """Equal for routes that have the same conditions, in whatever order they stand."""
    headers = frozenset((name.lower(), wanted) for name, wanted in route.headers.items())
    return frozenset(route.hosts), headers, frozenset(route.query.items())


CHECKS = (_rewrites, _methods, _twins)
