"""What the gateway itself answers, on which listener and to whom; its metrics, summed over the workers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import ADMIN, Gateway, GatewayFactory, assert_problem, bearer, ready
from tests.support import wire

OPERATORS = ["/metrics", "/services", "/api/services", "/api/v1/services", "/health/services"]


@pytest.mark.parametrize("target", OPERATORS)
def test_operators_page_is_open_on_its_own_listener_only(gateway: Gateway, target: str) -> None:
    anonymous, customer = gateway.get(target), gateway.get(target, bearer())

    assert_problem(anonymous, 401, "TOKEN_REQUIRED")
    assert_problem(customer, 403, "PERMISSION_REQUIRED")
    assert "admin" in str(customer.json()["detail"])
    assert gateway.get(target, ADMIN).status == 200
    assert gateway.operations(target).status == 200


@pytest.mark.parametrize("target", ["/", "/health", "/ready", "/health/startup"])
def test_open_page_is_open_everywhere(gateway: Gateway, target: str) -> None:
    for answer in (gateway.get(target), gateway.operations(target)):
        assert answer.status == 200
        assert answer.header("Content-Type") == "application/json"
        assert answer.header("X-Content-Type-Options") == "nosniff"
        assert answer.header("X-Request-ID") is not None


def test_operations_listener_gives_no_token_to_proxied_routes(gateway: Gateway) -> None:
    assert_problem(gateway.operations("/orders"), 401, "TOKEN_REQUIRED")


def test_health_touches_nothing(gateway: Gateway) -> None:
    gateway.stub.stop()
    try:
        answer = gateway.get("/health")
    finally:
        gateway.stub.start()

    assert (answer.status, answer.json()["status"]) == (200, "ok")
    assert gateway.stub.requests == []


def test_services_page_lists_every_service_with_its_instance(gateway: Gateway) -> None:
    rows = gateway.operations("/services").json()["services"]

    assert isinstance(rows, list)
    assert {row["name"] for row in rows} >= {"users", "orders", "products", "students"}
    (products,) = [row for row in rows if row["name"] == "products"]
    (instance,) = products["instances"]
    assert {key: instance[key] for key in ("url", "weight", "state", "since", "until", "breaker", "in_flight")} == {
        "url": gateway.stub.url,
        "weight": 1.0,
        "state": "well",
        "since": None,
        "until": None,
        "breaker": "closed",
        "in_flight": 0,
    }
    assert "GET /products/" in products["routes"]


def test_health_of_services_has_a_row_an_instance(gateway: Gateway) -> None:
    document = gateway.operations("/health/services").json()

    rows = document["instances"]
    assert isinstance(rows, list)
    states = {row["service"]: row["status"] for row in rows}
    assert states["products"] == "up"
    assert states["absent"] == "down"
    assert document["status"] == "degraded"


def test_home_names_the_services_and_where_to_go_on(gateway: Gateway) -> None:
    document = gateway.get("/").json()

    services = document["services"]
    assert isinstance(services, dict)
    assert services["products"] == "/api/v1/products"
    assert gateway.get(str(document["health"])).status == 200


def test_document_of_a_service_is_the_services_own(gateway: Gateway) -> None:
    gateway.stub.json["/openapi.json"] = {"openapi": "3.1.0"}

    assert gateway.get("/openapi/users.json").json() == {"openapi": "3.1.0"}
    assert_problem(gateway.get("/openapi/nobody.json"), 404, "SERVICE_NOT_FOUND")


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
def test_page_takes_get_only(gateway: Gateway, method: str) -> None:
    answer = gateway.request(method, "/health")

    assert_problem(answer, 405, "METHOD_NOT_ALLOWED")
    assert "GET" in (answer.header("Allow") or "")


def test_metrics_count_every_request_once_over_all_workers(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="2")
    ready(gateway)

    for _ in range(40):
        gateway.get("/products")
    for _ in range(7):
        gateway.get("/orders")
    gateway.get("/absent/x")
    gateway.get("/nowhere")
    wire.exchange(gateway.port, b"GET /products/.. HTTP/1.1\r\nHost: a\r\n\r\n")

    gateway.wait_for_metric('gateway_requests_total{method="GET",route="refused",service="gateway",status="400"} 1.0')
    gateway.wait_for_metric("gateway_requests_in_flight 1.0")  # the asking one
    page = gateway.operations("/metrics").body.decode()
    requests = {
        (sample.labels["service"], sample.labels["method"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "gateway_requests_total" and sample.labels["route"] != "page"
    }
    assert requests[("products", "GET", "200")] == 40
    assert requests[("orders", "GET", "401")] == 7
    assert requests[("absent", "GET", "502")] == 1
    assert requests[("gateway", "GET", "404")] == requests[("gateway", "GET", "400")] == 1
    assert 'gateway_request_duration_seconds_count{route="products.browse",service="products"} 40.0' in page
    assert 'gateway_backend_calls_total{outcome="unreachable",service="absent"} 2.0' in page  # tried again


def test_metrics_tell_what_the_workers_use_and_who_was_let_in(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="2")
    ready(gateway)

    for _ in range(3):
        assert gateway.get("/orders", bearer("somebody")).status == 200
    gateway.get("/orders", [("Authorization", "Bearer nonsense")])
    gateway.get("/orders")

    gateway.wait_for_metric('gateway_credentials_total{result="accepted"} 3.0')
    gateway.wait_for_metric('gateway_credentials_total{result="refused"} 1.0')
    gateway.wait_for_metric('gateway_backend_call_duration_seconds_count{service="orders"} 3.0')
    gateway.wait_for_metric('gateway_backend_connections{service="orders",state="in_use"} 0.0')
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(gateway.operations("/metrics").body.decode())
        for sample in family.samples
    }
    assert 20 << 20 < values["gateway_resident_memory_bytes"] < 1 << 30
    assert 0 < values["gateway_cpu_seconds_total"] < 60


def test_in_flight_falls_back_after_failures_and_callers_that_left(gateway: Gateway) -> None:
    gateway.get("/open/cut-chunked")
    gateway.get("/open/garbage")
    gateway.request("POST", "/small/x", [], b"x" * 2000)
    wire.exchange(gateway.port, b"GET /open/.. HTTP/1.1\r\nHost: a\r\n\r\n")

    gateway.wait_for_metric("gateway_requests_in_flight 1.0")  # the asking one


def test_methods_and_paths_of_callers_do_not_multiply_the_series(gateway: Gateway) -> None:
    for number in range(20):
        gateway.request(f"ODD{number}", f"/open/{number}")

    gateway.wait_for_metric('method="other"')
    assert "ODD1" not in gateway.operations("/metrics").body.decode()


def test_metrics_page_is_valid(gateway: Gateway) -> None:
    gateway.get("/kept/x")

    answer = gateway.operations("/metrics")

    assert answer.header("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    families = list(text_string_to_metric_families(answer.body.decode()))
    assert len({family.name for family in families}) == len(families) > 5
    assert all(family.documentation for family in families)


# `make test` puts it there where it can, see deploy/tools.sh
PROMTOOL = shutil.which("promtool", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_finds_no_fault_with_the_metrics(gateway: Gateway) -> None:
    checked = subprocess.run(
        [str(PROMTOOL), "check", "metrics"],
        input=gateway.operations("/metrics").body,
        capture_output=True,
        timeout=20,
        check=False,
    )

    assert checked.returncode == 0, checked.stderr.decode()


@pytest.mark.parametrize("path", ["/services", "/metrics", "/health/services"])
def test_refusal_of_an_operators_page_says_where_it_is_open(gateway: Gateway, path: str) -> None:
    anonymous, customer = gateway.get(path), gateway.get(path, bearer("curious"))

    assert (anonymous.status, customer.status) == (401, 403)
    assert "operations port" in str(anonymous.json()["detail"])
    assert "operations port" in str(customer.json()["detail"])
