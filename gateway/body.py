"""The body of a request on its way: bounded before a service is touched and read once or, if it is short, again; or
passed on as it comes.

What is left of the caller by the time the service is talked to, so interim answers go back to it from here too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Protocol, cast

from common.messages import Tell
from common.problems import BadRequest, PayloadTooLarge, Problem, RequestTimeout


class Reader(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...
    def read1(self, size: int = -1, /) -> bytes: ...


class CallerGone(Exception):
    """The caller went away, or cut its body short, before all of it was here: nobody's fault but its own."""


class BodyTooLong(CallerGone):
    """More of a body came than is accepted, when the service was asked already."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__("the body is too long")
        self.limit_bytes = limit_bytes


SPOOL_IN_MEMORY_BYTES = 256 << 10
TAKEN_IN_BYTES = 64 << 10


@dataclass(slots=True)
class Body:
    """The request's body, read from first to last.

    `length` is what Content-Length said, or None for a chunked body. `bound` or `pass_through` must come before the
    first `read`. `bound` takes in a body that is short or chunked (in memory, past 256 KB in a temporary file): so the
    length is known, the service is not touched by a body that turns out too long, none of its connections waits for a
    caller who is slow with a few bytes, and such a body can be sent again. A long one with a length streams, once.
    `pass_through` takes nothing in: every body streams, once, whatever its framing.
    """

    reader: Reader
    length: int | None
    tell: Tell | None = None  # sends an interim answer to the caller, where the server can
    is_verbatim: bool = False  # announced to the service as the caller did, and interim answers go to the caller
    is_bounded: bool = False
    is_taken_in: bool = False
    read_bytes: int = 0
    waited_s: float = 0.0  # for the caller, before the request's time was counted
    _limit_bytes: int | None = None
    _is_begun: bool = False  # something was read that cannot be read again, or could have been

    @property
    def is_at_start(self) -> bool:
        """Nothing of it has been read from here."""
        return self.read_bytes == 0 and not self._is_begun

    @property
    def streams(self) -> bool:
        """There may be something to read, and it comes from the caller."""
        return self.length != 0 and not self.is_taken_in

    def rewind(self) -> bool:
        """Go back to the start, where that can be done. Whether it is there now."""
        if not self.is_at_start and self.is_taken_in:
            cast("IO[bytes]", self.reader).seek(0)
            self.read_bytes = 0
        return self.is_at_start

    def check_length(self, limit_bytes: int) -> None:
        """Raises `PayloadTooLarge` when the announced length is over the limit; reads nothing."""
        if self.length is not None and self.length > limit_bytes:
            raise too_large(limit_bytes)

    def bound(self, limit_bytes: int) -> None:
        """Make sure that the length is known and within the limit. Raises `PayloadTooLarge`, `CallerGone`."""
        if self.is_bounded:
            return
        self.check_length(limit_bytes)
        if self.length is None or 0 < self.length <= TAKEN_IN_BYTES:
            self._take_in(limit_bytes)
        self.is_bounded = True

    def pass_through(self, limit_bytes: int | None) -> None:
        """Take nothing in; `read` raises `BodyTooLong` once there was more than the limit. Raises `PayloadTooLarge` for
        an announced length."""
        if limit_bytes is not None:
            self.check_length(limit_bytes)
        self._limit_bytes, self.is_bounded = limit_bytes, True

    def _take_in(self, limit_bytes: int) -> None:
        announced, size = self.length, 0
        spool: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=SPOOL_IN_MEMORY_BYTES)  # noqa: SIM115 - outlives us
        while piece := self._read_piece(self.reader.read, min(65536, limit_bytes + 1 - size)):
            size += len(piece)
            if size > limit_bytes:
                spool.close()
                raise too_large(limit_bytes)
            spool.write(piece)
        if announced not in (None, size):
            spool.close()
            raise CallerGone("the body ended early")
        spool.seek(0)
        self.reader, self.length, self.is_taken_in = cast("Reader", spool), size, True

    def read(self, size: int) -> bytes:
        """The next bytes, as they come, at most `size`; b"" at the end. Raises `CallerGone` when the body ends before
        its announced length or last chunk, `BodyTooLong` as `pass_through` says."""
        assert self.is_bounded, "bound() or pass_through() comes first"
        left = size if self.length is None else min(size, self.length - self.read_bytes)
        if left <= 0:
            return b""
        self._is_begun = not self.is_taken_in
        piece = self._read_piece(self.reader.read if self.is_taken_in else self.reader.read1, left)
        if not piece and self.length is not None:
            raise CallerGone("the body ended early")
        self.read_bytes += len(piece)
        if self._limit_bytes is not None and self.read_bytes > self._limit_bytes:
            raise BodyTooLong(self._limit_bytes)
        return piece

    def _read_piece(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            return read(size)
        except CallerGone:
            raise
        except Exception as error:  # gunicorn raises many kinds for a torn or malformed body
            raise CallerGone(type(error).__name__) from error

    def close(self) -> None:
        if self.is_taken_in:
            cast("IO[bytes]", self.reader).close()


def too_large(limit_bytes: int) -> Problem:
    return PayloadTooLarge(f"The body is larger than the {limit_bytes} bytes that are accepted here.")


def refuse_torn_body(error: CallerGone) -> Problem:
    """Told to nobody in most cases: the caller has gone."""
    if isinstance(error, BodyTooLong):
        return too_large(error.limit_bytes)
    if isinstance(error.__cause__, TimeoutError):
        return RequestTimeout("The request body came too slowly.", headers=(("Connection", "close"),))
    return BadRequest("The request body ended before its announced length.", code="INCOMPLETE_BODY")
