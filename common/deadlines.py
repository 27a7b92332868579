"""How long there is still somebody who waits for the answer.

Whoever calls a service may say in `X-Request-Timeout-Ms` how many whole milliseconds it is going to wait. It is a time
span, not a point in time, because clocks differ between machines; the receiver counts it down from the moment in which
it has read the request's head.

    the caller waits 10 s    gateway --- 10000 ---> order_service --- 4000 ---> product_service
                                                    has spent 3 ms, and would wait 4 s at most on its own account

Each call to another service takes what is left of the request, or the call's own time-out where that is sooner, and
says so in the same field. So the header can only shorten what a service does: without it, or with one that makes no
sense, there is no deadline and the time-outs of the service hold. Nor is there one where no request is being served (a
reconciler, a command).

A request whose time is over before its work begins is refused with 504 DEADLINE_EXCEEDED: nobody would read the answer.
What has begun is not torn out of its work. It goes on with less and less time to wait for others, and ends as it does
when they don't answer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from flask import Flask, g, has_app_context, request

from common.problems import GatewayTimeout

HEADER = "X-Request-Timeout-Ms"
_MILLISECONDS = re.compile(r"[0-9]{1,9}")

Clock = Callable[[], float]
"""Seconds that never go back."""


def parse(value: str | None) -> float | None:
    """The header's value in seconds, 0.0 for a time that is over. None where it is missing or makes no sense."""
    return int(value) / 1000 if value is not None and _MILLISECONDS.fullmatch(value) else None


def render(left_s: float) -> str:
    """The header's value for this many seconds."""
    return str(round(left_s * 1000))


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of a monotonic clock."""

    at: float
    clock: Clock = field(default=time.monotonic, repr=False)

    @classmethod
    def after(cls, timeout_s: float, clock: Clock = time.monotonic) -> Deadline:
        return cls(clock() + timeout_s, clock)

    def left_s(self) -> float:
        """Seconds until then, in the whole milliseconds that can be told to others; 0.0 once it is over."""
        return max(0, int((self.at - self.clock()) * 1000)) / 1000

    @property
    def is_over(self) -> bool:
        return self.left_s() == 0


def current() -> Deadline | None:
    """That of the request being served; None where it has none, or where none is being served."""
    deadline: Deadline | None = g.get("deadline") if has_app_context() else None
    return deadline


def outgoing(timeout_s: float) -> Deadline:
    """That of a call to another service: `timeout_s` from now, or the current one where that is sooner."""
    own, of_request = Deadline.after(timeout_s), current()
    return of_request if of_request is not None and of_request.left_s() < own.left_s() else own


def init_app(app: Flask, *, clock: Clock = time.monotonic) -> None:
    """Count down each request's time, and refuse one whose time is over already."""

    @app.before_request
    def begin() -> None:
        left_s = parse(request.headers.get(HEADER))
        g.deadline = None if left_s is None else Deadline.after(left_s, clock)
        if left_s == 0:
            raise GatewayTimeout("The time for this request was over before its work began.", code="DEADLINE_EXCEEDED")
