"""What is left of a request's time: one time for all its tries, its waits for a place and its rests between tries.

    total   what the service has (`timeout_s`), from the moment in which the gateway began with the request
    wish    what the caller has (`X-Request-Timeout-Ms`), from the same moment; it can only shorten the total
    try     what one try has (`try_timeout_s`), from its own beginning; never more than is left of the other two

The times are hard. The time-outs of sockets begin anew with each byte that comes; so a `Limit` is put around each try,
a timer that throws the greenlet out of whatever it waits for: a connection, a head that comes in drops, a short answer
that stops in the middle. A long answer streams, and is out of it as soon as its head is there.

While the gateway waits for the caller's body the total and the try stand still: that a caller is slow is not the
service's fault. The wish does not, for it is the caller's own time; it takes effect when the caller has sent its piece.
(It may be another greenlet that waits for the body, see `sending`.)

Who wishes for little must not do harm to others. A `Limit` knows whether it is the wish that ends it. If so, running
out of time says nothing about the instance, nor does an answer by which the service may only have done as it was told
(`excuses`): 504, and 502 or 503 once half of the time was gone, for then somebody else did not answer the service in
time. Such a try is neither a failure to the breaker nor a reason to try again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from gevent import getcurrent
from greenlet import greenlet

from gateway.backend.alarms import alarms
from gateway.body import Reader

LEAST_S = 0.001
"""Less than this is nothing: others are told of whole milliseconds, and 0 would mean that nobody waits."""

Clock = Callable[[], float]


class OutOfTime(Exception):
    """The time of a try is over. What it was doing was broken off."""


class _TryOver(BaseException):
    """Thrown into the greenlet of a try when its time is over."""


class WishOver(_TryOver):
    """Thrown when it is the caller's own time that is over."""


class Countdown:
    """Of one request: its greenlet's, and for a hedged request also those of its tries; nothing in here switches."""

    def __init__(
        self, total_s: float, wish_s: float | None = None, *, began: float | None = None, clock: Clock = time.monotonic
    ) -> None:
        """`began` is when the gateway began with the request, by `clock`; default: now."""
        began = clock() if began is None else began
        self.clock = clock
        self.total_s = total_s
        self.wish_s = wish_s
        self.ends_at = began + total_s
        self.wish_ends_at = math.inf if wish_s is None else began + wish_s
        self.limit_in_force: Limit | None = None

    def left_s(self) -> float:
        """Seconds, 0.0 once nothing is left that could be told in whole milliseconds."""
        left_s = min(self.ends_at, self.wish_ends_at) - self.clock()
        return left_s if left_s >= LEAST_S else 0.0

    def limit(self, try_timeout_s: float) -> Limit:
        """For one try; its time begins when the `with` block is entered."""
        return Limit(self, try_timeout_s)

    def standing_still(self, reader: Reader) -> Reader:
        """`reader`, the caller's body, for whose pieces neither the total nor the try has to wait."""
        return _Waiting(reader, self)

    def stop(self) -> float:
        """The caller is waited for from now on. Returns the time, for `go_on`."""
        if self.limit_in_force is not None:
            self.limit_in_force.suspend()
        return self.clock()

    def go_on(self, stopped_at: float) -> None:
        waited_s = self.clock() - stopped_at
        self.ends_at += waited_s
        if self.limit_in_force is not None:
            self.limit_in_force.resume(waited_s)


class Limit:
    """A `with` block around one try: raises `OutOfTime`, as late as the block has waited for something."""

    _began = _ends_at = 0.0  # by the service's own times
    _greenlet: greenlet | None = None  # while it is inside
    _thrown: BaseException | None = None
    rings_at = math.inf
    given_s = 0.0

    def __init__(self, countdown: Countdown, try_timeout_s: float) -> None:
        self._countdown = countdown
        self._try_timeout_s = try_timeout_s

    @property
    def is_by_wish(self) -> bool:
        """Whether it is the caller's own time that ends the try."""
        return self._countdown.wish_ends_at < self._ends_at

    @property
    def words(self) -> str:
        """Whose time it is, for the one who is told that it is over."""
        if self.is_by_wish:
            return f"the {(self._countdown.wish_s or 0.0) * 1000:.0f} ms that the caller wants to wait"
        return f"{min(self._countdown.total_s, self._try_timeout_s):g} seconds"

    def excuses(self, status: int) -> bool:
        """Whether an answer with this status may be owed to the caller's wish alone."""
        if not self.is_by_wish or status not in (502, 503, 504):
            return False
        return status == 504 or self._countdown.clock() - self._began >= self.given_s / 2

    def __enter__(self) -> Self:
        """Raises `OutOfTime` at once when nothing is left."""
        countdown = self._countdown
        self._began = now = countdown.clock()
        self._ends_at = ends_at = min(countdown.ends_at, now + self._try_timeout_s)
        self.given_s = given_s = min(ends_at, countdown.wish_ends_at) - now
        if given_s < LEAST_S:
            raise OutOfTime
        self._greenlet = getcurrent()
        countdown.limit_in_force = self
        self._set_alarm(given_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.suspend()
        self._greenlet = None
        if self._countdown.limit_in_force is self:
            self._countdown.limit_in_force = None
        if error is not None and error is self._thrown:
            self._thrown = None  # it leads back here
            raise OutOfTime from None
        return False

    def suspend(self) -> None:
        alarms().cancel(self)

    def resume(self, waited_s: float) -> None:
        if self._greenlet is not None:
            self._ends_at += waited_s
            self._set_alarm(min(self._ends_at, self._countdown.wish_ends_at) - self._countdown.clock())

    def ring(self) -> None:
        """For `alarms`."""
        if self._greenlet is not None:
            self._thrown = WishOver() if self.is_by_wish else _TryOver()
            self._greenlet.throw(self._thrown)

    def _set_alarm(self, left_s: float) -> None:
        self.rings_at = time.monotonic() + left_s
        alarms().set(self)


class _Waiting:
    """A caller's body. The clock stands still for as long as a piece of it does not come."""

    def __init__(self, reader: Reader, countdown: Countdown) -> None:
        self._reader, self._countdown = reader, countdown

    def read(self, size: int = -1, /) -> bytes:
        return self._wait_for(self._reader.read, size)

    def read1(self, size: int = -1, /) -> bytes:
        return self._wait_for(self._reader.read1, size)

    def _wait_for(self, read: Callable[[int], bytes], size: int) -> bytes:
        stopped_at = self._countdown.stop()
        try:
            return read(size)
        finally:
            self._countdown.go_on(stopped_at)
