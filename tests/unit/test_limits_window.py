"""The log of slots, in Redis and in memory, against a plain model: a list of when what passed."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Generator, Sequence
from typing import cast

import pytest
import redis
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deploy.local.valkey import Valkey
from gateway.limits.window import ACQUIRE, SLOTS, Ask, Told, acquire, read
from tests.support.ports import free_port

WINDOW_US = 60_000_000
SLOT_US = WINDOW_US // SLOTS
MOST_BYTES = 32 + (SLOTS + 2) * 16
BEGAN_US = 1_790_000_000_000_000

# the script with a clock that the test moves: the time stands behind its other arguments
AT_A_GIVEN_TIME = ACQUIRE.replace("redis.call('TIME')", "{0, ARGV[#ARGV]}")

Answer = tuple[int, tuple[Told, ...]]


class Both:
    """The script, and the same in memory; what they say must not differ."""

    def __init__(self, client: redis.Redis) -> None:
        self._client, self._script = client, client.register_script(AT_A_GIVEN_TIME)
        self._memory: dict[str, bytes] = {}
        self._run = uuid.uuid4().hex

    def hit(self, asks: Sequence[Ask], cost: int, now_us: int) -> Answer:
        numbers = [number for ask in asks for number in (ask.limit, ask.window_us)]
        raw = cast("list[int]", self._script([f"{self._run}{ask.key}" for ask in asks], [cost, *numbers, now_us]))
        told = tuple(Told(used, wait) for used, wait in zip(raw[1::2], raw[2::2], strict=True))

        answer = acquire(self._memory, asks, cost, now_us)

        assert answer == (raw[0], told)
        return answer

    def text(self, key: str) -> bytes:
        stored = cast("bytes | None", self._client.get(f"{self._run}{key}"))
        assert stored == self._memory.get(key)
        return stored or b""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Generator[redis.Redis]:
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as server, redis.Redis.from_url(server.url) as it:
        yield it


GAPS = st.one_of(
    st.sampled_from([0, 1, SLOT_US - 1, SLOT_US, SLOT_US + 1, WINDOW_US - 1, WINDOW_US, WINDOW_US + 1, 10 * WINDOW_US]),
    st.integers(0, 2 * SLOT_US),
    st.integers(0, WINDOW_US),
)
REQUESTS = st.lists(
    st.tuples(GAPS, st.integers(1, 3), st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)),
    max_size=60,
)
LIMITS = st.fixed_dictionaries({key: st.integers(1, 12) for key in "abc"})


@hypothesis_settings(max_examples=150, deadline=None)
@given(limits=LIMITS, requests=REQUESTS)
def test_never_more_than_the_limit_pass_and_a_refusal_has_a_full_window(
    client: redis.Redis, limits: dict[str, int], requests: list[tuple[int, int, list[str]]]
) -> None:
    both, now = Both(client), BEGAN_US
    passed: dict[str, list[tuple[int, int]]] = {key: [] for key in limits}

    def within(key: str, span_us: int) -> int:
        return sum(cost for at, cost in passed[key] if at > now - span_us)

    for gap, cost, keys in requests:
        now += gap
        exact = {key: within(key, WINDOW_US) for key in keys}
        rounded = {key: within(key, WINDOW_US + SLOT_US) for key in keys}

        refused, told = both.hit([Ask(key, limits[key], WINDOW_US) for key in keys], cost, now)

        if refused:
            assert rounded[keys[refused - 1]] + cost > limits[keys[refused - 1]]
            assert all(exact[key] + cost <= limits[key] for key in keys[: refused - 1])
        else:
            assert all(exact[key] + cost <= limits[key] for key in keys)
            for key in keys:
                passed[key].append((now, cost))
        added = 0 if refused else cost
        for key, each in zip(keys, told, strict=True):
            assert exact[key] + added <= each.used <= rounded[key] + added
            assert len(both.text(key)) <= MOST_BYTES


@hypothesis_settings(max_examples=100, deadline=None)
@given(limit=st.integers(1, 20), gaps=st.lists(GAPS, max_size=40), cost=st.integers(1, 4))
def test_who_was_refused_may_pass_when_the_wait_is_over_and_not_before(
    client: redis.Redis, limit: int, gaps: list[int], cost: int
) -> None:
    both, now, ask = Both(client), BEGAN_US, Ask("key", limit + 4, WINDOW_US)
    for gap in gaps:
        now += gap
        both.hit([ask], 1, now)
    refused, (told,) = both.hit([ask], cost, now)
    while not refused:
        refused, (told,) = both.hit([ask], cost, now)

    assert 0 < told.wait_us <= WINDOW_US
    assert both.hit([ask], cost, now + told.wait_us - 1)[0] == 1
    assert both.hit([ask], cost, now + told.wait_us)[0] == 0


def test_a_caller_who_is_slower_than_the_slots_is_counted_to_the_microsecond(client: redis.Redis) -> None:
    both, ask = Both(client), Ask("key", 3, WINDOW_US)
    for second in (0, 10, 20):
        both.hit([ask], 1, BEGAN_US + second * 1_000_000)

    assert both.hit([ask], 1, BEGAN_US + WINDOW_US - 1)[0] == 1
    assert both.hit([ask], 1, BEGAN_US + WINDOW_US)[0] == 0


def test_a_limit_of_a_million_takes_no_more_room_than_one_of_sixty(client: redis.Redis) -> None:
    both, ask = Both(client), Ask("key", 1_000_000, WINDOW_US)
    for number in range(3000):
        both.hit([ask], 1, BEGAN_US + number * WINDOW_US // 2000)

    assert len(both.text("key")) <= MOST_BYTES
    assert 2000 <= read(both.text("key"), BEGAN_US + 3 * WINDOW_US // 2, WINDOW_US).used <= 2000 * (1 + 1 / SLOTS) + 1


def test_a_clock_that_is_set_back_lets_nobody_pass_too_early(client: redis.Redis) -> None:
    both, ask = Both(client), Ask("key", 2, WINDOW_US)
    both.hit([ask], 1, BEGAN_US)
    both.hit([ask], 1, BEGAN_US - 5_000_000)

    assert both.hit([ask], 1, BEGAN_US + WINDOW_US - 1)[0] == 1
    assert both.hit([ask], 1, BEGAN_US + WINDOW_US)[0] == 0


@pytest.mark.parametrize("rest", [b"", b"x", b"x" * 32, b"x" * 47, struct.pack("<dddd", 5, 0, 0, 0)])
def test_what_is_no_log_counts_as_an_empty_one(client: redis.Redis, rest: bytes) -> None:
    script, key = client.register_script(AT_A_GIVEN_TIME), uuid.uuid4().hex
    client.set(key, rest)

    answer = cast("list[int]", script([key], [1, 1, WINDOW_US, BEGAN_US]))

    assert (answer[:2], read(rest, BEGAN_US).slots) == ([0, 1], b"")


def test_a_log_of_another_kind_is_taken_over(client: redis.Redis) -> None:
    script, key = client.register_script(ACQUIRE), uuid.uuid4().hex
    client.zadd(key, {"as it was": 1})

    assert cast("list[int]", script([key], [1, 1, WINDOW_US]))[0] == 0
    assert 0 < client.pttl(key) <= WINDOW_US // 1000


def test_a_window_that_was_changed_holds_for_what_is_counted_already(client: redis.Redis) -> None:
    both = Both(client)
    both.hit([Ask("key", 2, WINDOW_US)], 2, BEGAN_US)

    assert both.hit([Ask("key", 2, 2 * WINDOW_US)], 1, BEGAN_US + WINDOW_US)[0] == 1
    assert both.hit([Ask("key", 2, WINDOW_US // 2)], 1, BEGAN_US + WINDOW_US // 2)[0] == 0
