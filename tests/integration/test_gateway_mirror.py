"""Copies for another service: as many as were asked for, and whoever gets the answer notices nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import ExitStack
from typing import Any, cast

import pytest

from tests.integration.conftest import Gateway, GatewayFactory, bearer, no_fault_in, ready, together
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.received import Received
from tests.support.stub import StubService


class Mirrored:
    """A gateway with one worker, the service that answers (its stub) and the one that gets the copies."""

    def __init__(self, gateway: Gateway, shadow: StubService) -> None:
        self.gateway, self.shadow = gateway, shadow

    def copies(self, count: int) -> list[Received]:
        return self.shadow.wait_for_requests(count)

    @property
    def under_way(self) -> int:
        """How many copies are at the service that gets them."""
        rows = cast("dict[str, list[dict[str, Any]]]", self.gateway.operations("/services").json())["services"]
        return sum(instance["in_flight"] for row in rows if row["name"] == "shadow" for instance in row["instances"])

    def counted(self, service: str, outcome: str) -> float:
        sample = f'gateway_mirrored_total{{outcome="{outcome}",service="{service}"}} '
        lines = self.gateway.operations("/metrics").body.decode().splitlines()
        return next((float(line.removeprefix(sample)) for line in lines if line.startswith(sample)), 0.0)


@pytest.fixture(scope="module")
def mirroring(start_gateway: GatewayFactory) -> Generator[Mirrored]:
    with ExitStack() as stack:
        shadow = stack.enter_context(StubService(free_port()))
        services = f"""
services:
  users: {{{{url: "{{url}}"}}}}
  orders: {{{{url: "{{url}}"}}}}
  products: {{{{url: "{{url}}"}}}}
  shadow: {{{{url: "{shadow.url}", path: /next, retries: 2, retry_budget: 1, breaker: off, ejection: off}}}}
  down: {{{{url: "http://127.0.0.1:{{closed_port}}", path: /, breaker: off}}}}
  all: {{{{url: "{{url}}", public: true, path: /, mirror: {{{{service: shadow}}}}}}}}
  some: {{{{url: "{{url}}", public: true, path: /, mirror: {{{{service: shadow, percent: 20}}}}}}}}
  kept: {{{{url: "{{url}}", public: true, path: /, cache: true, mirror: {{{{service: shadow}}}}}}}}
  crowded: {{{{url: "{shadow.url}", public: true, path: /, load: {{{{in_flight: 1, queue: 1, wait_ms: 5000}}}}}}}}
  crowding: {{{{url: "{{url}}", public: true, path: /, mirror: {{{{service: crowded}}}}}}}}
  vain: {{{{url: "{{url}}", public: true, path: /, mirror: {{{{service: down}}}}}}}}
"""
        yield Mirrored(start_gateway(services=services, WEB_CONCURRENCY="1"), shadow)


@pytest.fixture
def mirrored(mirroring: Mirrored) -> Generator[Mirrored]:
    ready(mirroring.gateway)
    mirroring.shadow.clear()
    with no_fault_in(mirroring.gateway):
        yield mirroring
    wait_until(lambda: mirroring.under_way == 0, "all copies to have ended", timeout_s=15)


def test_a_copy_is_the_request_at_the_other_services_own_path(mirrored: Mirrored) -> None:
    fields = [*bearer("ann"), ("X-Odd", "1"), ("Content-Type", "text/plain")]
    answer = mirrored.gateway.request("PUT", "/all/echo/it?a=%2F&b", fields, b"the body")

    (original,), (copy,) = mirrored.gateway.arrived, mirrored.copies(1)
    assert answer.json()["target"] == "/echo/it?a=%2F&b"
    assert (copy.method, copy.target, copy.body) == ("PUT", "/next/echo/it?a=%2F&b", b"the body")
    for name in ("X-Request-ID", "X-User-Id", "X-Odd", "Content-Type", "Authorization", "X-Forwarded-For"):
        assert copy.header(name) == original.header(name) is not None
    assert copy.header("X-Request-ID") == answer.header("X-Request-ID")


def test_the_copy_has_a_time_of_its_own(mirrored: Mirrored) -> None:
    mirrored.gateway.get("/all/echo", [("X-Request-Timeout-Ms", "1000")])

    (copy,) = mirrored.copies(1)
    assert int(copy.header("X-Request-Timeout-Ms") or 0) > 20_000


def test_its_log_lines_have_the_id_of_the_request(mirrored: Mirrored) -> None:
    answer = mirrored.gateway.get("/vain/echo")

    wait_until(lambda: mirrored.counted("down", "failed") >= 1, "the copy to have failed")
    assert answer.status == 200
    assert "call_failed" in {line["event"] for line in mirrored.gateway.log_of(answer)}


@pytest.mark.parametrize("fault", ["slow/3", "reset", "garbage", "status/500", "trickle-head/0.01", "stream/500/0.01"])
def test_whatever_becomes_of_the_copy_the_caller_notices_nothing(mirrored: Mirrored, fault: str) -> None:
    mirrored.gateway.stub.json[f"/{fault}"] = {"fine": True}

    began = time.monotonic()
    answers = [mirrored.gateway.get(f"/all/{fault}") for _ in range(5)]

    assert [answer.json() for answer in answers] == [{"fine": True}] * 5
    assert time.monotonic() - began < 2
    time.sleep(0.1)
    assert len(mirrored.copies(5)) == 5  # none is sent twice, whatever the service's own rules are


def test_a_service_that_is_away_is_no_hindrance(mirrored: Mirrored) -> None:
    assert {answer.status for answer in together(20, lambda _: mirrored.gateway.get("/vain/echo"))} == {200}


def test_a_share_of_the_requests_is_copied(mirrored: Mirrored) -> None:
    for _ in range(300):
        mirrored.gateway.get("/some/echo")
    time.sleep(0.2)

    assert 25 < len(mirrored.shadow.requests) < 110  # 60 are to be expected; further away once in a million times


def test_a_kept_answer_is_not_asked_for_so_it_is_not_copied(mirrored: Mirrored) -> None:
    for _ in range(3):
        mirrored.gateway.get("/kept/cacheable?cc=max-age=60")

    assert len(mirrored.copies(1)) == 1


def test_a_long_body_streams_and_is_not_copied(mirrored: Mirrored) -> None:
    before = mirrored.counted("shadow", "uncopied")

    answer = mirrored.gateway.request("POST", "/all/echo", [], b"x" * 300_000)

    assert answer.json()["length"] == 300_000
    assert mirrored.counted("shadow", "uncopied") == before + 1
    assert mirrored.shadow.requests == []


def test_a_copy_takes_nobody_the_place(mirrored: Mirrored) -> None:
    inside = threading.Thread(target=mirrored.gateway.get, args=("/crowded/slow/1",))
    inside.start()
    mirrored.copies(1)
    mirrored.gateway.get("/crowding/echo?copied")  # its copy waits; there is one place to wait
    mirrored.gateway.wait_for_metric('gateway_waiting{service="crowded"} 1.0')

    answer = mirrored.gateway.get("/crowded/echo?asked")
    inside.join()

    assert answer.status == 200
    assert [copy.target for copy in mirrored.shadow.requests] == ["/slow/1", "/echo?asked"]


def test_copies_are_dropped_when_too_many_are_under_way(mirrored: Mirrored) -> None:
    mirrored.gateway.stub.json["/slow/2"] = {"fine": True}
    before = mirrored.counted("shadow", "dropped")

    for _ in range(6):
        assert {a.status for a in together(20, lambda _: mirrored.gateway.get("/all/slow/2"))} == {200}
    dropped = mirrored.counted("shadow", "dropped") - before

    assert 20 <= dropped <= 40  # some that other tests have sent may be under way
    assert len(mirrored.copies(120 - int(dropped))) == 120 - dropped
