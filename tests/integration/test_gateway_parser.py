"""What is not HTTP/1.1 is refused before anything else sees it, in the one error shape and never as HTML."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Gateway, assert_problem
from tests.support import wire

HOST = b"Host: a\r\n"
BODY = b"Content-Length: 4\r\n\r\nbody"


def get(fields: bytes = b"", *, line: bytes = b"GET /open/x HTTP/1.1") -> bytes:
    return line + b"\r\n" + HOST + fields + b"\r\n"


def post(fields: bytes, body: bytes = b"") -> bytes:
    return b"POST /open/x HTTP/1.1\r\n" + HOST + fields + b"\r\n" + body


MALFORMED = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no request line": b"\r\n\r\nGET /open/x HTTP/1.1\r\n\r\n",
    "lower-case method": get(line=b"get /open/x HTTP/1.1"),
    "method with a control character": get(line=b"G\x00T /open/x HTTP/1.1"),
    "long method": get(line=b"M" * 300 + b" /open/x HTTP/1.1"),
    "no version": get(line=b"GET /open/x"),
    "version 2.0": get(line=b"GET /open/x HTTP/2.0"),
    "version 1.2 digits": get(line=b"GET /open/x HTTP/1.10"),
    "lower-case version": get(line=b"GET /open/x http/1.1"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two spaces": get(line=b"GET  /open/x HTTP/1.1"),
    "space in the target": get(line=b"GET /open/x y HTTP/1.1"),
    "tab for a space": get(line=b"GET\t/open/x\tHTTP/1.1"),
    "target without a slash": get(line=b"GET open/x HTTP/1.1"),
    "target not ASCII": get(line=b"GET /open/\xc3\xa9 HTTP/1.1"),
    "NUL in the target": get(line=b"GET /open/\x00 HTTP/1.1"),
    "bare LF": b"GET /open/x HTTP/1.1\nHost: a\n\n",
    "one bare LF": b"GET /open/x HTTP/1.1\r\nHost: a\nX-A: 1\r\n\r\n",
    "bare CR in a value": get(b"X-A: 1\r2\r\n"),
    "folded line": get(b"X-A: 1\r\n  2\r\n"),
    "space before the colon": get(b"X-A : 1\r\n"),
    "space before the name": b"GET /open/x HTTP/1.1\r\n Host: a\r\n\r\n",
    "no colon": get(b"X-A\r\n"),
    "empty name": get(b": 1\r\n"),
    "name not a token": get(b"X(A): 1\r\n"),
    "name not ASCII": get(b"X-\xe9: 1\r\n"),
    "NUL in a value": get(b"X-A: 1\x002\r\n"),
    "two lengths": post(b"Content-Length: 4\r\nContent-Length: 5\r\n", b"body!"),
    "two equal lengths": post(b"Content-Length: 4\r\nContent-Length: 4\r\n", b"body"),
    "list of lengths": post(b"Content-Length: 4, 4\r\n", b"body"),
    "signed length": post(b"Content-Length: +4\r\n", b"body"),
    "negative length": post(b"Content-Length: -4\r\n", b"body"),
    "underscored length": post(b"Content-Length: 0_4\r\n", b"body"),
    "hexadecimal length": post(b"Content-Length: 0x4\r\n", b"body"),
    "empty length": post(b"Content-Length:\r\n", b"body"),
    "length in other digits": post("Content-Length: \u00b2\r\n".encode("latin-1"), b"bo"),
    "length and chunks": post(b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "chunks and length": post(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", b"0\r\n\r\n"),
    "chunked twice": post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "chunked, chunked": post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"),
    "chunked not last": post(b"Transfer-Encoding: chunked, gzip\r\n", b"0\r\n\r\n"),
    "identity": post(b"Transfer-Encoding: identity\r\n", b"body"),
    "chunked in HTTP/1.0": b"POST /open/x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two media types": post(b"Content-Type: a/b\r\nContent-Type: c/d\r\nContent-Length: 4\r\n", b"body"),
}

OTHERWISE = {
    "long request line": (get(line=b"GET /open/" + b"x" * 9000 + b" HTTP/1.1"), 414, "URI_TOO_LONG"),
    "endless request line": (b"GET /open/" + b"x" * 20_000, 414, "URI_TOO_LONG"),
    "many fields": (get(b"".join(b"X-%d: 1\r\n" % number for number in range(101))), 431, "HEADERS_TOO_LARGE"),
    "a large field": (get(b"X-Large: " + b"x" * 17_000 + b"\r\n"), 431, "HEADERS_TOO_LARGE"),
    "unknown coding": (post(b"Transfer-Encoding: rot13\r\n", b"body"), 501, "NOT_IMPLEMENTED"),
    "unknown coding before chunked": (post(b"Transfer-Encoding: rot13, chunked\r\n"), 501, "NOT_IMPLEMENTED"),
    "unknown expectation": (post(b"Expect: miracles\r\n" + BODY), 417, "EXPECTATION_FAILED"),
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_malformed_request_is_a_problem_and_ends_the_connection(gateway: Gateway, raw: bytes) -> None:
    answer = wire.exchange(gateway.port, raw)

    assert_problem(answer, 400, "MALFORMED_REQUEST")
    assert answer.header("Connection") == "close"
    assert answer.closed
    assert gateway.arrived == gateway.stub.malformed == []


@pytest.mark.parametrize(("raw", "status", "code"), OTHERWISE.values(), ids=OTHERWISE)
def test_request_beyond_what_is_offered_is_a_problem(gateway: Gateway, raw: bytes, status: int, code: str) -> None:
    answer = wire.exchange(gateway.port, raw)

    assert_problem(answer, status, code)
    assert answer.closed
    assert gateway.arrived == []


def test_refusal_repeats_nothing_of_what_was_sent(gateway: Gateway) -> None:
    answer = wire.exchange(gateway.port, get(b"X-A<script>: Bearer hunter2\r\n"))

    assert b"hunter2" not in answer.raw
    assert b"script" not in answer.raw
    assert "hunter2" not in gateway.process.log()


def test_refusal_is_found_in_the_log_by_its_id(gateway: Gateway) -> None:
    answer = wire.exchange(gateway.port, MALFORMED["two lengths"])

    (line,) = gateway.log_of(answer)
    assert line["code"] == "MALFORMED_REQUEST"
    assert line["level"] == "info"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(b"X-A:1\r\n", id="no space after the colon"),
        pytest.param(b"X-A: \t 1 \t \r\n", id="white space around the value"),
        pytest.param(b"X-A: 1\xe9\xff\r\n", id="obs-text"),
        pytest.param(b"X-A:\r\n", id="empty value"),
        pytest.param(b"".join(b"X-%d: 1\r\n" % number for number in range(98)), id="99 fields"),
        pytest.param(b"X-A: " + b"x" * 16_000 + b"\r\n", id="16 KB in a field"),
    ],
)
def test_unusual_but_well_formed_request_is_served(gateway: Gateway, fields: bytes) -> None:
    answer = wire.exchange(gateway.port, get(fields))

    assert answer.status == 200
    assert len(gateway.arrived) == 1


def test_one_empty_line_before_a_request_is_forgiven(gateway: Gateway) -> None:
    answer = wire.exchange(gateway.port, b"\r\n" + get())

    assert answer.status == 200


def test_request_line_of_8000_bytes_is_served(gateway: Gateway) -> None:
    target = "/open/" + "x" * 8000

    answer = gateway.get(target)

    assert answer.status == 200
    assert gateway.arrived[0].target == "/" + "x" * 8000


def test_nothing_behind_a_refused_request_is_taken_for_another(gateway: Gateway) -> None:
    raw = wire.send_and_read_all(gateway.port, MALFORMED["length and chunks"] + get())

    assert raw.count(b"HTTP/1.1 ") == 1
    assert gateway.arrived == []


def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    first, second = wire.request_bytes("POST", "/open/1", [], b"one"), wire.request_bytes("GET", "/open/2")

    with gateway.connect() as connection:
        connection.send(first + second)
        answers = [connection.answer(), connection.answer()]

    assert [answer.json()["target"] for answer in answers] == ["/1", "/2"]
    assert answers[0].json()["body"] == "one"
