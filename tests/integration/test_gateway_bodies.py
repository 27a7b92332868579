"""Request bodies: byte for byte, with one sound length, within the limit, and never half of one taken for the whole."""

from __future__ import annotations

import hashlib
import socket
import time

import pytest

from gateway.body import TAKEN_IN_BYTES
from tests.integration.conftest import ADMIN, Gateway, GatewayFactory, assert_problem, bearer, no_fault_in, ready
from tests.support import wire
from tests.support.processes import wait_until

CHUNKED = ("Transfer-Encoding", "chunked")
LIMIT = 1024  # of the service `small`


def chunks(*pieces: bytes, trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailer + b"\r\n"


@pytest.mark.parametrize("size", [1, 1000, 70_000, 1_000_000])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_body_arrives_byte_for_byte_with_its_length(gateway: Gateway, size: int, *, is_chunked: bool) -> None:
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    raw = chunks(body[: size // 3 + 1], body[size // 3 + 1 :] or b"x") if is_chunked else body
    sent = body if size > 1 or not is_chunked else body + b"x"

    answer = gateway.request("POST", "/open/x", [CHUNKED] if is_chunked else [], raw)

    (received,) = gateway.arrived
    assert answer.json()["sha256"] == hashlib.sha256(sent).hexdigest()
    assert received.header("Content-Length") == str(len(sent))
    assert received.all("Transfer-Encoding") == []
    assert gateway.stub.malformed == []


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"4;name=value\r\nbody\r\n0\r\n\r\n", id="extension"),
        pytest.param(b"0004\r\nbody\r\n000\r\n\r\n", id="leading zeros"),
        pytest.param(chunks(b"b", b"o", b"d", b"y"), id="small chunks"),
        pytest.param(chunks(b"body", trailer=b"X-Checksum: 42\r\nX-User-Id: evil\r\n"), id="trailer"),
    ],
)
def test_any_sound_chunking_arrives_as_the_same_body(gateway: Gateway, raw: bytes) -> None:
    gateway.request("POST", "/open/x", [CHUNKED], raw)

    (received,) = gateway.arrived
    assert received.body == b"body"
    assert received.header("Content-Length") == "4"
    assert received.all("X-Checksum") == received.all("X-User-Id") == []


@pytest.mark.parametrize(
    ("method", "fields", "raw"),
    [("POST", [CHUNKED], chunks()), ("POST", [("Content-Length", "0")], b""), ("POST", [], b""), ("PUT", [], b"")],
)
def test_empty_body_of_a_changing_method_says_length_zero(
    gateway: Gateway, method: str, fields: list[tuple[str, str]], raw: bytes
) -> None:
    gateway.request(method, "/open/x", fields, raw)

    (received,) = gateway.arrived
    assert received.all("Content-Length") == ["0"]
    assert received.body == b""


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_body_of_a_method_that_needs_none_arrives_too(gateway: Gateway, method: str, *, is_chunked: bool) -> None:
    gateway.request(method, "/open/x", [CHUNKED] if is_chunked else [], chunks(b"body") if is_chunked else b"body")

    (received,) = gateway.arrived
    assert (received.method, received.body) == (method, b"body")


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_request_without_a_body_announces_none(gateway: Gateway, method: str) -> None:
    gateway.request(method, "/open/x")

    (received,) = gateway.arrived
    assert received.all("Content-Length") == received.all("Transfer-Encoding") == []


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_body_exactly_at_the_limit_passes(gateway: Gateway, *, is_chunked: bool) -> None:
    body = b"x" * LIMIT
    raw = chunks(body[:1000], body[1000:]) if is_chunked else body

    answer = gateway.request("POST", "/small/x", [CHUNKED] if is_chunked else [], raw)

    assert answer.json()["length"] == LIMIT


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_one_byte_over_the_limit_is_refused_before_the_service(gateway: Gateway, *, is_chunked: bool) -> None:
    body = b"x" * (LIMIT + 1)
    raw = chunks(body[:1000], body[1000:]) if is_chunked else body

    answer = gateway.request("POST", "/small/x", [CHUNKED] if is_chunked else [], raw)

    assert_problem(answer, 413, "PAYLOAD_TOO_LARGE")
    assert str(LIMIT) in str(answer.json()["detail"])
    assert gateway.arrived == gateway.stub.malformed == []


def test_announced_length_is_refused_without_waiting_for_the_body(gateway: Gateway) -> None:
    raw = wire.request_bytes("POST", "/small/x", [("Content-Length", "999999999999")])

    answer = wire.exchange(gateway.port, raw)

    assert_problem(answer, 413, "PAYLOAD_TOO_LARGE")


def test_endless_chunked_body_is_refused_as_soon_as_it_is_too_long(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.send(wire.request_bytes("POST", "/small/x", [CHUNKED]) + b"800\r\n" + b"x" * 0x800 + b"\r\n800\r\n")
        answer = connection.answer()

    assert_problem(answer, 413, "PAYLOAD_TOO_LARGE")
    assert gateway.arrived == []


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_after_a_refused_body_the_connection_serves_the_next_request_or_none(
    gateway: Gateway, *, is_chunked: bool
) -> None:
    smuggled = b"GET /open/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    body = b"x" * LIMIT + smuggled
    raw = wire.request_bytes("POST", "/small/x", [CHUNKED] if is_chunked else [], chunks(body) if is_chunked else body)

    everything = wire.send_and_read_all(gateway.port, raw + wire.request_bytes("GET", "/open/next"))

    assert everything.startswith(b"HTTP/1.1 413 ")
    assert [received.path for received in gateway.arrived] in ([], ["/next"])


def test_refusal_for_want_of_a_token_leaves_the_body_alone(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.send(wire.request_bytes("POST", "/orders", [("Content-Length", "100000")]))
        answer = connection.answer()

    assert_problem(answer, 401, "TOKEN_REQUIRED")


def test_expecting_caller_is_told_to_go_on_and_then_answered(gateway: Gateway) -> None:
    head = wire.request_bytes("POST", "/open/x", [("Expect", "100-Continue"), ("Content-Length", "4")])

    with gateway.connect() as connection:
        connection.send(head)
        while not connection.everything(quiet_s=0.2).startswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            pass
        connection.send(b"body")
        answer = connection.answer()

    assert (answer.interim, answer.status) == ([100], 200)
    assert gateway.arrived[0].body == b"body"


@pytest.mark.parametrize(
    ("fields", "begun"),
    [
        pytest.param([("Content-Length", "100")], b"half", id="length"),
        pytest.param([("Content-Length", "1000000")], b"x" * 200_000, id="long"),
        pytest.param([CHUNKED], b"64\r\nhalf", id="chunk"),
        pytest.param([CHUNKED], b"4\r\nhalf\r\n", id="last chunk"),
        pytest.param([CHUNKED], b"4\r\nhalf\r\n0\r\n", id="last line"),
    ],
)
def test_body_that_is_cut_short_is_never_taken_for_a_whole_one(
    gateway: Gateway, fields: list[tuple[str, str]], begun: bytes
) -> None:
    with gateway.connect() as connection:
        connection.send(wire.request_bytes("POST", "/open/torn", fields) + begun)
        connection.finish_sending()
        answer = connection.answer()

    assert_problem(answer, 400, "INCOMPLETE_BODY")
    assert gateway.arrived == []
    if int(dict(fields).get("Content-Length", 0)) > TAKEN_IN_BYTES:  # it streamed, so the service saw it break off
        wait_until(lambda: len(gateway.stub.malformed) == 1, "the service to notice")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"xyz\r\nbody\r\n0\r\n\r\n", id="not hexadecimal"),
        pytest.param(b"-4\r\nbody\r\n0\r\n\r\n", id="negative"),
        pytest.param(b"0x4\r\nbody\r\n0\r\n\r\n", id="prefixed"),
        pytest.param(b"4\nbody\n0\n\n", id="bare LF"),
        pytest.param(b"4\r\nbody!\r\n0\r\n\r\n", id="longer than its size"),
        pytest.param(b"4\r\nbody0\r\n\r\n", id="no line end"),
        pytest.param(b"4 \r\nbody\r\n0\r\n\r\n", id="space"),
        pytest.param(b"\r\n4\r\nbody\r\n0\r\n\r\n", id="empty line"),
        pytest.param(b"fffffffffffffffff\r\nbody", id="overflow"),
        pytest.param(b"4\r\nbody\r\n0\r\nContent-Length: 9\r\n\r\n", id="length in the trailer"),
    ],
)
def test_malformed_chunk_never_reaches_the_service(gateway: Gateway, raw: bytes) -> None:
    head = wire.request_bytes("POST", "/open/x", [CHUNKED])

    with gateway.connect() as connection:
        connection.send(head + raw)
        connection.finish_sending()
        answer = connection.answer()
        rest = connection.everything()

    assert answer.status in (400, 413)
    assert answer.header("Content-Type") == "application/problem+json"
    assert rest == b""
    assert gateway.arrived == gateway.stub.malformed == []


def test_caller_that_goes_away_leaves_no_fault_behind(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.send(wire.request_bytes("POST", "/open/gone", [("Content-Length", "100000")]) + b"half")

    def is_told() -> bool:
        return any(line.get("path") == "/open/gone" for line in gateway.events("request"))

    wait_until(is_told, "the access line of the torn request")
    (line,) = [line for line in gateway.events("request") if line["path"] == "/open/gone"]
    assert line["status"] == 400
    assert gateway.get("/open/x").status == 200
    wait_until(lambda: len(gateway.stub.malformed) == 1, "the service to notice")


@pytest.fixture(scope="module")
def strict(start_gateway: GatewayFactory) -> Gateway:
    """MAX_REQUEST_SIZE is 2 KB, three failures open the breaker."""
    return start_gateway(MAX_REQUEST_SIZE="2KB", CIRCUIT_BREAKER_FAILURE_THRESHOLD="3", WEB_CONCURRENCY="1")


def test_max_request_size_has_a_unit_and_holds_for_every_service(strict: Gateway) -> None:
    ready(strict)

    for target in ("/orders", "/products", "/users/login", "/students/x"):
        assert strict.request("POST", target, ADMIN, b"x" * 2048).status == 200
        assert_problem(strict.request("POST", target, ADMIN, b"x" * 2049), 413, "PAYLOAD_TOO_LARGE")


def test_torn_bodies_do_not_open_the_breaker(strict: Gateway) -> None:
    ready(strict)

    for _ in range(5):
        with strict.connect() as connection:
            connection.send(wire.request_bytes("POST", "/open/torn", [("Content-Length", "100")]) + b"half")
            connection.finish_sending()
            assert connection.answer().status == 400

    assert strict.get("/open/x").status == 200
    assert strict.events("breaker") == []


def test_size_is_looked_at_before_the_token(gateway: Gateway) -> None:
    answer = gateway.request("POST", "/orders", [*bearer(), ("Content-Length", str(11 << 20))])

    assert_problem(answer, 413, "PAYLOAD_TOO_LARGE")


def test_caller_that_pauses_in_the_middle_of_a_body_is_cut_off(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1", CALLER_TIMEOUT="0.5")
    ready(gateway)

    for length in (10, 200_000):  # one is taken in first, the other streams
        with no_fault_in(gateway), wire.Connection(gateway.port) as slow:
            slow.send(wire.request_bytes("POST", "/open/echo", [("Content-Length", str(length))]) + b"12345")
            answer = slow.answer(to="POST")

        assert_problem(answer, 408, "REQUEST_TIMEOUT")
    assert gateway.get("/open/echo").status == 200


def test_caller_that_takes_no_more_of_its_answer_is_cut_off(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1", CALLER_TIMEOUT="0.5", BACKEND_POOL_SIZE="1")
    ready(gateway)

    with no_fault_in(gateway), socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as slow:
        slow.sendall(wire.request_bytes("GET", "/open/bytes/60000000"))
        slow.recv(1000)
        wait_until(lambda: gateway.get("/open/echo").status == 200, "the only connection to be free", timeout_s=8)


def test_connection_may_idle_for_longer_than_a_caller_may_pause(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1", CALLER_TIMEOUT="0.3")
    ready(gateway)

    with no_fault_in(gateway), gateway.connect() as connection:
        answers: list[int] = []
        for _ in range(2):
            connection.send(wire.request_bytes("GET", "/open/echo"))
            answers.append(connection.answer().status)
            time.sleep(1)  # the silence is what is tested

    assert answers == [200, 200]
