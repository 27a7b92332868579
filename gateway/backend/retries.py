"""May a failed try be followed by another one? Pure rules, and the budget that keeps retries from making things worse.

A try may be repeated when that can't do a thing twice: nothing of it reached the instance, or its method is idempotent
(RFC 9110, 9.2.2) and its body, if it has one, has not been read from the caller yet. What comes back to the caller must
not have begun.

The budget is a share of the requests. Each request puts that share of a token into a bucket, each retry takes one out;
so an instance that always fails sees at most 1 + share times the traffic. Tries that never reached an instance (no
connection) are free: nobody bears them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
MOST_TOKENS = 100.0
LONGEST_RETRY_AFTER_S = 2.0


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
        self._tokens = min(MOST_TOKENS, self._tokens + self._share)

    def take(self) -> bool:
        """Whether one more retry is within the budget; it is taken."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def backoff_s(
    tries: int, *, base_s: float, longest_s: float, draw: Callable[[float, float], float] = random.uniform
) -> float:
    """How long to wait after `tries` failed ones: exponential, with full jitter."""
    return draw(0.0, min(longest_s, base_s * 2 ** (tries - 1)))
