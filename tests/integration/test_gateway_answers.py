"""What comes back from a service: passed on as it is, whole, as it comes, or told as a 502; never mended."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Generator
from urllib.parse import quote

import pytest

from tests.integration.conftest import Gateway, assert_problem, no_fault_in, ready, warm
from tests.support import wire
from tests.support.behaviours import AnswerHead, Call, Wait
from tests.support.processes import wait_until
from tests.support.received import Received
from tests.support.stub import StubService

BIG = 5 << 20
ONE_WORKER = {"WEB_CONCURRENCY": "1"}
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH_2 = b"Content-Length: 2\r\n"


class RawStub(StubService):
    """Answers everything but the keys with bytes that no decent service would send, and then closes."""

    def __init__(self) -> None:
        self.raw = b""
        super().__init__()

    def _call_for(self, received: Received, wait: Wait, is_first: bool) -> list[bytes] | Call:
        usual = super()._call_for(received, wait, is_first)
        if not self.raw or received.path in self.json:
            return usual
        return [_Last(self.raw)]


class _Last(AnswerHead):
    """A whole answer, after which the connection is closed."""

    def lower(self) -> bytes:
        return b"connection: close"


@pytest.fixture(scope="module")
def raw_gateway(tmp_path_factory: pytest.TempPathFactory, database: Callable[[], str]) -> Generator[Gateway]:
    directory = tmp_path_factory.mktemp("raw")
    with RawStub() as stub, Gateway(directory, stub=stub, redis_url=database(), env=ONE_WORKER) as gateway:
        warm(gateway)
        yield gateway


@pytest.fixture
def raw_service(raw_gateway: Gateway) -> Generator[RawStub]:
    ready(raw_gateway)
    stub = raw_gateway.stub
    assert isinstance(stub, RawStub)
    with no_fault_in(raw_gateway):
        yield stub


UNTRUSTWORTHY = {
    "no colon in a field": OK + b"X-A\r\n" + LENGTH_2 + b"\r\nok",
    "space before the colon": OK + b"X-A : 1\r\n" + LENGTH_2 + b"\r\nok",
    "folded line": OK + b"X-A: 1\r\n  2\r\n" + LENGTH_2 + b"\r\nok",
    "folded first line": OK + b"  X-A: 1\r\n" + LENGTH_2 + b"\r\nok",
    "control character": OK + b"X-A: 1\x012\r\n" + LENGTH_2 + b"\r\nok",
    "NUL": OK + b"X-A: 1\x002\r\n" + LENGTH_2 + b"\r\nok",
    "name that is no token": OK + b"X(A): 1\r\n" + LENGTH_2 + b"\r\nok",
    "name not ASCII": OK + b"X-\xe9: 1\r\n" + LENGTH_2 + b"\r\nok",
    "head cut in a line": OK + LENGTH_2 + b"X-A: 1",
    "head cut after a line": OK + LENGTH_2,
    "status line only": OK,
    "status line cut": b"HTTP/1.1 20",
    "not a status": b"HTTP/1.1 2xx OK\r\n" + LENGTH_2 + b"\r\nok",
    "four digits": b"HTTP/1.1 2000 OK\r\n" + LENGTH_2 + b"\r\nok",
    "other protocol": b"ICY 200 OK\r\n" + LENGTH_2 + b"\r\nok",
    "version 2": b"HTTP/2 200\r\n" + LENGTH_2 + b"\r\nok",
    "upgrade that nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "two lengths": OK + LENGTH_2 + b"Content-Length: 3\r\n\r\nok!",
    "the same length twice": OK + LENGTH_2 + LENGTH_2 + b"\r\nok",
    "list of equal lengths": OK + b"Content-Length: 2, 2\r\n\r\nok",
    "list of lengths": OK + b"Content-Length: 2, 3\r\n\r\nok!",
    "negative length": OK + b"Content-Length: -2\r\n\r\nok",
    "length in words": OK + b"Content-Length: two\r\n\r\nok",
    "empty length": OK + b"Content-Length: \r\n\r\nok",
    "length and chunks": OK + LENGTH_2 + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "unknown coding": OK + b"Transfer-Encoding: rot13\r\n\r\nok",
    "coding below chunks": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "endless line": OK + b"X-A: " + b"x" * 70_000 + b"\r\n" + LENGTH_2 + b"\r\nok",
    "endless head": OK + b"X-A: 1\r\n" * 200 + LENGTH_2 + b"\r\nok",
    "body cut": OK + b"Content-Length: 3\r\n\r\nok",
}


@pytest.mark.parametrize("raw", UNTRUSTWORTHY.values(), ids=UNTRUSTWORTHY)
def test_answer_that_is_not_sound_http_is_a_502(raw_gateway: Gateway, raw_service: RawStub, raw: bytes) -> None:
    raw_service.raw = raw

    answer = raw_gateway.get("/open/x")

    assert_problem(answer, 502, "BAD_ANSWER")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"HTTP/1.1 200\r\n" + LENGTH_2 + b"\r\nok", id="no reason"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nok", id="HTTP/1.0"),
        pytest.param(
            b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\n" + OK + LENGTH_2 + b"\r\nok", id="interim"
        ),
        pytest.param(
            OK + b"Transfer-Encoding: Chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nX-T: 1\r\n\r\n", id="chunks, trailer"
        ),
        pytest.param(OK + LENGTH_2 + b"\r\nok and more", id="bytes behind the end"),
    ],
)
def test_unusual_but_sound_answer_is_passed_on(raw_gateway: Gateway, raw_service: RawStub, raw: bytes) -> None:
    raw_service.raw = raw

    answer = raw_gateway.get("/open/x")

    assert (answer.status, answer.body, answer.is_complete) == (200, b"ok", True)
    assert len(answer.all("Content-Length")) <= 1


def test_long_answer_that_is_cut_short_breaks_the_callers_connection(
    raw_gateway: Gateway, raw_service: RawStub
) -> None:
    raw_service.raw = OK + b"Content-Length: 200000\r\n\r\n" + b"x" * 150_000

    answer = raw_gateway.get("/open/x")

    assert answer.status == 200
    assert not answer.is_complete


def test_chunked_answer_that_is_cut_short_is_not_ended_cleanly(gateway: Gateway) -> None:
    answer = gateway.get("/open/cut-chunked")

    assert not answer.is_complete
    assert not answer.raw.endswith(b"0\r\n\r\n")
    assert gateway.log_of(answer)[0]["event"] == "answer_cut_short"


@pytest.mark.parametrize("framing", ["length", "chunks", "end"])
def test_big_answer_arrives_whole(raw_gateway: Gateway, raw_service: RawStub, framing: str) -> None:
    body = bytes(range(256)) * (BIG // 256)
    heads = {
        "length": OK + b"Content-Length: %d\r\n\r\n" % BIG + body,
        "chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % BIG + body + b"\r\n0\r\n\r\n",
        "end": OK + b"\r\n" + body,
    }
    raw_service.raw = heads[framing]

    answer = raw_gateway.get("/open/x")

    assert answer.is_complete
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(body).digest()


def test_stream_arrives_piece_by_piece(gateway: Gateway) -> None:
    received = b""

    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as connection:
        connection.sendall(wire.request_bytes("GET", "/open/stream/2/0.5"))
        while b"data: event 0" not in received:
            received += connection.recv(65536)
        has_first_only = b"data: event 1" not in received
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(65536)

    assert has_first_only  # the stub sends the second half a second later
    assert b"data: event 1" in received


def test_caller_that_leaves_a_stream_frees_the_connection_to_the_service(gateway: Gateway) -> None:
    before = gateway.stub.open_connections
    with gateway.connect() as connection:
        connection.send(wire.request_bytes("GET", "/brisk/stream/200/0.05"))
        gateway.stub.wait_for_requests(1)

    wait_until(lambda: gateway.stub.open_connections <= before, "the end of the stream at the stub", timeout_s=8)


def test_http_1_0_caller_gets_a_stream_without_chunks(gateway: Gateway) -> None:
    answer = wire.exchange(gateway.port, b"GET /open/chunked HTTP/1.0\r\n\r\n")

    assert answer.all("Transfer-Encoding") == []
    assert answer.body == b"first,second"
    assert answer.closed


LOCATIONS = [
    ("{url}/products/1?x=%7e#y", "/products/1?x=%7e#y"),
    ("{url}", "/"),
    ("{url}/", "/"),
    ("{url}?x", "?x"),
    ("{url}0/x", "{url}0/x"),
    ("{url}.evil.example/x", "{url}.evil.example/x"),
    ("{url}@evil.example/x", "{url}@evil.example/x"),
    ("http://elsewhere.example/x", "http://elsewhere.example/x"),
    ("//elsewhere.example/x", "//elsewhere.example/x"),
    ("../x", "../x"),
    ("/x%7e%c3%A9?q=[1]|{{2}}", "/x%7e%c3%A9?q=[1]|{{2}}"),
    ("http://[::1/", "http://[::1/"),
    ("http://x:99999/", "http://x:99999/"),
    ("", ""),
]


@pytest.mark.parametrize("name", ["Location", "Content-Location"])
@pytest.mark.parametrize(("given", "arrives"), LOCATIONS, ids=[given for given, _ in LOCATIONS])
def test_location_loses_the_instances_address_and_nothing_else(
    gateway: Gateway, name: str, given: str, arrives: str
) -> None:
    location = given.format(url=gateway.stub.url)

    answer = gateway.get(f"/open/cacheable?cc=no-store&{name}={quote(location, safe='')}")

    assert answer.status == 200
    assert answer.header(name) == arrives.format(url=gateway.stub.url)


def test_redirect_is_the_callers_to_follow(gateway: Gateway) -> None:
    answer = gateway.get("/open/redirect")

    assert answer.status == 302
    assert len(gateway.arrived) == 1


@pytest.mark.parametrize(
    "status", [200, 201, 202, 299, 400, 401, 403, 404, 409, 418, 422, 429, 451, 500, 501, 503, 599]
)
def test_status_of_the_service_is_the_answer(gateway: Gateway, status: int) -> None:
    answer = gateway.get(f"/open/status/{status}/7")

    assert answer.status == status
    assert answer.json() == {"status": status}
    assert answer.header("Retry-After") == ("7" if status in (429, 503) else None)


def test_fields_are_passed_on_as_they_are(gateway: Gateway) -> None:
    query = "cc=no-store&X-Latin=%C3%A9&Server=inner&Date=yesterday&Via=1.0%20inner&X-Powered-By=x&X-Request-ID=theirs"

    answer = gateway.get(f"/open/cacheable?{query}")

    assert answer.header("X-Latin") == "\xe9"
    assert answer.header("Via") == "1.0 inner, 1.1 gateway"
    assert answer.header("Server") != "inner"
    assert answer.header("Date") != "yesterday"
    assert (answer.header("X-Request-ID") or "").startswith("req-")


def test_not_modified_keeps_its_validators(raw_gateway: Gateway, raw_service: RawStub) -> None:
    fields = (
        b'ETag: "1"\r\nLast-Modified: Sun, 01 Nov 2026 00:00:00 GMT\r\nCache-Control: max-age=1\r\nVary: Accept\r\n'
    )
    raw_service.raw = b"HTTP/1.1 304 Not Modified\r\n" + fields + b"\r\n"

    answer = raw_gateway.get("/open/x")

    assert answer.status == 304
    assert answer.header("ETag") == '"1"'
    assert answer.header("Last-Modified") == "Sun, 01 Nov 2026 00:00:00 GMT"
    assert answer.header("Vary") == "Accept"


def test_service_that_refuses_a_body_before_reading_it_is_heard(gateway: Gateway) -> None:
    answer = gateway.request("POST", "/open/refuse", [], b"x" * 3_000_000)

    assert (answer.status, answer.body) == (413, b"too large")


def test_answer_without_a_media_type_gets_none(raw_gateway: Gateway, raw_service: RawStub) -> None:
    raw_service.raw = OK + LENGTH_2 + b"\r\nok"

    answer = raw_gateway.get("/open/x")

    assert answer.all("Content-Type") == []
