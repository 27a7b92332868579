"""What is packed once for all callers is what would be packed, and told, for each of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import RateLimitItemPerSecond, parse

from common.identity import Identity
from gateway.limits.asked import COUNTS, KEYS, Asked, Passed
from gateway.limits.tiers import LimitSets, Rates, of_route
from gateway.limits.verdict import MOST_TOLD, Bucket, Tier, Verdict
from gateway.services import Plan
from tests.unit import parts

TIERS: Sequence[Tier] = ("endpoint", "user", "key", "address", "burst", "global")
NAMES = st.text(min_size=1, max_size=12)
BUCKETS = st.lists(
    st.builds(
        Bucket,
        st.sampled_from(TIERS),
        NAMES.filter(str.isascii),
        st.builds(RateLimitItemPerSecond, st.sampled_from([1, 7, 1000, MOST_TOLD, 4 * MOST_TOLD]), st.integers(1, 9)),
        NAMES,
        NAMES,
    ),
    min_size=1,
    max_size=6,
)


def digest() -> bytes:
    return COUNTS.head(0).split(b"\r\n")[4]


@given(BUCKETS, st.sampled_from([1, 2, 40]))
def test_a_command_is_packed_as_the_client_library_packs_it(buckets: list[Bucket], cost: int) -> None:
    numbers = [number for each in buckets for number in (each.rate.amount, each.rate.get_expiry() * 1_000_000)]
    keys = [KEYS + each.key for each in buckets]

    asked = Asked.of(buckets)

    packed = asked.limits.head + asked.limits.packed(asked.whoms, cost)
    words = ("EVALSHA", digest(), len(buckets), *keys, cost, *numbers)
    assert packed == hiredis.pack_command(words)  # pyright: ignore[reportArgumentType] - as if of one word only
    assert list(asked) == buckets


@given(BUCKETS, st.randoms(use_true_random=False))
def test_the_fields_of_a_request_that_passed_are_those_of_its_rows(buckets: list[Bucket], dice: random.Random) -> None:
    answer = [0]
    for each in buckets:
        answer += [dice.randint(1, each.rate.amount), dice.randint(1, each.rate.get_expiry() * 1_000_000)]

    passed = Passed(Asked.of(buckets), answer)

    told, expected = dict(passed.headers()), dict(Verdict(passed.rows).headers())
    assert abs(int(told.pop("X-RateLimit-Reset", 0)) - int(expected.pop("X-RateLimit-Reset", 0))) <= 1  # a second ends
    assert list(told.items()) == list(expected.items())
    assert passed.is_allowed


def rates() -> Rates:
    return Rates.of(parts.settings())


def test_a_set_is_made_once_for_all_callers_of_a_tier_and_anew_for_another_configuration() -> None:
    sets, service = LimitSets(rates()), parts.service()
    changed, gold = parts.service(limits={"default": parse("7/minute")}), Plan(parse("9/minute"))

    made = sets.of(service, None, "user", "default")

    assert sets.of(service, None, "user", "default") is made
    others = [
        sets.of(changed, None, "user", "default"),
        sets.of(service, None, "address", "default"),
        sets.of(service, gold, "key", "default"),
    ]
    assert [each.limits[0].rate.amount for each in (made, *others)] == [1000, 7, 1000, 9]


def test_sets_are_bounded_and_never_those_of_a_service_that_has_gone() -> None:
    sets = LimitSets(rates(), most=3)

    found = [
        sets.of(parts.service(limits={"default": parse(f"{number}/minute")}), None, "user", "default")
        for number in range(1, 50)
    ]

    assert [each.limits[0].rate.amount for each in found] == list(range(1, 50))
    assert len(sets._known) <= 3  # pyright: ignore[reportPrivateUsage] - its memory is the promise


@pytest.mark.parametrize("user", ["u1", "u\ud800", "%d|%s"])
def test_whatever_a_user_is_called_is_counted(tmp_path: Path, user: str) -> None:
    exchange = parts.exchange(parts.runtime(tmp_path), of=parts.service())
    exchange.speak_for(Identity(user, user, frozenset(), 9e9))

    asked = of_route(exchange, "default", by_caller=False)

    packed = asked.limits.packed(asked.whoms, 1)
    assert f"|user:{user}\r\n".encode("utf-8", "surrogatepass") in packed
    assert asked[0].whom == f"user:{user}"
