"""Many at once, and much of it: a slow service holds nobody up, and nothing is kept that has been sent."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tests.integration.conftest import Gateway, GatewayFactory, no_fault_in, ready, statuses
from tests.support import wire

MEGABYTE = 1_000_000
MAY_GROW_BYTES = 50 << 20


@pytest.fixture(scope="module")
def single(start_gateway: GatewayFactory) -> Gateway:
    return start_gateway(WEB_CONCURRENCY="1")


def test_slow_service_does_not_block_a_fast_one_on_one_worker(single: Gateway) -> None:
    ready(single)

    with no_fault_in(single), ThreadPoolExecutor(30) as threads:
        slow = [threads.submit(single.get, "/open/slow/2") for _ in range(30)]
        single.stub.wait_for_requests(30)
        began = time.monotonic()
        fast = [single.get("/products/x").status for _ in range(50)]
        elapsed_s = time.monotonic() - began
        finished = [answer for answer in slow if answer.done()]
        answers = [answer.result() for answer in slow]

    assert fast == [200] * 50
    assert finished == []
    assert elapsed_s < 2
    assert statuses(answers) == [200] * 30


def test_slow_readers_do_not_block_others(single: Gateway) -> None:
    ready(single)
    readers = [single.connect() for _ in range(10)]
    try:
        for reader in readers:
            reader.send(wire.request_bytes("GET", "/open/bytes/30000000"))
        single.stub.wait_for_requests(10)

        assert [single.get("/products/x").status for _ in range(20)] == [200] * 20
    finally:
        for reader in readers:
            reader.close()


def test_thousand_long_answers_leave_no_memory_behind(single: Gateway) -> None:
    ready(single)

    def ask(count: int) -> set[tuple[int, int]]:
        with single.connect() as connection:
            answers = set[tuple[int, int]]()
            for _ in range(count):
                answer = connection.exchange(wire.request_bytes("GET", f"/open/bytes/{MEGABYTE}"))
                answers.add((answer.status, len(answer.body)))
            return answers

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, [10] * 4))
        before = single.process.pss_bytes()
        answers = set[tuple[int, int]]().union(*threads.map(ask, [10] * 100))
        after = single.process.pss_bytes()

    assert answers == {(200, MEGABYTE)}
    assert after - before < MAY_GROW_BYTES


def test_large_upload_is_not_held_in_memory(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1", MAX_REQUEST_SIZE="100MB")
    ready(gateway)
    gateway.request("POST", "/open/x", [], b"x" * 100)
    before = gateway.process.pss_bytes()
    length = 60_000_000

    with gateway.connect() as connection:
        connection.send(wire.request_bytes("POST", "/open/x", [("Content-Length", str(length))]))
        for _ in range(length // 1_000_000 - 1):
            connection.send(b"x" * 1_000_000)
        while_sending = gateway.process.pss_bytes()
        connection.send(b"x" * 1_000_000)
        answer = connection.answer()

    assert answer.json()["length"] == length
    assert while_sending - before < 20 << 20


def test_a_worker_has_no_more_connections_to_redis_than_its_pool(
    start_gateway: GatewayFactory, database: Callable[[], str]
) -> None:
    workers, size, url = 2, 6, database()
    gateway = start_gateway(redis_url=url, WEB_CONCURRENCY=str(workers), REDIS_POOL_SIZE=str(size))
    ready(gateway)
    number = int(url.rpartition("/")[2])
    most = 0

    with no_fault_in(gateway), redis.Redis.from_url(url) as client, ThreadPoolExecutor(40) as threads:
        answers = [threads.submit(gateway.get, f"/kept/cacheable?cc=s-maxage%3D9&n={n % 50}") for n in range(800)]
        while not all(answer.done() for answer in answers):
            open_now = [each for each in client.client_list() if int(each["db"]) == number]
            most = max(most, len(open_now) - 1)  # but for ours

    assert statuses([answer.result() for answer in answers]) == [200] * 800
    assert 0 < most <= workers * size
