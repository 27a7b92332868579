"""Rate limits in a real Valkey: exact over all workers, and a worker's share of them while it is away."""

from __future__ import annotations

import gc
import threading
import time
import uuid
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from flask import Flask
from limits import parse
from structlog.testing import capture_logs

from deploy.local.valkey import Valkey
from gateway import limits
from gateway.limits import Bucket, Limits, Row, Store, Verdict, counting, store_of
from gateway.limits.asked import KEYS
from gateway.limits.local import LocalCounts
from gateway.limits.verdict import Tier
from gateway.notation import WhenDown
from gateway.observability.metrics import Metrics
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.unit import parts

TIMEOUT_MS = 200
WAITED_S = 0.9 * TIMEOUT_MS / 1000
OPEN: WhenDown = "open"
CLOCK_ERROR_S = 0.02


_opened: list[Store] = []


@pytest.fixture(autouse=True)
def closed() -> Generator[None]:
    """No connection outlives its test."""
    yield
    for store in _opened:
        store.client.connection_pool.disconnect()


class Worker:
    """The limits of one worker, and what it knows about them."""

    def __init__(self, url: str, *, workers: int = 1) -> None:
        settings = parts.settings(redis_url=url, limits_timeout_ms=TIMEOUT_MS, workers=workers, redis_pool_size=60)
        self.metrics = Metrics()
        self.app = Flask("gateway")
        self.limits: Limits = limits.init_app(self.app, settings, self.metrics)
        _opened.append(self.limits.store)

    def hit(self, *buckets: Bucket, cost: int = 1) -> Verdict:
        return self.limits.hit(buckets, cost)

    def allowed(self, bucket: Bucket, times: int) -> int:
        """How many of so many requests in a row pass."""
        return sum(self.hit(bucket).is_allowed for _ in range(times))


def bucket(rate: str, *, name: str = "default", tier: Tier = "user") -> Bucket:
    """A bucket that no other test fills."""
    return Bucket(tier, name, parse(rate), "things", f"user:{uuid.uuid4()}")


def left(verdict: Verdict) -> int:
    assert verdict.told
    return verdict.told.remaining


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as server:
        yield server


@pytest.fixture(scope="module")
def worker(server: Valkey) -> Worker:
    return Worker(server.url)


@pytest.fixture
def fragile(tmp_path: Path) -> Generator[Valkey]:
    """A server that a test may kill and freeze."""
    with Valkey(tmp_path, port=free_port()) as server:
        yield server


@pytest.mark.parametrize("amount", [1, 2, 10])
def test_so_many_requests_pass_and_no_more(worker: Worker, amount: int) -> None:
    full = bucket(f"{amount}/minute")

    verdicts = [worker.hit(full) for _ in range(amount + 3)]

    assert [verdict.is_allowed for verdict in verdicts] == [True] * amount + [False] * 3
    assert [left(verdict) for verdict in verdicts] == [*range(amount - 1, -1, -1), 0, 0, 0]


def test_the_limit_is_exact_for_many_threads_of_several_workers(server: Valkey) -> None:
    workers = [Worker(server.url) for _ in range(3)]
    shared_bucket = bucket("25/minute")

    def hit(number: int) -> Verdict:
        return workers[number % 3].hit(shared_bucket)

    with ThreadPoolExecutor(20) as threads:
        verdicts = list(threads.map(hit, range(120)))

    assert sum(verdict.is_allowed for verdict in verdicts) == 25
    assert sorted(left(verdict) for verdict in verdicts if verdict.is_allowed) == list(range(25))


def test_callers_do_not_share_a_bucket(worker: Worker) -> None:
    mine, yours = bucket("1/minute"), bucket("1/minute")

    assert [worker.hit(mine).is_allowed, worker.hit(mine).is_allowed] == [True, False]
    assert worker.hit(yours).is_allowed


def test_a_refused_request_is_not_counted(worker: Worker) -> None:
    full = bucket("2/second")
    assert worker.allowed(full, 50) == 2

    wait_until(lambda: worker.hit(full).is_allowed, "the first request to leave the window", timeout_s=1.5)


def test_in_no_window_do_more_requests_pass_wherever_it_begins(server: Valkey) -> None:
    amount, workers = 5, [Worker(server.url) for _ in range(2)]
    full, ends_at = bucket(f"{amount}/second"), time.monotonic() + 2.3
    passed: list[tuple[float, float]] = []  # when a request that passed was sent and answered

    def flood(worker: Worker) -> None:
        while (sent := time.monotonic()) < ends_at:
            if worker.hit(full).is_allowed:
                passed.append((sent, time.monotonic()))
            time.sleep(0.01)

    threads = [threading.Thread(target=flood, args=(workers[number % 2],)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    passed.sort()
    assert len(passed) == 3 * amount
    for first, next_after_full in zip(passed, passed[amount:], strict=False):
        assert next_after_full[1] - first[0] >= 1 - CLOCK_ERROR_S


def test_a_full_second_bucket_does_not_use_up_the_first(worker: Worker) -> None:
    first, second = bucket("2/minute", name="login"), bucket("1/minute")
    worker.hit(second)

    refused = [worker.hit(first, second) for _ in range(5)]

    assert {verdict.refused and verdict.refused.bucket.name for verdict in refused} == {"default"}
    assert worker.allowed(first, 5) == 2


def test_a_full_first_bucket_does_not_use_up_the_second(worker: Worker) -> None:
    first, second = bucket("1/minute", name="login"), bucket("2/minute")
    worker.hit(first)

    refused = [worker.hit(first, second) for _ in range(5)]

    assert {verdict.refused and verdict.refused.bucket.name for verdict in refused} == {"login"}
    assert worker.allowed(second, 5) == 2


def test_of_two_buckets_the_one_with_the_least_left_is_told(worker: Worker) -> None:
    verdict = worker.hit(bucket("5/minute", name="login"), bucket("100/minute"))

    assert verdict.told
    assert (verdict.told.bucket.name, verdict.told.remaining) == ("login", 4)


@pytest.mark.parametrize(("rate", "window_s"), [("1/second", 1), ("2/10 second", 10), ("3/2 minute", 120)])
def test_retry_after_is_when_the_oldest_request_leaves_the_window(worker: Worker, rate: str, window_s: int) -> None:
    full = bucket(rate)
    worker.allowed(full, full.rate.amount)

    verdict = worker.hit(full)

    assert verdict.refused
    assert window_s - 0.5 < verdict.refused.reset_after_s <= window_s
    assert verdict.retry_after_s == window_s


def test_retry_after_is_at_least_a_second() -> None:
    rows = [Row(bucket("1/second"), 0, seconds) for seconds in (0.0, 1.01)]

    assert [Verdict((), row).retry_after_s for row in rows] == [1, 2]


def test_header_fields_tell_the_limit_what_is_left_and_when_it_begins_anew(worker: Worker) -> None:
    verdict = worker.hit(bucket("7/10 second"))

    fields = dict(verdict.headers())

    assert (fields["X-RateLimit-Limit"], fields["X-RateLimit-Remaining"]) == ("7", "6")
    assert abs(int(fields["X-RateLimit-Reset"]) - (time.time() + 10)) < 2


def test_the_store_forgets_a_bucket_when_its_window_is_over(worker: Worker, server: Valkey) -> None:
    full = bucket("5/second")
    worker.hit(full)

    with redis.Redis.from_url(server.url) as client:
        assert 0 < client.pttl(KEYS + full.key) <= 1000


def test_the_pages_of_flask_are_counted_in_the_same_way(worker: Worker) -> None:
    storage = worker.app.extensions["limiter_of_pages"].storage
    key = f"LIMITER/caller/{uuid.uuid4()}/3/60/second"

    passed = [storage.acquire_entry(key, 3, 60) for _ in range(5)]

    assert passed == [True, True, True, False, False]
    assert storage.get_moving_window(key, 3, 60)[1] == 3


@pytest.mark.parametrize(
    ("amount", "workers", "share"), [(10, 1, 10), (10, 3, 4), (10, 10, 1), (1, 4, 1), (100, 8, 13), (8, 4, 2)]
)
def test_without_the_store_a_worker_lets_its_share_pass_rounded_up(amount: int, workers: int, share: int) -> None:
    worker = Worker(parts.NOWHERE, workers=workers)

    assert worker.allowed(bucket(f"{amount}/minute"), amount + 5) == share


def test_without_the_store_a_full_second_bucket_does_not_use_up_the_first() -> None:
    worker = Worker(parts.NOWHERE)
    first, second = bucket("2/minute", name="login"), bucket("1/minute")
    worker.hit(second)

    refused = [worker.hit(first, second) for _ in range(5)]

    assert {verdict.refused and verdict.refused.bucket.name for verdict in refused} == {"default"}
    assert all(55 < verdict.retry_after_s <= 60 for verdict in refused)
    assert worker.allowed(first, 5) == 2


def gauge(worker: Worker) -> bool:
    """What the metrics say about the store."""
    return b"gateway_limit_store_up 1.0" in worker.metrics.page()


def test_a_store_that_dies_and_comes_back_is_one_warning_each_and_nobody_is_failed(fragile: Valkey) -> None:
    worker, full = Worker(fragile.url, workers=2), bucket("10/minute")
    assert worker.hit(full).is_allowed
    assert (worker.limits.is_shared, gauge(worker)) == (True, True)

    with capture_logs() as logs:
        fragile.kill()
        passed = worker.allowed(full, 20)
        assert (worker.limits.is_shared, gauge(worker)) == (False, False)
        fragile.start()
        wait_until(lambda: worker.allowed(full, 1) >= 0 and worker.limits.is_shared, "the limits to be shared again")

    assert passed == 5
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("limits_local", "warning"),
        ("limits_shared_again", "warning"),
    ]
    assert logs[0]["share"] == "1/2"
    assert gauge(worker)


def test_a_frozen_store_costs_one_timeout_in_all_and_nobody_is_failed(fragile: Valkey) -> None:
    worker, plenty = Worker(fragile.url), bucket("100000/minute")
    worker.hit(plenty)

    fragile.freeze()
    slow: list[float] = []
    ends_at = time.monotonic() + 2.5  # several probes
    with capture_logs() as logs:
        while (began := time.monotonic()) < ends_at:
            assert worker.hit(plenty).is_allowed
            if (elapsed_s := time.monotonic() - began) > WAITED_S:
                slow.append(elapsed_s)
            time.sleep(0.002)
    fragile.thaw()

    assert len(slow) == 1
    assert slow[0] < 1.5 * TIMEOUT_MS / 1000
    assert [line["event"] for line in logs] == ["limits_local"]
    wait_until(lambda: worker.limits.is_shared, "the limits to be shared again")


def test_what_was_let_pass_meanwhile_is_counted_when_the_store_is_back(fragile: Valkey) -> None:
    workers, full = [Worker(fragile.url, workers=2) for _ in range(2)], bucket("10/minute")
    assert all(worker.hit(bucket("1/minute")).is_allowed for worker in workers)

    fragile.kill()
    meanwhile = [worker.allowed(full, 20) for worker in workers]
    fragile.start()
    wait_until(lambda: all(worker.limits.is_shared for worker in workers), "the limits to be shared again")

    assert meanwhile == [5, 5]
    assert [worker.allowed(full, 5) for worker in workers] == [0, 0]
    retry_after_s = workers[0].hit(full).retry_after_s
    assert retry_after_s <= 60


def test_the_first_worker_back_does_not_find_the_room_that_another_has_used_up(fragile: Valkey) -> None:
    settings, probers = parts.settings(redis_url=fragile.url, workers=2), list[Callable[[], None]]()
    first, second = (
        Limits(store_of(settings), Metrics(), workers=2, rates=limits.Rates.of(settings), spawn=probers.append)
        for _ in range(2)
    )
    full = bucket("10/minute")
    fragile.kill()
    for worker in (first, second):
        assert sum(worker.hit((full,)).is_allowed for _ in range(20)) == 5
    fragile.start()

    with ThreadPoolExecutor(2) as threads:
        threads.submit(probers[0])
        time.sleep(3 * counting.FIRST_PROBE_S)  # the other one finds out later
        threads.submit(probers[1])
        wait_until(lambda: first.is_shared, "the first one to be back")
        passed = first.hit((full,)).is_allowed

    assert not passed
    _opened.extend([first.store, second.store])


def test_a_store_that_comes_and_goes_does_not_make_room_each_time(fragile: Valkey) -> None:
    worker, full = Worker(fragile.url, workers=2), bucket("10/minute")
    passed = worker.allowed(full, 2)

    for _ in range(3):
        fragile.freeze()
        passed += worker.allowed(full, 8)
        fragile.thaw()
        wait_until(lambda: worker.limits.is_shared, "the limits to be shared again")

    assert passed == 2 + 5
    assert worker.allowed(full, 20) <= 3  # a frozen one may count, when it goes on, what was given up long ago


def test_what_was_told_already_is_not_told_again(worker: Worker) -> None:
    now_s = [100.0]
    counts, first, second = LocalCounts(1, clock=lambda: now_s[0]), bucket("9/minute"), bucket("9/minute")
    counts.hit([first, second], 2)
    told_us = counts.now_us()
    now_s[0] += 5
    counts.hit([second], 3)

    told = {ask.key: (count, age_us) for ask, count, age_us in counts.counted(told_us)}

    assert {ask.key: count for ask, count, _age in counts.counted()} == {first.key: 2, second.key: 5}
    assert told == {second.key: (3, 0)}


def make_full(client: redis.Redis) -> None:
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")


def make_replica(client: redis.Redis) -> None:
    client.replicaof("127.0.0.1", "1")


def make_well(client: redis.Redis) -> None:
    client.replicaof("NO", "ONE")
    client.config_set("maxmemory", "0")


@pytest.mark.parametrize("spoil", [make_full, make_replica])
def test_a_store_that_refuses_to_write_is_as_good_as_away(
    fragile: Valkey, spoil: Callable[[redis.Redis], object]
) -> None:
    worker, full = Worker(fragile.url, workers=2), bucket("10/minute")
    worker.hit(full)
    with redis.Redis.from_url(fragile.url) as client:
        spoil(client)

        assert worker.allowed(full, 20) == 5
        assert (worker.limits.is_shared, gauge(worker)) == (False, False)

        make_well(client)
        wait_until(lambda: worker.limits.is_shared, "the limits to be shared again")


def test_nobody_waits_for_the_prober(fragile: Valkey) -> None:
    worker, plenty = Worker(fragile.url), bucket("100000/minute")
    fragile.freeze()
    worker.hit(plenty)

    def timed(_number: int) -> float:
        began = time.monotonic()
        worker.hit(plenty)
        return time.monotonic() - began

    with ThreadPoolExecutor(10) as threads:
        ends_at, slowest = time.monotonic() + 1, 0.0
        while time.monotonic() < ends_at:
            slowest = max(slowest, *threads.map(timed, range(20)))
    fragile.thaw()

    assert slowest < WAITED_S


def test_a_crowd_that_uses_all_connections_does_not_mean_that_the_store_is_away(server: Valkey) -> None:
    settings = parts.settings(redis_url=server.url, redis_pool_size=1, limits_timeout_ms=30)
    made = Limits(store_of(settings), Metrics(), workers=2, rates=limits.Rates.of(settings))
    plenty = bucket("4/minute")
    taken = made.store.client.connection_pool.get_connection()

    with capture_logs() as logs:
        passed = sum(made.hit((plenty,)).is_allowed for _ in range(5))
    made.store.client.connection_pool.release(taken)

    assert (passed, made.is_shared, logs) == (2, True, [])
    assert left(made.hit((plenty,))) == 3


@pytest.mark.parametrize(("when_down", "passes"), [("local", [True, False, False]), (OPEN, [True, True, True])])
def test_without_the_store_a_route_counts_for_itself_or_not_at_all(when_down: WhenDown, passes: list[bool]) -> None:
    worker, full = Worker(parts.NOWHERE), bucket("1/minute")

    assert [worker.limits.hit((full,), 1, when_down).is_allowed for _ in range(3)] == passes


def test_without_the_store_a_route_may_be_closed_and_with_it_it_is_not(server: Valkey) -> None:
    worker = Worker(parts.NOWHERE)

    for _ in range(2):
        with pytest.raises(limits.StoreDown):
            worker.limits.hit((bucket("9/minute"),), 1, "closed")
    assert Worker(server.url).limits.hit((bucket("9/minute"),), 1, "closed").is_allowed


def test_a_prober_ends_with_the_limits_that_it_probes_for() -> None:
    spawned: list[Callable[[], None]] = []
    settings = parts.settings()
    made = Limits(store_of(settings), Metrics(), workers=1, rates=limits.Rates.of(settings), spawn=spawned.append)
    made.hit((bucket("1/minute"),))
    made.hit((bucket("1/minute"),))
    del made
    gc.collect()

    (prober,) = spawned
    thread = threading.Thread(target=prober, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


def test_what_a_worker_counts_for_itself_is_bounded_and_forgets_the_longest_unasked_first() -> None:
    counts, callers = LocalCounts(1, most=3), [bucket("1/minute") for _ in range(4)]
    for caller in (*callers[:3], callers[0], callers[3]):
        counts.hit([caller], 1)

    assert [counts.hit([caller], 1).is_allowed for caller in (callers[2], callers[3])] == [False, False]
    assert counts.hit([callers[1]], 1).is_allowed


def test_a_refused_caller_is_not_forgotten_for_others_that_come_once() -> None:
    counts, flood = LocalCounts(1, most=3), bucket("1/minute")
    counts.hit([flood], 1)

    for _ in range(10):
        counts.hit([bucket("1/minute")], 1)
        assert not counts.hit([flood], 1).is_allowed


@pytest.mark.parametrize("url", ["NOWHERE", "server"])
def test_a_request_may_cost_more_than_one(server: Valkey, url: str) -> None:
    worker, full = Worker(parts.NOWHERE if url == "NOWHERE" else server.url), bucket("10/minute")

    verdicts = [worker.hit(full, cost=cost) for cost in (4, 4, 4, 2, 1)]

    assert [verdict.is_allowed for verdict in verdicts] == [True, True, False, True, False]
    assert [left(verdict) for verdict in verdicts] == [6, 2, 2, 0, 0]


def test_what_costs_more_than_the_share_of_a_worker_passes_once_without_the_store() -> None:
    worker, full = Worker(parts.NOWHERE, workers=4), bucket("8/minute")

    assert [worker.hit(full, cost=5).is_allowed for _ in range(3)] == [True, False, False]


def test_of_several_full_limits_the_narrowest_is_told_and_the_longest_wait(worker: Worker) -> None:
    burst, minute = bucket("1/second", name="burst", tier="burst"), bucket("1/minute")
    worker.hit(burst, minute)

    verdict = worker.hit(burst, minute)

    assert verdict.refused
    assert verdict.refused.bucket.name == "burst"
    assert verdict.retry_after_s == 60


def test_a_good_answer_tells_every_limit_but_the_one_of_all(worker: Worker) -> None:
    buckets = (
        bucket("5/minute", name="login", tier="endpoint"),
        bucket("100/hour"),
        bucket("20/second", name="burst", tier="burst"),
        bucket("1/day", name="global", tier="global"),
    )

    fields = dict(worker.hit(*buckets).headers())

    assert fields["RateLimit-Policy"] == '"login";q=5;w=60, "default";q=100;w=3600, "burst";q=20;w=1'
    assert fields["RateLimit"] == '"login";r=4;t=60, "default";r=99;t=3600, "burst";r=19;t=1'
    assert (fields["X-RateLimit-Limit"], fields["X-RateLimit-Remaining"]) == ("5", "4")


def test_the_older_fields_do_not_tell_of_the_burst_unless_it_refuses(worker: Worker) -> None:
    burst, lasting = bucket("2/second", name="burst", tier="burst"), bucket("100/minute")

    told = [dict(worker.hit(burst, lasting).headers()) for _ in range(3)]

    assert [fields["X-RateLimit-Limit"] for fields in told] == ["100", "100", "2"]
    assert told[2]["RateLimit"] == '"burst";r=0;t=1'


def test_nothing_is_told_of_the_limit_of_all_not_even_when_it_refuses(worker: Worker) -> None:
    everybody, own = bucket("1/minute", name="global", tier="global"), bucket("100/minute")
    worker.hit(everybody, own)

    verdict = worker.hit(everybody, own)

    assert not verdict.is_allowed
    assert verdict.headers() == [("RateLimit-Policy", '"default";q=100;w=60')]
    assert verdict.retry_after_s == 60


def test_names_and_numbers_are_written_as_structured_fields_want_them(worker: Worker) -> None:
    odd = bucket("9999999999999999/minute", name='say "\\caf\u00e9"', tier="endpoint")

    fields = dict(worker.hit(odd).headers())

    assert fields["RateLimit-Policy"] == '"say \\"\\\\caf?\\"";q=999999999999999;w=60'
