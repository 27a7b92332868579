"""Hedged requests: when an answer is late, a second try at another instance, and the first good answer wins.

A slow answer is often the luck of one instance: a pause of its collector, a cold cache, a queue. The same request sent
elsewhere would long be answered (Dean and Barroso, The Tail at Scale, CACM 56, 2013). So, for requests that may be sent
twice (`retries.may_retry`):

1. The first try runs. Most are done before `after_s`, which is the 95th percentile of what first tries take.
2. If it is not, and the budget allows it, a second one starts beside it; the first goes on.
3. The first good answer is given back. The other try is killed, and its `finally`s have run, or if it had an answer
   that answer is discarded.
4. A try that fails, by an exception or by an answer that is not good, waits for the other. When both fail, the failure
   of the first is the one that is told.

Two things keep this from making an overload worse: at most one request in twenty is late, by the meaning of `after_s`;
and the budget is a share of the requests, so that a service that turns slow as a whole is not asked twice for all.

What a killed try took until then has to be observed as well. It is too short, but above the percentile, where it
belongs; without it the slow ones would drop out, the percentile would sink, and ever more would be called late.
"""

from __future__ import annotations

import contextvars
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import gevent

T = TypeVar("T")

KEPT = 512
SORTED_EVERY = 20


class LatencyQuantile:
    """How long a share of the requests takes at most, going by the last 512. Of one service in one worker, shared by
    its greenlets; nothing switches."""

    def __init__(self, quantile: float = 0.95) -> None:
        """`quantile` is above 0 and at most 1."""
        self._quantile = quantile
        self._last_s: deque[float] = deque(maxlen=KEPT)
        self._unsorted = 0
        self._value_s = 0.0

    def observe(self, latency_s: float) -> None:
        self._last_s.append(latency_s)
        self._unsorted += 1

    @property
    def value_s(self) -> float:
        """Up to 19 observations behind, for sorting costs more than all the rest; 0 while fewer than 20 are known."""
        if self._unsorted >= SORTED_EVERY:
            self._unsorted = 0
            rank = math.ceil(self._quantile * len(self._last_s))
            self._value_s = sorted(self._last_s)[rank - 1]
        return self._value_s


def first_good(
    first: Callable[[], T],
    second: Callable[[], T] | None,
    *,
    after_s: float,
    may_start_second: Callable[[], bool],
    discard: Callable[[T], None],
    is_good: Callable[[T], bool],
) -> T:
    """The first good result of `first` and, if that takes longer than `after_s`, of `second`; else the failure of
    `first`: what it returned, though it is not good, or what it raised.

    Without a `second`, or with an `after_s` of 0 (nothing is known yet), `first` is just called. Otherwise both run in
    greenlets of their own, with copies of the caller's context variables: what they set there is lost. They must let
    `GreenletExit` through. `may_start_second` is asked once at most. `discard` gets each result that is not given back;
    it neither raises nor switches. No try is under way any more when this ends, also if the caller is killed; killed
    again meanwhile, it leaves them to their cleaning up.
    """
    if second is None or after_s <= 0:
        return first()
    tries = [_Try(first, discard)]
    try:
        tries[0].greenlet.join(after_s)  # 1
        if not tries[0].greenlet.ready() and may_start_second():
            tries.append(_Try(second, discard))  # 2
        best = _best(tries, is_good)
        _call_off([each for each in tries if each is not best])  # 3
        return best.take()
    finally:
        _call_off(tries)  # nothing is left to do, unless the above was cut short


def _call_off(tries: Sequence[_Try[T]]) -> None:
    for each in tries:  # all, before one is waited for: a kill may cut that short
        each.call_off()
    for each in tries:
        each.greenlet.join()


def _best(tries: Sequence[_Try[T]], is_good: Callable[[T], bool]) -> _Try[T]:
    """The first that ends well, else the first of all (4)."""
    by_greenlet = {each.greenlet: each for each in tries}
    with gevent.iwait([*by_greenlet]) as ended:
        for greenlet in ended:
            if by_greenlet[greenlet].ended_well(is_good):
                return by_greenlet[greenlet]
    return tries[0]


class _Try(Generic[T]):
    """One try in its greenlet, and what came of it. An exception stays in here until it is taken: gevent would print
    what a greenlet raises. A result is either taken, once, or discarded."""

    def __init__(self, run: Callable[[], T], discard: Callable[[T], None]) -> None:
        self._discard = discard
        self._results: list[T] = []  # one at most, and None may be one
        self._error: BaseException | None = None
        self._is_called_off = False
        # a greenlet begins with an empty context otherwise: no request id in its log lines
        self.greenlet = gevent.spawn(contextvars.copy_context().run, self._keep_outcome, run)

    def ended_well(self, is_good: Callable[[T], bool]) -> bool:
        return bool(self._results) and is_good(self._results[0])

    def take(self) -> T:
        """The result of a try that has ended, or what it raised."""
        if self._error is not None:
            raise self._error
        return self._results.pop()

    def call_off(self) -> None:
        """Kill it soon, if it is still running; discard its result, if nobody has taken it. Does not switch."""
        self._is_called_off = True
        self._discard_results()
        self.greenlet.kill(block=False)

    def _keep_outcome(self, run: Callable[[], T]) -> None:
        try:
            self._results.append(run())
            if self._is_called_off:  # it ended before the kill reached it, or in spite of it
                self._discard_results()
        except BaseException as error:  # noqa: BLE001 - the one who takes the result gets it
            self._error = error

    def _discard_results(self) -> None:
        while self._results:
            self._discard(self._results.pop())
