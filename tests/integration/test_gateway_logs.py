"""One line a request, joined by its id, and nothing in it that is nobody's business."""

from __future__ import annotations

import json

from tests.integration.conftest import KEYS, Gateway, assert_problem, bearer, carrying, honest
from tests.support import wire


def test_each_request_is_one_line_with_its_id_at_the_service_too(gateway: Gateway) -> None:
    answer = gateway.get("/api/v1/students/5?q=1", bearer("u7"))

    (line,) = gateway.log_of(answer)
    assert gateway.arrived[0].header("X-Request-ID") == line["request_id"]
    assert {name: line[name] for name in ("level", "event", "method", "path", "status", "to", "caller", "user")} == {
        "level": "info",
        "event": "request",
        "method": "GET",
        "path": "/api/v1/students/5",
        "status": 200,
        "to": "students",
        "caller": "127.0.0.0",
        "user": "u7",
    }
    assert isinstance(line["ms"], float)
    assert line["service"] == "gateway"


def test_refusals_have_their_line_too(gateway: Gateway) -> None:
    answers = {
        400: gateway.get("/open/.."),
        401: gateway.get("/orders"),
        404: gateway.get("/nowhere"),
        405: gateway.request("POST", "/products/5"),
        413: gateway.request("POST", "/small/x", [], b"x" * 2000),
        502: gateway.get("/absent/x"),
    }

    for status, answer in answers.items():
        (line,) = [line for line in gateway.log_of(answer) if line["event"] == "request"]
        assert line["status"] == status


def test_every_line_is_json_with_time_level_and_event(gateway: Gateway) -> None:
    gateway.log_of(gateway.get("/open/x"))

    lines = [json.loads(line) for line in gateway.process.log().splitlines() if line.strip()]

    assert all({"time", "level", "event", "service"} <= line.keys() for line in lines)


def test_tokens_passwords_bodies_and_queries_are_never_logged(gateway: Gateway) -> None:
    token, bad = KEYS.sign(honest("u8")), "bad.token.hunter2"
    gateway.get(f"/orders?access_token={token}", carrying(token))
    gateway.get("/orders", carrying(bad))
    gateway.request("POST", "/auth/login", [("Cookie", "session=hunter2")], b'{"password": "hunter2"}')
    gateway.request("POST", "/open/garbage?key=hunter2", carrying(token), b"hunter2")
    gateway.get("/absent/x?key=hunter2", carrying(token))
    gateway.log_of(gateway.get("/open/last"))
    wire.exchange(gateway.port, f"GET /orders HTTP/1.1\r\nAuthorization : Bearer {token}\r\n\r\n".encode())

    log = gateway.process.log()

    assert "hunter2" not in log
    assert token not in log
    assert token.rpartition(".")[2] not in log


def test_nothing_of_one_request_shows_in_the_next_on_its_connection(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        first = connection.exchange(wire.request_bytes("GET", "/students/1", bearer("u9")))
        refused = connection.exchange(wire.request_bytes("GET", "/students/.."))
        second = connection.exchange(wire.request_bytes("GET", "/open/2"))

    ids = {answer.header("X-Request-ID") for answer in (first, refused, second)}
    assert len(ids) == 3
    (line,) = gateway.log_of(second)
    assert "user" not in line
    assert line["path"] == "/open/2"
    assert gateway.log_of(refused)[0].get("user") is None
    assert [received.header("X-User-Id") for received in gateway.arrived] == ["u9", None]
    assert_problem(refused, 400, "UNSAFE_PATH")


def test_long_and_odd_paths_make_no_long_or_torn_lines(gateway: Gateway) -> None:
    answer = gateway.get("/open/" + "x" * 5000 + "%22%5B")

    (line,) = gateway.log_of(answer)
    assert len(str(line["path"])) <= 512


def test_probes_are_not_logged(gateway: Gateway) -> None:
    answers = [gateway.get(target) for target in ("/health", "/ready", "/health/startup")]
    answers.append(gateway.operations("/metrics"))

    gateway.log_of(gateway.get("/open/later"))
    logged = {line.get("request_id") for line in gateway.process.json_log()}
    assert logged.isdisjoint({answer.header("X-Request-ID") for answer in answers})
