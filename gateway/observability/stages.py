"""How long the stages of one request took, told in `Server-Timing` (W3C, Server Timing) where SERVER_TIMING is on:

    route     finding the route
    auth      verifying what was shown
    limits    counting
    cache     looking for a kept answer
    prepare   the other policies, and what the service is sent
    instance  waiting at the gates, and choosing one whose breaker lets the request through
    service   until the head of the answer, or all of a short one, is here
    total     all of these, and what is done with the answer

Those that a request did not come to are not there. Of several tries all count, two beside each other as one.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

FIELD = "Server-Timing"


class Stages:
    """Of one request; it belongs to its greenlet."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._began = self._last = clock()
        self._took_s: dict[str, float] = {}

    def ended(self, stage: str) -> None:
        """What was done since the stage before belongs to this one."""
        now = self._clock()
        self._add(stage, now - self._last)
        self._last = now

    def apart(self, stage: str, work: Callable[[], object]) -> None:
        """Do `work`, which is a stage of its own in the middle of another one."""
        began = self._clock()
        try:
            work()
        finally:
            seconds = self._clock() - began
            self._add(stage, seconds)
            self._last += seconds

    def field(self) -> tuple[str, str]:
        """The header field, in milliseconds."""
        took = {**self._took_s, "total": self._clock() - self._began}
        return FIELD, ", ".join(f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in took.items())

    def _add(self, stage: str, seconds: float) -> None:
        self._took_s[stage] = self._took_s.get(stage, 0.0) + seconds
