"""Connections of callers: heads and bodies that trickle, how many requests one may carry, and who goes first when the
worker has all that it may have."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.integration.conftest import Gateway, GatewayFactory, assert_problem, no_fault_in, ready
from tests.support import wire
from tests.support.processes import wait_until

REQUEST = wire.request_bytes("GET", "/open/x")
HEALTH = wire.request_bytes("GET", "/health")


@pytest.fixture(scope="module")
def brisk(start_gateway: GatewayFactory) -> Gateway:
    return start_gateway(WEB_CONCURRENCY="1", HEAD_TIMEOUT="0.6", CALLER_TIMEOUT="0.5", BODY_MIN_RATE="1000")


@pytest.fixture
def hasty(brisk: Gateway) -> Generator[Gateway]:
    ready(brisk)
    with no_fault_in(brisk):
        yield brisk


@contextmanager
def trickling(connection: wire.Connection, raw: bytes, every_s: float) -> Generator[None]:
    """Send byte by byte, meanwhile."""
    is_over = threading.Event()

    def send() -> None:
        with suppress(OSError):
            for place in range(len(raw)):
                connection.send(raw[place : place + 1])
                if is_over.wait(every_s):
                    return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_half_a_head_is_answered_408_and_cut(hasty: Gateway) -> None:
    with hasty.connect() as connection:
        connection.send(REQUEST[:20])
        answer = connection.answer()

    assert_problem(answer, 408, "REQUEST_TIMEOUT")
    assert answer.header("Connection") == "close"
    assert answer.closed
    assert hasty.arrived == []


def test_head_that_trickles_does_not_live_longer(hasty: Gateway) -> None:
    began = time.monotonic()

    with hasty.connect() as connection, trickling(connection, REQUEST + b"x" * 1000, 0.1):
        answer = connection.answer()

    assert_problem(answer, 408, "REQUEST_TIMEOUT")
    assert time.monotonic() - began < 3
    assert hasty.arrived == []


def test_second_head_on_a_connection_has_no_more_time_than_the_first(hasty: Gateway) -> None:
    with hasty.connect() as connection:
        connection.send(REQUEST + REQUEST[:20])
        answers = [connection.answer(), connection.answer()]

    assert [answer.status for answer in answers] == [200, 408]
    assert len(hasty.arrived) == 1


@pytest.mark.parametrize("length", [5000, 200_000], ids=["taken in", "streams"])
def test_body_that_trickles_is_cut_though_it_never_pauses(hasty: Gateway, length: int) -> None:
    head = wire.request_bytes("POST", "/open/x", [("Content-Length", str(length))])

    with hasty.connect() as connection:
        connection.send(head)
        with trickling(connection, b"x" * 4000, 0.02):
            answer = connection.answer(to="POST")

    assert_problem(answer, 408, "REQUEST_TIMEOUT")
    assert answer.header("Connection") == "close"
    assert hasty.arrived == []


def test_connection_ends_with_its_last_request(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1", KEEPALIVE_REQUESTS="3")
    ready(gateway)

    with gateway.connect() as connection:
        answers = [connection.exchange(REQUEST) for _ in range(3)]

    assert [answer.status for answer in answers] == [200] * 3
    assert [answer.header("Connection") for answer in answers] == ["keep-alive", "keep-alive", "close"]
    assert answers[-1].closed


def test_connection_ends_when_it_is_old(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1", KEEPALIVE_AGE="0.3")
    ready(gateway)

    with gateway.connect() as connection:
        young = connection.exchange(REQUEST)
        time.sleep(0.4)  # its age is what is tested
        old = connection.exchange(REQUEST)

    assert (young.header("Connection"), old.header("Connection"), old.status) == ("keep-alive", "close", 200)


@pytest.mark.parametrize("option", ["close", "x, close", "Keep-Alive , CLOSE"])
def test_caller_may_end_a_connection(gateway: Gateway, option: str) -> None:
    answer = gateway.get("/open/x", [("Connection", option)])

    assert answer.header("Connection") == "close"
    assert answer.closed


@pytest.mark.parametrize("begun", [b"", HEALTH[:10]], ids=["idle", "half a head"])
def test_those_who_only_hold_connections_keep_nobody_out(start_gateway: GatewayFactory, begun: bytes) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1", MAX_CONNECTIONS="8")
    ready(gateway)

    with ExitStack() as stack:
        for _ in range(40):
            held = stack.enter_context(gateway.connect())
            with suppress(OSError):
                held.send(begun)
        statuses = [gateway.get("/health", timeout=3).status for _ in range(20)]
        busy = stack.enter_context(gateway.connect())
        busy.send(wire.request_bytes("GET", "/open/slow/1"))
        wait_until(lambda: len(gateway.arrived) == 1, "the request that must not suffer")
        statuses += [gateway.get("/health", timeout=3).status for _ in range(20)]

        assert busy.answer().status == 200
    assert statuses == [200] * 40
    assert gateway.operations("/health").status == 200
