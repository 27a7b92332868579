"""Shapes of attack over raw sockets: what could be read in two ways is refused, and no service sees it; nothing that is
hidden in a request becomes one. The plainer kinds of malformed request stand in test_gateway_parser."""

from __future__ import annotations

import pytest

from tests.integration.conftest import KEYS, Gateway, assert_problem, honest
from tests.support import wire
from tests.support.hostile import (
    CHUNKED,
    DOUBTFUL_FIELDS,
    DOUBTFUL_FRAMING,
    DOUBTFUL_LINES,
    LAST_CHUNK,
    LENGTH,
    request,
)
from tests.support.hostile import TOKEN as A_TOKEN

SMUGGLED = b"GET /open/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
TOKEN = KEYS.sign(honest()).encode()

H2C = b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade, HTTP2-Settings\r\n"


@pytest.mark.parametrize("raw", DOUBTFUL_FRAMING.values(), ids=DOUBTFUL_FRAMING)
def test_doubtful_framing_is_refused_and_nothing_behind_it_is_served(gateway: Gateway, raw: bytes) -> None:
    with gateway.connect() as connection:
        answer = connection.exchange(raw + SMUGGLED)
        rest = connection.everything()

    assert answer.status in (400, 413, 431, 501)
    assert answer.header("Content-Type") == "application/problem+json"
    assert rest == b""
    assert gateway.arrived == gateway.stub.malformed == []


@pytest.mark.parametrize("path", [b"/open/x", b"/students/x"], ids=["public", "protected"])
@pytest.mark.parametrize("raw", DOUBTFUL_FIELDS.values(), ids=DOUBTFUL_FIELDS)
def test_doubtful_field_is_refused(gateway: Gateway, raw: bytes, path: bytes) -> None:
    answer = wire.exchange(gateway.port, raw.replace(b"/open/x", path).replace(A_TOKEN, TOKEN))

    assert answer.status == 400
    assert answer.header("Content-Type") == "application/problem+json"
    assert gateway.arrived == []


def test_two_credentials_are_refused_where_it_matters_who_calls(gateway: Gateway) -> None:
    answer = gateway.get("/students/x", [("Authorization", f"Bearer {TOKEN.decode()}"), ("X-API-Key", "x")])

    assert_problem(answer, 400, "AMBIGUOUS_CREDENTIALS")
    assert gateway.arrived == []


@pytest.mark.parametrize("line", DOUBTFUL_LINES.values(), ids=DOUBTFUL_LINES)
def test_doubtful_request_line_is_refused(gateway: Gateway, line: bytes) -> None:
    answer = wire.exchange(gateway.port, request(line=line))

    assert answer.status in (400, 501)
    assert answer.header("Content-Type") == "application/problem+json"
    assert gateway.arrived == []


@pytest.mark.parametrize(
    ("fields", "body", "expected"),
    [
        pytest.param(b"Transfer-Encoding: Chunked\r\n", LAST_CHUNK, b"", id="case of chunked"),
        pytest.param(CHUNKED, b'5;a="b\\"";c\r\nxxxxx\r\n0\r\n\r\n', b"xxxxx", id="extension"),
        pytest.param(CHUNKED, b"0005\r\nxxxxx\r\n000\r\n\r\n", b"xxxxx", id="zeros"),
        pytest.param(b"Content-Length: 00005\r\n", b"xxxxx", b"xxxxx", id="zeros of a length"),
        pytest.param(b"Content-Length: %d\r\n" % len(SMUGGLED), SMUGGLED, SMUGGLED, id="a request as a body"),
        pytest.param(b"Transfer_Encoding: chunked\r\n" + LENGTH, b"xxxxx", b"xxxxx", id="underscore"),
        pytest.param(H2C + LENGTH, b"xxxxx", b"xxxxx", id="h2c"),
        pytest.param(b"Connection: Content-Length, Host\r\n" + LENGTH, b"xxxxx", b"xxxxx", id="length is hop-by-hop"),
    ],
)
def test_sound_request_is_one_request_to_the_service_whatever_stands_in_it(
    gateway: Gateway, fields: bytes, body: bytes, expected: bytes
) -> None:
    with gateway.connect() as connection:
        first = connection.exchange(request(fields) + body)
        second = connection.exchange(request(line=b"GET /open/next HTTP/1.1"))

    assert [first.status, second.status] == [200, 200]
    assert [received.target for received in gateway.arrived] == ["/x", "/next"]
    assert gateway.arrived[0].body == expected
    assert gateway.arrived[0].header("Content-Length") == str(len(expected))
    for name in ("Transfer-Encoding", "Transfer_Encoding", "Upgrade", "HTTP2-Settings"):
        assert gateway.arrived[0].all(name) == []
    assert gateway.stub.malformed == []


def test_data_behind_a_body_is_another_request_or_nothing(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        first = connection.exchange(request(LENGTH) + b"xxxxxyyy")
        connection.finish_sending()
        rest = connection.everything()

    assert first.status == 200
    assert rest.count(b"HTTP/1.1 ") <= 1
    assert len(gateway.arrived) == 1


def test_refused_body_leaves_nothing_that_could_be_taken_for_a_request(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        first = connection.exchange(
            request(b"Content-Length: %d\r\n" % len(SMUGGLED), line=b"POST /students/x HTTP/1.1") + SMUGGLED
        )
        second = connection.exchange(request(line=b"GET /open/next HTTP/1.1"))

    assert_problem(first, 401, "TOKEN_REQUIRED")
    assert second.status == 200
    assert [received.target for received in gateway.arrived] == ["/next"]
