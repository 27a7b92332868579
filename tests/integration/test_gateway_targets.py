"""Hosts, targets, faces: what is refused never reaches a service, and no field of a caller changes where it leads."""

from __future__ import annotations

import pytest

from tests.integration.conftest import ADMIN, Gateway, assert_problem, bearer
from tests.support import wire


def raw_get(target: str, *fields: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET {target} HTTP/{version}", *fields, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([], id="none"),
        pytest.param(["Host:"], id="empty"),
        pytest.param(["Host: a, b"], id="list"),
        pytest.param(["Host: a/b"], id="path"),
        pytest.param(["Host: user@a"], id="user"),
        pytest.param(["Host: a b"], id="space"),
        pytest.param(["Host: a:b"], id="port"),
        pytest.param(["Host: a:123456"], id="long port"),
        pytest.param(["Host: [::1"], id="open bracket"),
        pytest.param(["Host: ::1"], id="bare IPv6"),
        pytest.param(["Host: <script>"], id="markup"),
        pytest.param(["Host: caf\xe9"], id="not ASCII"),
    ],
)
def test_request_without_one_well_formed_host_is_refused(gateway: Gateway, fields: list[str]) -> None:
    answer = wire.exchange(gateway.port, raw_get("/open/x", *fields))

    assert_problem(answer, 400, "MALFORMED_HOST")
    assert gateway.arrived == []


def test_two_hosts_are_refused(gateway: Gateway) -> None:
    answer = wire.exchange(gateway.port, raw_get("/open/x", "Host: a", "Host: a"))

    assert_problem(answer, 400, "MALFORMED_REQUEST")
    assert gateway.arrived == []


@pytest.mark.parametrize("host", ["example.org", "EXAMPLE.org:80", "127.0.0.1:1", "[::1]:8080", "a_b.c", "x:", "%41"])
def test_well_formed_host_is_accepted_and_told_to_the_service(gateway: Gateway, host: str) -> None:
    answer = wire.exchange(gateway.port, raw_get("/open/x", f"Host: {host}"))

    (received,) = gateway.arrived
    assert answer.status == 200
    assert received.header("Host") == f"127.0.0.1:{gateway.stub.port}"
    assert received.header("X-Forwarded-Host") == host


def test_http_1_0_may_leave_out_the_host(gateway: Gateway) -> None:
    answer = wire.exchange(gateway.port, raw_get("/open/x", version="1.0"))

    assert answer.status == 200
    assert answer.closed


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("OPTIONS", "*", 400, "UNSUPPORTED_TARGET"),
        ("CONNECT", "example.org:443", 501, "METHOD_NOT_IMPLEMENTED"),
        ("CONNECT", "/open/x", 501, "METHOD_NOT_IMPLEMENTED"),
        ("TRACE", "/open/x", 501, "METHOD_NOT_IMPLEMENTED"),
        ("GET", "ftp://127.0.0.1/open/x", 400, "UNSUPPORTED_TARGET"),
        ("GET", "http://elsewhere.example/open/x", 400, "MALFORMED_HOST"),
        ("GET", "http://user@127.0.0.1/open/x", 400, "MALFORMED_HOST"),
        ("GET", "http:///open/x", 400, "MALFORMED_HOST"),
        ("GET", "/open/%2e%2e/%2e%2e/etc/passwd", 400, "UNSAFE_PATH"),
        ("GET", "/open/../staff", 400, "UNSAFE_PATH"),
        ("GET", "/api%2fv1/open/x", 400, "UNSAFE_PATH"),
        ("GET", "/open\\..\\staff", 400, "UNSAFE_PATH"),
        ("GET", "/open/a%00b", 400, "UNSAFE_PATH"),
        ("GET", "/nowhere/x", 404, "SERVICE_NOT_FOUND"),
        ("GET", "/api/v1/nowhere", 404, "SERVICE_NOT_FOUND"),
        ("GET", "/api", 404, "SERVICE_NOT_FOUND"),
        ("GET", "/api/v1/", 404, "SERVICE_NOT_FOUND"),
        ("GET", "/v1/open", 404, "SERVICE_NOT_FOUND"),
        ("GET", "/API/v1/open", 404, "SERVICE_NOT_FOUND"),
        ("GET", "/Open/x", 404, "SERVICE_NOT_FOUND"),
        ("GET", "//open/x", 404, "SERVICE_NOT_FOUND"),
        ("GET", "/products/5/reviews", 404, "ROUTE_NOT_FOUND"),
        ("POST", "/products/5", 405, "METHOD_NOT_ALLOWED"),
        ("DELETE", "/products", 405, "METHOD_NOT_ALLOWED"),
        ("BREW", "/products", 405, "METHOD_NOT_ALLOWED"),
    ],
)
def test_target_that_leads_nowhere_is_a_problem_and_touches_no_service(
    gateway: Gateway, method: str, target: str, status: int, code: str
) -> None:
    answer = gateway.request(method, target, ADMIN)

    assert_problem(answer, status, code)
    assert gateway.arrived == []


def test_405_lists_what_is_allowed(gateway: Gateway) -> None:
    answer = gateway.request("POST", "/products/5", ADMIN)

    assert answer.header("Allow") == "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"


def test_options_is_answered_here_where_the_methods_are_known(gateway: Gateway) -> None:
    answer = gateway.request("OPTIONS", "/api/v1/products/5")

    assert (answer.status, answer.body) == (204, b"")
    assert answer.header("Allow") == "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"
    assert gateway.arrived == []


@pytest.mark.parametrize("method", ["OPTIONS", "PROPFIND", "BREW", "X-ODD!"])
def test_configured_service_gets_any_method(gateway: Gateway, method: str) -> None:
    answer = gateway.request(method, "/open/x")

    assert answer.status == 200
    assert gateway.arrived[0].method == method


@pytest.mark.parametrize(
    ("target", "arrives"),
    [
        ("/open", "/"),
        ("/open/", "/"),
        ("/open?x", "/?x"),
        ("/open//", "//"),
        ("/open//x", "//x"),
        ("/open/x//y/", "/x//y/"),
        ("/api/v1/open/api/v1/open", "/api/v1/open"),
        ("/%6fpen/x", "/x"),
        ("/a%70i/v1/open/x%70", "/x%70"),
        ("/open/http://elsewhere.example/", "/http://elsewhere.example/"),
        ("/open/@elsewhere.example:80/", "/@elsewhere.example:80/"),
    ],
)
def test_prefix_is_cut_off_and_the_rest_left_alone(gateway: Gateway, target: str, arrives: str) -> None:
    answer = gateway.get(target)

    (received,) = gateway.arrived
    assert answer.status == 200
    assert received.target == arrives


@pytest.mark.parametrize("target", ["/students//5", "/students/5//6", "/students/a/b/c/", "/students/%2a//"])
def test_empty_segments_below_a_service_survive(gateway: Gateway, target: str) -> None:
    answer = gateway.get(target, ADMIN)

    assert answer.status == 200
    assert gateway.arrived[0].target == target


@pytest.mark.parametrize("target", ["/auth/login", "/api/auth/login", "/api/v1/auth/login", "/users/login"])
def test_auth_is_another_face_of_users(gateway: Gateway, target: str) -> None:
    answer = gateway.request("POST", target, [("Content-Type", "application/json")], b"{}")

    assert answer.status == 200
    assert gateway.arrived[0].target == "/users/login"


@pytest.mark.parametrize(
    ("target", "version", "status"),
    [
        ("/open/x", "1", 200),
        ("/open/x", "v1", 200),
        ("/api/open/x", "1", 200),
        ("/api/v1/open/x", "1", 200),
        ("/open/x", "2", 400),
        ("/open/x", "one", 400),
        ("/api/v2/open/x", "1", 404),
    ],
)
def test_version_is_one_that_is_known(gateway: Gateway, target: str, version: str, status: int) -> None:
    answer = gateway.get(target, [("API-Version", version)])

    assert answer.status == status
    if status != 200:
        assert_problem(answer, status, "UNKNOWN_VERSION")
        assert "1" in str(answer.json()["detail"])


@pytest.mark.parametrize(
    "trick",
    [
        ("SCRIPT_NAME", "/staff"),
        ("Script-Name", "/open"),
        ("PATH_INFO", "/staff/x"),
        ("Path-Info", "/staff/x"),
        ("REQUEST_URI", "/staff/x"),
        ("RAW-URI", "/staff/x"),
        ("X-Original-URL", "/staff/x"),
        ("X-Rewrite-URL", "/staff/x"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("X-Forwarded-Prefix", "/staff"),
    ],
)
def test_no_field_moves_a_request(gateway: Gateway, trick: tuple[str, str]) -> None:
    answer = gateway.get("/open/x", [trick])

    (received,) = gateway.arrived
    assert answer.status == 200
    assert (received.method, received.target) == ("GET", "/x")


@pytest.mark.parametrize("port", ["{operations}", "5101", "0"])
def test_naming_the_operations_port_as_host_opens_nothing(gateway: Gateway, port: str) -> None:
    host = f"127.0.0.1:{port.format(operations=gateway.operations_port)}"

    answer = gateway.get("/metrics", [("Host", host), ("X-Forwarded-Port", str(gateway.operations_port))])

    assert_problem(answer, 401, "TOKEN_REQUIRED")


def test_answer_to_a_customer_names_no_address_of_a_service(gateway: Gateway) -> None:
    answer = gateway.get("/absent/x", bearer())

    assert_problem(answer, 502, "SERVICE_UNREACHABLE")
