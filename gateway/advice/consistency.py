"""Values of a service that are well, each for itself, but don't go together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from limits import parse

from common.yaml_file import Location
from gateway.advice import routes
from gateway.advice.findings import Finding, routes_of, rules_of, service_keys, unknown
from gateway.notation import is_rate, parse_rate
from gateway.services_file import CODED, OF_ALL_ROUTES, HeaderChangesEntry, Place, RouteEntry, ServiceEntry


@dataclass(frozen=True, slots=True)
class Around:
    """What a check may know besides the service that it looks at."""

    known: Collection[str]  # keys of services: `products`, `products@2`
    unsure: Collection[str]  # names of services that have faults, so that their keys are not all known
    request_timeout_s: float


Check = Callable[[str, ServiceEntry, Around], Iterator[Finding]]
"""Of a service by its name; locations are within its entry."""


def findings(
    entries: Mapping[str, ServiceEntry], damaged: Mapping[str, Collection[str]], request_timeout_s: float
) -> Iterator[Finding]:
    """Of all services; where keys are damaged, from the checks that can do without these."""
    known = [key for name, entry in entries.items() for key in service_keys(name, entry)]
    around = Around(known, damaged, request_timeout_s)
    for name, entry in entries.items():
        for wanted, check in CHECKS:
            if wanted.isdisjoint(damaged.get(name, ())):
                for location, words in check(name, entry, around):
                    yield Finding(("services", name, *location), words)
    yield from _ambiguous_aliases(entries)


def _addresses(_name: str, entry: ServiceEntry, _around: Around) -> Iterator[Finding]:
    places: list[tuple[Location, Place]] = [((), entry)]
    places += ((("versions", version), place) for version, place in entry.versions.items())
    for location, place in places:
        if (place.url is None) == (not place.instances):
            yield Finding(location, "needs either url or instances")
        for url in _repeated(member.url for member in place.members):
            yield Finding((*location, "instances"), f"{url} stands twice")


def _shares(name: str, entry: ServiceEntry, around: Around) -> Iterator[Finding]:
    for location, rules in rules_of(entry):
        shares = rules.split or []
        total = sum(share.percent for share in shares)
        if total > 100:
            yield Finding((*location, "split"), f"the shares are {total:g} % together, of 100")
        for service in _repeated(share.service for share in shares):
            yield Finding((*location, "split"), f"{service} stands twice; add its shares up")
        targets = [(("split", position, "service"), share.service) for position, share in enumerate(shares)]
        targets += [(("mirror", "service"), rules.mirror.service)] if rules.mirror else []
        for where, target in targets:
            if words := _why_no_target(name, target, around):
                yield Finding((*location, *where), words)


def _why_no_target(name: str, target: str, around: Around) -> str:
    if target == name:
        return f"{target} is this service itself"
    if target in around.known or target.partition("@")[0] in around.unsure:
        return ""
    return unknown("there is no service", target, (key for key in around.known if key != name))


def _roles(_name: str, entry: ServiceEntry, _around: Around) -> Iterator[Finding]:
    for location, rules in rules_of(entry):
        for key in ("roles", "permissions", "second_factor"):
            if rules.public and getattr(rules, key):
                mean = "means" if key == "second_factor" else "mean"
                yield Finding((*location, key), f"{mean} nothing beside public: true; leave one of both out")


def _validation(_name: str, entry: ServiceEntry, _around: Around) -> Iterator[Finding]:
    for location, rules in rules_of(entry):
        if rules.validation and not entry.buffered:
            yield Finding((*location, "validate"), "wants buffered: true, else no body is there to be looked at")


def _limits(_name: str, entry: ServiceEntry, _around: Around) -> Iterator[Finding]:
    for location, route in routes_of(entry):
        if route.limit is None:
            continue
        if entry.limits is None:
            yield Finding((*location, "limit"), "the service has limits: off")
        elif is_rate(route.limit):
            yield from _wrong_rate((*location, "limit"), route.limit)
        elif route.limit != "default" and (route.limit in OF_ALL_ROUTES or route.limit not in entry.limits):
            known = ["default", *(name for name in entry.limits if name not in OF_ALL_ROUTES)]
            yield Finding((*location, "limit"), unknown("the service has no limit", route.limit, known))


def _wrong_rate(location: Location, rate: str) -> Iterator[Finding]:
    try:
        parse_rate(rate)
    except ValueError as error:
        yield Finding(location, str(error))


def _costs(_name: str, entry: ServiceEntry, _around: Around) -> Iterator[Finding]:
    for location, rules in rules_of(entry):
        named = rules.limit if isinstance(rules, RouteEntry) else None
        rates = {name: rate for name, rate in (entry.limits or {}).items() if name in OF_ALL_ROUTES or name == named}
        if named and is_rate(named):
            rates["limit"] = named
        cost, key = rules.cost or entry.cost or 1, "cost" if rules.cost else "limit"
        for name, rate in rates.items():
            if cost > _amount(rate):
                yield Finding((*location, key), f"no request could pass: each costs {cost}, and {name} is {rate}")


def _amount(rate: str) -> int:
    try:
        return parse(parse_rate(rate)).amount
    except ValueError:  # which is told elsewhere
        return 1000


def _fallback(_name: str, entry: ServiceEntry, _around: Around) -> Iterator[Finding]:
    fallback = entry.breaker and entry.breaker.fallback
    if fallback and fallback.stale and not any(rules.cache for _location, rules in rules_of(entry)):
        yield Finding(("breaker", "fallback", "stale"), "wants cache: true, else there is no kept answer")


def _timeouts(_name: str, entry: ServiceEntry, around: Around) -> Iterator[Finding]:
    total_s = entry.timeout_s or around.request_timeout_s
    if entry.try_timeout_s is not None and entry.try_timeout_s > total_s:
        name = "timeout_s" if entry.timeout_s else "REQUEST_TIMEOUT"
        yield Finding(("try_timeout_s",), f"one try can't take longer than all, which is {name}: {total_s:g}")


def _ejection(_name: str, entry: ServiceEntry, _around: Around) -> Iterator[Finding]:
    rule = entry.ejection
    if rule and rule.period_s > rule.longest_s:
        yield Finding(("ejection", "period_s"), f"the first time can't be longer than longest_s: {rule.longest_s:g}")


def _field_names(_name: str, entry: ServiceEntry, _around: Around) -> Iterator[Finding]:
    for location, rules in rules_of(entry):
        for key, changes in (("request_headers", rules.request_headers), ("response_headers", rules.response_headers)):
            for where, names in _names_in(changes):
                for name in _repeated(map(str.lower, names)):
                    yield Finding((*location, key, where), f"{name} stands twice; case makes no difference")
    for location, route in routes_of(entry):
        for name in _repeated(map(str.lower, route.headers)):
            yield Finding((*location, "headers"), f"{name} stands twice; case makes no difference")


def _names_in(changes: HeaderChangesEntry | None) -> Iterator[tuple[str, Iterable[str]]]:
    if changes:
        yield from (("set", changes.set), ("add", changes.add), ("remove", changes.remove))


def _lists(_name: str, entry: ServiceEntry, _around: Around) -> Iterator[Finding]:
    for prefix in _repeated(entry.prefixes):
        yield Finding(("prefixes",), f"{prefix or '/'} stands twice")
    for location, hosts in [((), entry.hosts), *((where, route.hosts) for where, route in routes_of(entry))]:
        for host in _repeated(hosts):
            yield Finding((*location, "hosts"), f"{host} stands twice")


def _written_in_code(name: str, entry: ServiceEntry, _around: Around) -> Iterator[Finding]:
    if name in CODED:
        for key in ("public", "roles", "permissions", "second_factor", "prefixes", "hosts", "routes"):
            if key in entry.model_fields_set:
                yield Finding((key,), f"who may do what in {name} is written in gateway/blueprints/{name}.py")


def _ambiguous_aliases(entries: Mapping[str, ServiceEntry]) -> Iterator[Finding]:
    owners = {name: name for name in entries}
    for name, entry in entries.items():
        for position, alias in enumerate(entry.aliases):
            owner = owners.setdefault(alias, name)
            if owner != name or alias == name:
                whose = "the name of a service" if owner == alias else f"an alias of {owner}"
                yield Finding(("services", name, "aliases", position), f"{alias} is {whose} already")


def _repeated(words: Iterable[str]) -> list[str]:
    return [word for word, count in Counter(words).items() if count > 1]


CHECKS: tuple[tuple[frozenset[str], Check], ...] = (
    (frozenset({"url", "instances"}), _addresses),
    (frozenset({"limits"}), _limits),
    (frozenset({"limits", "cost", "routes"}), _costs),
    (frozenset({"cache", "routes"}), _fallback),
    (frozenset({"timeout_s"}), _timeouts),
    (frozenset(), _shares),
    (frozenset(), _roles),
    (frozenset({"buffered"}), _validation),
    (frozenset(), _ejection),
    (frozenset(), _field_names),
    (frozenset(), _lists),
    (frozenset(), _written_in_code),
    *((frozenset[str](), check) for check in routes.CHECKS),
)
"""Each with the keys that it must know all of: without them it would find what is none."""
