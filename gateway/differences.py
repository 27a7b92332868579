"""What two configurations mean differently. Order, comments, anchors and what stands for a default make no difference.

Compared are the values that the gateway works by, every number filled in. A route is known by what it takes: methods,
template and conditions. Of those that share a template the order counts, too, for it may decide who is asked first
(rules 6 to 8 of the router). What a route merely has from its service is told of the service alone.

Values of header fields that may be credentials are compared, but not shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Literal, NamedTuple, TypeVar, cast

from limits import RateLimitItem

from gateway.matching import Condition, Conditions
from gateway.notation import REGISTRY
from gateway.rewriting import HeaderChanges, PathTemplate
from gateway.services import Address, Configuration, RouteRule, Service, Share, Sources
from gateway.templates import precedence

NONE = "none"
_LONGEST_SHOWN = 80
_SECRET = ("authorization", "cookie", "key", "token", "secret", "password")

Values = Mapping[str, str]
"""By dotted name: `breaker.failures`."""

K = TypeVar("K")
V = TypeVar("V")


class Difference(NamedTuple):
    """`key` is `file`, a service (`products@2`) or a route of one (`products GET /reviews`)."""

    kind: Literal["added", "removed", "changed"]
    key: str
    field: str = ""
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        if self.kind != "changed":
            return f"{self.key}: {self.kind}"
        return f"{self.key}: {self.field}: {self.before} -> {self.after}"


def differences(before: Configuration, after: Configuration) -> list[Difference]:
    """Empty when both mean the same."""
    found = list(_changes("file", {"pages": before.entries.pages}, {"pages": after.entries.pages}))
    found += _changes("plans", _values_of_plans(before), _values_of_plans(after))
    for key, old, new in _pairs(before.services, after.services):
        if old is None or new is None:
            found.append(Difference("removed" if new is None else "added", key))
            continue
        found += _changes(key, values_of(old), values_of(new))
        found += _of_routes(key, (old, before.routes[key]), (new, after.routes[key]))
    return found


def _values_of_plans(configuration: Configuration) -> Values:
    return {
        f"{name}.{key}": str(rate)
        for name, plan in configuration.plans.items()
        for key, rate in (("default", plan.default), ("burst", plan.burst))
        if rate
    }


def values_of(service: Service) -> Values:
    """All that a service says, but for what its key says already."""
    return {name: text for name, text in _flat(service) if name not in ("name", "version")}


class _Identity(NamedTuple):
    """By what a route is known."""

    template: str
    methods: tuple[str, ...]
    conditions: Conditions

    def __str__(self) -> str:
        return " ".join(
            [",".join(self.methods), self.template, *(f"if {words}" for words in words_of(self.conditions))]
        )


def _of_routes(
    key: str, before: tuple[Service, tuple[RouteRule, ...]], after: tuple[Service, tuple[RouteRule, ...]]
) -> Iterator[Difference]:
    services = values_of(before[0]), values_of(after[0])
    old, new = ({_identity(rule): rule for rule in rules} for _service, rules in (before, after))
    for identity, rule, other in _pairs(old, new):
        name = f"{key} {identity}"
        if rule is None or other is None:
            yield Difference("removed" if other is None else "added", name)
            continue
        own = _values_of_rule(rule), _values_of_rule(other)
        yield from (
            change
            for change in _changes(name, *own)
            if any(values.get(change.field) != own[i].get(change.field) for i, values in enumerate(services))
        )
    yield from _changes(key, *(_order([each for each in rules if each in old and each in new]) for rules in (old, new)))


def _identity(rule: RouteRule) -> _Identity:
    said = rule.conditions
    conditions = Conditions(tuple(sorted(said.hosts)), _sorted(said.headers), _sorted(said.query))
    return _Identity(rule.template, tuple(sorted(rule.methods)), conditions)


def _sorted(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    return tuple(sorted(conditions, key=lambda condition: (condition.name, condition.expected)))


def words_of(conditions: Conditions) -> list[str]:
    """Each condition of a route for people, credentials not shown."""
    others = conditions.headers + conditions.query
    return [*conditions.hosts, *(f"{each.kind} {each.name}={_masked(each.name, each.expected)}" for each in others)]


def _values_of_rule(rule: RouteRule) -> Values:
    own = {"name": rule.name, "limit": rule.limit or NONE}
    changes = dict(_flat_value("rewrite", rule.rewrite)) | dict(_flat_value("redirect", rule.redirect))
    return {**values_of(rule.service), **own, **changes}


def _order(identities: list[_Identity]) -> Values:
    """Which of two routes is asked first, where the file's order decides that."""
    clashes = [
        (one, other)
        for position, one in enumerate(identities)
        for other in identities[position + 1 :]
        if one.template == other.template
        and set(one.methods) & set(other.methods)
        and precedence(one.conditions, one.methods) == precedence(other.conditions, other.methods)
    ]
    return {f"first of {' and '.join(sorted((str(one), str(other))))}": str(one) for one, other in clashes}


def _pairs(before: Mapping[K, V], after: Mapping[K, V]) -> Iterator[tuple[K, V | None, V | None]]:
    for key in dict.fromkeys([*before, *after]):
        yield key, before.get(key), after.get(key)


def _changes(key: str, before: Values, after: Values) -> Iterator[Difference]:
    for field in dict.fromkeys([*before, *after]):
        old, new = before.get(field, NONE), after.get(field, NONE)
        if old != new:
            yield Difference("changed", key, field, _shown(field, old), _shown(field, new))


def _shown(field: str, text: str) -> str:
    place, _, name = field.rpartition(".")
    if place.startswith(("request_headers", "response_headers")):
        return _masked(name, text)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _masked(name: str, text: str) -> str:
    """The value of a header field or parameter, unless it may be a credential."""
    is_secret = text != NONE and any(word in name.lower() for word in _SECRET)
    return "(not shown)" if is_secret else text


def _flat(part: Service) -> Iterator[tuple[str, str]]:
    for field in fields(part):
        yield from _flat_value(field.name, getattr(part, field.name))


def _flat_value(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Each single value within `value`, by its dotted name."""
    match value:
        case HeaderChanges():
            yield from ((f"{name}.set.{field}", text) for field, text in value.set)
            yield from ((f"{name}.add.{field}", text) for field, text in value.add)
            yield f"{name}.remove", _listed(sorted(value.remove))
        case Sources():
            addresses = [*value.static, *(Address(source.text, weight) for source, weight in value.dns)]
            if value.registered is not None:
                addresses.append(Address(REGISTRY, value.registered))
            yield name, _listed(sorted(_text(address) for address in addresses))
        case PathTemplate():
            yield name, "/" + "/".join(value.segments)
        case Mapping():
            for key, rate in cast("Mapping[str, RateLimitItem]", value).items():
                yield f"{name}.{key}", str(rate)
        case _ if is_dataclass(value):
            for field in fields(value):
                if field.init:
                    yield from _flat_value(f"{name}.{field.name}", getattr(value, field.name))
        case _:
            yield name, _text(value)


def _text(value: object) -> str:
    match value:
        case None:
            return NONE
        case bool():
            return str(value).lower()
        case float() if value.is_integer():
            return str(int(value))
        case bytes():
            return value.decode("utf-8", "replace")
        case frozenset():
            return _listed(sorted(str(one) for one in cast("frozenset[object]", value)))
        case tuple():
            members = cast("tuple[object, ...]", value)
            texts = [_text(one) for one in members]
            return _listed(texts if any(isinstance(one, Share) for one in members) else sorted(texts))
        case Address():
            return value.url if value.weight == 1 else f"{value.url} (weight {value.weight:g})"
        case Share():
            return f"{value.percent:g}% to {value.service}"
        case _:
            return str(value) or '""'


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(texts) or NONE
