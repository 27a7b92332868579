"""Rate limits in a real Valkey: exact over all workers, and a worker's share of them while it is away."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from limits import parse
from structlog.testing import capture_logs

from deploy.local.valkey import Valkey
from gateway import limits, shared
from gateway.limits import Bucket, Limits, SlidingLog, Verdict
from gateway.observability.metrics import Metrics
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.unit import parts

TIMEOUT_MS = 200
WAITED_S = 0.9 * TIMEOUT_MS / 1000
CLOCK_ERROR_S = 0.02


class Worker:
    """The limits of one worker, and what it knows about them."""

    def __init__(self, url: str, *, workers: int = 1) -> None:
        settings = parts.settings(redis_url=url, redis_timeout_ms=TIMEOUT_MS, workers=workers)
        self.metrics = Metrics()
        self.app = Flask("gateway")
        self.limits: Limits = limits.init_app(self.app, settings, shared.pool(settings), self.metrics)

    def hit(self, *buckets: Bucket) -> Verdict:
        return self.limits.hit(buckets)

    def allowed(self, bucket: Bucket, times: int) -> int:
        """How many of so many requests in a row pass."""
        return sum(self.hit(bucket).is_allowed for _ in range(times))


def bucket(rate: str, key: str | None = None, *, name: str = "default") -> Bucket:
    """A bucket that no other test fills."""
    return Bucket(name, parse(rate), key or str(uuid.uuid4()))


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
    assert [verdict.remaining for verdict in verdicts] == [*range(amount - 1, -1, -1), 0, 0, 0]


def test_the_limit_is_exact_for_many_threads_of_several_workers(server: Valkey) -> None:
    workers = [Worker(server.url) for _ in range(3)]
    shared_bucket = bucket("25/minute")

    def hit(number: int) -> Verdict:
        return workers[number % 3].hit(shared_bucket)

    with ThreadPoolExecutor(20) as threads:
        verdicts = list(threads.map(hit, range(120)))

    assert sum(verdict.is_allowed for verdict in verdicts) == 25
    assert sorted(verdict.remaining for verdict in verdicts if verdict.is_allowed) == list(range(25))


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


KEYS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)


@hypothesis_settings(max_examples=40, deadline=None)
@given(requests=st.lists(KEYS, max_size=25))
def test_any_requests_are_counted_as_a_simple_model_counts_them(worker: Worker, requests: list[list[str]]) -> None:
    run, amounts = uuid.uuid4(), {"a": 2, "b": 4, "c": 7}
    buckets = {key: bucket(f"{amount}/minute", f"{run}:{key}", name=key) for key, amount in amounts.items()}
    used = dict.fromkeys(amounts, 0)

    for keys in requests:
        verdict = worker.hit(*(buckets[key] for key in keys))

        full = [key for key in keys if used[key] == amounts[key]]
        assert verdict.is_allowed is not bool(full)
        for key in keys if not full else []:
            used[key] += 1
        expected = full[0] if full else min(keys, key=lambda key: amounts[key] - used[key])
        assert (verdict.bucket.name, verdict.remaining) == (expected, amounts[expected] - used[expected])


def test_a_full_second_bucket_does_not_use_up_the_first(worker: Worker) -> None:
    first, second = bucket("2/minute", name="login"), bucket("1/minute")
    worker.hit(second)

    refused = [worker.hit(first, second) for _ in range(5)]

    assert {verdict.bucket.name for verdict in refused} == {"default"}
    assert worker.allowed(first, 5) == 2


def test_a_full_first_bucket_does_not_use_up_the_second(worker: Worker) -> None:
    first, second = bucket("1/minute", name="login"), bucket("2/minute")
    worker.hit(first)

    refused = [worker.hit(first, second) for _ in range(5)]

    assert {verdict.bucket.name for verdict in refused} == {"login"}
    assert worker.allowed(second, 5) == 2


def test_of_two_buckets_the_one_with_the_least_left_is_told(worker: Worker) -> None:
    verdict = worker.hit(bucket("5/minute", name="login"), bucket("100/minute"))

    assert (verdict.bucket.name, verdict.remaining) == ("login", 4)


@pytest.mark.parametrize(("rate", "window_s"), [("1/second", 1), ("2/10 second", 10), ("3/2 minute", 120)])
def test_retry_after_is_when_the_oldest_request_leaves_the_window(worker: Worker, rate: str, window_s: int) -> None:
    full = bucket(rate)
    worker.allowed(full, full.rate.amount)

    verdict = worker.hit(full)

    assert not verdict.is_allowed
    assert window_s - 0.5 < verdict.reset_after_s <= window_s
    assert verdict.retry_after_s == window_s


def test_retry_after_is_at_least_a_second() -> None:
    assert Verdict(False, bucket("1/second"), 0, 0.0).retry_after_s == 1
    assert Verdict(False, bucket("1/second"), 0, 1.01).retry_after_s == 2


def test_header_fields_tell_the_limit_what_is_left_and_when_it_begins_anew(worker: Worker) -> None:
    verdict = worker.hit(bucket("7/10 second"))

    fields = dict(verdict.headers())

    assert (fields["X-RateLimit-Limit"], fields["X-RateLimit-Remaining"]) == ("7", "6")
    assert abs(int(fields["X-RateLimit-Reset"]) - (time.time() + 10)) < 2


def test_the_store_forgets_a_bucket_when_its_window_is_over(worker: Worker, server: Valkey) -> None:
    client = shared.client(shared.pool(parts.settings(redis_url=server.url)))
    full = bucket("5/second")
    worker.hit(full)
    (key,) = client.keys(f"*{full.key}*")

    assert 0 < client.pttl(key) <= 1000


def test_the_pages_of_flask_are_counted_in_the_same_way(worker: Worker) -> None:
    storage = worker.app.extensions["limiter_of_pages"].storage
    assert isinstance(storage, SlidingLog)
    key = str(uuid.uuid4())

    passed = [storage.acquire_entry(key, 3, 60) for _ in range(5)]
    oldest, count = storage.get_moving_window(key, 3, 60)

    assert passed == [True, True, True, False, False]
    assert (count, math.isclose(oldest, time.time(), abs_tol=2)) == (3, True)


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

    assert {(verdict.is_allowed, verdict.bucket.name) for verdict in refused} == {(False, "default")}
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


def test_a_frozen_store_costs_one_timeout_a_second_and_nobody_is_failed(fragile: Valkey) -> None:
    worker, plenty = Worker(fragile.url), bucket("100000/minute")
    worker.hit(plenty)

    fragile.freeze()
    slow: list[float] = []
    ends_at = time.monotonic() + 1.9
    with capture_logs() as logs:
        while (began := time.monotonic()) < ends_at:
            assert worker.hit(plenty).is_allowed
            if (elapsed_s := time.monotonic() - began) > WAITED_S:
                slow.append(elapsed_s)
            time.sleep(0.002)
    fragile.thaw()

    assert len(slow) == 2
    assert [line["event"] for line in logs] == ["limits_local"]


def test_while_one_request_probes_a_frozen_store_the_others_do_not_wait(fragile: Valkey) -> None:
    worker, plenty = Worker(fragile.url), bucket("100000/minute")
    fragile.freeze()
    worker.hit(plenty)
    time.sleep(limits.PROBE_INTERVAL_S)  # from now on the next request probes

    def timed(_number: int) -> bool:
        began = time.monotonic()
        worker.hit(plenty)
        return time.monotonic() - began > WAITED_S

    with ThreadPoolExecutor(10) as threads:
        waited = sum(threads.map(timed, range(50)))
    fragile.thaw()

    assert waited <= 1
