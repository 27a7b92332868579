"""Deadlines without a timer each: one timer of the event loop serves all who wait in a thread.

Nearly every wait ends in time, so what counts is the cost of setting an alarm and cancelling it again: an entry in a
table. The timer is set for the earliest of all; as most have about the same time to wait, one that is set later mostly
rings later too, and leaves the timer alone. When it strikes, those whose time has come ring, and it is set for the
earliest of the rest. Nobody is rung early, and nobody more than `GRAIN_S` late for this alone.
"""

from __future__ import annotations

import math
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, cast

from gevent import get_hub, monkey

if TYPE_CHECKING:
    import threading


GRAIN_S = 0.005


class Alarm(Protocol):
    """Who wants to be rung, by identity."""

    rings_at: float
    """By `time.monotonic`; may change only while it is not set."""

    def ring(self) -> None:
        """Its time has come; it is not set any more. Called in the hub, so it must not wait, nor raise."""
        ...


class Alarms:
    """Of one thread, shared by its greenlets. `set` and `cancel` do not switch."""

    def __init__(self) -> None:
        self._set: dict[Alarm, None] = {}
        self._timer: Any = None
        self._strikes_at = math.inf

    def set(self, alarm: Alarm) -> None:
        self._set[alarm] = None
        if alarm.rings_at < self._strikes_at:
            self._strike_at(alarm.rings_at)

    def cancel(self, alarm: Alarm) -> None:
        """Also for one that is not set."""
        self._set.pop(alarm, None)

    def _strike_at(self, moment: float) -> None:
        self._strikes_at = moment
        if self._timer is not None:
            self._timer.close()
        self._timer = timer = get_hub().loop.timer(max(0.0, moment - monotonic()))
        timer.start(self._strike)

    def _strike(self) -> None:
        now = monotonic()
        self._strikes_at = math.inf
        for alarm in [alarm for alarm in self._set if alarm.rings_at <= now]:
            if alarm in self._set and alarm.rings_at <= now:  # another that was rung may have cancelled it
                del self._set[alarm]
                alarm.ring()
        earliest = min((alarm.rings_at for alarm in self._set), default=math.inf)
        if earliest < self._strikes_at:
            self._strike_at(max(earliest, now + GRAIN_S))


_of_thread = cast("threading.local", monkey.get_original("threading", "local")())


def alarms() -> Alarms:
    """Those of this thread."""
    try:
        return _of_thread.alarms
    except AttributeError:
        _of_thread.alarms = made = Alarms()
        return made
