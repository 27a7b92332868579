"""What the gateway sends to the audit log, as user_service (here a stub) receives it."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

from common import service_tokens
from tests.integration.conftest import ADMIN, SERVICE_SECRET, Gateway, GatewayFactory, bearer, carrying, ready
from tests.support import wire
from tests.support.processes import wait_until

PATH = "/internal/audit"
BAD = carrying("bad.token.hunter2")


@pytest.fixture(scope="module")
def started(start_gateway: GatewayFactory) -> Gateway:
    return start_gateway()


@pytest.fixture
def gateway(started: Gateway) -> Generator[Gateway]:
    ready(started)
    yield started
    started.stub.clear()


def entries(gateway: Gateway) -> list[dict[str, Any]]:
    batches = [json.loads(received.body) for received in gateway.stub.requests if received.path == PATH]
    return [entry for batch in batches for entry in batch["entries"]]


def counted(gateway: Gateway) -> int:
    return sum(int(entry["details"].get("count", "1")) for entry in entries(gateway))


def wait_for(gateway: Gateway, event: str) -> dict[str, Any]:
    """The entry of this event; there is one."""
    wait_until(lambda: any(entry["event"] == event for entry in entries(gateway)), event, timeout_s=5)
    (entry,) = [entry for entry in entries(gateway) if entry["event"] == event]
    return entry


def test_a_401_is_recorded_with_route_reason_network_and_request(gateway: Gateway) -> None:
    answer = gateway.get("/orders/5?token=hunter2", BAD)

    entry = wait_for(gateway, "access.refused")

    assert entry["request_id"] == answer.header("X-Request-ID")
    assert (entry["actor"], entry["outcome"], entry["address"]) == ("anonymous", "failure", "127.0.0.0")
    assert entry["details"] == {"route": "GET orders.read", "reason": "INVALID_TOKEN"}
    assert "hunter2" not in json.dumps(entry)


def test_a_403_is_recorded_with_who_was_refused(gateway: Gateway) -> None:
    gateway.get("/staff/x", bearer("u7"))

    entry = wait_for(gateway, "access.refused")

    assert (entry["actor"], entry["outcome"]) == ("u7", "denied")
    assert entry["details"]["reason"] == "ROLE_REQUIRED"


def test_batches_are_sent_with_the_gateways_own_token(gateway: Gateway) -> None:
    gateway.get("/orders", BAD)
    wait_for(gateway, "access.refused")

    (received,) = [received for received in gateway.stub.requests if received.path == PATH]

    token = (received.header("Authorization") or "").removeprefix("Bearer ")
    assert service_tokens.verify(token, SERVICE_SECRET, audience="user_service") == "gateway"


def test_a_flood_of_bad_tokens_is_a_few_entries_that_count_all_of_it(gateway: Gateway) -> None:
    for _ in range(300):
        gateway.get("/orders", BAD)

    wait_until(lambda: counted(gateway) == 300, "all to be counted", timeout_s=5)
    assert len(entries(gateway)) <= 20  # one for each worker and second


def test_what_succeeds_or_is_not_found_is_no_matter_for_the_audit_log(gateway: Gateway) -> None:
    gateway.get("/orders", bearer("u7"))
    gateway.get("/nowhere")
    gateway.get("/orders", BAD)

    wait_for(gateway, "access.refused")

    assert len(entries(gateway)) == 1


@pytest.mark.parametrize(("path", "event"), [("/config/reload", "configuration.reloaded")])
def test_what_operators_do_is_recorded(gateway: Gateway, path: str, event: str) -> None:
    answer = wire.request(gateway.operations_port, "POST", path, ADMIN)

    assert answer.status == 200
    entry = wait_for(gateway, event)
    assert (entry["actor"], entry["outcome"]) == ("boss", "success")
    assert entry["details"]["revision"]


def test_entries_wait_while_user_service_is_away_and_come_in_order(gateway: Gateway) -> None:
    gateway.stub.json[PATH] = ["no object"]
    gateway.get("/orders", BAD)
    wait_until(lambda: bool(gateway.events("audit_log_away")), "the warning", timeout_s=5)
    first = entries(gateway)[0]["id"]
    gateway.get("/students/x", BAD)

    gateway.stub.clear()
    ready(gateway)

    wait_until(lambda: counted(gateway) == 2, "both", timeout_s=5)
    assert first in [entry["id"] for entry in entries(gateway)]


def test_what_came_last_is_sent_when_the_gateway_stops(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway()
    gateway.get("/orders", BAD)

    gateway.process.terminate()

    assert counted(gateway) == 1
