"""Load shedding: how many requests one worker lets through to a service at once, who waits, and who is turned away.

A service that gets more than it can bear answers everybody late, which is as good as not at all: it works on for
callers who have left. So a `Gate` stands before it.

    places     at most `in_flight` requests are inside; one that leaves hands its place to a waiter, if there is one,
               so no newcomer overtakes, and no place is empty while somebody waits
    queue      at most `queue` more wait, each for `wait_s` at most, or for what its own deadline leaves of that
    classes    high goes before normal, and normal before low, always
    full       the one whose turn would come last is shed, be it the newcomer or a waiter

Within a class the oldest goes first, as long as its line is a ripple: that is fair, and waits differ least. But a line
that has not been empty for `wait_s` is no ripple: more come than can go, and in this order all would wait for nearly as
long as they may, to be served when their callers have lost patience. From then on the newest goes first, until the line
has been empty once (adaptive LIFO; Maurer, Fail at Scale, ACM Queue 13, 2015). Then those who are served have hardly
waited, and those who are shed are no more than before. So under twice the load that the service can bear as many are
served in time as under just that load. Who is last when the queue is full turns too: first the youngest of the lowest
class, later the oldest.

Why not keep the order and shorten the wait ("controlled delay", after CoDel, RFC 8289)? Where places are few and
requests slow, the short wait is often over before a place comes free; then the place is idle until the next one comes.

Who is shed is told when to come back: after the time in which as many places came free, of late, as are waited for now.
While somebody waits all places are taken, so what is counted is what the service can bear.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Literal, get_args

from gevent.event import Event

Priority = Literal["high", "normal", "low"]
Reason = Literal["queue full", "waited too long", "pushed out"]

LONGEST_RETRY_AFTER_S = 10
LATELY_S = 5.0


class Shed(Exception):
    """There was neither a place nor a turn in time. `retry_after_s` is 1 to 10."""

    def __init__(self, reason: Reason, retry_after_s: int) -> None:
        super().__init__(f"{reason}; to be tried again in {retry_after_s} s")
        self.reason: Reason = reason
        self.retry_after_s = retry_after_s


class Gate:
    """Of one service in one worker, shared by its greenlets. Nothing in here switches but the wait in `enter`, and
    after that a waiter goes by what was noted for it, not by what woke it. So no lock is needed."""

    def __init__(
        self, *, in_flight: int, queue: int, wait_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """At most `in_flight` inside (1 or more), and `queue` waiting (0 or more) for `wait_s` at most."""
        self._most_in_flight = in_flight
        self._longest_queue = queue
        self._wait_s = wait_s
        self._clock = clock
        self._in_flight = 0
        self._waiting = 0
        self._lines = {priority: _Line(stands_after_s=wait_s) for priority in get_args(Priority)}  # highest first
        self._pace = _Pace()

    @property
    def in_flight(self) -> int:
        """How many are inside; a waiter counts from the moment it is handed a place."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def is_full(self) -> bool:
        """Whether `enter` would wait or shed."""
        return self._in_flight >= self._most_in_flight

    def enter_at_once(self) -> bool:
        """Take a place if one is free, which it is only while nobody waits. Whether that was done."""
        if self._in_flight >= self._most_in_flight:
            return False
        self._in_flight += 1
        return True

    def enter(self, priority: Priority = "normal", *, wait_s: float | None = None) -> None:
        """Take a place, perhaps after a wait: of `wait_s` at most, where that is shorter than the gate's.

        Raises `Shed`. To each `enter` that returned belongs one `leave`, and none to one that raised.
        """
        if not self.enter_at_once():
            self._wait_for_place(priority, self._wait_s if wait_s is None else min(wait_s, self._wait_s))

    def leave(self) -> None:
        """Hand the place to the next waiter, or give it back. Does not switch; any greenlet may call it."""
        if self._waiting:
            self._hand_over()
        else:
            self._in_flight -= 1

    def _wait_for_place(self, priority: Priority, wait_s: float) -> None:
        if wait_s <= 0:
            raise self._shed("waited too long")
        waiter, line = _Waiter(), self._lines[priority]
        self._queue_up(waiter, line)
        try:
            waiter.called.wait(wait_s)
            if not waiter.has_place:
                raise self._shed("pushed out" if waiter.called.is_set() else "waited too long")
        except BaseException:  # shed, or killed, or out of some time of the caller's own
            if waiter.has_place:
                self.leave()
            elif not waiter.called.is_set():
                line.withdraw(waiter)
                self._waiting -= 1
            raise

    def _queue_up(self, waiter: _Waiter, line: _Line) -> None:
        """Raises `Shed` when the queue is full and `waiter` would be the last of it."""
        now = self._clock()
        if not self._waiting:
            self._pace.begin(now)
        line.join(waiter, now)
        if self._waiting < self._longest_queue:
            self._waiting += 1
            return
        last = next(line for line in reversed(self._lines.values()) if line).take_last(now)
        if last is waiter:
            raise self._shed("queue full")
        last.call(has_place=False)

    def _hand_over(self) -> None:
        now = self._clock()
        self._pace.count(now)
        self._waiting -= 1
        next(line for line in self._lines.values() if line).take_next(now).call(has_place=True)

    def _shed(self, reason: Reason) -> Shed:
        seconds = self._pace.time_for_s(self._waiting, self._clock())
        return Shed(reason, max(1, math.ceil(min(seconds, LONGEST_RETRY_AFTER_S))))


class _Waiter:
    """One who waits, until it is called: to a place, or away."""

    __slots__ = ("called", "has_place")

    def __init__(self) -> None:
        self.called = Event()
        self.has_place = False

    def call(self, *, has_place: bool) -> None:
        self.has_place = has_place
        self.called.set()


class _Line:
    """The waiters of one class; false when there are none."""

    def __init__(self, *, stands_after_s: float) -> None:
        self._stands_after_s = stands_after_s
        self._waiters: deque[_Waiter] = deque()  # oldest first
        self._since = 0.0

    def __bool__(self) -> bool:
        return bool(self._waiters)

    def join(self, waiter: _Waiter, now: float) -> None:
        if not self._waiters:
            self._since = now
        self._waiters.append(waiter)

    def withdraw(self, waiter: _Waiter) -> None:
        self._waiters.remove(waiter)  # mostly found at once: the oldest run out of time first

    def take_next(self, now: float) -> _Waiter:
        """The one whose turn it is; `take_last` the one whose turn would come last."""
        return self._waiters.pop() if self._is_standing(now) else self._waiters.popleft()

    def take_last(self, now: float) -> _Waiter:
        return self._waiters.popleft() if self._is_standing(now) else self._waiters.pop()

    def _is_standing(self, now: float) -> bool:
        return now - self._since >= self._stands_after_s


class _Pace:
    """How fast places come free, over the last 5 to 10 s of a time in which somebody always waited."""

    def __init__(self) -> None:
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Nobody waited just before: what came free then shows what was asked for, not what can be borne."""
        self._since = self._middle = now
        self._freed = self._freed_since_middle = 0

    def count(self, now: float) -> None:
        """A place has come free."""
        self._forget_old(now)
        self._freed += 1
        self._freed_since_middle += 1

    def time_for_s(self, places: int, now: float) -> float:
        """How long it takes until `places` come free. One more is counted than did: the next is on its way."""
        self._forget_old(now)
        return places * (now - self._since) / (self._freed + 1)

    def _forget_old(self, now: float) -> None:
        if now - self._middle >= LATELY_S:
            self._since, self._freed = self._middle, self._freed_since_middle
            self._middle, self._freed_since_middle = now, 0
