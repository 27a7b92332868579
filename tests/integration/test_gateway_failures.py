"""A service that is down, slow, full or rude: told in one way each, at most once for what may not be repeated."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from tests.integration.conftest import Gateway, GatewayFactory, assert_problem, no_fault_in, ready, statuses, together
from tests.support import wire
from tests.support.processes import wait_until


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/absent/x", 502, "SERVICE_UNREACHABLE"),
        ("/brisk/slow/3", 504, "SERVICE_TIMEOUT"),
        ("/brisk/slow-body/3", 504, "SERVICE_TIMEOUT"),
        ("/open/cut", 502, "BAD_ANSWER"),
        ("/open/cut-head", 502, "BAD_ANSWER"),
        ("/open/nothing", 502, "BAD_ANSWER"),
        ("/open/reset", 502, "BAD_ANSWER"),
        ("/open/garbage", 502, "BAD_ANSWER"),
        ("/open/two-lengths", 502, "BAD_ANSWER"),
        ("/open/length-and-chunked", 502, "BAD_ANSWER"),
        ("/open/huge-header/70000", 502, "BAD_ANSWER"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_failure_of_a_service_is_told_as_what_it_is(
    gateway: Gateway, method: str, target: str, status: int, code: str
) -> None:
    began = time.monotonic()

    answer = gateway.request(method, target)

    assert_problem(answer, status, code)
    assert time.monotonic() - began < 2.5
    lines = [line for line in gateway.log_of(answer) if line["event"] == "call_failed"]
    assert {line["level"] for line in lines} == {"warning"}
    assert len(lines) <= 2  # the one instance is tried again, where that can't hurt
    assert len(gateway.arrived) <= (1 if method == "POST" else 2)


@pytest.mark.parametrize("target", ["/absent/x", "/open/cut", "/open/reset", "/brisk/slow/3"])
def test_failure_is_counted_and_its_connection_to_the_caller_goes_on(gateway: Gateway, target: str) -> None:
    with gateway.connect() as connection:
        failed = connection.exchange(wire.request_bytes("GET", target))
        served = connection.exchange(wire.request_bytes("GET", "/open/x"))

    assert failed.status >= 502
    assert served.status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_rest_of_an_answer_never_meets_the_next_request(gateway: Gateway, method: str) -> None:
    targets = ["/open/length-and-chunked", "/open/cut", "/open/two-lengths", "/open/304", "/open/204", "/open/leave"]

    for target in targets:
        gateway.request(method, target)
        assert gateway.get("/open/echo?after").json()["target"] == "/echo?after"


def test_post_is_sent_at_most_once_when_the_kept_connection_turns_out_dead(gateway: Gateway) -> None:
    seen: list[int] = []
    for _ in range(6):
        seen.append(gateway.request("POST", "/open/stale", [], b"order").status)

    assert len(gateway.arrived) == len(seen)  # the stub counts a request that it then leaves unanswered
    assert set(seen) <= {200, 502}


def test_connections_that_the_service_closed_meanwhile_are_not_used_again(gateway: Gateway) -> None:
    for _ in range(8):
        assert gateway.get("/open/x").status == 200
    gateway.stub.drop_connections()
    wait_until(lambda: gateway.stub.open_connections == 0, "the stub to have dropped its connections")

    answers = [gateway.request("POST", "/open/x", [], b"order").status for _ in range(8)]

    assert answers == [200] * 8
    assert len([received for received in gateway.arrived if received.method == "POST"]) == 8


def test_service_that_restarts_on_its_port_is_used_again_at_once(gateway: Gateway) -> None:
    for _ in range(8):
        assert gateway.get("/open/x").status == 200
    gateway.stub.stop()
    gateway.stub.start()

    answers = [gateway.request("POST", "/open/x", [], b"order").status for _ in range(8)]

    assert answers == [200] * 8
    assert len([received for received in gateway.arrived if received.method == "POST"]) == 8


def test_callers_who_are_slow_with_a_few_bytes_hold_no_connection_to_the_service(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1", BACKEND_POOL_SIZE="2")
    ready(gateway)
    head = b"POST /open/echo HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n12345"

    with wire.Connection(gateway.port) as first, wire.Connection(gateway.port) as second:
        for stalled in (first, second):
            stalled.send(head)
        others = statuses([gateway.get("/open/echo") for _ in range(4)])
        first.send(b"67890")
        late = first.answer(to="POST")

    assert others == [200] * 4
    assert late.json()["body"] == "1234567890"


def test_full_pool_is_waited_for_and_then_told_as_busy(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1", BACKEND_POOL_SIZE="2", CIRCUIT_BREAKER_FAILURE_THRESHOLD="1")
    ready(gateway)

    with no_fault_in(gateway):
        patient = statuses(together(4, lambda _: gateway.get("/open/slow/0.4")))
        busy = together(4, lambda _: gateway.get("/open/slow/3"))

    assert patient == [200] * 4
    assert statuses(busy) == [200, 200, 503, 503]
    for answer in busy:
        if answer.status == 503:
            assert_problem(answer, 503, "SERVICE_BUSY")
            assert answer.header("Retry-After") is not None
    assert gateway.get("/open/x").status == 200  # the breaker has not counted it


def leave_in_the_middle(gateway: Gateway) -> None:
    received = b""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as connection:
        connection.sendall(wire.request_bytes("GET", "/open/stream/1000/0.01"))
        while b"event 1" not in received:
            received += connection.recv(65536)


def tear_the_body(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.send(wire.request_bytes("POST", "/open/x", [("Content-Length", "9")], b"half"))
        connection.finish_sending()
        connection.answer()


LEFT_UNREAD: dict[str, Callable[[Gateway], object]] = {
    "HEAD of a long page": lambda gateway: gateway.request("HEAD", "/openapi/users.json"),
    "HEAD": lambda gateway: gateway.request("HEAD", "/open/bytes/200000"),
    "304": lambda gateway: gateway.get("/open/304"),
    "cut": lambda gateway: gateway.get("/open/cut"),
    "cut chunks": lambda gateway: gateway.get("/open/cut-chunked"),
    "doubtful framing": lambda gateway: gateway.get("/open/two-lengths"),
    "torn body": tear_the_body,
    "caller gone": leave_in_the_middle,
}


@pytest.fixture(scope="module")
def narrow(start_gateway: GatewayFactory) -> Gateway:
    """Two connections to each service."""
    return start_gateway(WEB_CONCURRENCY="1", BACKEND_POOL_SIZE="2")


@pytest.mark.parametrize("leave", LEFT_UNREAD.values(), ids=LEFT_UNREAD)
def test_answer_that_nobody_reads_on_gives_its_place_in_the_pool_back(
    narrow: Gateway, leave: Callable[[Gateway], object]
) -> None:
    ready(narrow)
    narrow.stub.json["/openapi.json"] = {"filler": "x" * 200_000}

    for _ in range(3):
        leave(narrow)

    assert narrow.get("/openapi/users.json").status == 200
    assert narrow.get("/open/x").status == 200
