"""Each status that callers may meet, provoked at one gateway, and every refusal of ours in the one shape."""

from __future__ import annotations

import pytest

from tests.integration.conftest import ADMIN, Gateway, GatewayFactory, bearer
from tests.support.ports import free_port
from tests.support.wire import Pairs

SERVICES = """
services:
  users: {{url: "{url}", limits: {{login: 1/minute}}}}
  orders: {{url: "{url}"}}
  products: {{url: "{url}"}}
  open: {{url: "{url}", public: true, path: /, max_body: 1KB, timeout_s: 0.3, retries: 0, breaker: off, ejection: off}}
  absent: {{url: "http://127.0.0.1:%d", public: true}}
  tired: {{url: "http://127.0.0.1:%d", public: true}}
"""
REFUSALS: list[tuple[int, str, str, str, Pairs, bytes]] = [
    (400, "UNSAFE_PATH", "GET", "/products/../users", [], b""),
    (401, "TOKEN_REQUIRED", "GET", "/orders", [], b""),
    (403, "PERMISSION_REQUIRED", "POST", "/products", bearer(), b"{}"),
    (404, "SERVICE_NOT_FOUND", "GET", "/nowhere", [], b""),
    (405, "METHOD_NOT_ALLOWED", "DELETE", "/products", ADMIN, b""),
    (413, "PAYLOAD_TOO_LARGE", "POST", "/open/echo", [], b"x" * 1025),
    (414, "URI_TOO_LONG", "GET", "/open/" + "x" * 9000, [], b""),
    (429, "RATE_LIMIT_EXCEEDED", "POST", "/auth/login", [], b"{}"),
    (431, "HEADERS_TOO_LARGE", "GET", "/open/echo", [("X-Large", "x" * 20_000)], b""),
    (501, "METHOD_NOT_IMPLEMENTED", "TRACE", "/open/echo", [], b""),
    (502, "SERVICE_UNREACHABLE", "GET", "/absent/x", [], b""),
    (502, "BAD_ANSWER", "GET", "/open/garbage", [], b""),
    (503, "CIRCUIT_OPEN", "GET", "/tired/x", [], b""),
    (504, "SERVICE_TIMEOUT", "GET", "/open/slow/1", [], b""),
]
"""What provokes each status: method, target, fields, body."""
MEMBERS = {"type", "title", "status", "detail", "error", "message", "code", "request_id", "source"}


@pytest.fixture(scope="module")
def provoked(start_gateway: GatewayFactory) -> Gateway:
    gateway = start_gateway(
        services=SERVICES % (free_port(), free_port()), WEB_CONCURRENCY="1", CIRCUIT_BREAKER_FAILURE_THRESHOLD="4"
    )
    for _ in range(4):
        gateway.get("/tired/x")
    gateway.request("POST", "/auth/login", [], b"{}")
    return gateway


@pytest.mark.parametrize(
    ("status", "code", "method", "target", "headers", "body"),
    REFUSALS,
)
def test_each_refusal_is_a_problem_of_the_gateway(
    provoked: Gateway, status: int, code: str, method: str, target: str, headers: Pairs, body: bytes
) -> None:
    answer = provoked.request(method, target, headers, body)

    document = answer.json()
    assert (answer.status, document["code"], document["source"]) == (status, code, "gateway")
    assert answer.header("Content-Type") == "application/problem+json"
    assert document.keys() >= MEMBERS
    assert document["request_id"] == answer.header("X-Request-ID")


@pytest.mark.parametrize("status", [200, 409, 415, 422, 500, 503])
def test_what_a_service_answers_passes_unchanged(provoked: Gateway, status: int) -> None:
    answer = provoked.get(f"/open/status/{status}")

    assert answer.status == status
    assert answer.header("Content-Type") == "application/json"
