"""Shapes of attack over raw sockets: what could be read in two ways is refused, and no service sees it; nothing that is
hidden in a request becomes one. The plainer kinds of malformed request stand in test_gateway_parser."""

from __future__ import annotations

import pytest

from tests.integration.conftest import KEYS, Gateway, assert_problem, honest
from tests.support import wire

SMUGGLED = b"GET /open/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
TOKEN = KEYS.sign(honest()).encode()

H2C = b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade, HTTP2-Settings\r\n"


def request(*fields: bytes, line: bytes = b"POST /open/x HTTP/1.1", host: bytes = b"Host: a\r\n") -> bytes:
    return line + b"\r\n" + host + b"".join(fields) + b"\r\n"


CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: 5\r\n"
LAST_CHUNK = b"0\r\n\r\n"

# each is followed by a whole request that a server with another idea of the framing would serve
DOUBTFUL_FRAMING = {
    "CL.TE": request(b"Content-Length: 5\r\n", CHUNKED) + LAST_CHUNK,
    "TE.CL": request(CHUNKED, b"Content-Length: 3\r\n") + b"1\r\nx\r\n0\r\n\r\n",
    "CL.CL, equal": request(LENGTH, LENGTH) + b"xxxxx",
    "CL.CL, different": request(b"Content-Length: 0\r\n", LENGTH) + b"xxxxx",
    "CL in two cases": request(LENGTH, b"content-length: 0\r\n") + b"xxxxx",
    "CL as a list": request(b"Content-Length: 5, 5\r\n") + b"xxxxx",
    "CL with a plus": request(b"Content-Length: +5\r\n") + b"xxxxx",
    "CL with a space inside": request(b"Content-Length: 0 5\r\n") + b"xxxxx",
    "CL in hexadecimal": request(b"Content-Length: 0x5\r\n") + b"xxxxx",
    "CL with digits that are none": request("Content-Length: ²\r\n".encode("latin-1")) + b"xx",
    "CL of 5000 digits": request(b"Content-Length: " + b"1" * 5000 + b"\r\n"),
    "CL behind a vertical tab": request(b"Content-Length:\x0b5\r\n") + b"xxxxx",
    "CL and a space before its colon": request(b"Content-Length : 5\r\n") + b"xxxxx",
    "TE twice": request(CHUNKED, CHUNKED) + LAST_CHUNK,
    "TE twice, other case": request(CHUNKED, b"TRANSFER-ENCODING: Chunked\r\n") + LAST_CHUNK,
    "TE twice, the first unknown": request(b"Transfer-Encoding: x\r\n", CHUNKED) + LAST_CHUNK,
    "TE chunked, identity": request(b"Transfer-Encoding: chunked, identity\r\n") + LAST_CHUNK,
    "TE identity, chunked": request(b"Transfer-Encoding: identity, chunked\r\n") + LAST_CHUNK,
    "TE gzip, chunked": request(b"Transfer-Encoding: gzip, chunked\r\n") + LAST_CHUNK,
    "TE xchunked": request(b"Transfer-Encoding: xchunked\r\n") + LAST_CHUNK,
    "TE chunkedx and CL": request(b"Transfer-Encoding: chunkedx\r\n", LENGTH) + b"xxxxx",
    "TE with a comma behind": request(b"Transfer-Encoding: chunked,\r\n") + LAST_CHUNK,
    "TE with a comma before": request(b"Transfer-Encoding: ,chunked\r\n") + LAST_CHUNK,
    "TE in quotes": request(b'Transfer-Encoding: "chunked"\r\n') + LAST_CHUNK,
    "TE with a parameter": request(b"Transfer-Encoding: chunked;q=1\r\n") + LAST_CHUNK,
    "TE empty and CL": request(b"Transfer-Encoding:\r\n", LENGTH) + b"xxxxx",
    "TE behind a vertical tab": request(b"Transfer-Encoding:\x0bchunked\r\n") + LAST_CHUNK,
    "TE behind a form feed": request(b"Transfer-Encoding: \x0cchunked\r\n") + LAST_CHUNK,
    "TE and a NUL": request(b"Transfer-Encoding: chunked\x00\r\n") + LAST_CHUNK,
    "TE and a space before its colon": request(b"Transfer-Encoding : chunked\r\n") + LAST_CHUNK,
    "TE and a tab before its colon": request(b"Transfer-Encoding\t: chunked\r\n") + LAST_CHUNK,
    "TE folded": request(b"Transfer-Encoding:\r\n chunked\r\n") + LAST_CHUNK,
    "TE folded into another field": request(b"X-A: 1\r\n Transfer-Encoding: chunked\r\n") + LAST_CHUNK,
    "TE behind a bare LF": request(b"X-A: 1\nTransfer-Encoding: chunked\r\n") + LAST_CHUNK,
    "TE behind a bare CR": request(b"X-A: 1\rTransfer-Encoding: chunked\r\n") + LAST_CHUNK,
    "TE with a space in front": request(b" Transfer-Encoding: chunked\r\n") + LAST_CHUNK,
    "TE in HTTP/1.0": request(CHUNKED, line=b"POST /open/x HTTP/1.0") + LAST_CHUNK,
    "head ends with bare LFs": b"POST /open/x HTTP/1.1\nHost: a\nContent-Length: 0\n\n",
    "head ends with LF CR LF": b"POST /open/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\n\r\n",
    "line of spaces before the end": request(b"Content-Length: 5\r\n \r\n") + b"xxxxx",
    "two empty lines in front": b"\r\n\r\n" + request(b"Content-Length: 0\r\n"),
    "space in front": b" " + request(b"Content-Length: 0\r\n"),
    "space before the end of a line": b"POST /open/x HTTP/1.1 \r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "chunk size with a sign": request(CHUNKED) + b"+5\r\nxxxxx\r\n0\r\n\r\n",
    "chunk size with 0x": request(CHUNKED) + b"0x5\r\nxxxxx\r\n0\r\n\r\n",
    "chunk size with an underscore": request(CHUNKED) + b"0_5\r\nxxxxx\r\n0\r\n\r\n",
    "chunk size with a space": request(CHUNKED) + b"5 \r\nxxxxx\r\n0\r\n\r\n",
    "chunk size missing": request(CHUNKED) + b"\r\nxxxxx\r\n0\r\n\r\n",
    "chunk size behind a bare LF": request(CHUNKED) + b"5\nxxxxx\r\n0\r\n\r\n",
    "chunk that is longer": request(CHUNKED) + b"5\r\nxxxxxx\r\n0\r\n\r\n",
    "chunk without an end": request(CHUNKED) + b"5\r\nxxxxx0\r\n\r\n",
    "chunk that ends with a bare LF": request(CHUNKED) + b"5\r\nxxxxx\n0\r\n\r\n",
    "extension with a bare LF": request(CHUNKED) + b"5;a\nb\r\nxxxxx\r\n0\r\n\r\n",
    "extension with a bare CR": request(CHUNKED) + b"5;a\rb\r\nxxxxx\r\n0\r\n\r\n",
    "extension with a NUL": request(CHUNKED) + b"5;\x00\r\nxxxxx\r\n0\r\n\r\n",
    "extension without a name": request(CHUNKED) + b"5;=1\r\nxxxxx\r\n0\r\n\r\n",
    "extension without an end": request(CHUNKED) + b"5;" + b"a" * 40_000,
    "trailer with a length": request(CHUNKED) + b"0\r\nContent-Length: 5\r\n\r\n",
    "trailer with a token": request(CHUNKED) + b"0\r\nAuthorization: Bearer x\r\n\r\n",
    "trailer with a bare LF": request(CHUNKED) + b"0\r\nX-A: 1\n\r\n",
    "trailer that is folded": request(CHUNKED) + b"0\r\nX-A: 1\r\n 2\r\n\r\n",
}


@pytest.mark.parametrize("raw", DOUBTFUL_FRAMING.values(), ids=DOUBTFUL_FRAMING)
def test_doubtful_framing_is_refused_and_nothing_behind_it_is_served(gateway: Gateway, raw: bytes) -> None:
    with gateway.connect() as connection:
        answer = connection.exchange(raw + SMUGGLED)
        rest = connection.everything()

    assert answer.status in (400, 413, 431, 501)
    assert answer.header("Content-Type") == "application/problem+json"
    assert rest == b""
    assert gateway.arrived == gateway.stub.malformed == []


DOUBTFUL_FIELDS = {
    "no Host": request(host=b""),
    "two Hosts": request(b"Host: b\r\n"),
    "two equal Hosts": request(b"Host: a\r\n"),
    "two Hosts in two cases": request(b"hOST: b\r\n"),
    "empty Host": request(host=b"Host:\r\n"),
    "Host with a path": request(host=b"Host: a/open\r\n"),
    "Host with a user": request(host=b"Host: a@b\r\n"),
    "Host with a NUL": request(host=b"Host: a\x00b\r\n"),
    "Host folded": request(host=b"Host:\r\n a\r\n"),
    "two Content-Types": request(b"Content-Type: a/b\r\nContent-Type: a/b\r\nContent-Length: 0\r\n"),
    "two Authorizations": request(b"Authorization: Bearer " + TOKEN + b"\r\nAuthorization: Basic eA==\r\n"),
    "two equal Authorizations": request(2 * (b"Authorization: Bearer " + TOKEN + b"\r\n")),
    "two Authorizations in two cases": request(b"Authorization: Bearer x\r\nauthorization: Bearer y\r\n"),
    "name with a NUL": request(b"X\x00A: 1\r\n"),
    "name with a vertical tab": request(b"X\x0bA: 1\r\n"),
    "value with a backspace": request(b"X-A: 1\x08\r\n"),
    "value with DEL": request(b"X-A: 1\x7f\r\n"),
}


@pytest.mark.parametrize("path", [b"/open/x", b"/students/x"], ids=["public", "protected"])
@pytest.mark.parametrize("raw", DOUBTFUL_FIELDS.values(), ids=DOUBTFUL_FIELDS)
def test_doubtful_field_is_refused(gateway: Gateway, raw: bytes, path: bytes) -> None:
    answer = wire.exchange(gateway.port, raw.replace(b"/open/x", path))

    assert answer.status == 400
    assert answer.header("Content-Type") == "application/problem+json"
    assert gateway.arrived == []


def test_two_credentials_are_refused_where_it_matters_who_calls(gateway: Gateway) -> None:
    answer = gateway.get("/students/x", [("Authorization", f"Bearer {TOKEN.decode()}"), ("X-API-Key", "x")])

    assert_problem(answer, 400, "AMBIGUOUS_CREDENTIALS")
    assert gateway.arrived == []


DOUBTFUL_LINES = {
    "lower-case method": b"post /open/x HTTP/1.1",
    "method with a NUL": b"PO\x00ST /open/x HTTP/1.1",
    "method with a colon": b"POST: /open/x HTTP/1.1",
    "TRACE": b"TRACE /open/x HTTP/1.1",
    "CONNECT": b"CONNECT a:80 HTTP/1.1",
    "CONNECT with a path": b"CONNECT /open/x HTTP/1.1",
    "tunnel by an absolute form": b"GET http://127.0.0.1:22/open/x HTTP/1.1",
    "another scheme": b"GET gopher://a/open/x HTTP/1.1",
    "file": b"GET file:///etc/passwd HTTP/1.1",
    "authority form": b"GET a:80 HTTP/1.1",
    "user in the authority": b"GET http://x@a/open/x HTTP/1.1",
    "star": b"GET * HTTP/1.1",
    "star of OPTIONS": b"OPTIONS * HTTP/1.1",
    "no slash": b"GET open/x HTTP/1.1",
    "empty target": b"GET  HTTP/1.1",
    "fragment": b"GET /open/x#y HTTP/1.1",
    "backslash": b"GET /open\\x HTTP/1.1",
    "NUL": b"GET /open/\x00 HTTP/1.1",
    "two targets": b"GET /open/x /staff HTTP/1.1",
    "HTTP/1.1 twice": b"GET /open/x HTTP/1.1 HTTP/1.1",
    "HTTP/2": b"GET /open/x HTTP/2.0",
    "HTTP/0.9": b"GET /open/x",
}


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
