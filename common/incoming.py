"""What comes from one caller's connection, and how slowly it may come.

    idle    no byte of the next request is here        the keep-alive time, then the connection ends without a word
    head    some of a request's head is here           `head_s` for all of it, then `HeadTooSlow`, however it trickles
    body    the head was whole                         `pause_s` for each pause, and on average `body_min_rate` bytes
                                                       for each second of waiting, once it was waited for `pause_s`

Only time spent waiting for the caller counts for a body: who reads late, because a service is slow, blames nobody.
No timer is made for what is there already: the socket makes one where it has to wait.
"""

# the stubs are older than gunicorn
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from gunicorn.http.unreader import SocketUnreader


@dataclass(frozen=True, slots=True)
class Pace:
    """What is asked of a caller."""

    head_s: float = 10.0
    pause_s: float = 30.0
    body_min_rate: int = 100  # bytes a second; 0: no bound
    requests: int = 1000  # on one connection
    age_s: float = 3600.0  # of one connection


class HeadTooSlow(Exception):
    """A request's head was begun and not finished in its time."""


class BodyTooSlow(TimeoutError):
    """A body trickles."""


class Incoming(SocketUnreader):
    """The reading side of one connection, for one greenlet."""

    def __init__(
        self, sock: socket.socket, pace: Pace, keepalive_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(sock)
        self._pace, self._keepalive_s, self._clock = pace, keepalive_s, clock
        self._began = clock()
        self.requests = 0  # how many heads were read or begun
        self._is_body = False
        self._head_ends: float | None = None  # None: not begun
        self._waited_s, self._taken = 0.0, 0

    def await_request(self) -> None:
        """From now on the next request's head is read."""
        self._is_body = False
        self.requests += 1
        self._head_ends = self._clock() + self._pace.head_s if self.buf.getbuffer().nbytes else None
        self.sock.settimeout(self._keepalive_s)

    def take_ahead(self) -> bytes:
        """What was received and not read, from now on the business of who asks."""
        return self.take_buffered()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType] - newer

    @property
    def is_last(self) -> bool:
        """Whether the connection has had its share of requests or time with this one."""
        return self.requests >= self._pace.requests or self._clock() - self._began >= self._pace.age_s

    def await_body(self) -> None:
        """The head was whole."""
        self._is_body = True
        self._waited_s, self._taken = 0.0, 0
        self.sock.settimeout(self._pace.pause_s)

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next bytes; b"" at the end. Raises `HeadTooSlow`, `BodyTooSlow`, and `TimeoutError` for a pause."""
        return self._of_body(size_hint) if self._is_body else self._of_head()

    def _of_head(self) -> bytes:
        if self._head_ends is not None:
            left_s = self._head_ends - self._clock()
            if left_s <= 0:
                raise HeadTooSlow
            self.sock.settimeout(left_s)
        try:
            data: bytes = super().chunk()
        except TimeoutError:
            if self._head_ends is None:
                return b""
            raise HeadTooSlow from None
        if self._head_ends is None:
            self._head_ends = self._clock() + self._pace.head_s
        return data

    def _of_body(self, size_hint: int | None) -> bytes:
        began = self._clock()
        data: bytes = super().chunk(size_hint)  # pyright: ignore[reportCallIssue] - newer
        self._waited_s += self._clock() - began
        self._taken += len(data)
        if self._waited_s > self._pace.pause_s and self._taken < self._pace.body_min_rate * self._waited_s and data:
            raise BodyTooSlow("the body trickles")
        return data
