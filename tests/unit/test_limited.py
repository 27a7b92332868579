"""Which limits count a request, and whom: all tiers at once, each refusal with the name of its own."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from limits import parse

from common import yaml_file
from common.problems import Problem, ServiceUnavailable, TooManyRequests
from common.tokens import ISSUER, Identity
from deploy.local.valkey import Valkey
from gateway.differences import differences
from gateway.exchange import Exchange
from gateway.limits.tiers import of_route
from gateway.policies import compose
from gateway.policies.layers import layers
from gateway.policies.limited import count_unrouted, limited
from gateway.runtime import Runtime
from gateway.services import Service, ServicesError, configuration_of
from tests.support.ports import free_port
from tests.unit import parts

ENTRIES = """
plans:
  gold: {default: 5/minute, burst: 4/second}
  plain: {default: 3/minute}
services:
  shop:
    url: http://127.0.0.1:1
    limits: {default: 100/minute, user: 7/minute, reviews: 2/minute}
    routes:
      - {path: /reviews, public: true, limit: reviews}
      - {path: /own, limit: reviews}
      - {path: /rated, name: rated, limit: 3/minute}
      - {path: /dear, limit: 9/minute, cost: 4}
      - {path: /plain, cost: 2}
  tight:
    url: http://127.0.0.1:1
    public: true
    limits: {default: 100/minute, address: 2/minute}
  brisk:
    url: http://127.0.0.1:1
    public: true
    limits: {burst: 2/second}
  strict: {url: "http://127.0.0.1:1", public: true, on_store_down: closed}
  lax: {url: "http://127.0.0.1:1", public: true, on_store_down: open, limits: {default: 1/minute}}
"""
_numbers = iter(range(1, 10_000))


def runtime_with(directory: Path, **given: Any) -> Runtime:
    runtime = parts.runtime(directory, **given)
    made = configuration_of(yaml_file.parse(ENTRIES, "services.yaml"), runtime.settings, {})
    object.__setattr__(runtime.table, "configuration", made)
    return runtime


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as valkey:
        yield valkey


@pytest.fixture(scope="module")
def runtime(server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return runtime_with(tmp_path_factory.mktemp("gateway"), redis_url=server.url)


@pytest.fixture
def address() -> str:
    """Nobody else's."""
    number = next(_numbers)
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def user(number: int | None = None, **changes: Any) -> Identity:
    name = f"u{next(_numbers) if number is None else number}"
    return replace(Identity(name, name, frozenset(), 9e9), **changes)


def key(plan: str) -> Identity:
    return user(session=f"key:{next(_numbers)}", plan=plan)


def asking(runtime: Runtime, of: Service, caller: str, identity: Identity | None = None) -> Exchange:
    exchange = parts.exchange(runtime, of=of, caller=caller)
    if identity:
        exchange.speak_for(identity)
    return exchange


def route(runtime: Runtime, service: str, template: str) -> tuple[Service, Any]:
    """The service as it is for that route, and its handler."""
    rule = next(rule for rule in runtime.table.configuration.routes[service] if rule.template == template)
    handler = compose(rule.service, parts.answering(), rule)
    return rule.service, handler


def outcomes(handler: Any, exchanges: Iterable[Exchange]) -> list[str]:
    """Of each request: `passes`, or the tier and the limit that refused."""
    found: list[str] = []
    for exchange in exchanges:
        try:
            handler(exchange)
            found.append("passes")
        except TooManyRequests as problem:
            document = problem.document("", "")
            found.append(f"{document['tier']} {document['limit']}")
    return found


def made(name: str, limits: Mapping[str, str]) -> Service:
    return parts.service(f"{name}-{next(_numbers)}", limits={key: parse(rate) for key, rate in limits.items()})


WIDE = {"rate_limit_requests": 1_000_000, "address_rate_limit_requests": 1_000_000}
TIERS = [
    ("anonymous", {}, {"default": "2/minute"}, "", "address default"),
    ("user", {}, {"default": "2/minute"}, "user", "user default"),
    ("user of its own", {}, {"default": "9/minute", "user": "2/minute"}, "user", "user default"),
    ("key without a plan", {}, {"default": "2/minute"}, "none", "key default"),
    ("address", {"address_rate_limit_requests": 2}, {"default": "9/minute"}, "user", "address address"),
    ("address of a service", {}, {"default": "9/minute", "address": "2/minute"}, "user", "address address"),
    ("burst", {"burst_rate_limit_requests": 2}, {"default": "9/minute"}, "user", "burst burst"),
    ("burst of a service", {}, {"default": "9/minute", "burst": "2/second"}, "user", "burst burst"),
    ("global", {"global_rate_limit_requests": 2}, {"default": "9/minute"}, "user", "global global"),
]


@pytest.mark.parametrize(
    ("settings", "limits", "who", "refused"), [row[1:] for row in TIERS], ids=[r[0] for r in TIERS]
)
def test_each_tier_refuses_with_its_name(
    tmp_path: Path, address: str, settings: dict[str, int], limits: dict[str, str], who: str, refused: str
) -> None:
    with Valkey(tmp_path, port=free_port()) as own:  # what all callers ask is counted, too
        wide: dict[str, Any] = {**WIDE, **settings}
        runtime = parts.runtime(tmp_path, redis_url=own.url, **wide)
        service = made("tier", limits)
        identity = {"": None, "user": user(), "none": key("no such plan")}[who]

        found = outcomes(limited(parts.answering()), (asking(runtime, service, address, identity) for _ in range(3)))

    assert found == ["passes", "passes", refused]


@pytest.mark.parametrize(
    ("settings", "rate", "address", "burst"),
    [
        ({}, "9/minute", "1000 per 60 second", "100 per 1 second"),
        ({}, "500/minute", "5000 per 60 second", "500 per 1 second"),
        ({}, "600/hour", "1000 per 60 second", "600 per 1 second"),
        ({"rate_limit_requests": 300}, "9/minute", "3000 per 60 second", "300 per 1 second"),
        ({"address_rate_limit_requests": 20}, "500/minute", "20 per 60 second", "500 per 1 second"),
        ({"burst_rate_limit_requests": 5}, "500/minute", "5000 per 60 second", "5 per 1 second"),
    ],
)
def test_address_and_burst_leave_room_for_a_services_own_rate_unless_they_are_set(
    tmp_path: Path, settings: dict[str, Any], rate: str, address: str, burst: str
) -> None:
    exchange = parts.exchange(parts.runtime(tmp_path, **settings), of=made("roomy", {"default": rate}))

    found = {bucket.tier: bucket for bucket in of_route(exchange, "default", by_caller=False)[1:]}

    assert (str(found["address"].rate), str(found["burst"].rate)) == (address, burst)
    assert (found["address"].service, found["burst"].service) == ("", "")


def test_a_refusal_says_in_words_whom_it_counts_and_what(runtime: Runtime, address: str) -> None:
    service, identity = made("told", {"default": "1/10 second"}), user()
    limited(parts.answering())(asking(runtime, service, address, identity))

    with pytest.raises(TooManyRequests) as caught:
        limited(parts.answering())(asking(runtime, service, address, identity))

    assert caught.value.detail == (
        "More than 1 requests of a user in 10 seconds are not accepted (limit 'default', tier user); "
        "try again in 10 seconds."
    )


def test_a_full_limit_uses_nothing_of_the_others(runtime: Runtime, address: str) -> None:
    service, other = made("one", {"default": "1/minute"}), made("other", {"default": "90/minute"})
    handler = limited(parts.answering())

    outcomes(handler, (asking(runtime, service, address) for _ in range(50)))
    exchange = asking(runtime, other, address)
    handler(exchange)

    assert '"address";r=998' in dict(exchange.answer_headers)["RateLimit"]


def test_many_users_may_share_an_address(runtime: Runtime, address: str) -> None:
    # ten users who each use up their default of a hundred a minute
    service = made("office", {"default": "9/minute"})

    found = [outcomes(limited(parts.answering()), [asking(runtime, service, address, user())]) for _ in range(50)]

    assert found == [["passes"]] * 50


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("2001:db8:{0}::1", "2001:db8:{0}:0:ffff::2", True),
        ("2001:db8:{0}:1::1", "2001:db8:{0}:2::1", False),
        ("::ffff:192.0.{1}.7", "192.0.{1}.7", True),
        ("192.0.{1}.7", "192.0.{1}.8", False),
    ],
)
def test_an_ipv6_network_of_64_bits_is_one_caller(runtime: Runtime, one: str, other: str, are_one: bool) -> None:
    number = next(_numbers) % 256
    service = made("v6", {"default": "1/minute"})
    callers = [each.format(f"{number:x}", number) for each in (one, other)]

    found = outcomes(limited(parts.answering()), [asking(runtime, service, caller) for caller in callers])

    assert found == ["passes", "address default" if are_one else "passes"]


def test_users_of_another_issuer_are_not_ours(runtime: Runtime, address: str) -> None:
    service, ours = made("issuers", {"default": "1/minute"}), user()
    theirs = user(user_id=ours.user_id, issuer="https://other.example")
    assert ours.issuer == ISSUER

    found = outcomes(
        limited(parts.answering()), [asking(runtime, service, address, who) for who in (ours, theirs, ours)]
    )

    assert found == ["passes", "passes", "user default"]


def test_a_key_is_counted_by_its_plan_and_not_by_its_user_or_address(runtime: Runtime, address: str) -> None:
    tight = runtime.table.services["tight"]
    gold, plain = key("gold"), key("plain")

    handler = limited(parts.answering())
    of_plain = outcomes(handler, (asking(runtime, tight, address, plain) for _ in range(4)))
    of_gold = outcomes(handler, (asking(runtime, tight, address, gold) for _ in range(5)))
    of_user = outcomes(handler, (asking(runtime, tight, address, user()) for _ in range(3)))

    assert of_plain == ["passes"] * 3 + ["key default"]
    assert of_gold == ["passes"] * 4 + ["burst burst"]
    assert of_user == ["passes"] * 2 + ["address address"]


def test_a_user_has_the_services_own_rate_for_users(runtime: Runtime) -> None:
    shop, identity = runtime.table.services["shop"], user()

    rates = {
        who: of_route(asking(runtime, shop, "192.0.2.1", identity if who else None), "default", by_caller=False)[0].rate
        for who in (True, False)
    }

    assert rates == {True: parse("7/minute"), False: parse("100/minute")}


def test_a_rate_of_an_open_route_counts_by_address_and_of_one_with_tokens_by_caller(
    runtime: Runtime, address: str
) -> None:
    open_service, open_handler = route(runtime, "shop", "/reviews")
    service, handler = route(runtime, "shop", "/own")
    one, other = user(), user()

    by_address = outcomes(open_handler, (asking(runtime, open_service, address, who) for who in (one, other, one)))
    by_caller = outcomes(handler, (asking(runtime, service, address, who) for who in (one, one, one, other)))

    assert by_address == ["passes", "passes", "endpoint reviews"]
    assert by_caller == ["passes", "passes", "endpoint reviews", "passes"]


def test_a_route_may_have_a_rate_without_a_name(runtime: Runtime, address: str) -> None:
    service, handler = route(runtime, "shop", "/rated")
    identity = user()

    assert outcomes(handler, (asking(runtime, service, address, identity) for _ in range(4))) == [
        *["passes"] * 3,
        "endpoint rated",
    ]


def test_a_dear_route_costs_more_of_every_limit(runtime: Runtime, address: str) -> None:
    (dear, dear_handler), (plain, plain_handler) = route(runtime, "shop", "/dear"), route(runtime, "shop", "/plain")
    identity = user()
    first = asking(runtime, dear, address, identity)

    dear_handler(first)
    found = outcomes(plain_handler, (asking(runtime, plain, address, identity) for _ in range(2)))

    assert '"* /dear";r=5' in dict(first.answer_headers)["RateLimit"]
    assert '"default";r=3' in dict(first.answer_headers)["RateLimit"]
    assert '"address";r=996' in dict(first.answer_headers)["RateLimit"]
    assert found == ["passes", "user default"]


def test_what_the_router_refuses_costs_the_address_its_budget(tmp_path: Path, server: Valkey, address: str) -> None:
    runtime = parts.runtime(tmp_path, redis_url=server.url, address_rate_limit_requests=3)
    service = made("after", {"default": "9/minute"})

    for _ in range(2):
        count_unrouted(parts.exchange(runtime, "GET", "/nowhere", caller=address))
    found = outcomes(limited(parts.answering()), (asking(runtime, service, address) for _ in range(2)))

    assert found == ["passes", "address address"]
    with pytest.raises(TooManyRequests):
        count_unrouted(parts.exchange(runtime, "GET", "/nowhere", caller=address))
    assert 'gateway_rate_limited_total{limit="address",service="gateway"} 1.0' in runtime.metrics.page().decode()


def test_operators_who_look_for_what_is_not_there_spend_nothing(tmp_path: Path, server: Valkey, address: str) -> None:
    runtime = parts.runtime(tmp_path, redis_url=server.url, address_rate_limit_requests=1)
    exchange = parts.exchange(runtime, "GET", "/nowhere", caller=address)
    exchange.is_operations = True

    for _ in range(3):
        count_unrouted(exchange)


def test_without_the_store_a_route_is_closed_open_or_counted_as_it_says(tmp_path: Path) -> None:
    runtime = runtime_with(tmp_path)
    services, handler = runtime.table.services, limited(parts.answering())

    with pytest.raises(ServiceUnavailable) as caught:
        handler(parts.exchange(runtime, of=services["strict"]))
    lax = outcomes(handler, (parts.exchange(runtime, of=services["lax"]) for _ in range(3)))
    brisk = outcomes(handler, (parts.exchange(runtime, of=services["brisk"]) for _ in range(3)))

    assert (caught.value.code, dict(caught.value.headers)) == ("LIMITS_UNAVAILABLE", {"Retry-After": "1"})
    assert lax == ["passes"] * 3
    assert brisk == ["passes", "passes", "burst burst"]


def judged(handler: Any, exchange: Exchange, may_look: bool) -> str:
    return next(layers(handler)).judge(exchange, may_look)


def test_the_judge_tells_each_tier_and_counts_nothing(runtime: Runtime, address: str) -> None:
    service, handler = route(runtime, "shop", "/dear")
    identity = user()
    limited(parts.answering())(asking(runtime, runtime.table.services["shop"], address, identity))

    words = [judged(handler, asking(runtime, service, address, identity), True) for _ in range(2)]

    whom = f"user {identity.user_id}"
    assert words[0] == words[1]
    assert words[0].split("; ")[:4] == [
        f"* /dear: 9 per 1 minute for {whom}, 0 so far",
        f"default: 7 per 1 minute for {whom}, 1 so far",
        "address: 1000 per 60 second, 1 so far",
        "burst: 100 per 1 second, 1 so far",
    ]
    assert words[0].endswith("; counts as 4")


def test_the_judge_refuses_with_the_tier_that_would(runtime: Runtime, address: str) -> None:
    service, handler = route(runtime, "shop", "/dear")
    identity = user()
    handler(asking(runtime, service, address, identity))

    with pytest.raises(Problem) as caught:  # three of the user's seven are left, and one costs four
        judged(handler, asking(runtime, service, address, identity), True)

    assert caught.value.document("", "")["tier"] == "user"
    assert caught.value.headers == (("Retry-After", "60"),)
    assert "so far" not in judged(handler, asking(runtime, service, address, identity), False)


SHOP = "services:\n  shop:\n    url: http://127.0.0.1:1\n"


def found_in(text: str) -> tuple[str, ...]:
    """Faults, else warnings."""
    try:
        return configuration_of(yaml_file.parse(text, "f"), parts.settings(), {}).warnings
    except ServicesError as error:
        return tuple(error.problems)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("    limits: {a: 5/minute}\n    routes: [{path: /, limit: a}]\n", ""),
        ("    routes: [{path: /, limit: 5/minute}]\n", ""),
        ("    routes: [{path: /, limit: often}]\n", "limit: the service has no limit often; known: default"),
        ("    routes: [{path: /, limit: 5/fortnight}]\n", "limit: must be a rate like 100/minute"),
        ("    limits: {user: 5/minute}\n    routes: [{path: /, limit: user}]\n", "no limit user; known: default"),
        ("    limits: off\n    routes: [{path: /, limit: 5/minute}]\n", "limit: the service has limits: off"),
        ("    limits: {user: 5/minute, address: 9/minute, burst: 2/second}\n", ""),
        ("    limits: {other: 5/minute}\n", "limits.other: no route has limit: other"),
        (
            "    limits: {default: 5/minute}\n    cost: 6\n",
            "cost: no request could pass: each costs 6, and default is 5/m",
        ),
        ("    limits: {burst: 5/second}\n    cost: 5\n", ""),
        (
            "    cost: 6\n    routes: [{path: /, limit: 5/hour}]\n",
            "limit: no request could pass: each costs 6, and limit",
        ),
        ("    limits: {a: 5/hour}\n    routes: [{path: /, limit: a}, {path: /b, cost: 6}]\n", ""),
        ("    cost: 0\n", "cost: must be a whole number from 1 to 1000"),
        ("    limits: off\n    cost: 2\n", "cost: means nothing with limits: off"),
        ("    limits: off\n    on_store_down: closed\n", "on_store_down: means nothing with limits: off"),
        ("    on_store_down: never\n", "on_store_down: must be one of local, open, closed"),
        ("plans: {gold: {default: 5/minute, burst: 2/second}}\n", ""),
        ("plans: {gold: {burst: 2/second}}\n", "plans.gold.default: is missing"),
        ("plans: {gold: {default: fast}}\n", "plans.gold.default: must be a rate like 100/minute"),
        ("plans: {gold: {default: 5/minute, shop: 2/minute}}\n", "plans.gold.shop: unknown key"),
    ],
)
def test_check_knows_what_may_be_said_of_limits(text: str, told: str) -> None:
    found = found_in(SHOP + text)

    assert len(found) == bool(told)
    assert told in "".join(found)


def test_a_changed_plan_is_a_difference() -> None:
    before, after = (
        configuration_of(yaml_file.parse(SHOP + text, "f"), parts.settings(), {})
        for text in ("plans: {gold: {default: 5/minute}}\n", "plans: {gold: {default: 6/minute, burst: 2/second}}\n")
    )

    assert [str(each) for each in differences(before, after)] == [
        "plans: gold.default: 5 per 1 minute -> 6 per 1 minute",
        "plans: gold.burst: none -> 2 per 1 second",
    ]
