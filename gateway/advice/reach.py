"""Routes that no request gets to.

A route is tried with samples: paths with texts that nobody else names, its own methods, and its own conditions. What
holds of such a sample holds of all requests that the route is for, as each of them fits the other routes at least as
well. So a route whose every sample goes to others is never asked. Others count only where their conditions follow from
those of the route; whether two regular expressions mean the same is not looked at, so not every such route is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.advice.findings import Finding, listed
from gateway.advice.prefixes import prefixes_of
from gateway.claims import ANY_HOST, Claims
from gateway.matching import Condition, Conditions, host_matches
from gateway.services_file import CODED, RouteEntry, ServiceEntry
from gateway.templates import Precedence, Templates, precedence, segments_of

_FRESH = "\0"  # a segment that no file can name


@dataclass(frozen=True, slots=True)
class _Tried:
    position: int
    route: RouteEntry
    conditions: Conditions


def warnings(entries: Mapping[str, ServiceEntry], claims: Claims[str]) -> Iterator[Finding]:
    for name, entry in entries.items():
        if name in CODED or not entry.routes:
            continue
        unreached = {**_swallowed(name, entry, claims), **_elsewhere(entry), **_taken(entry)}
        for position, words in unreached.items():
            yield Finding(("services", name, "routes", position), f"is never asked: {words}")
        if len(unreached) == len(entry.routes):
            yield Finding(("services", name), "nothing reaches it: none of its routes is ever asked")


def _taken(entry: ServiceEntry) -> dict[int, str]:
    """By others of the same service; positions of routes, and why."""
    templates = Templates[_Tried]()
    all_tried = [_Tried(position, route, route.conditions) for position, route in enumerate(entry.routes)]
    for tried in all_tried:
        templates.put(tried.route.path, tried, _order)
    longest = max(len(segments_of(tried.route.path)) for tried in all_tried)
    found: dict[int, str] = {}
    for tried in all_tried:
        takers = [
            _taker(templates, sample, method, tried, entry.hosts)
            for sample in samples(tried.route.path, longest)
            for method in tried.route.methods
        ]
        if tried not in takers:
            names = list(dict.fromkeys(f"routes.{taker.position} ({taker.route.path})" for taker in takers))
            found[tried.position] = f"{' and '.join(names)} {'take' if len(names) > 1 else 'takes'} all that it could"
    return found


def _taker(
    templates: Templates[_Tried], sample: Sequence[str], method: str, tried: _Tried, hosts: Sequence[str]
) -> _Tried:
    """Who gets a request that fits `tried` and nothing more."""
    for routes in templates.fitting(sample):
        for other in routes:
            # a HEAD goes to those that name it first
            takes = method in other.route.methods or ("*" in other.route.methods and method != "HEAD")
            if other is tried or (takes and follow(other.conditions, tried.conditions, hosts)):
                return other
    return tried


def _order(tried: _Tried) -> Precedence:
    return precedence(tried.conditions, tried.route.methods)


def samples(template: str, longest: int) -> Iterator[list[str]]:
    """Paths that fit `template` and as little else as can be; `<path:...>` is up to `longest` + 1 segments."""
    segments = [_FRESH if segment.startswith("<") else segment for segment in segments_of(template)]
    if "<path:" not in template:
        yield segments
        return
    for count in range(longest + 2):  # one more than anybody has a template for
        yield segments[:-1] + [_FRESH] * count


def follow(others: Conditions, given: Conditions, hosts: Sequence[str]) -> bool:
    """Whether a request that fulfils `given`, and comes on one of `hosts` (none: any), fulfils `others`, too."""
    callers = given.hosts or hosts
    if others.hosts and not (callers and all(any(host_matches(o, c) for o in others.hosts) for c in callers)):
        return False
    known = (*given.headers, *given.query)
    return all(any(_follows(other, one) for one in known) for other in (*others.headers, *others.query))


def _follows(other: Condition, given: Condition) -> bool:
    if (other.kind, other.name) != (given.kind, given.name):
        return False
    if other.expected == given.expected:
        return True
    if given.expected == "!":
        return False
    is_text = given.expected != "*" and not given.expected.startswith("~")
    return other.expected == "*" or (is_text and other.holds((given.expected,)))


def _elsewhere(entry: ServiceEntry) -> dict[int, str]:
    """Routes on hosts that the service is not on."""
    return {
        position: f"the service is on {listed(entry.hosts)} only"
        for position, route in enumerate(entry.routes)
        if route.hosts
        and entry.hosts
        and not any(host_matches(a, b) or host_matches(b, a) for a in route.hosts for b in entry.hosts)
    }


def _swallowed(name: str, entry: ServiceEntry, claims: Claims[str]) -> dict[int, str]:
    """Routes below the longer prefix of another service."""
    found: dict[int, str] = {}
    for position, route in enumerate(entry.routes):
        paths = [
            [*segments_of(prefix), *sample]
            for prefix, _location in prefixes_of(name, entry)
            for sample in samples(route.path, 1)
        ]
        owners = {
            claim.mount.owner if (claim := claims.find_on(host, path)) else name
            for host in entry.hosts or (ANY_HOST,)
            for path in paths
        }
        if name not in owners:
            found[position] = f"the longer prefix of {listed(sorted(owners))} takes it"
    return found
