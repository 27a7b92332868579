"""May a failed try be followed by another one, at whom and when? Pure rules, and the budget that keeps retries from
making things worse.

A try may be repeated when that can't do a thing twice: nothing of it reached the instance, or its method is idempotent
(RFC 9110, 9.2.2) and its body, if it has one, can be sent again. What comes back to the caller must not have begun.

Whom: an instance that this request has not been to yet. When there is none left, one that it has been to, so that a
service with a single instance is tried again as well.

When: after a random moment (exponential backoff with full jitter), so that those who failed together don't come back
together. Only where nobody was reached and somebody else can be is there nothing to wait for. An instance that says
`Retry-After` (RFC 9110, 10.2.3) is not asked before that; another one may be. When all that is left is to wait for it,
that is done if it is no longer than `LONGEST_RETRY_AFTER_S` and the request's own time allows it; otherwise the caller
gets the answer, and waits better than we do.

The budget is a share of the requests. Each request puts that share of a token into a bucket, each retry takes one out;
so an instance that always fails sees at most 1 + share times the traffic. Tries that never reached an instance (no
connection) are free: nobody bears them.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Protocol, TypeVar

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
MOST_TOKENS = 100.0
LONGEST_RETRY_AFTER_S = 2.0
BACKOFF_BASE_S = 0.025
BACKOFF_LONGEST_S = 0.25

Draw = Callable[[float, float], float]


class Failure(Enum):
    """How a try failed, as far as it matters here."""

    NOT_CONNECTED = "not connected"  # not a byte of the request has gone out
    BROKEN = "broken"  # reset, cut short or not HTTP, before the answer began
    TIMED_OUT = "timed out"
    STATUS = "status"  # one of the statuses that the service wants retried


def may_retry(failure: Failure, method: str, *, is_body_untouched: bool) -> bool:
    """Whether another try can do no harm; the budget and the deadline have their say besides."""
    if not is_body_untouched:
        return False
    return failure is Failure.NOT_CONNECTED or method in IDEMPOTENT


class RetryBudget:
    """Of one service in one worker. Shared by its greenlets; no method switches."""

    def __init__(self, share: float) -> None:
        """`share` 0.2 allows one retry for five requests."""
        self._share = share
        self._tokens = 1.0 if share > 0 else 0.0  # so that the very first request may be saved

    def request(self) -> None:
        """A request has come."""
        if self._tokens < MOST_TOKENS:
            self._tokens = min(MOST_TOKENS, self._tokens + self._share)

    def take(self) -> bool:
        """Whether one more retry is within the budget; it is taken."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def backoff_s(tries: int, *, base_s: float, longest_s: float, draw: Draw = random.uniform) -> float:
    """How long to wait after `tries` failed ones: exponential, with full jitter."""
    return draw(0.0, min(longest_s, base_s * 2 ** (tries - 1)))


def retry_after_s(value: str | None, now: float) -> float:
    """What `Retry-After` says, seconds or a date, in seconds from `now` (Unix time); 0.0 where it makes no sense."""
    if value is None:
        return 0.0
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
        return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


class Askable(Protocol):
    """What is known of an instance here."""

    @property
    def url(self) -> str: ...


A = TypeVar("A", bound=Askable)


class Tries:
    """Those of one request: whom it has been to, and whether it may go on. Belongs to that request."""

    def __init__(
        self,
        method: str,
        retries: int,
        budget: RetryBudget,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Draw = random.uniform,
    ) -> None:
        self.made = 0
        self._method, self._retries, self._budget = method, retries, budget
        self._clock, self._draw = clock, draw
        self._ready_at: dict[str, float] = {}  # by the URL of those that were asked

    def begin(self, instance: Askable) -> None:
        """`instance` is asked now."""
        self.made += 1
        self._ready_at[instance.url] = 0.0

    def was_refused(self, instance: Askable) -> None:
        """Its breaker let nobody through, so it was not asked, and will not be."""
        self.made -= 1
        self._ready_at[instance.url] = math.inf

    def put_off(self, url: str, seconds: float) -> None:
        """The instance that was asked wants to be left alone for so long."""
        self._ready_at[url] = self._clock() + seconds

    def candidates(self, admitting: Sequence[A]) -> list[A]:
        """Those of `admitting` to choose from now: whoever was not asked yet, else whoever may be asked again. None
        when all of them have refused or want to be left alone."""
        return self._candidates(admitting, self._clock())

    def _candidates(self, admitting: Sequence[A], moment: float) -> list[A]:
        unasked = [instance for instance in admitting if instance.url not in self._ready_at]
        return unasked or [instance for instance in admitting if self._ready_at[instance.url] <= moment]

    def pause_s(
        self, failure: Failure, admitting: Sequence[Askable], *, left_s: float, is_body_untouched: bool
    ) -> float | None:
        """How long to rest before the next try, which is taken from the budget; None when there is to be none.

        `left_s` is what the request's time leaves.
        """
        now = self._clock()
        soonest = min((self._ready_at.get(instance.url, 0.0) for instance in admitting), default=math.inf)
        candidates = self._candidates(admitting, max(soonest, now)) if soonest < math.inf else []
        if not candidates or left_s <= 0 or not may_retry(failure, self._method, is_body_untouched=is_body_untouched):
            return None
        was_asked = candidates[0].url in self._ready_at
        has_reached_nobody = failure is Failure.NOT_CONNECTED
        if has_reached_nobody and not was_asked:
            return 0.0
        if self.made > self._retries:
            return None
        wait_s = max(0.0, soonest - now)
        rest_s = wait_s + backoff_s(self.made, base_s=BACKOFF_BASE_S, longest_s=BACKOFF_LONGEST_S, draw=self._draw)
        if wait_s > LONGEST_RETRY_AFTER_S or rest_s >= left_s or not (has_reached_nobody or self._budget.take()):
            return None
        if was_asked:  # they are waited for, so whatever a timer's grain is, they may be asked then
            self._ready_at.update((instance.url, 0.0) for instance in candidates)
        return rest_s
