"""The registry in a real Valkey: who is in it, for how long, and what is no instance at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import cast

import pytest
import redis
from structlog.testing import capture_logs

from common.registration import client
from common.registry import KEEP_DEAD_S, REGISTRY, Leases, key_of
from deploy.local.valkey import Valkey
from gateway.backend.registry import LONGEST_LEASE_BYTES, MOST_LEASES, MOST_MEMBERS, MOST_TOLD, Member, Registry
from tests.support.ports import free_port
from tests.support.processes import wait_until

KEY = key_of("things")
A, B = "http://10.0.0.1:80", "http://10.0.0.2:80"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as server:
        yield server


@pytest.fixture
def valkey(server: Valkey) -> Generator[redis.Redis]:
    """A client of an empty server."""
    with client(server.url) as empty:
        empty.flushall()
        yield empty


@pytest.fixture
def registry(valkey: redis.Redis) -> Registry:
    return Registry(valkey)


@pytest.fixture
def told(valkey: redis.Redis) -> Generator[Callable[[], list[tuple[bytes, bytes]]]]:
    """Gives what was published since it was last asked."""
    with valkey.pubsub(ignore_subscribe_messages=True) as stream:
        stream.psubscribe("*")
        stream.get_message(timeout=1)

        def since() -> list[tuple[bytes, bytes]]:
            valkey.publish("end", "")
            found: list[tuple[bytes, bytes]] = []
            while (message := stream.get_message(timeout=5)) is None or message["channel"] != b"end":
                assert message is not None
                found.append(cast("tuple[bytes, bytes]", (message["channel"], message["data"])))
            return found

        yield since


def stands(valkey: redis.Redis, *members: str | bytes, for_s: float = 60) -> None:
    """Write members as a stranger does."""
    raw = [member.encode() if isinstance(member, str) else member for member in members]
    valkey.zadd(KEY, dict.fromkeys(raw, now(valkey) + for_s))


def standing(valkey: redis.Redis) -> set[str]:
    """The members, as they stand there."""
    return {member.decode() for member in cast("list[bytes]", valkey.zrange(KEY, 0, -1))}


def now(valkey: redis.Redis) -> float:
    seconds, microseconds = valkey.time()
    return seconds + microseconds / 1e6


def lease_s(valkey: redis.Redis, member: str) -> float:
    """How long a member's lease still runs."""
    until = valkey.zscore(KEY, member)
    assert isinstance(until, float)
    return until - now(valkey)


def urls(registry: Registry) -> list[str]:
    return [member.url for member in registry.members("things")]


def complaints(registry: Registry, looks: int = 1) -> list[dict[str, object]]:
    """What is logged while the registry is looked at so many times."""
    with capture_logs() as logs:
        for _ in range(looks):
            registry.members("things")
    return [dict(line) for line in logs]


def test_who_registers_is_a_member_and_only_of_that_service(registry: Registry) -> None:
    registry.register("things", B, weight=2.5)
    registry.register("things", A)

    assert registry.members("things") == (Member(A, 1.0), Member(B, 2.5))
    assert registry.members("others") == registry.members("things@2") == ()


def test_two_versions_of_a_service_have_registries_of_their_own(registry: Registry) -> None:
    registry.register("things@2", A)

    assert registry.members("things@2") == (Member(A, 1.0),)
    assert registry.members("things") == ()


def test_the_documented_line_is_all_that_a_stranger_needs(registry: Registry, valkey: redis.Redis) -> None:
    valkey.execute_command("ZADD", "gateway:registry:students", int(time.time()) + 15, "http://10.0.0.9:5005")

    assert registry.members("students") == (Member("http://10.0.0.9:5005", 1.0),)


@pytest.mark.parametrize(
    ("weight", "by", "member"),
    [
        (1, "", A),
        (1.0, "web-1", f"{A}#by=web-1"),
        (0.25, "", f"{A}#weight=0.25"),
        (1000, "a b&c#d", f"{A}#weight=1000&by=a%20b%26c%23d"),
    ],
)
def test_what_is_written_has_the_documented_form(
    registry: Registry, valkey: redis.Redis, weight: float, by: str, member: str
) -> None:
    registry.register("things", A, weight=weight, by=by, lease_s=30)

    assert standing(valkey) == {member}
    assert lease_s(valkey, member) == pytest.approx(30, abs=1)
    assert registry.members("things") == (Member(A, weight),)

    registry.deregister("things", A, by=by)

    assert standing(valkey) == set()


def test_an_instance_is_gone_when_its_lease_has_run_out(registry: Registry) -> None:
    registry.register("things", A, lease_s=0.2)
    registry.register("things", B, lease_s=60)
    assert urls(registry) == [A, B]

    wait_until(lambda: urls(registry) == [B], "the end of the lease", timeout_s=2)


def test_a_member_tells_how_long_its_longest_lease_still_runs(registry: Registry) -> None:
    for by, lease_s in (("1", 30), ("2", 50), ("3", 40)):
        registry.register("things", A, by=by, lease_s=lease_s)

    (member,) = registry.members("things")

    assert member.seconds_left == pytest.approx(50, abs=1)


def test_a_lease_of_a_stranger_may_have_no_end(registry: Registry, valkey: redis.Redis) -> None:
    valkey.zadd(KEY, {A: float("inf")})

    (member,) = registry.members("things")

    assert member.seconds_left == float("inf")


def test_who_registers_learns_whether_that_is_new(registry: Registry) -> None:
    first = registry.register("things", A, by="1", lease_s=0.1)
    again = registry.register("things", A, by="1", lease_s=0.1)
    with_another_weight = registry.register("things", A, by="1", weight=2, lease_s=0.1)
    by_another = registry.register("things", A, by="2", lease_s=60)
    time.sleep(0.15)
    after_its_end = registry.register("things", A, by="1", lease_s=0.1)

    assert (first, again, with_another_weight, by_another, after_its_end) == (True, False, False, True, True)


def test_a_renewal_begins_the_lease_anew(registry: Registry, valkey: redis.Redis) -> None:
    registry.register("things", A, lease_s=5)

    registry.register("things", A, lease_s=50)

    assert lease_s(valkey, A) == pytest.approx(50, abs=1)


def test_an_instance_is_there_while_any_of_its_workers_renews(registry: Registry) -> None:
    for worker in ("1", "2"):
        registry.register("things", A, by=worker)

    registry.deregister("things", A, by="1")
    with_one = urls(registry)
    registry.deregister("things", A, by="2")

    assert with_one == [A]
    assert urls(registry) == []


def test_who_deregisters_takes_nothing_but_its_own_lease(registry: Registry, valkey: redis.Redis) -> None:
    kept = [A, f"{A}#by=10", f"{A}#standby=1", f"{A}#weight=2", f"{B}#by=1", "http://10.0.0.1:8080#by=1"]
    stands(valkey, *kept, f"{A}#by=1", f"{A}/#weight=3&by=1")

    registry.deregister("things", f"{A}/", by="1")

    assert standing(valkey) == set(kept)


def test_a_new_weight_replaces_the_old_one_of_the_same_worker(registry: Registry, valkey: redis.Redis) -> None:
    registry.register("things", A, weight=9, by="1")
    registry.register("things", A, weight=3, by="2")

    registry.register("things", A, weight=2, by="1")

    assert standing(valkey) == {f"{A}#weight=3&by=2", f"{A}#weight=2&by=1"}


def test_of_several_weights_of_an_instance_the_largest_counts(registry: Registry, valkey: redis.Redis) -> None:
    stands(valkey, f"{A}#weight=2&by=1", f"{A}#by=2&weight=7", f"{A}/#weight=3", A)

    assert registry.members("things") == (Member(A, 7.0),)


def test_changes_are_told_and_renewals_are_not(
    registry: Registry, told: Callable[[], list[tuple[bytes, bytes]]]
) -> None:
    change = (REGISTRY.encode(), b"things@2")

    registry.register("things@2", A, by="1", lease_s=0.1)
    on_arrival = told()
    registry.register("things@2", A, by="1", lease_s=0.1)
    on_renewal = told()
    registry.deregister("things@2", A, by="2")
    on_nothing = told()
    registry.deregister("things@2", A, by="1")
    on_leaving = told()

    assert (on_arrival, on_renewal, on_nothing, on_leaving) == ([change], [], [], [change])


def test_who_comes_back_after_its_lease_had_run_out_is_told_again(
    registry: Registry, valkey: redis.Redis, told: Callable[[], list[tuple[bytes, bytes]]]
) -> None:
    stands(valkey, A, for_s=-1)

    registry.register("things", A)

    assert told() == [(REGISTRY.encode(), b"things")]


@pytest.mark.parametrize("cleared_by", ["reading", "writing"])
def test_what_died_long_ago_is_cleared_away_and_what_died_just_now_is_not(
    registry: Registry, valkey: redis.Redis, cleared_by: str
) -> None:
    stands(valkey, "http://10.0.0.8:80", for_s=-KEEP_DEAD_S - 1)
    stands(valkey, "http://10.0.0.7:80", for_s=-KEEP_DEAD_S + 30)

    if cleared_by == "reading":
        assert urls(registry) == []
    else:
        registry.register("things", A)

    assert valkey.zscore(KEY, "http://10.0.0.8:80") is None
    assert valkey.zscore(KEY, "http://10.0.0.7:80") is not None


def test_a_registry_has_no_time_to_live_for_then_redis_might_drop_it(registry: Registry, valkey: redis.Redis) -> None:
    registry.register("things", A)
    registry.members("things")

    assert valkey.ttl(KEY) == -1


@pytest.mark.parametrize(
    "url",
    ["", "10.0.0.1:80", "ftp://a:1", "http://a:1/", "http://a:1#by=2", "http://me:pw@a:1", "http://a:1 ", "http://"],
)
def test_what_is_no_address_cannot_be_registered(registry: Registry, url: str) -> None:
    with pytest.raises(ValueError, match="must be an address"):
        registry.register("things", url)


@pytest.mark.parametrize("weight", [0, -1, 1000.5, float("nan"), float("inf")])
def test_what_is_no_weight_cannot_be_registered(registry: Registry, weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        registry.register("things", A, weight=weight)


@pytest.mark.parametrize(
    "nonsense",
    [
        "",
        "#by=1",
        "hello",
        "10.0.0.9:80",
        "ftp://10.0.0.9:80",
        "http://10.0.0.9:80/path",
        "http://10.0.0.9:80?query",
        "http://10.0.0.9:port",
        "http://me:hush@10.0.0.9:80",
        "http://10.0.0.9:80\nX-Header: 1",
        b"http://10.0.0.9\xff:80",
        "http://" + "a" * LONGEST_LEASE_BYTES,
        f"{A}#by={'1' * LONGEST_LEASE_BYTES}",
        *(f"{A}#weight={weight}" for weight in ("0", "-1", "1000.1", "nan", "inf", "", "much")),
    ],
)
def test_nonsense_is_left_out_and_told_once_without_its_password(
    registry: Registry, valkey: redis.Redis, nonsense: str | bytes
) -> None:
    stands(valkey, nonsense, B)

    lines = complaints(registry, looks=3)

    assert registry.members("things") == (Member(B, 1.0),)
    assert [(line["event"], line["to"]) for line in lines] == [("registry_nonsense", "things")]
    assert "hush" not in str(lines)
    assert len(str(lines)) < 400


def test_nonsense_that_comes_again_is_told_again(registry: Registry, valkey: redis.Redis) -> None:
    stands(valkey, "hello")
    first = complaints(registry)
    valkey.delete(KEY)
    without = complaints(registry)
    stands(valkey, "hello")

    assert (len(first), len(without), len(complaints(registry))) == (1, 0, 1)


def test_much_nonsense_is_told_in_part_and_not_again_and_again(registry: Registry, valkey: redis.Redis) -> None:
    stands(valkey, *(f"nonsense {number}" for number in range(500)))

    assert len(complaints(registry, looks=3)) == MOST_TOLD


def test_the_nonsense_of_one_service_does_not_hide_that_of_another(registry: Registry, valkey: redis.Redis) -> None:
    stands(valkey, "hello")
    valkey.zadd(key_of("others"), {"hello": now(valkey) + 60})
    complaints(registry)

    with capture_logs() as logs:
        registry.members("others")

    assert [line["to"] for line in logs] == ["others"]


def test_a_key_of_another_type_is_an_empty_registry_told_once(registry: Registry, valkey: redis.Redis) -> None:
    valkey.set(KEY, A)

    lines = complaints(registry, looks=2)

    assert registry.members("things") == ()
    assert [line["reason"] for line in lines] == ["must be a sorted set, not a string"]


def test_no_more_instances_are_taken_than_anybody_has_and_always_the_same(
    registry: Registry, valkey: redis.Redis
) -> None:
    numbers = [f"http://10.0.{number // 250}.{number % 250}:80" for number in range(MOST_MEMBERS + 10)]
    for number, url in enumerate(numbers):
        stands(valkey, url, for_s=1000 - number)

    lines = complaints(registry, looks=2)

    assert urls(registry) == sorted(numbers)[:MOST_MEMBERS]
    assert [line["reason"] for line in lines] == [f"has more than {MOST_MEMBERS} instances or {MOST_LEASES} leases"]


def test_no_more_leases_are_read_than_the_workers_of_so_many_instances_have(
    registry: Registry, valkey: redis.Redis
) -> None:
    stands(valkey, *(f"{A}#by={number}" for number in range(MOST_LEASES)), for_s=60)
    stands(valkey, B, for_s=90)  # it would be the last one

    assert urls(registry) == [A]


def test_a_redis_that_is_away_is_told_to_the_caller_and_costs_little_time(tmp_path: Path) -> None:
    with Valkey(tmp_path, port=free_port()) as fragile:
        registry = Registry(client(fragile.url))
        registry.register("things", A)
        began = time.monotonic()

        fragile.freeze()
        with pytest.raises(redis.RedisError):
            registry.members("things")
        frozen_for_s = time.monotonic() - began
        fragile.thaw()
        fragile.kill()
        with pytest.raises(redis.RedisError):
            registry.members("things")
        fragile.start()
        registry.register("things", B)  # the scripts are loaded anew

        assert frozen_for_s < 2.5
        assert urls(registry) == [B]


def test_who_only_writes_needs_nothing_of_the_gateway(valkey: redis.Redis, registry: Registry) -> None:
    Leases(valkey).register("things", A)

    assert urls(registry) == [A]
