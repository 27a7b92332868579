"""examples/transparent.yaml: what goes in comes out, both ways, but for what RFC 9110 wants of any proxy."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from gateway.backend.sending import EXPECT_WAIT_S
from tests.integration.conftest import (
    Gateway,
    GatewayFactory,
    assert_problem,
    no_fault_in,
    ready,
)
from tests.support import wire
from tests.support.processes import ROOT, wait_until
from tests.support.received import Received
from tests.support.scripted import Act, Peer, Scripted, well

EXAMPLE = (ROOT / Path("examples/transparent.yaml")).read_text().replace("http://127.0.0.1:8080", "{url}")
CHUNKED = ("Transfer-Encoding", "chunked")
VIA = ("Via", "1.1 gateway")


@pytest.fixture(scope="module")
def started(start_gateway: GatewayFactory) -> Gateway:
    return start_gateway(services=EXAMPLE, is_ready=False)


@pytest.fixture
def gateway(started: Gateway) -> Generator[Gateway]:
    """The example, at a stub that has forgotten; nothing may go wrong inside."""
    ready(started)
    with no_fault_in(started):
        yield started


def sent(gateway: Gateway, *lines: str, body: bytes = b"", method: str = "") -> wire.RawAnswer:
    """The answer to a request of exactly these lines."""
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    with gateway.connect() as connection:
        connection.send(head + body)
        return connection.answer(to=method or lines[0].partition(" ")[0])


def arrived(gateway: Gateway) -> Received:
    (received,) = gateway.arrived
    return received


TARGETS = [
    "/",
    "//",
    "///a//b///",
    "/a/./b/../c/.",
    "/..",
    "/../../etc/passwd",
    "/..;/a;b=c/;",
    "/%2e%2e/%2E/%2f%2F/%5c%5C",
    "/a%2fb%5cc",
    "/%00%01%0a%0d%1f%7f",
    "/%zz%/%4",
    "/%c3%a9%C3%A9%ff",
    "/%7e~%41",
    "/back\\slash",
    "/hash#not-a-fragment",
    "/\"<>^`{|}'()*!$&,;=:@+",
    "/?",
    "/??",
    "/?a=%00&b=%zz&c=/../&d=\\&e=#",
    "/a?b?c?d",
    "/health",
    "/metrics",
    "/api/v1/services",
    "/api/v2/anything",
    "/problems/%2e%2e",
    "/http://elsewhere.example/",
    "/" + "x" * 8000,
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: ascii(target[:40]))
def test_target_arrives_byte_for_byte(gateway: Gateway, target: str) -> None:
    answer = gateway.get(target)

    assert answer.status == 200
    assert arrived(gateway).target == target


@pytest.mark.parametrize(
    "method",
    ["GET", "POST", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "M-SEARCH", "get", "x", "!#$%&'*+-.^_`|~", "QUERY" * 60],
    ids=lambda method: method[:20],
)
def test_any_token_is_a_method(gateway: Gateway, method: str) -> None:
    answer = gateway.request(method, "/health")

    assert answer.status == 200
    assert arrived(gateway).method == method


@pytest.mark.parametrize("target", ["example.org:443", "/x"])
def test_tunnel_is_the_one_method_that_is_refused(gateway: Gateway, target: str) -> None:
    answer = gateway.request("CONNECT", target)

    assert_problem(answer, 501, "METHOD_NOT_IMPLEMENTED")
    assert gateway.arrived == []


@pytest.mark.parametrize(
    ("line", "target", "host"),
    [
        ("OPTIONS * HTTP/1.1", "*", "a.example"),
        ("OPTIONS http://b.example HTTP/1.1", "*", "b.example"),
        ("OPTIONS http://b.example/ HTTP/1.1", "/", "b.example"),
        ("GET http://b.example:81/x/../y?z HTTP/1.1", "/x/../y?z", "b.example:81"),
        ("GET http://b.example HTTP/1.1", "/", "b.example"),
        ("GET http://A.example/x HTTP/1.1", "/x", "a.example"),
        ("GET HTTPS://b.example?x HTTP/1.1", "/?x", "b.example"),
    ],
)
def test_other_forms_of_target_arrive_as_an_origin_wants_them(
    gateway: Gateway, line: str, target: str, host: str
) -> None:
    answer = sent(gateway, line, "Host: a.example")

    assert answer.status == 200
    assert (arrived(gateway).target, arrived(gateway).header("Host")) == (target, host)


@pytest.mark.parametrize(
    "line", ["GET http://user@b.example/ HTTP/1.1", "GET http:///x HTTP/1.1", "GET ftp://b.example/x HTTP/1.1"]
)
def test_absolute_form_that_is_no_http_address_is_refused(gateway: Gateway, line: str) -> None:
    answer = sent(gateway, line, "Host: a.example")

    assert answer.status == 400
    assert gateway.arrived == []


FIELDS = [
    ("hOsT", "Shop.Example:81"),
    ("user-agent", "curl/8"),
    ("Accept", "*/*"),
    ("X-Same", "1"),
    ("ETag-ish", 'W/"1"'),
    ("x-same", "2, 3"),
    ("X_Under_Score", "passes"),
    ("X-Under-Score", "too"),
    ("X-Request-ID", "theirs"),
    ("X-Forwarded-For", "203.0.113.9"),
    ("x-forwarded-for", "203.0.113.10"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Proto", "https"),
    ("Forwarded", "for=203.0.113.9"),
    ("X-Real-IP", "203.0.113.9"),
    ("X-User-Id", "1"),
    ("X-User-Roles", "admin"),
    ("X-HTTP-Method-Override", "DELETE"),
    ("X-Request-Timeout-Ms", "1"),
    ("Authorization", "Bearer not-one-of-ours"),
    ("Cookie", "a=1"),
    ("Cookie", "b=2"),
    ("API-Version", "77"),
    ("Accept-Version", "two"),
    ("Range", "bytes=0-"),
    ("If-None-Match", '"x"'),
    ("Cache-Control", "only-if-cached"),
    ("X-Empty", ""),
    ("X-Latin", "caf\xe9 \xff"),
    ("X-Inner", "two  blanks\tand a tab"),
    ("Max-Forwards", "10"),
    ("Via", "1.0 fred, 1.1 p.example"),
    ("Content-Type", "text/plain; charset=utf-8"),
]


def test_fields_arrive_as_they_were_sent_and_via_behind_them(gateway: Gateway) -> None:
    answer = sent(gateway, "POST /x HTTP/1.1", *(f"{name}: {value}" for name, value in FIELDS))

    assert answer.status == 200
    assert arrived(gateway).headers == [*FIELDS, VIA]


def test_white_space_around_a_value_is_not_part_of_it(gateway: Gateway) -> None:
    sent(gateway, "GET /x HTTP/1.1", "Host: a", "X-A:1", "X-B: \t 2 \t ")

    assert arrived(gateway).headers == [("Host", "a"), ("X-A", "1"), ("X-B", "2"), VIA]


def test_fields_of_the_callers_connection_do_not_pass(gateway: Gateway) -> None:
    one_connection = [
        "Connection: keep-alive, X-Secret",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eDp5",
        "TE: trailers",
        "Trailer: X-Sum",
        "Upgrade: websocket",
        "X-Secret: 1",
        "connection: x-more",
        "X-More: 2",
    ]

    sent(gateway, "GET /x HTTP/1.1", "Host: a", *one_connection, "X-Public: 3")

    assert arrived(gateway).headers == [("Host", "a"), ("X-Public", "3"), VIA]


def test_caller_of_http_1_0_is_served_and_named_so(gateway: Gateway) -> None:
    answer = sent(gateway, "GET /chunked HTTP/1.0")

    assert (answer.status, answer.body, answer.closed) == (200, b"first,second", True)
    assert arrived(gateway).headers == [("Host", f"127.0.0.1:{gateway.stub.port}"), ("Via", "1.0 gateway")]


@pytest.mark.parametrize("value", ["", "a, b", "a b", "user@a"])
def test_host_is_the_one_field_that_is_checked(gateway: Gateway, value: str) -> None:
    answer = sent(gateway, "GET /x HTTP/1.1", f"Host: {value}")

    assert_problem(answer, 400, "MALFORMED_HOST")
    assert gateway.arrived == []


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS"])
def test_max_forwards_is_counted_down(gateway: Gateway, method: str) -> None:
    sent(gateway, f"{method} /x HTTP/1.1", "Host: a", "Max-Forwards: 1")

    assert arrived(gateway).header("Max-Forwards") == "0"


@pytest.mark.parametrize(("method", "status"), [("TRACE", 501), ("OPTIONS", 204)])
def test_request_that_may_not_be_forwarded_ends_here(gateway: Gateway, method: str, status: int) -> None:
    answer = sent(gateway, f"{method} /x HTTP/1.1", "Host: a", "Max-Forwards: 0")

    assert answer.status == status
    assert gateway.arrived == []


@pytest.fixture(scope="module")
def scripted(start_gateway: GatewayFactory) -> Generator[tuple[Gateway, Scripted]]:
    """The example, one worker of it, at a service whose connections a test plays by hand."""
    with Scripted() as service:
        made = start_gateway(services=EXAMPLE, is_ready=False, WEB_CONCURRENCY="1", SITE_SERVICE_URL=service.url)
        yield made, service


@pytest.fixture
def play(scripted: tuple[Gateway, Scripted]) -> Generator[Callable[[Act], Gateway]]:
    """Says how the service behaves on its next connections."""
    gateway, service = scripted

    def plays(act: Act) -> Gateway:
        service.act = act
        return gateway

    with no_fault_in(gateway):
        yield plays
    errors, service.errors, service.act = service.errors, [], well
    assert errors == []


def saying(*pieces: bytes) -> Act:
    """Reads one request, answers with these bytes, and closes."""

    def act(peer: Peer) -> None:
        peer.request()
        for piece in pieces:
            peer.send(piece)

    return act


DATE = ("Date", "Tue, 15 Nov 1994 08:12:31 GMT")
ANSWER = [
    ("sErVeR", "inner/1.0 (secret)"),
    DATE,
    ("Content-Type", "text/x-odd"),
    ("Set-Cookie", "a=1; Path=/"),
    ("X-Between", "1"),
    ("Set-Cookie", "b=2; Expires=Wed, 01 Jan 2031 00:00:00 GMT"),
    ("set-cookie", "c=3"),
    ("ETag", '"x"'),
    ("X_Under", "1"),
    ("X-Request-ID", "theirs"),
    ("X-RateLimit-Limit", "1"),
    ("X-Powered-By", "x"),
    ("Location", "http://127.0.0.1:1/caf\xe9 x"),
    ("Content-Location", "//elsewhere"),
    ("Content-Length", "2"),
    ("Accept-Ranges", "bytes"),
    ("X-Empty", ""),
    ("X-Latin", "caf\xe9"),
    ("Via", "1.0 inner"),
    ("Alt-Svc", 'h2=":443"'),
    ("Strict-Transport-Security", "max-age=1"),
]


def head_of(*fields: tuple[str, str], line: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in fields), "", ""]).encode("latin-1")


def of_the_service(answer: wire.RawAnswer) -> list[tuple[str, str]]:
    """The fields without the framing of the caller's own connection."""
    return [pair for pair in answer.headers if pair[0] not in ("Connection", "Transfer-Encoding")]


def test_fields_of_an_answer_come_as_they_were_sent_and_via_behind_them(play: Callable[[Act], Gateway]) -> None:
    gateway = play(saying(head_of(*ANSWER, ("Connection", "close")) + b"ok"))

    answer = gateway.get("/x")

    assert (answer.status, answer.body) == (200, b"ok")
    assert of_the_service(answer) == [*ANSWER, VIA]


def test_answer_without_a_date_gets_one_and_nothing_else(play: Callable[[Act], Gateway]) -> None:
    gateway = play(saying(head_of(("Content-Length", "2"), ("Connection", "close")) + b"ok"))

    answer = gateway.get("/x")

    assert [name for name, _ in of_the_service(answer)] == ["Content-Length", "Date", "Via"]
    assert parsedate_to_datetime(answer.header("Date") or "").timestamp() == pytest.approx(time.time(), abs=5)


def test_fields_of_the_services_connection_do_not_pass(play: Callable[[Act], Gateway]) -> None:
    hop = [
        ("Connection", "close, X-Secret"),
        ("Keep-Alive", "timeout=5"),
        ("X-Secret", "1"),
        ("Proxy-Authenticate", "Basic"),
        ("Proxy-Connection", "close"),
        ("TE", "trailers"),
        ("Trailer", "X-Sum"),
        ("Upgrade", "h2c"),
    ]
    gateway = play(saying(head_of(DATE, *hop, ("Content-Length", "2")) + b"ok"))

    answer = gateway.get("/x")

    assert of_the_service(answer) == [DATE, ("Content-Length", "2"), VIA]


@pytest.mark.parametrize(
    "status", [200, 201, 203, 206, 299, 300, 301, 302, 304, 307, 308, 400, 401, 404, 407, 418, 426]
)
def test_status_passes(gateway: Gateway, status: int) -> None:
    answer = gateway.get(f"/status/{status}")

    assert answer.status == status
    assert answer.is_complete


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
def test_failure_of_the_service_passes_and_is_not_tried_again(gateway: Gateway, status: int) -> None:
    answers = [gateway.get(f"/status/{status}") for _ in range(8)]  # no breaker opens

    assert {answer.status for answer in answers} == {status}
    assert len(gateway.arrived) == 8
    assert answers[0].json() == {"status": status}


def test_redirect_is_the_callers_to_follow(gateway: Gateway) -> None:
    answer = gateway.get("/redirect")

    assert answer.status == 302
    assert answer.header("Location") == f"{gateway.stub.url}/echo?from=redirect"
    assert len(gateway.arrived) == 1


@pytest.mark.parametrize(
    ("version", "raw", "body", "framing"),
    [
        pytest.param("1.1", b"Content-Length: 0\r\n\r\n", b"", [("Content-Length", "0")], id="empty"),
        pytest.param("1.0", b"Content-Length: 2\r\n\r\nok", b"ok", [("Content-Length", "2")], id="1.0, length"),
        pytest.param("1.1", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"", [CHUNKED], id="empty chunked"),
        pytest.param(
            "1.1",
            b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX-T: 1\r\n\r\n",
            b"ok",
            [CHUNKED],
            id="chunked",
        ),
        pytest.param("1.1", b"\r\nok", b"ok", [CHUNKED], id="until the end"),
        pytest.param("1.0", b"\r\nok", b"ok", [CHUNKED], id="1.0, until the end"),
        pytest.param("1.1", b"\r\n", b"", [CHUNKED], id="empty until the end"),
    ],
)
def test_end_of_an_answer_is_told_however_the_service_tells_it(
    play: Callable[[Act], Gateway], version: str, raw: bytes, body: bytes, framing: list[tuple[str, str]]
) -> None:
    gateway = play(saying(f"HTTP/{version} 200 OK\r\nConnection: close\r\n".encode() + raw))

    with gateway.connect() as connection:
        answer = connection.exchange(wire.request_bytes("GET", "/x"))
        again = connection.exchange(wire.request_bytes("GET", "/x"))

    assert (answer.status, answer.body, answer.is_complete) == (200, body, True)
    assert [pair for pair in answer.headers if pair[0] in ("Content-Length", "Transfer-Encoding")] == framing
    assert answer.header("Via") == f"{version} gateway"
    assert again.status == 200


@pytest.mark.parametrize(
    ("method", "head", "length"),
    [
        ("GET", b"HTTP/1.1 204 No Content\r\n", None),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n", "5"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", "5"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", None),
        ("HEAD", b"HTTP/1.1 200 OK\r\n", None),
        ("HEAD", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n", "0"),
    ],
)
def test_answer_without_a_body_keeps_its_fields_and_the_connection(
    play: Callable[[Act], Gateway], method: str, head: bytes, length: str | None
) -> None:
    gateway = play(saying(head + b'ETag: "x"\r\nConnection: close\r\n\r\n'))

    with gateway.connect() as connection:
        answers = [connection.exchange(wire.request_bytes(method, "/x")) for _ in range(2)]

    for answer in answers:
        assert answer.raw.startswith(head[:12])
        assert answer.header("ETag") == '"x"'
        assert answer.header("Content-Length") == length
        assert answer.raw.endswith(b"\r\n\r\n")
        assert answer.header("Transfer-Encoding") is None


def test_interim_answers_pass(play: Callable[[Act], Gateway]) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>\r\nConnection: x\r\nX: 1\r\n\r\n"
    processing = b"HTTP/1.1 102 Processing\r\n\r\n"
    final = head_of(DATE, ("Content-Length", "2"), ("Connection", "close")) + b"ok"
    gateway = play(saying(processing + hints, final))

    answer = gateway.get("/x")

    assert (answer.interim, answer.status, answer.body) == ([102, 103], 200, b"ok")
    assert b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>\r\n\r\n" in answer.raw


def test_interim_answer_comes_before_the_final_one_is_there(play: Callable[[Act], Gateway]) -> None:
    has_come = threading.Event()

    def act(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        assert has_come.wait(5)
        peer.send(head_of(("Content-Length", "2"), ("Connection", "close")) + b"ok")

    gateway = play(act)

    with gateway.connect() as connection:
        connection.send(wire.request_bytes("GET", "/x"))
        interim = connection.everything(quiet_s=0.3)
        has_come.set()
        answer = connection.answer()

    assert interim.startswith(b"HTTP/1.1 103 ")
    assert answer.body == b"ok"


def test_caller_of_http_1_0_is_spared_interim_answers(play: Callable[[Act], Gateway]) -> None:
    gateway = play(saying(b"HTTP/1.1 103 Early Hints\r\n\r\n" + head_of(("Connection", "close")) + b"ok"))

    answer = sent(gateway, "GET /x HTTP/1.0")

    assert (answer.interim, answer.body) == ([], b"ok")


@pytest.mark.parametrize(
    ("method", "fields", "body", "framing"),
    [
        ("GET", [], b"", []),
        ("POST", [], b"", []),
        ("POST", [("Content-Length", "0")], b"", [("Content-Length", "0")]),
        ("GET", [("content-length", "0")], b"", [("content-length", "0")]),
        ("GET", [("Content-Length", "4")], b"body", [("Content-Length", "4")]),
        ("PUT", [("Content-Length", "0004")], b"body", [("Content-Length", "4")]),
        ("POST", [CHUNKED], b"0\r\n\r\n", [CHUNKED]),
        ("GET", [("transfer-encoding", "Chunked")], b"4;x=y\r\nbody\r\n0\r\nX-T: 1\r\n\r\n", [CHUNKED]),
    ],
)
def test_body_is_announced_as_the_caller_did(
    gateway: Gateway, method: str, fields: list[tuple[str, str]], body: bytes, framing: list[tuple[str, str]]
) -> None:
    answer = gateway.request(method, "/x", fields, body)

    framed = [pair for pair in arrived(gateway).headers if pair[0].lower() in ("content-length", "transfer-encoding")]
    assert answer.status == 200
    assert framed == framing
    assert arrived(gateway).body == (b"body" if b"body" in body else b"")
    assert gateway.stub.malformed == []


@pytest.mark.parametrize(
    "fields",
    [
        ["Content-Length: 4", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip, chunked, chunked"],
        ["Transfer-Encoding: identity"],
        ["Content-Length: 4", "Content-Length: 4"],
        ["Content-Length: 4, 4"],
        ["Content-Length: +4"],
        ["Transfer-Encoding : chunked"],
        ["Transfer-Encoding: chunked\n"],
    ],
    ids=repr,
)
def test_request_of_doubtful_length_is_refused(gateway: Gateway, fields: list[str]) -> None:
    answer = sent(gateway, "POST /x HTTP/1.1", "Host: a", *fields, body=b"4\r\nbody\r\n0\r\n\r\n")

    assert_problem(answer, 400, "MALFORMED_REQUEST")
    assert answer.closed
    assert gateway.arrived == gateway.stub.malformed == []


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_piece_of_a_body_arrives_before_the_next_is_sent(play: Callable[[Act], Gateway], *, is_chunked: bool) -> None:
    came: queue.Queue[bytes] = queue.Queue()
    pieces = [b"first", b"second", b"third!"]

    def act(peer: Peer) -> None:
        peer.head()
        for piece in pieces:
            came.put(peer.exactly(len(framed(piece, is_chunked=is_chunked))))
        peer.exactly(5 if is_chunked else 0)
        peer.send(head_of(("Content-Length", "0"), ("Connection", "close")))

    gateway = play(act)
    fields = [CHUNKED] if is_chunked else [("Content-Length", str(len(b"".join(pieces))))]

    with gateway.connect() as connection:
        connection.send(wire.request_bytes("POST", "/x", fields))
        for piece in pieces:
            connection.send(framed(piece, is_chunked=is_chunked))
            assert came.get(timeout=5) == framed(piece, is_chunked=is_chunked)
        connection.send(b"0\r\n\r\n" if is_chunked else b"")
        answer = connection.answer(to="POST")

    assert answer.status == 200


def framed(piece: bytes, *, is_chunked: bool) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_event_arrives_before_the_next_is_sent(play: Callable[[Act], Gateway], *, is_chunked: bool) -> None:
    has_come = threading.Semaphore(0)
    events = [b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"]

    def act(peer: Peer) -> None:
        peer.request()
        framing = CHUNKED if is_chunked else ("Content-Length", "27")
        peer.send(head_of(DATE, ("Content-Type", "text/event-stream"), framing, ("Connection", "close")))
        for event in events:
            assert has_come.acquire(timeout=5)
            peer.send(framed(event, is_chunked=is_chunked))
        peer.send(b"0\r\n\r\n" if is_chunked else b"")

    gateway = play(act)

    with gateway.connect() as connection:
        connection.send(wire.request_bytes("GET", "/x"))
        heard = connection.everything(quiet_s=0.3)
        assert heard.endswith(b"\r\n\r\n"), "the head comes before the first event"
        for event in events:
            has_come.release()
            heard = connection.everything(quiet_s=0.2)
            assert event in heard
        answer = connection.answer()

    assert (answer.body, answer.is_complete) == (b"".join(events), True)


@pytest.mark.parametrize("ends", [b"", b"Connection: close\r\n"], ids=["stays", "closes"])
def test_service_may_answer_while_it_reads(play: Callable[[Act], Gateway], ends: bytes) -> None:
    pieces = [b"one", b"three", b"fifteen"]

    def act(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + ends + b"\r\n")
        for piece in pieces:
            peer.send(peer.exactly(len(framed(piece, is_chunked=True))))
        peer.send(peer.exactly(5))

    gateway = play(act)

    with gateway.connect() as connection:
        connection.send(wire.request_bytes("POST", "/echo", [CHUNKED]))
        for piece in pieces:
            connection.send(framed(piece, is_chunked=True))
            wait_until(lambda piece=piece: piece in connection.everything(quiet_s=0.05), f"the echo of {piece!r}")
        connection.send(b"0\r\n\r\n")
        answer = connection.answer(to="POST")

    assert (answer.body, answer.is_complete) == (b"".join(pieces), True)


@pytest.mark.parametrize("fields", [[CHUNKED], [("Content-Length", "1000000")]], ids=["chunked", "length"])
@pytest.mark.parametrize("is_deaf", [False, True], ids=["closes", "reads no more"])
def test_early_refusal_reaches_the_caller_who_still_sends(
    play: Callable[[Act], Gateway], fields: list[tuple[str, str]], *, is_deaf: bool
) -> None:
    is_over = threading.Event()

    def act(peer: Peer) -> None:
        peer.head()
        peer.send(
            head_of(("Content-Length", "9"), *([] if is_deaf else [("Connection", "close")]), line=REFUSED)
            + b"too large"
        )
        if is_deaf:
            is_over.wait(5)

    gateway = play(act)

    with gateway.connect() as connection:
        connection.send(wire.request_bytes("POST", "/x", fields))
        connection.send(framed(b"x" * 100_000, is_chunked=fields == [CHUNKED]))
        answer = connection.answer(to="POST")
        is_over.set()
        rest = connection.everything()

    assert (answer.status, answer.body, answer.is_complete) == (413, b"too large", True)
    assert rest == b""


REFUSED = "HTTP/1.1 413 Content Too Large"


def test_nothing_in_the_rest_of_a_refused_body_is_taken_for_a_request(play: Callable[[Act], Gateway]) -> None:
    asked: list[str] = []

    def act(peer: Peer) -> None:
        asked.append(peer.head().start)
        peer.send(head_of(("Content-Length", "0"), ("Connection", "close"), line=REFUSED))

    gateway = play(act)
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

    with gateway.connect() as connection:
        connection.send(wire.request_bytes("POST", "/x", [CHUNKED]) + b"5\r\n")
        assert connection.answer(to="POST").status == 413
        with suppress(ConnectionError):  # it may be closed by now
            connection.send(smuggled * 3)
        rest = connection.everything()

    assert rest == b""
    assert asked == ["POST /x HTTP/1.1"]


def test_service_decides_whether_the_caller_is_to_go_on(play: Callable[[Act], Gateway]) -> None:
    may_go_on = threading.Event()
    seen: list[tuple[str, str]] = []
    waited_s: list[float] = []

    def act(peer: Peer) -> None:
        seen.extend(peer.head().headers)
        assert may_go_on.wait(5)
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        began = time.monotonic()
        body = peer.exactly(4)
        waited_s.append(time.monotonic() - began)
        peer.send(head_of(("Content-Length", "4"), ("Connection", "close")) + body)

    gateway = play(act)

    with gateway.connect() as connection:
        connection.send(wire.request_bytes("PUT", "/x", [("Expect", "100-continue"), ("Content-Length", "4")]))
        before = connection.everything(quiet_s=0.2)
        may_go_on.set()
        wait_until(lambda: connection.everything(quiet_s=0.05).startswith(b"HTTP/1.1 100 "), "100 Continue")
        connection.send(b"body")
        answer = connection.answer(to="PUT")

    assert before == b""
    assert (answer.interim, answer.status, answer.body) == ([100], 200, b"body")
    assert ("Expect", "100-continue") in seen
    assert waited_s[0] < EXPECT_WAIT_S / 2  # it came because it was wanted


def test_body_that_the_service_does_not_want_is_not_asked_for(play: Callable[[Act], Gateway]) -> None:
    got: list[bytes] = []

    def act(peer: Peer) -> None:
        peer.head()
        peer.send(head_of(("Content-Length", "0"), line=REFUSED))
        got.append(peer.to_end())

    gateway = play(act)

    with gateway.connect() as connection:
        connection.send(wire.request_bytes("PUT", "/x", [("Expect", "100-continue"), ("Content-Length", "4")]))
        answer = connection.answer(to="PUT")

    assert (answer.interim, answer.status) == ([], 413)
    assert answer.closed  # whether the body still comes, nobody can know
    wait_until(lambda: got == [b""], "the service to see the end")


def test_body_is_not_sent_after_a_refusal_that_takes_its_time(play: Callable[[Act], Gateway]) -> None:
    got: list[bytes] = []

    def act(peer: Peer) -> None:
        peer.head()
        peer.send(head_of(("Content-Length", "4"), line=REFUSED))
        time.sleep(EXPECT_WAIT_S + 0.2)  # who does not answer the expectation would get the body by now
        peer.send(b"long")
        got.append(peer.to_end())

    gateway = play(act)

    with gateway.connect() as connection:
        connection.send(wire.request_bytes("PUT", "/x", [("Expect", "100-continue"), ("Content-Length", "4")]))
        wait_until(lambda: connection.everything(quiet_s=0.05).startswith(b"HTTP/1.1 413 "), "the refusal")
        connection.send(b"body")
        answer = connection.answer(to="PUT")

    assert (answer.status, answer.body) == (413, b"long")
    wait_until(lambda: got == [b""], "the service to see the end")


def test_answer_is_not_lost_when_the_unwanted_body_comes_all_the_same(play: Callable[[Act], Gateway]) -> None:
    has_head, may_refuse = threading.Event(), threading.Event()

    def act(peer: Peer) -> None:
        peer.head()
        has_head.set()
        assert may_refuse.wait(5)
        peer.send(head_of(("Content-Length", "0"), line=REFUSED))

    gateway = play(act)
    head = wire.request_bytes("PUT", "/x", [("Expect", "100-continue"), ("Content-Length", "4")])

    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as connection:
        connection.sendall(head)
        assert has_head.wait(5)
        connection.sendall(b"body")
        may_refuse.set()
        answer = b"".join(iter(lambda: connection.recv(65536), b""))  # a reset would raise

    assert answer.startswith(REFUSED.encode())


def test_service_that_does_not_know_expectations_gets_the_body_after_a_second(play: Callable[[Act], Gateway]) -> None:
    gateway = play(saying(head_of(("Content-Length", "2"), ("Connection", "close")) + b"ok"))

    with gateway.connect() as connection:
        connection.send(wire.request_bytes("PUT", "/x", [("Expect", "100-continue"), ("Content-Length", "4")]))
        wait_until(lambda: connection.everything(quiet_s=0.05).startswith(b"HTTP/1.1 100 "), "100 Continue")
        connection.send(b"body")
        answer = connection.answer(to="PUT")

    assert (answer.interim, answer.status) == ([100], 200)


def test_body_of_100_megabytes_passes_through_little_memory(
    scripted: tuple[Gateway, Scripted], play: Callable[[Act], Gateway]
) -> None:
    size, piece = 100 << 20, b"x" * (1 << 20)

    def act(peer: Peer) -> None:
        peer.head()
        received, end = 0, b""
        while end != b"\r\n0\r\n\r\n":
            came = peer.some()
            received, end = received + len(came), (end + came)[-7:]
        body = str(received).encode()
        peer.send(head_of(("Content-Length", str(len(body))), ("Connection", "close")) + body)

    (worker,) = scripted[0].process.children()
    scripted[0].get("/warm")
    before = peak_memory_kb(worker)
    gateway = play(act)

    with gateway.connect(timeout=60) as connection:
        connection.send(wire.request_bytes("POST", "/x", [CHUNKED]))
        for _ in range(size // len(piece)):
            connection.send(framed(piece, is_chunked=True))
        connection.send(b"0\r\n\r\n")
        answer = connection.answer(to="POST")

    assert int(answer.body) >= size
    assert peak_memory_kb(worker) - before < 8_000


def peak_memory_kb(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1])


@pytest.mark.parametrize("fields", [[CHUNKED], [("Content-Length", "100000")], [("Content-Length", "10")]])
def test_service_sees_that_a_caller_broke_off(gateway: Gateway, fields: list[tuple[str, str]]) -> None:
    with gateway.connect() as connection:
        connection.send(wire.request_bytes("POST", "/gone", fields) + framed(b"half", is_chunked=fields == [CHUNKED]))
        wait_until(lambda: gateway.stub.open_connections > 0, "the beginning to arrive")

    wait_until(lambda: len(gateway.stub.malformed) == 1, "the service to notice")
    assert gateway.arrived == []
    wait_until(lambda: lines_of(gateway, "/gone")[-1:] != [], "the access line")
    assert gateway.get("/x").status == 200


def test_service_that_answers_while_it_reads_sees_that_a_caller_broke_off(play: Callable[[Act], Gateway]) -> None:
    has_answered, has_seen_the_end = threading.Event(), threading.Event()

    def act(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        has_answered.set()
        peer.to_end()
        has_seen_the_end.set()

    gateway = play(act)

    with gateway.connect() as connection:
        connection.send(wire.request_bytes("POST", "/x", [CHUNKED]))
        assert has_answered.wait(5)
        wait_until(lambda: connection.everything(quiet_s=0.05).startswith(b"HTTP/1.1 200 "), "the head")

    assert has_seen_the_end.wait(5)


def test_caller_that_breaks_off_is_not_taken_for_a_service_that_does(play: Callable[[Act], Gateway]) -> None:
    has_begun = threading.Event()

    def act(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 2")
        has_begun.set()
        peer.to_end()

    gateway = play(act)

    with gateway.connect() as connection:
        connection.send(wire.request_bytes("POST", "/broken-off", [CHUNKED]))
        assert has_begun.wait(5)
        time.sleep(0.1)  # for the gateway to read these bytes

    wait_until(lambda: lines_of(gateway, "/broken-off") != [], "the access line")
    assert lines_of(gateway, "/broken-off")[0]["status"] == 400


def test_service_is_left_alone_when_the_caller_goes_before_the_answer_ends(play: Callable[[Act], Gateway]) -> None:
    was_cut = threading.Event()

    def act(peer: Peer) -> None:
        peer.request()
        peer.send(head_of(("Content-Length", "100000000")))
        try:
            for _ in range(1000):
                peer.send(b"x" * 100_000)
        except ConnectionError:
            was_cut.set()

    gateway = play(act)

    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as connection:
        connection.sendall(wire.request_bytes("GET", "/x"))
        connection.recv(1000)

    assert was_cut.wait(5)


@pytest.mark.parametrize("raw", [b"Content-Length: 10\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n9\r\nhalf"])
def test_answer_that_is_cut_short_is_not_taken_for_a_whole_one(play: Callable[[Act], Gateway], raw: bytes) -> None:
    gateway = play(saying(b"HTTP/1.1 200 OK\r\n" + raw))

    answer = gateway.get("/x")

    assert (answer.status, answer.body, answer.is_complete) == (200, b"half", False)


@pytest.mark.parametrize("raw", [b"", b"\x16\x03\x01 no HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Le"])
def test_what_is_no_answer_is_told_as_the_gateways_own(play: Callable[[Act], Gateway], raw: bytes) -> None:
    gateway = play(saying(raw))

    answer = gateway.get("/x")

    assert_problem(answer, 502, "BAD_ANSWER")
    assert answer.header("X-Content-Type-Options") == "nosniff"


def test_request_is_logged_and_counted_as_any_other(gateway: Gateway) -> None:
    answer = gateway.request(
        "m-search", "/logged/%2e%2e?secret", [("X-Request-ID", "theirs"), ("Authorization", "Bearer x")]
    )

    wait_until(lambda: lines_of(gateway, "/logged/%2e%2e") != [], "the access line")
    (line,) = lines_of(gateway, "/logged/%2e%2e")
    assert answer.status == line["status"] == 200
    assert (line["method"], line["to"], line["route"]) == ("m-search", "site", "site.forward")
    assert line["request_id"] != "theirs"
    gateway.wait_for_metric('gateway_requests_total{method="other",route="site.forward",service="site",status="200"}')


def lines_of(gateway: Gateway, path: str) -> list[dict[str, object]]:
    return [line for line in gateway.events("request") if line["path"] == path]


def test_the_gateways_own_pages_are_on_the_operations_port(gateway: Gateway) -> None:
    answer = gateway.operations("/health")

    assert answer.status == 200
    assert answer.header("X-Request-ID")
    assert gateway.arrived == []
