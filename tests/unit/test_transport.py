"""One request over a pooled connection: framing, a body that streams, TLS. A service played by hand answers."""

from __future__ import annotations

import io
import ssl
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import gevent
import pytest
import requests

from common.tls import trusting
from gateway.backend.outgoing import Outgoing
from gateway.backend.transport import RawTargetAdapter
from gateway.body import Body
from tests.support import http1
from tests.support.certificates import Authority
from tests.support.scripted import Peer, Scripted

Pairs = list[tuple[str, str]]


def body_of(content: bytes, *, length: int | None, is_verbatim: bool = False) -> Body:
    body = Body(io.BytesIO(content), length, is_verbatim=is_verbatim)
    body.pass_through(None)
    return body


@pytest.fixture
def adapter() -> Generator[RawTargetAdapter]:
    made = RawTargetAdapter(1)
    yield made
    made.close()


@pytest.fixture
def service() -> Generator[Scripted]:
    with Scripted() as made:
        yield made
    assert made.errors == []


@pytest.mark.parametrize(
    ("method", "given", "length", "is_verbatim", "framing"),
    [
        ("GET", [], 0, False, []),
        ("POST", [], 0, False, [("Content-Length", "0")]),
        ("POST", [], 0, True, []),
        ("POST", [("content-length", "0")], 0, True, [("content-length", "0")]),
        ("GET", [("content-length", "99")], 4, True, [("content-length", "4")]),
        ("GET", [], 4, False, [("Content-Length", "4")]),
        ("GET", [], None, False, [("Transfer-Encoding", "chunked")]),
        ("POST", [("Content-Length", "4")], None, True, [("Transfer-Encoding", "chunked")]),
    ],
)
def test_body_is_framed_once_and_by_us(
    adapter: RawTargetAdapter,
    service: Scripted,
    method: str,
    given: Pairs,
    length: int | None,
    *,
    is_verbatim: bool,
    framing: Pairs,
) -> None:
    seen: list[tuple[http1.Head, bytes]] = []

    def act(peer: Peer) -> None:
        seen.append(peer.request())
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    service.act = act
    body = body_of(b"" if length == 0 else b"body", length=length, is_verbatim=is_verbatim)

    raw = adapter.send(Outgoing(method, service.url, "/x", [*given, ("X-A", "1")], body), stream=True, timeout=5).raw

    ((head, arrived),) = seen
    assert raw.status == 200
    assert [pair for pair in head.headers if pair[0].lower() in ("content-length", "transfer-encoding")] == framing
    assert arrived == (b"" if length == 0 else b"body")


@pytest.mark.parametrize(
    ("target", "arrives"),
    [*[(target, target) for target in ["*", "/a/../b?%zz", "//x", "/http://elsewhere.example:1/"]], ("", "/")],
)
def test_target_goes_out_as_it_is_to_where_the_service_is(
    adapter: RawTargetAdapter, service: Scripted, target: str, arrives: str
) -> None:
    seen: list[str] = []

    def act(peer: Peer) -> None:
        seen.append(peer.request()[0].start)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    service.act = act

    adapter.send(Outgoing("OPTIONS", service.url, target, [], body_of(b"", length=0)), stream=True, timeout=5)

    assert seen == [f"OPTIONS {arrives} HTTP/1.1"]


@pytest.mark.parametrize(
    ("method", "target", "field"),
    [
        ("GET", "/a b", ("X-A", "1")),
        ("GET", "/a\r\nX-B:1", ("X-A", "1")),
        ("GET", "/\xe9", ("X-A", "1")),
        ("G T", "/", ("X-A", "1")),
        ("", "/", ("X-A", "1")),
        ("GET", "/", ("X-A", "1\r\nX-B: 2")),
        ("GET", "/", ("X-A", "1\n2")),
        ("GET", "/", ("X-A", "1\r2")),
        ("GET", "/", ("X-A", "1\0")),
        ("GET", "/", ("X-A\r\nX-B", "1")),
    ],
)
def test_head_that_would_arrive_as_another_one_is_not_sent(method: str, target: str, field: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"request line|line break"):
        Outgoing(method, "http://127.0.0.1:1", target, [field], body_of(b"", length=0))


def test_fields_of_an_answer_keep_their_order(adapter: RawTargetAdapter, service: Scripted) -> None:
    def act(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nX-B: 2\r\nx-a: 3\r\nContent-Length: 0\r\n\r\n")

    service.act = act

    raw = adapter.send(Outgoing("GET", service.url, "/", [], body_of(b"", length=0)), stream=True, timeout=5).raw

    assert raw.fields == [("X-A", "1"), ("X-B", "2"), ("x-a", "3"), ("Content-Length", "0")]


def test_answer_can_be_used_as_any_answer_of_requests(adapter: RawTargetAdapter, service: Scripted) -> None:
    def act(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 404 Not Found\r\nX-A: 1\r\nx-a: 2\r\nSet-Cookie: a=b\r\nContent-Length: 4\r\n\r\n")
        peer.send(b"[42]")

    service.act = act

    answer = adapter.send(Outgoing("GET", service.url, "/", [], body_of(b"", length=0)), timeout=5)

    assert (answer.status_code, answer.ok, answer.json()) == (404, False, [42])
    assert answer.headers["X-A"] == "1, 2"
    assert not answer.cookies
    answer.close()


def test_post_is_sent_once_when_the_kept_connection_ends_just_then(
    adapter: RawTargetAdapter, service: Scripted
) -> None:
    heads: list[str] = []

    def act(peer: Peer) -> None:
        heads.append(peer.request()[0].start)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        heads.append(peer.request()[0].start)  # and no answer

    service.act = act
    adapter.send(Outgoing("GET", service.url, "/", [], body_of(b"", length=0)), timeout=5)

    with pytest.raises(requests.ConnectionError):
        adapter.send(Outgoing("POST", service.url, "/", [], body_of(b"", length=0)), timeout=5)

    assert heads == ["GET / HTTP/1.1", "POST / HTTP/1.1"]


class Slow(io.BytesIO):
    """A caller that takes its time."""

    def read1(self, size: int | None = -1, /) -> bytes:
        gevent.sleep(0.4)
        return super().read1(size)


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_time_for_an_answer_begins_when_the_body_is_out(
    adapter: RawTargetAdapter, service: Scripted, interim: bytes
) -> None:
    def act(peer: Peer) -> None:
        peer.head()
        peer.send(interim)
        peer.exactly(4)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    service.act = act
    body = Body(Slow(b"body"), 4)
    body.pass_through(None)

    response = adapter.send(Outgoing("PUT", service.url, "/", [], body), stream=True, timeout=0.2)

    assert response.raw.status == 200


@pytest.mark.parametrize("length", [None, 200_000])
def test_body_streams_through_tls_too(tmp_path: Path, length: int | None) -> None:
    content = b"x" * 200_000
    seen: list[bytes] = []

    def act(peer: Peer) -> None:
        seen.append(peer.request()[1])
        peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    authority = Authority(tmp_path)
    adapter = RawTargetAdapter(1, trust=trusting(authority.path))
    with Scripted(tls=authority.issue().server_context()) as service:
        service.act = act
        request = Outgoing("PUT", service.url, "/", [], body_of(content, length=length))
        raw = adapter.send(request, stream=True, timeout=5).raw
        answer = raw.read()
    adapter.close()

    assert (raw.status, answer) == (200, b"ok")
    assert seen == [content]
    assert service.errors == []


@pytest.mark.parametrize("is_told", [True, False])
def test_through_tls_the_end_is_one_only_if_the_service_says_so(tmp_path: Path, is_told: bool) -> None:
    def act(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nall, or half of it?")
        if is_told:
            peer.say_goodbye()

    authority = Authority(tmp_path)
    adapter = RawTargetAdapter(1, trust=trusting(authority.path))
    with Scripted(tls=authority.issue().server_context()) as service, closing(adapter):
        service.act = act
        request = Outgoing("GET", service.url, "/", [], body_of(b"", length=0))
        raw = adapter.send(request, stream=True, timeout=5).raw
        if is_told:
            assert raw.read() == b"all, or half of it?"
        else:
            with pytest.raises(ssl.SSLEOFError):
                raw.read()
    assert service.errors == []
