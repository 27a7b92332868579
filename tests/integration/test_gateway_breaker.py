"""The breaker opens after failures in a row, lets one trial through, and closes; callers never wait for each other.

One worker, for each worker has breakers of its own; one service a test, for each service has one. Nothing is tried
again, so that a request is a try.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.conftest import Gateway, GatewayFactory, assert_problem, no_fault_in, ready, statuses, together
from tests.support import wire
from tests.support.processes import wait_until

FAILURES = 3
RECOVERY_S = 1.0
NAMES = [
    "opens",
    "trial",
    "fails",
    "reopens",
    "slow",
    "many",
    "torn",
    "tears",
    "resets",
    "k1",
    "k2",
    "k3",
    "k4",
    "k5",
    "k6",
]
SERVICES = """
services:
  users: {{url: "{url}"}}
  orders: {{url: "{url}"}}
  products: {{url: "{url}"}}
  away: {{url: "http://127.0.0.1:{closed_port}", public: true, path: /, retries: 0}}
  hasty: {{url: "{url}", public: true, path: /, timeout_s: 0.3, retries: 0}}
  crowd: {{url: "{url}", public: true, path: /, timeout_s: 0.5, retries: 0}}
""" + "".join(f'  {name}: {{{{url: "{{url}}", public: true, path: /, retries: 0}}}}\n' for name in NAMES)


@pytest.fixture(scope="module")
def breaking(start_gateway: GatewayFactory) -> Gateway:
    return start_gateway(
        services=SERVICES,
        WEB_CONCURRENCY="1",
        CIRCUIT_BREAKER_FAILURE_THRESHOLD=str(FAILURES),
        CIRCUIT_BREAKER_RECOVERY_TIMEOUT=str(RECOVERY_S),
    )


@pytest.fixture
def gateway(breaking: Gateway) -> Generator[Gateway]:
    ready(breaking)
    with no_fault_in(breaking):
        yield breaking


def states(gateway: Gateway, service: str) -> list[object]:
    """What the log tells of a breaker, in order."""
    return [line["state"] for line in gateway.events("breaker") if line["to"] == service]


def gauge(gateway: Gateway, service: str) -> float:
    """0 closed, 1 half-open, 2 open."""
    lines = gateway.operations("/metrics").body.decode().splitlines()
    (line,) = [line for line in lines if line.startswith("gateway_breaker_state{") and f'service="{service}"' in line]
    return float(line.rpartition(" ")[2])


def open_breaker(gateway: Gateway, service: str) -> None:
    for _ in range(FAILURES):
        assert gateway.get(f"/{service}/status/500").status == 500


def recover() -> None:
    time.sleep(RECOVERY_S + 0.05)  # asking would be the trial


def test_breaker_opens_refuses_without_a_call_tries_once_and_closes(gateway: Gateway) -> None:
    failed = [gateway.get(f"/opens/flaky/{FAILURES}/500") for _ in range(FAILURES)]
    refused = gateway.get(f"/opens/flaky/{FAILURES}/500")

    assert [answer.json()["times_seen"] for answer in failed] == [1, 2, 3]  # delivered as they are
    assert_problem(refused, 503, "CIRCUIT_OPEN")
    assert 1 <= int(refused.header("Retry-After") or 0) <= RECOVERY_S + 1
    assert len(gateway.arrived) == FAILURES
    assert gauge(gateway, "opens") == 2

    recover()
    assert gateway.get(f"/opens/flaky/{FAILURES}/500").status == 200
    assert gauge(gateway, "opens") == 0
    assert states(gateway, "opens") == ["open", "half-open", "closed"]
    assert [gateway.get("/opens/echo").status for _ in range(3)] == [200] * 3


def test_half_open_lets_one_call_through_while_it_is_slow(gateway: Gateway) -> None:
    open_breaker(gateway, "trial")
    recover()

    with ThreadPoolExecutor(6) as threads:
        trial = threads.submit(gateway.get, "/trial/slow/1")
        gateway.stub.wait_for_requests(FAILURES + 1)
        others = list(threads.map(gateway.get, ["/trial/echo"] * 5))
        half_open = gauge(gateway, "trial")
        answer = trial.result()

    for refused in others:
        assert_problem(refused, 503, "CIRCUIT_OPEN")
    assert half_open == 1
    assert answer.status == 200
    assert len(gateway.arrived) == FAILURES + 1
    assert gateway.get("/trial/echo").status == 200


def test_failed_trial_opens_again_for_the_whole_time(gateway: Gateway) -> None:
    open_breaker(gateway, "reopens")
    recover()

    assert gateway.get("/reopens/status/500").status == 500
    assert_problem(gateway.get("/reopens/echo"), 503, "CIRCUIT_OPEN")
    recover()
    assert gateway.get("/reopens/echo").status == 200
    assert states(gateway, "reopens") == ["open", "half-open", "open", "half-open", "closed"]


@pytest.mark.parametrize(
    ("service", "target", "status"),
    [
        ("k1", "/status/500", 500),
        ("k2", "/status/503", 503),
        ("k3", "/garbage", 502),
        ("k4", "/cut", 502),
        ("k5", "/nothing", 502),
        ("hasty", "/slow/2", 504),
        ("away", "/x", 502),
    ],
)
def test_every_kind_of_failure_counts(gateway: Gateway, service: str, target: str, status: int) -> None:
    answers = [gateway.get(f"/{service}{target}").status for _ in range(FAILURES)]

    assert answers == [status] * FAILURES
    assert_problem(gateway.get(f"/{service}{target}"), 503, "CIRCUIT_OPEN")


@pytest.mark.parametrize("status", [400, 401, 404, 409, 429])
def test_refusals_of_the_service_do_not_count(gateway: Gateway, status: int) -> None:
    assert [gateway.get(f"/k6/status/{status}").status for _ in range(FAILURES + 2)] == [status] * (FAILURES + 2)


def test_only_failures_in_a_row_count(gateway: Gateway) -> None:
    for _ in range(3):
        for _ in range(FAILURES - 1):
            assert gateway.get("/resets/status/500").status == 500
        assert gateway.get("/resets/echo").status == 200

    assert states(gateway, "resets") == []


def test_20_slow_calls_run_side_by_side(gateway: Gateway) -> None:
    began = time.monotonic()

    answers = together(20, lambda _: gateway.get("/slow/slow/0.5"))

    assert statuses(answers) == [200] * 20
    assert time.monotonic() - began < 4  # one after the other they would take ten seconds


def test_many_failures_at_once_are_one_change_of_state(gateway: Gateway) -> None:
    answers = together(20, lambda _: gateway.get("/crowd/slow/2"))

    assert set(statuses(answers)) <= {503, 504}
    assert states(gateway, "crowd") == ["open"]


def tear_a_body(gateway: Gateway, service: str) -> int:
    with gateway.connect() as connection:
        connection.send(wire.request_bytes("POST", f"/{service}/torn", [("Content-Length", "100000")]) + b"half")
        connection.finish_sending()
        return connection.answer().status


def test_caller_that_tears_its_body_does_not_end_a_row_of_failures(gateway: Gateway) -> None:
    for _ in range(FAILURES - 1):
        assert gateway.get("/tears/status/500").status == 500

    assert tear_a_body(gateway, "tears") == 400

    assert gateway.get("/tears/status/500").status == 500
    assert_problem(gateway.get("/tears/echo"), 503, "CIRCUIT_OPEN")


def test_caller_that_tears_its_body_does_not_close_a_half_open_breaker(gateway: Gateway) -> None:
    open_breaker(gateway, "torn")
    recover()

    assert tear_a_body(gateway, "torn") == 400

    assert states(gateway, "torn") == ["open", "half-open"]
    assert gateway.get("/torn/echo").status == 200
    assert states(gateway, "torn") == ["open", "half-open", "closed"]


def test_breaker_of_one_service_is_not_that_of_another(gateway: Gateway) -> None:
    open_breaker(gateway, "fails")

    assert_problem(gateway.get("/fails/echo"), 503, "CIRCUIT_OPEN")
    assert gateway.get("/many/echo").status == 200


def test_service_that_comes_back_is_used_again_by_itself(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(
        WEB_CONCURRENCY="1", CIRCUIT_BREAKER_FAILURE_THRESHOLD="2", CIRCUIT_BREAKER_RECOVERY_TIMEOUT="0.3"
    )

    gateway.stub.stop()
    down = [gateway.get("/open/x") for _ in range(3)]
    gateway.stub.start()

    assert [answer.status for answer in down] == [502, 503, 503]  # both failures are of the first request
    wait_until(lambda: gateway.get("/open/x").status == 200, "the service to be used again", timeout_s=5)
