"""What `forward` makes of a request before a service is asked."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from common.problems import BadGateway, GatewayTimeout
from tests.support.stub import StubService
from tests.unit import parts


def test_the_time_counts_from_when_the_gateway_began_with_the_request(tmp_path: Path) -> None:
    """What came before (limits, tokens) has taken all of it; nobody listens at the service's address."""
    runtime = parts.runtime(tmp_path, {"things": {"url": "http://127.0.0.1:1", "public": True, "timeout_s": 10}})
    exchange = parts.exchange(runtime, "GET", "/things/1")
    exchange.started = time.monotonic() - 10

    with pytest.raises(GatewayTimeout) as told:
        runtime.table.router.dispatch(exchange)

    assert told.value.code == "DEADLINE_EXCEEDED"


def test_waiting_for_the_body_before_the_time_was_counted_does_not_count(tmp_path: Path) -> None:
    runtime = parts.runtime(tmp_path, {"things": {"url": "http://127.0.0.1:1", "public": True, "timeout_s": 10}})
    exchange = parts.exchange(runtime, "POST", "/things/1", body=b"body")
    exchange.started, exchange.body.waited_s = time.monotonic() - 10, 8.0

    with pytest.raises(BadGateway) as told:
        runtime.table.router.dispatch(exchange)

    assert told.value.code == "SERVICE_UNREACHABLE"


def test_a_body_that_was_taken_in_before_is_sent_and_can_be_sent_again(tmp_path: Path) -> None:
    with StubService() as stub:
        stub.failing.add("/things/1")
        things = {"url": stub.url, "public": True, "limits": False, "retries": 1, "retry_budget": 1}
        runtime = parts.runtime(tmp_path, {"things": things})
        exchange = parts.exchange(runtime, "PUT", "/things/1", body=b"body")
        exchange.body.bound(1000)

        runtime.table.router.dispatch(exchange)

        assert [received.body for received in stub.requests] == [b"body", b"body"]
