"""Who is let in at all: address lists, maintenance, and what the services file says of permissions."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine

from common.problems import Forbidden, Problem
from common.tokens import Identity
from gateway.callers import IPNetwork, forwarding_of
from gateway.exchange import Exchange, Handler
from gateway.notation import parse_network
from gateway.policies import around, compose
from gateway.policies.addresses import addresses
from gateway.policies.layers import layers
from gateway.policies.maintenance import maintained
from gateway.runtime import Runtime
from gateway.services import MaintenanceRule, Service
from tests.unit import parts
from tests.unit.advised import faults, of_things, read, warnings

NO_NETWORK = "must be an address or network like 10.0.0.0/8, with no bits set behind its mask"
NOW = datetime(2030, 1, 31, 12, 0, tzinfo=UTC)
ADMIN = Identity("1", "root", frozenset({"admin"}), 1e10)
CUSTOMER = Identity("2", "ada", frozenset({"customer"}), 1e10)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return parts.runtime(tmp_path_factory.mktemp("gateway"))


def networks(texts: Iterable[str]) -> tuple[IPNetwork, ...]:
    return tuple(parse_network(text) for text in texts)


def problem_of(handler: Handler, exchange: Exchange) -> Problem | None:
    """What a request is refused with, None if it passes."""
    try:
        handler(exchange)
    except Problem as problem:
        return problem
    return None


def outcome(handler: Handler, exchange: Exchange) -> str:
    """`passes`, or the code of the refusal."""
    refused = problem_of(handler, exchange)
    return refused.code if refused else "passes"


@pytest.mark.parametrize(
    ("allowed", "denied", "caller", "expected"),
    [
        ([], [], "192.0.2.1", "passes"),
        (["192.0.2.0/24"], [], "192.0.2.1", "passes"),
        (["192.0.2.0/24"], [], "198.51.100.1", "ADDRESS_REFUSED"),
        ([], ["192.0.2.0/24"], "192.0.2.1", "ADDRESS_REFUSED"),
        ([], ["192.0.2.0/24"], "198.51.100.1", "passes"),
        (["192.0.2.0/24"], ["192.0.2.1"], "192.0.2.1", "ADDRESS_REFUSED"),
        (["192.0.2.1"], ["192.0.2.0/24"], "192.0.2.1", "ADDRESS_REFUSED"),
        (["192.0.2.0/24"], [], "::ffff:192.0.2.1", "passes"),
        (["192.0.2.0/24"], [], "::ffff:c000:201", "passes"),
        ([], ["192.0.2.0/24"], "::ffff:192.0.2.1", "ADDRESS_REFUSED"),
        ([], ["::ffff:192.0.2.0/120"], "192.0.2.1", "ADDRESS_REFUSED"),
        (["::ffff:192.0.2.0/120"], [], "::ffff:192.0.2.1", "passes"),
        (["0.0.0.0/0"], [], "2001:db8::1", "ADDRESS_REFUSED"),
        (["::/0"], [], "192.0.2.1", "ADDRESS_REFUSED"),
        (["2001:db8::/32"], [], "2001:0db8:0:0::1", "passes"),
        ([], ["fe80::/10"], "fe80::1%eth0", "ADDRESS_REFUSED"),
        (["192.0.2.0/24"], [], "", "ADDRESS_REFUSED"),
        (["192.0.2.0/24"], [], "unix:", "ADDRESS_REFUSED"),
        ([], ["192.0.2.0/24"], "", "passes"),
    ],
)
def test_an_address_is_let_in_by_the_lists_and_whoever_is_denied_stays_out(
    runtime: Runtime, allowed: list[str], denied: list[str], caller: str, expected: str
) -> None:
    handler = addresses(networks(allowed), networks(denied))(parts.answering())

    assert outcome(handler, parts.exchange(runtime, of=parts.service(), caller=caller)) == expected


def test_a_refusal_does_not_tell_which_addresses_there_are(runtime: Runtime) -> None:
    handler = addresses(networks(["10.0.0.0/8"]), ())(parts.answering())

    with pytest.raises(Forbidden) as caught:
        handler(parts.exchange(runtime, of=parts.service(), caller="192.0.2.1"))

    assert "10." not in caught.value.detail
    assert "192" not in caught.value.detail


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        ("198.51.100.1", "192.0.2.1", "ADDRESS_REFUSED"),  # nobody vouches for what a stranger says
        ("10.0.0.1", "192.0.2.1", "passes"),
        ("10.0.0.1", "192.0.2.1, 198.51.100.1", "ADDRESS_REFUSED"),
        ("10.0.0.1", "192.0.2.1, 10.0.0.2", "passes"),
        ("10.0.0.1", "", "ADDRESS_REFUSED"),  # the proxy itself
        ("10.0.0.1", "::ffff:192.0.2.1", "passes"),
        ("::ffff:10.0.0.1", "192.0.2.1", "passes"),
    ],
)
def test_a_caller_cannot_choose_the_address_that_it_has(
    runtime: Runtime, peer: str, forwarded_for: str, expected: str
) -> None:
    told = {"x-forwarded-for": forwarded_for}
    caller = forwarding_of(peer, "http", "h", "1.1", told, networks(["10.0.0.0/8"])).caller
    handler = addresses(networks(["192.0.2.0/24"]), ())(parts.answering())

    assert outcome(handler, parts.exchange(runtime, of=parts.service(), caller=caller)) == expected


def test_a_routes_allowances_count_instead_and_its_denials_beside_the_services() -> None:
    file = """services:
  things:
    url: http://t
    allow_from: [10.0.0.0/8]
    deny_from: [10.6.6.6]
    routes:
      - {path: /open, allow_from: [0.0.0.0/0], deny_from: [10.7.7.7]}
      - {path: /same}
"""
    first, second = read(file).routes["things"]

    assert (first.service.allow_from, first.service.deny_from) == (
        networks(["0.0.0.0/0"]),
        networks(["10.6.6.6", "10.7.7.7"]),
    )
    assert (second.service.allow_from, second.service.deny_from) == (networks(["10.0.0.0/8"]), networks(["10.6.6.6"]))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("allow_from: []", "allow_from: must be a list that is not empty (here: a list)"),
        ("deny_from: 10.0.0.1", "deny_from: must be a list that is not empty (here: '10.0.0.1')"),
        ("allow_from: [10.0.0.1/8]", f"allow_from.0: {NO_NETWORK} (here: '10.0.0.1/8')"),
        ("allow_from: [everywhere]", f"allow_from.0: {NO_NETWORK} (here: 'everywhere')"),
        ("deny_from: [10.0.0.0/8, 10]", f"deny_from.1: {NO_NETWORK} (here: 10)"),
    ],
)
def test_a_list_that_cannot_be_is_told(entry: str, words: str) -> None:
    (told,) = faults(of_things(entry))

    assert told.partition(": ")[2] == words


def rule(**changes: object) -> MaintenanceRule:
    given = {"message": "Back soon.", "until": None, "retry_after_s": 120, "allow_roles": (), **changes}
    return MaintenanceRule(**given)  # pyright: ignore[reportArgumentType] - the line above has the types


@pytest.mark.parametrize(
    ("until", "after", "retry_after"),
    [
        (None, timedelta(), "120"),
        (None, timedelta(days=400), "120"),
        (timedelta(hours=1), timedelta(), "3600"),
        (timedelta(hours=1), timedelta(minutes=59, milliseconds=500), "60"),
        (timedelta(hours=1), timedelta(minutes=59, seconds=59, milliseconds=500), "1"),
        (timedelta(hours=1), timedelta(hours=1), ""),
        (timedelta(hours=1), timedelta(hours=2), ""),
    ],
)
def test_maintenance_says_when_to_come_back_and_ends_by_itself(
    runtime: Runtime, until: timedelta | None, after: timedelta, retry_after: str
) -> None:
    handler = maintained(rule(until=until and NOW + until))(parts.answering())
    exchange = parts.exchange(runtime, of=parts.service())

    with time_machine.travel(NOW + after, tick=False):
        refused = problem_of(handler, exchange)

    told = {} if refused is None else {"code": refused.code, "detail": refused.detail, **dict(refused.headers)}
    expected = {"code": "MAINTENANCE", "detail": "Back soon.", "Retry-After": retry_after}
    assert told == (expected if retry_after else {})


@pytest.mark.parametrize(
    ("identity", "allowed", "expected"),
    [
        (None, ("admin",), "MAINTENANCE"),
        (CUSTOMER, ("admin",), "MAINTENANCE"),
        (ADMIN, ("admin",), "passes"),
        (ADMIN, ("tester", "admin"), "passes"),
        (ADMIN, (), "MAINTENANCE"),
    ],
)
def test_only_who_has_one_of_the_roles_is_let_in_meanwhile(
    runtime: Runtime, identity: Identity | None, allowed: tuple[str, ...], expected: str
) -> None:
    exchange = parts.exchange(runtime, of=parts.service())
    if identity:
        exchange.speak_for(identity)

    assert outcome(maintained(rule(allow_roles=allowed))(parts.answering()), exchange) == expected


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("maintenance: off", []),
        ("maintenance: {}", []),
        ('maintenance: {until: "2030-01-31T22:00:00Z"}', []),
        ("maintenance: {until: 2030-01-31T22:00:00Z}", []),
        ("maintenance: {until: 2030-01-31T22:00:00+01:00}", []),
        ("maintenance: {until: 2030-01-31}", ["must be a time with its zone, like 2030-01-31T22:00:00Z"]),
        ("maintenance: {until: 2030-01-31T22:00:00}", ["must be a time with its zone, like 2030-01-31T22:00:00Z"]),
        ("maintenance: {until: '22:00'}", ["must be a time with its zone, like 2030-01-31T22:00:00Z"]),
        ("maintenance: {until: '2030-02-31T22:00:00Z'}", ["must be a time with its zone, like 2030-01-31T22:00:00Z"]),
    ],
)
def test_the_end_of_a_maintenance_is_a_time_with_a_zone(entry: str, told: list[str]) -> None:
    assert [each.partition("until: ")[2].partition(" (")[0] for each in faults(of_things(entry))] == told


def test_a_maintenance_that_is_over_is_worth_a_warning() -> None:
    file = of_things("maintenance: {until: 2020-01-31T22:00:00Z}")

    assert warnings(file) == ["3:19: maintenance.until: is over: the service is asked again"]


def names(service: Service, *, is_coded: bool) -> list[str]:
    handler = parts.answering() if is_coded else compose(service, parts.answering())
    return [each.name for each in layers(around(service, handler))]


LISTS: dict[str, object] = {"allow_from": networks(["10.0.0.0/8"]), "maintenance": rule(), "is_public": False}


def test_the_doors_stand_behind_the_count_and_before_the_token() -> None:
    asked = names(parts.service("things", **LISTS, validation="enforce", is_cached=True), is_coded=False)

    assert asked == ["limited", "sized", "addresses", "maintained", "require_jwt", "validated", "cached"]


def test_the_file_can_close_the_doors_of_services_whose_policies_are_code() -> None:
    assert names(parts.service("orders", **LISTS), is_coded=True) == ["addresses", "maintained"]


def test_in_the_gateway_orders_can_be_closed(tmp_path: Path) -> None:
    entries = {"orders": {"url": "http://127.0.0.1:1", "maintenance": {"message": "Counting."}}}
    runtime = parts.runtime(tmp_path, entries)
    exchange = parts.exchange(runtime, "GET", "/api/v1/orders")

    route = runtime.table.router.match(exchange)

    assert route is not None
    assert outcome(route.handler, exchange) == "MAINTENANCE"


@pytest.mark.parametrize(
    ("service_says", "route_says", "expected"),
    [
        ("", "", (False, (), (), False)),
        ("permissions: [a]", "", (False, (), ("a",), False)),
        ("roles: [r], permissions: [a], second_factor: true", "", (False, ("r",), ("a",), True)),
        # what a service lets in must not open a route that wants something else
        ("permissions: [a]", "roles: [r]", (False, ("r",), (), False)),
        ("roles: [r]", "permissions: [a]", (False, (), ("a",), False)),
        ("roles: [r], second_factor: true", "second_factor: false", (False, ("r",), (), False)),
        ("public: true", "permissions: [a]", (False, (), ("a",), False)),
        ("public: true", "second_factor: true", (False, (), (), True)),
        ("permissions: [a], second_factor: true", "public: true", (True, (), (), False)),
    ],
)
def test_a_route_that_names_who_may_call_says_all_of_it(
    service_says: str, route_says: str, expected: tuple[bool, tuple[str, ...], tuple[str, ...], bool]
) -> None:
    said = f"{{url: http://t, {service_says or 'retries: 1'}, routes: [{{path: /, {route_says or 'cache: false'}}}]}}"
    (found,) = read(f"services:\n  things: {said}\n").routes["things"]

    service = found.service
    assert (service.is_public, service.roles, service.permissions, service.wants_second_factor) == expected


@pytest.mark.parametrize("key", ["roles: [a]", "permissions: [a]", "second_factor: true"])
def test_who_is_public_asks_nothing_more(key: str) -> None:
    (told,) = faults(of_things(f"public: true\n    {key}"))

    assert "nothing beside public: true; leave one of both out" in told


@pytest.mark.parametrize(
    ("permissions", "amr", "expected"),
    [
        ({"a"}, {"pwd", "otp"}, "passes"),
        ({"b"}, {"pwd", "otp"}, "PERMISSION_REQUIRED"),
        ({"a"}, {"pwd"}, "SECOND_FACTOR_NEEDED"),
    ],
)
def test_a_permission_and_a_second_factor_of_the_file_are_asked_for(
    runtime: Runtime, permissions: set[str], amr: set[str], expected: str
) -> None:
    service = parts.service(is_public=False, limits=None, permissions=("a",), wants_second_factor=True)
    exchange = parts.exchange(runtime, of=service)
    exchange.speak_for(
        Identity("2", "ada", frozenset(), 1e10, permissions=frozenset(permissions), amr=frozenset(amr), session="s")
    )

    assert outcome(compose(service, parts.answering()), exchange) == expected
