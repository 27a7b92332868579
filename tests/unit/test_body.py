"""The body on its way: bounded, or passed on as it comes; whose fault it is when it ends early."""

from __future__ import annotations

import io

import pytest

from common.problems import PayloadTooLarge
from gateway.body import Body, BodyTooLong, CallerGone, refuse_torn_body


class Pieces:
    """A caller that sends these pieces, one for each time that it is asked; an exception is raised."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = list(pieces)
        self.asked: list[int] = []

    def read(self, size: int = -1, /) -> bytes:
        return b"".join(iter(lambda: self.read1(size), b""))

    def read1(self, size: int = -1, /) -> bytes:
        self.asked.append(size)
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, Exception):
            raise piece
        return piece


def passing(length: int | None, *pieces: bytes | Exception, limit: int | None = None) -> Body:
    body = Body(Pieces(*pieces), length)
    body.pass_through(limit)
    return body


@pytest.mark.parametrize("length", [None, 6])
def test_piece_is_passed_on_as_it_comes(length: int | None) -> None:
    body = passing(length, b"on", b"e", b"two")

    assert [body.read(100), body.read(100), body.read(100), body.read(100)] == [b"on", b"e", b"two", b""]


def test_nothing_is_read_before_somebody_wants_it() -> None:
    reader = Pieces(b"body")
    body = Body(reader, None)

    body.pass_through(100)

    assert reader.asked == []
    assert body.is_at_start
    assert (body.length, body.is_taken_in) == (None, False)


def test_nothing_is_read_past_the_announced_length() -> None:
    reader = Pieces(b"four")
    body = Body(reader, 4)
    body.pass_through(None)

    assert [body.read(100), body.read(100)] == [b"four", b""]
    assert reader.asked == [4]


def test_body_that_was_begun_is_not_at_its_start_even_if_nothing_came() -> None:
    body = passing(None, b"")

    body.read(100)

    assert not body.is_at_start
    assert not body.rewind()


def test_body_that_was_taken_in_can_be_read_again() -> None:
    body = Body(io.BytesIO(b"body"), None)
    body.bound(100)
    first = body.read(100)

    assert body.rewind()
    assert (first, body.read(100)) == (b"body", b"body")
    body.close()


@pytest.mark.parametrize(
    ("length", "takes_in", "expected"),
    [
        (0, True, False),
        (4, True, False),
        (None, True, False),
        (100_000, True, True),
        (0, False, False),
        (4, False, True),
        (None, False, True),
    ],
)
def test_body_streams_unless_it_is_empty_or_here(length: int | None, *, takes_in: bool, expected: bool) -> None:
    body = Body(io.BytesIO(b"x" * (4 if length is None else length)), length)

    body.bound(1 << 20) if takes_in else body.pass_through(None)

    assert body.streams is expected
    body.close()


@pytest.mark.parametrize("pieces", [(b"half", b""), (b"half", OSError("reset")), (ValueError("no chunk"),), (b"",)])
def test_body_that_ends_before_its_length_is_the_callers_fault(pieces: tuple[bytes | Exception, ...]) -> None:
    body = passing(10, *pieces)

    with pytest.raises(CallerGone):
        [body.read(100) for _ in range(2)]


def test_chunked_body_that_breaks_off_is_the_callers_fault() -> None:
    body = passing(None, b"half", OSError("reset"))
    body.read(100)

    with pytest.raises(CallerGone) as gone:
        body.read(100)

    assert refuse_torn_body(gone.value).status == 400


def test_chunked_body_may_be_as_long_as_the_limit_and_no_longer() -> None:
    at_the_limit, over = passing(None, b"12345", limit=5), passing(None, b"123", b"456", limit=5)
    over.read(100)

    with pytest.raises(BodyTooLong) as refused:
        over.read(100)

    assert [at_the_limit.read(100), at_the_limit.read(100)] == [b"12345", b""]
    assert refuse_torn_body(refused.value).status == 413


def test_announced_length_over_the_limit_is_refused_at_once() -> None:
    with pytest.raises(PayloadTooLarge):
        passing(6, limit=5)
