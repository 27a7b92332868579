"""gunicorn's request with what we changed about it, over gunicorn's own parser."""

# the stubs are older than gunicorn
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import cast

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import InvalidHeader, UnsupportedTransferCoding
from gunicorn.http.unreader import IterUnreader
from hypothesis import given
from hypothesis import strategies as st

from common.messages import IncomingBody, Request

NEXT = b"GET /next HTTP/1.1\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def parsed(*packets: bytes) -> tuple[Request, IncomingBody]:
    """A request as it is read from a connection on which these packets come."""
    request = Request(Config(), IterUnreader(packets), ("127.0.0.1", 1))
    return request, cast("IncomingBody", request.body)


def post(fields: bytes, *packets: bytes) -> tuple[Request, IncomingBody]:
    return parsed(b"POST / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n", *packets)


def pieces_of(body: IncomingBody, size: int = 1 << 16) -> list[bytes]:
    return list(iter(lambda: body.read1(size), b""))


def test_request_remembers_its_fields_as_they_stood_on_the_wire() -> None:
    head = b"hOsT: h\r\nX-Same: 1\r\nX_Under: \xe9\r\nx-same:2"

    request, _ = parsed(b"GET / HTTP/1.1\r\n" + head[:20], head[20:] + b"\r\n\r\n")

    assert request.head == head


def test_trailer_fields_are_not_taken_for_fields_of_the_head() -> None:
    request, body = post(CHUNKED, b"1\r\nx\r\n0\r\nX-Trailer: 1\r\n\r\n")

    assert pieces_of(body) == [b"x"]
    assert b"X-Trailer" not in request.head


@pytest.mark.parametrize(
    ("fields", "packets", "pieces"),
    [
        pytest.param(b"Content-Length: 6\r\n", [b"on", b"e", b"two"], [b"on", b"e", b"two"], id="length"),
        pytest.param(CHUNKED, [b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"], [b"one", b"two"], id="chunks"),
        pytest.param(CHUNKED, [b"6\r\n", b"on", b"et", b"wo\r\n0\r\n\r\n"], [b"on", b"et", b"wo"], id="within a chunk"),
    ],
)
def test_body_is_read_as_it_comes(fields: bytes, packets: list[bytes], pieces: list[bytes]) -> None:
    _, body = post(fields, *packets)

    assert pieces_of(body) == pieces


@pytest.mark.parametrize(("fields", "packet"), [(b"Content-Length: 6\r\n", b"one"), (CHUNKED, b"3\r\none\r\n")])
def test_reading_does_not_wait_for_more_than_is_there(fields: bytes, packet: bytes) -> None:
    def packets() -> Iterator[bytes]:
        yield b"POST / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n"
        yield packet
        raise AssertionError("waited")

    request = Request(Config(), IterUnreader(packets()), ("127.0.0.1", 1))

    assert cast("IncomingBody", request.body).read1(1 << 16) == b"one"


def cut(raw: bytes, places: Iterable[int]) -> list[bytes]:
    ends = sorted({place % (len(raw) + 1) for place in places} | {0, len(raw)})
    return [raw[start:end] for start, end in pairwise(ends)]


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    places=st.lists(st.integers(0, 1000), max_size=8),
    size=st.integers(1, 50),
    is_chunked=st.booleans(),
)
def test_body_is_whole_and_what_follows_it_is_left_however_it_is_cut(
    chunks: list[bytes], places: list[int], size: int, *, is_chunked: bool
) -> None:
    content = b"".join(chunks)
    fields = CHUNKED if is_chunked else b"Content-Length: %d\r\n" % len(content)
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
    request, body = post(fields, *cut((framed if is_chunked else content) + NEXT, places))

    pieces = pieces_of(body, size)

    assert b"".join(pieces) == content
    assert all(0 < len(piece) <= size for piece in pieces)
    assert body.is_at_end
    rest = request.unreader.read(len(NEXT))
    assert rest == NEXT


def test_rest_of_a_body_that_was_begun_piece_by_piece_can_be_read_at_once() -> None:
    for fields, framed in [(b"Content-Length: 6\r\n", b"onetwo"), (CHUNKED, b"6\r\nonetwo\r\n0\r\n\r\n")]:
        _, body = post(fields, framed)

        assert (body.read1(2), body.read()) == (b"on", b"etwo")


def test_rest_of_a_line_can_be_read_piece_by_piece() -> None:
    for fields, framed in [(b"Content-Length: 7\r\n", b"one\ntwo"), (CHUNKED, b"7\r\none\ntwo\r\n0\r\n\r\n")]:
        _, body = post(fields, framed)

        assert (body.readline(), body.read1(2), body.read1(9), body.read1(9)) == (b"one\n", b"tw", b"o", b"")


@pytest.mark.parametrize("packets", [[b"3\r\non"], [b"x\r\n"], [b"3\r\nonetwo"], [b"3\r\none\r\n0\r\n"]], ids=repr)
def test_torn_or_malformed_chunk_fails_and_the_connection_is_not_used_again(packets: list[bytes]) -> None:
    _, body = post(CHUNKED, *packets)

    with pytest.raises(Exception):  # noqa: B017, PT011 - gunicorn has a kind for each
        pieces_of(body)

    assert body.failed
    assert not body.is_at_end


def test_reader_that_is_killed_leaves_a_connection_that_is_not_used_again() -> None:
    def packets() -> Iterator[bytes]:
        yield b"POST / HTTP/1.1\r\nHost: h\r\n" + CHUNKED + b"\r\n"
        raise KeyboardInterrupt

    request = Request(Config(), IterUnreader(packets()), ("127.0.0.1", 1))
    body = cast("IncomingBody", request.body)

    with pytest.raises(KeyboardInterrupt):
        body.read1(1)

    assert body.failed


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"Expect: 100-continue\r\nContent-Length: 4\r\n", True),
        (b"Expect: 100-Continue\r\n" + CHUNKED, True),
        (b"Expect: 100-continue\r\nContent-Length: 0\r\n", False),
        (b"Expect: 100-continue\r\n", False),
        (b"Content-Length: 4\r\n", False),
    ],
)
def test_body_is_awaited_where_the_caller_holds_it_back(fields: bytes, *, expected: bool) -> None:
    _, body = post(fields)

    assert body.is_awaited is expected


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (b"Transfer-Encoding: identity, chunked\r\n", UnsupportedTransferCoding),
        (b"Transfer-Encoding: gzip, chunked\r\n", UnsupportedTransferCoding),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", UnsupportedTransferCoding),
        (b"Transfer-Encoding: chunked,\r\n", UnsupportedTransferCoding),
        (b"Authorization: Bearer a\r\nauthorization: Bearer a\r\n", InvalidHeader),
        (b"Authorization: Bearer a\r\nX-A: 1\r\nAUTHORIZATION: Basic b\r\n", InvalidHeader),
    ],
)
def test_request_that_gunicorn_would_take_and_a_service_might_read_otherwise_is_refused(
    fields: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        post(fields, b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"Connection: close\r\n", True),
        (b"Connection: x, close\r\n", True),
        (b"Connection: keep-alive,Close\r\n", True),
        (b"Connection: keep-alive\r\nConnection: close\r\n", True),
        (b"Connection: closed\r\n", False),
        (b"Connection: keep-alive\r\n", False),
        (b"", False),
    ],
)
def test_connection_ends_where_close_is_one_of_its_options(fields: bytes, *, expected: bool) -> None:
    request, _ = post(fields)

    assert request.should_close() is expected
