"""Deadlines on one timer: who is rung when, and who is not."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from functools import partial

import gevent
import pytest

from gateway.backend.alarms import Alarms, alarms

LATE_S = 0.2


class Ringing:
    """Notes how late it is rung."""

    def __init__(self, in_s: float, then: Callable[[], object] = bool) -> None:
        self.rings_at = time.monotonic() + in_s
        self.late_s = math.nan
        self._then = then

    @property
    def is_rung(self) -> bool:
        return not math.isnan(self.late_s)

    def ring(self) -> None:
        assert not self.is_rung
        self.late_s = time.monotonic() - self.rings_at
        self._then()


@pytest.mark.parametrize("order", [(0.03, 0.06, 0.09), (0.09, 0.06, 0.03), (0.06, 0.03, 0.09), (0.03, 0.03, 0.03)])
def test_each_rings_at_its_time_and_never_before(order: tuple[float, ...]) -> None:
    made, table = [Ringing(in_s) for in_s in order], Alarms()

    for alarm in made:
        table.set(alarm)
    gevent.sleep(0.15 + LATE_S)

    assert all(0 <= alarm.late_s < LATE_S for alarm in made)


def test_one_whose_time_is_over_already_rings_soon() -> None:
    alarm, table = Ringing(-1.0), Alarms()

    table.set(alarm)
    was_rung_at_once = alarm.is_rung
    gevent.sleep(0.01)

    assert (was_rung_at_once, alarm.is_rung) == (False, True)


def test_one_that_is_cancelled_does_not_ring_and_the_others_do() -> None:
    first, second, table = Ringing(0.01), Ringing(0.02), Alarms()
    table.set(first)
    table.set(second)

    table.cancel(first)
    table.cancel(first)
    gevent.sleep(0.05)

    assert (first.is_rung, second.is_rung) == (False, True)


def test_one_may_be_set_again_for_another_time() -> None:
    alarm, table = Ringing(0.01), Alarms()
    table.set(alarm)
    table.cancel(alarm)

    alarm.rings_at += 0.05
    table.set(alarm)
    gevent.sleep(0.03)
    was_rung_early = alarm.is_rung
    gevent.sleep(0.1)

    assert (was_rung_early, alarm.is_rung) == (False, True)


def test_one_that_rings_may_set_and_cancel_others_and_itself() -> None:
    table = Alarms()
    cancelled, later = Ringing(0.01), Ringing(0.02)

    def turn() -> None:
        table.cancel(cancelled)
        table.set(later)

    first = Ringing(0.01, turn)
    table.set(first)
    table.set(cancelled)
    gevent.sleep(0.06)

    assert (first.is_rung, cancelled.is_rung, later.is_rung) == (True, False, True)


def test_greenlet_that_is_thrown_out_of_a_wait_may_wait_on_while_the_others_are_rung() -> None:
    table, thrown = Alarms(), list[str]()

    def wait(name: str) -> None:
        try:
            gevent.sleep(5)
        except TimeoutError:
            gevent.sleep(0.02)
            thrown.append(name)

    waiting = [gevent.spawn(wait, name) for name in "abc"]
    gevent.sleep(0)
    for greenlet in waiting:
        table.set(Ringing(0.01, partial(greenlet.throw, TimeoutError)))
    gevent.joinall(waiting, timeout=2)

    assert sorted(thrown) == ["a", "b", "c"]


def test_each_thread_has_its_own() -> None:
    seen: list[Alarms] = []
    thread = threading.Thread(target=lambda: seen.append(alarms()))
    thread.start()
    thread.join()

    assert alarms() is alarms()
    assert seen[0] is not alarms()
