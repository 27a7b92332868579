"""The words of the pipeline: an `Exchange` is one request's facts, a `Handler` takes one and gives an `Answer`.

Policies work on these and never on `flask.request`, so the same composed handler serves wherever the request came in.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Protocol, cast

from common.keys import InvalidToken, KeysUnavailable
from common.problems import BadRequest, PayloadTooLarge, Problem
from common.tokens import Identity, bearer_token
from gateway.headers import Forwarding
from gateway.targets import Target

if TYPE_CHECKING:
    from gateway.router import Route
    from gateway.runtime import Runtime
    from gateway.services import Service

SOURCE = "gateway"
"""The source that our own problems name."""

EXCHANGE = "gateway.exchange"
"""The key of the WSGI environment under which the edge leaves the exchange."""

HeaderList = list[tuple[str, str]]


@dataclass(slots=True)
class Answer:
    """What goes back to the caller. A body that streams may have a `close` method, which is called in any case."""

    status: int
    headers: HeaderList
    body: Iterable[bytes]
    instance_url: str = ""  # where it came from

    def close(self) -> None:
        """Nobody will read the body."""
        close = getattr(self.body, "close", None)
        if close is not None:
            close()

    def header(self, name: str) -> str | None:
        """The first field called `name` (lower case)."""
        return next((value for key, value in self.headers if key.lower() == name), None)


class Handler(Protocol):
    """The last one is `forward`; each policy wraps one. Raises `Problem` to refuse."""

    def __call__(self, exchange: Exchange, /) -> Answer: ...


Policy = Callable[[Handler], Handler]


class Reader(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class CallerGone(Exception):
    """The caller went away, or cut its body short, before all of it was here: nobody's fault but its own."""


SPOOL_IN_MEMORY_BYTES = 256 << 10
TAKEN_IN_BYTES = 64 << 10


@dataclass(slots=True)
class Body:
    """The request's body, read from first to last.

    `length` is what Content-Length said, or None for a chunked body. `bound` must come before the first `read`. It
    takes in a body that is short or chunked (in memory, past 256 KB in a temporary file): so the length is known, the
    service is not touched by a body that turns out too long, none of its connections waits for a caller who is slow
    with a few bytes, and such a body can be sent again. A long one with a length streams, once.
    """

    reader: Reader
    length: int | None
    is_bounded: bool = False
    is_taken_in: bool = False
    read_bytes: int = 0

    @property
    def is_at_start(self) -> bool:
        """Nothing of it has been read from here."""
        return self.read_bytes == 0

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

    def _take_in(self, limit_bytes: int) -> None:
        announced, size = self.length, 0
        spool: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=SPOOL_IN_MEMORY_BYTES)  # noqa: SIM115 - outlives us
        while piece := self._read_piece(min(65536, limit_bytes + 1 - size)):
            size += len(piece)
            if size > limit_bytes:
                spool.close()
                raise too_large(limit_bytes)
            spool.write(piece)
        if announced not in (None, size):
            spool.close()
            raise CallerGone("the body ended early")
        spool.seek(0)
        self.reader, self.length, self.is_taken_in = spool, size, True

    def read(self, size: int = -1) -> bytes:
        """The next bytes, b"" at the end. Raises `CallerGone` when the body ends before its announced length."""
        assert self.is_bounded, "bound() comes first"
        left = (self.length or 0) - self.read_bytes
        if left <= 0:
            return b""
        piece = self._read_piece(left if size < 0 else min(size, left))
        if not piece:
            raise CallerGone("the body ended early")
        self.read_bytes += len(piece)
        return piece

    def _read_piece(self, size: int) -> bytes:
        try:
            return self.reader.read(size)
        except CallerGone:
            raise
        except Exception as error:  # gunicorn raises many kinds for a torn or malformed body
            raise CallerGone(type(error).__name__) from error

    def close(self) -> None:
        if isinstance(self.reader, tempfile.SpooledTemporaryFile):
            self.reader.close()


def too_large(limit_bytes: int) -> Problem:
    return PayloadTooLarge(f"The body is larger than the {limit_bytes} bytes that are accepted here.")


@dataclass(slots=True)
class Exchange:
    """One request's facts on its way through. Belongs to one greenlet."""

    method: str
    target: Target
    headers: Mapping[str, str]  # lower-case names; WSGI joined repeated fields with a comma
    body: Body
    forwarding: Forwarding
    request_id: str
    runtime: Runtime
    is_operations: bool  # came in on the operations listener
    started: float = field(default_factory=time.perf_counter)
    service: Service = field(init=False)
    route: Route = field(init=False)
    prefix_segments: int = 0  # how many of the target's segments belong to the service's public prefix
    answer_headers: HeaderList = field(default_factory=list)  # what policies add to whatever answer it will be
    notes: dict[str, str | int | float] = field(default_factory=dict)  # for the access line
    _identity: Identity | Exception | None = field(default=None, init=False)
    _identity_known: bool = field(default=False, init=False)

    @property
    def identity(self) -> Identity | None:
        """Who a valid token speaks for, None for no token or a bad one. Decoded at most once, never raises."""
        outcome = self._verified()
        return outcome if isinstance(outcome, Identity) else None

    def require_identity(self) -> Identity | None:
        """As `identity`, but raises `InvalidToken` or `KeysUnavailable` for a token that is not good."""
        outcome = self._verified()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _verified(self) -> Identity | Exception | None:
        if not self._identity_known:
            self._identity_known = True
            try:
                token = bearer_token(self.headers.get("authorization"))
                self._identity = self.runtime.verifier.verify(token) if token is not None else None
            except (InvalidToken, KeysUnavailable) as error:
                self._identity = error
        return self._identity


def refuse_torn_body() -> Problem:
    """Told to nobody in most cases: the caller has gone."""
    return BadRequest("The request body ended before its announced length.", code="INCOMPLETE_BODY")
