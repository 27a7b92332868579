"""The gateway as processes: it ends without cutting anybody off, renews itself under load, and outlives its workers."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tests.integration.conftest import Gateway, GatewayFactory, bearer, no_fault_in, ready
from tests.support import wire
from tests.support.processes import is_alive, process_tree, wait_until

REQUEST = wire.request_bytes("GET", "/open/x")
RENEWALS = 2


def test_sigterm_lets_the_request_in_flight_finish_and_ends_with_0(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="2")
    ready(gateway)
    tree = process_tree(gateway.process.pid)

    with no_fault_in(gateway), ThreadPoolExecutor(1) as threads:
        slow = threads.submit(gateway.get, "/open/slow/2")
        gateway.stub.wait_for_requests(1)
        code = gateway.process.terminate(timeout_s=15)
        answer = slow.result()

    assert (answer.status, answer.is_complete, code) == (200, True, 0)
    assert [pid for pid in tree if is_alive(pid)] == []


def test_connection_that_idles_does_not_hold_up_the_end(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1")

    with wire.Connection(gateway.port) as idle:
        idle.send(wire.request_bytes("GET", "/health"))
        assert idle.answer().status == 200
        code = gateway.process.terminate(timeout_s=12)  # its keep-alive time is 20; a killed process ends with -9

    assert code == 0


def test_stopping_worker_says_so_on_ready_and_closes_kept_connections(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1")
    ready(gateway)

    with gateway.connect() as kept, ThreadPoolExecutor(1) as threads:
        assert kept.exchange(wire.request_bytes("GET", "/ready")).status == 200
        slow = threads.submit(gateway.get, "/open/slow/2")
        gateway.stub.wait_for_requests(1)
        (worker,) = gateway.process.children()
        os.kill(worker, signal.SIGTERM)  # what the master sends: the kept connection is still served
        answer = kept.exchange(wire.request_bytes("GET", "/ready"))
        assert slow.result().status == 200

    assert (answer.status, answer.json()["status"]) == (503, "draining")
    assert answer.header("Connection") == "close"
    assert answer.header("Retry-After") is not None


class Load:
    """Asks without a pause, on kept and on fresh connections, until stopped; remembers whatever went wrong."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._stop = threading.Event()
        self.answered = 0
        self.lost: list[str] = []
        self._threads = [threading.Thread(target=run) for run in (self._fresh, self._fresh, self._kept, self._kept)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=15)

    def _note(self, answer: wire.RawAnswer) -> None:
        if answer.status == 200 and answer.is_complete:
            self.answered += 1
        else:
            self.lost.append(f"{answer.status} {answer.body!r}")

    def _fresh(self) -> None:
        while not self._stop.is_set():
            try:
                with self._gateway.connect() as connection:
                    self._note(connection.exchange(REQUEST))
            except OSError as error:
                self.lost.append(f"fresh: {error!r}")

    def _kept(self) -> None:
        while not self._stop.is_set():
            try:
                with self._gateway.connect() as connection:
                    is_open = True
                    while is_open and not self._stop.is_set():
                        answer = connection.exchange(REQUEST)
                        self._note(answer)
                        is_open = answer.header("Connection") != "close"
            except OSError as error:
                self.lost.append(f"kept: {error!r}")


def test_renewal_of_the_workers_under_load_loses_nothing(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="2")
    ready(gateway)

    with no_fault_in(gateway), Load(gateway) as load:
        for _ in range(RENEWALS):
            old, answered = set(gateway.process.children()), load.answered
            gateway.process.hup()
            wait_until(lambda old=old: len(set(gateway.process.children()) - old) == 2, "new workers", timeout_s=15)
            wait_until(lambda old=old: not old & set(gateway.process.children()), "the old ones' end", timeout_s=30)
            wait_until(lambda answered=answered: load.answered > answered + 50, "answers of the new ones", timeout_s=15)

    assert load.lost == []


def test_request_in_flight_outlives_a_renewal(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1")
    ready(gateway)

    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(gateway.get, "/open/slow/2")
        gateway.stub.wait_for_requests(1)
        (old,) = gateway.process.children()
        gateway.process.hup()
        wait_until(lambda: gateway.process.children() not in ([], [old]), "the new worker")

        assert gateway.get("/open/x").status == 200
        assert slow.result().status == 200


def test_counts_survive_a_renewal_and_a_killed_worker(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1")
    ready(gateway)
    for _ in range(5):
        gateway.get("/open/x")
    counted = 'gateway_requests_total{method="GET",route="open.forward",service="open",status="200"} 5.0'
    gateway.wait_for_metric(counted)  # else a crash loses it

    (old,) = gateway.process.children()
    with gateway.connect() as lost:
        lost.send(wire.request_bytes("GET", "/open/slow/5"))
        gateway.stub.wait_for_requests(6)
        os.kill(old, signal.SIGKILL)
    wait_until(lambda: gateway.process.children() not in ([], [old]), "a new worker", timeout_s=15)
    wait_until(lambda: answers(gateway), "the new worker to answer", timeout_s=15)
    gateway.process.hup()
    wait_until(lambda: answers(gateway), "the renewed worker to answer", timeout_s=15)

    gateway.wait_for_metric(counted)
    gateway.wait_for_metric("gateway_requests_in_flight 1.0")


def test_a_graceful_end_of_workers_loses_no_count_and_no_line(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="2")
    ready(gateway)
    old = gateway.process.children()

    for number in range(30):
        gateway.get(f"/open/{number}")
    gateway.process.hup()
    wait_until(lambda: not any(map(is_alive, old)), "the end of both workers", timeout_s=15)
    wait_until(lambda: answers(gateway), "the renewed workers to answer", timeout_s=15)

    page = gateway.operations("/metrics").body.decode()
    assert 'gateway_requests_total{method="GET",route="open.forward",service="open",status="200"} 30.0' in page
    assert 'gateway_request_duration_seconds_count{route="open.forward",service="open"} 30.0' in page
    assert len({line["path"] for line in gateway.events("request") if line["to"] == "open"}) == 30


def answers(gateway: Gateway) -> bool:
    with suppress(OSError):
        return gateway.get("/health").status == 200
    return False


def test_killed_worker_is_replaced_and_the_other_serves_meanwhile(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="2")
    ready(gateway)
    victim, survivor = gateway.process.children()

    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not is_alive(victim), "the worker's end")
    meanwhile = [gateway.get("/orders", bearer()).status for _ in range(10)]
    wait_until(lambda: len(gateway.process.children()) == 2, "a new worker", timeout_s=15)

    assert meanwhile == [200] * 10
    assert survivor in gateway.process.children()
    assert victim not in gateway.process.children()


def test_gauges_are_there_before_anything_happens(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="2")

    page = gateway.operations("/metrics").body.decode()

    assert "gateway_limit_store_up 1.0" in page
    assert f'gateway_breaker_state{{instance="{gateway.stub.url}",service="products"}} 0.0' in page


def test_nothing_is_left_behind_after_the_end(start_gateway: GatewayFactory, tmp_path: Path) -> None:
    directory = tmp_path / "scratch"
    directory.mkdir()
    gateway = start_gateway(WEB_CONCURRENCY="2", TMPDIR=str(directory))
    assert list(directory.iterdir()) != []

    gateway.process.hup()
    wait_until(lambda: len(gateway.events("Hang up: Master")) == 1 and answers(gateway), "the renewal", timeout_s=15)
    gateway.process.terminate(timeout_s=40)

    assert list(directory.iterdir()) == []
