"""Requests are held against the services' OpenAPI documents by real workers; services close for a while by the file."""

from __future__ import annotations

import json

import pytest

from tests.integration.conftest import Gateway, GatewayFactory, assert_problem, bearer
from tests.support.processes import wait_until

SERVICES = """
services:
  users: {{url: "{url}", validate: enforce}}
  orders: {{url: "{url}"}}
  shop: {{url: "{url}", public: true, path: /, validate: enforce}}
  seen: {{url: "{url}", public: true, path: /, validate: report}}
  away: {{url: "http://127.0.0.1:{closed_port}", public: true, path: /, validate: enforce, retries: 0}}
  near: {{url: "{url}", public: true, path: /, deny_from: [127.0.0.0/8]}}
"""
BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"type": "object", "properties": {"name": {"type": "string"}}}}},
}
DOCUMENT = {
    "openapi": "3.1.0",
    "paths": {"/echo": {"post": {"requestBody": BODY}}, "/users/register": {"post": {"requestBody": BODY}}},
}
JSON = [("Content-Type", "application/json")]


@pytest.fixture(scope="module")
def gateway(start_gateway: GatewayFactory) -> Gateway:
    """One worker that knows the documents."""
    gateway = start_gateway(services=SERVICES, is_ready=False, WEB_CONCURRENCY="1")
    gateway.stub.json["/openapi.json"] = DOCUMENT
    for service in ("shop", "seen", "users"):
        gateway.wait_for_metric(f'gateway_openapi_known{{service="{service}"}} 1.0')
    gateway.stub.json.pop("/openapi.json")
    return gateway


def arrived(gateway: Gateway, path: str) -> int:
    return sum(received.path == path for received in gateway.stub.requests)


@pytest.mark.parametrize(
    ("target", "status", "comes_to"),
    [("/shop/echo", 422, "/echo"), ("/seen/echo", 200, "/echo"), ("/api/v1/users/register", 422, "/users/register")],
)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_bad_body_is_refused_before_the_service_is_touched(
    gateway: Gateway, target: str, status: int, comes_to: str, *, is_chunked: bool
) -> None:
    before = arrived(gateway, comes_to)
    body, framing = b'{"name": 5}', list[tuple[str, str]]()
    if is_chunked:
        body, framing = b"b\r\n" + body + b"\r\n0\r\n\r\n", [("Transfer-Encoding", "chunked")]

    answer = gateway.request("POST", target, [*JSON, *framing], body)

    assert answer.status == status
    assert arrived(gateway, comes_to) - before == (1 if status == 200 else 0)
    if status == 422:
        assert_problem(answer, 422, "VALIDATION_ERROR")
        assert json.loads(answer.body)["errors"] == [{"field": "name", "message": "must be text", "in": "body"}]


def test_a_good_body_arrives_as_it_was_sent(gateway: Gateway) -> None:
    raw = b' {"name" : "\\u00e4" }\n'

    assert gateway.request("POST", "/shop/echo", JSON, raw).status == 200
    assert gateway.stub.requests[-1].body == raw


def test_while_no_document_is_known_nothing_is_refused_for_it(gateway: Gateway) -> None:
    assert_problem(gateway.request("POST", "/away/echo", JSON, b"{"), 502, "SERVICE_UNREACHABLE")
    assert [line["reason"] for line in gateway.events("openapi_unknown") if line["to"] == "away"] == [
        "ConnectionRefusedError"
    ]


def test_an_address_that_is_denied_gets_no_further(gateway: Gateway) -> None:
    before = arrived(gateway, "/x")

    assert_problem(gateway.get("/near/x"), 403, "ADDRESS_REFUSED")
    assert arrived(gateway, "/x") == before


def test_a_service_is_closed_and_opened_by_the_file_and_an_administrator_may_look(gateway: Gateway) -> None:
    text = gateway.services_file.read_text()
    closed = "{retry_after_s: 77, message: Counting., allow_roles: [admin]}"

    gateway.services_file.write_text(text.replace("  orders: {", f"  orders: {{maintenance: {closed}, "))
    wait_until(lambda: gateway.get("/orders").status == 503, "maintenance", timeout_s=10)
    refused, let_in = gateway.get("/orders", bearer("u1")), gateway.get("/orders", bearer("boss", ["admin"]))
    health = gateway.get("/health")
    gateway.services_file.write_text(text)

    assert_problem(refused, 503, "MAINTENANCE")
    assert (refused.header("Retry-After"), json.loads(refused.body)["detail"]) == ("77", "Counting.")
    assert let_in.status != 503
    assert health.status == 200
    wait_until(lambda: gateway.get("/orders").status == 401, "the end of the maintenance", timeout_s=10)
