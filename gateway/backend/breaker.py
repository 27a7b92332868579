"""The circuit breaker of one instance, in one worker: pybreaker, and a gate that it lacks.

States: *closed* lets everything through and counts failures in a row; at the threshold it becomes *open* and refuses
for the recovery time; then it is *half-open* and one request, the trial, may pass: success closes it, failure opens it
again.

pybreaker's own `call()` holds its lock while the call runs, which would serialise all greenlets, so `calling()` is
used; and in half-open that lets everybody through, so a semaphore with one permit stands before it.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pybreaker
import structlog
from gevent.lock import BoundedSemaphore
from urllib3.exceptions import EmptyPoolError

from gateway.body import CallerGone
from gateway.observability.metrics import Metrics

log = structlog.get_logger("breaker")


class BreakerOpen(Exception):
    """The instance failed too often of late; it is left alone for `retry_after_s` more seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"open for {retry_after_s} s more")
        self.retry_after_s = retry_after_s


class Breaker:
    """Shared by the greenlets of a worker; pybreaker's lock protects its state, the semaphore the trial."""

    def __init__(self, service: str, instance: str, metrics: Metrics, *, failures: int, recovery_s: float) -> None:
        self._trial = BoundedSemaphore(1)
        counts = _Counts(pybreaker.STATE_CLOSED)
        self._recovery_s = recovery_s
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=failures,
            reset_timeout=recovery_s,
            exclude=[counts.says_nothing],
            state_storage=counts,
            listeners=[_Announcer(service, instance, metrics), counts],
            throw_new_error_on_trip=False,  # else the last failure's cause is lost
            name=service,
        )
        self._metrics, self._labels = metrics, (service, instance)
        self.announce()

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`."""
        return self._breaker.current_state

    @property
    def admits(self) -> bool:
        """Whether a call would be let through just now."""
        state = self._breaker.current_state
        if state == pybreaker.STATE_CLOSED:
            return True
        return not self._trial.locked() and (state == pybreaker.STATE_HALF_OPEN or self._time_left_s() <= 0)

    @property
    def seconds_left(self) -> int:
        """What to tell a caller who is refused: whole seconds, at least 1."""
        return max(1, math.ceil(self._time_left_s()))

    def announce(self) -> None:
        """Show the state as a metric, also while nothing changes it."""
        self._metrics.breaker(*self._labels, self.state)

    @contextmanager
    def calling(self) -> Generator[None]:
        """Around one call: an exception that leaves the block is a failure. Raises `BreakerOpen`."""
        if self._breaker.current_state == pybreaker.STATE_CLOSED:
            with self._breaker.calling():
                yield
            return
        if not self._trial.acquire(blocking=False):
            raise BreakerOpen(1)
        try:
            try:
                permit = self._breaker.calling()
                permit.__enter__()
            except pybreaker.CircuitBreakerError:
                raise BreakerOpen(self.seconds_left) from None
            with _entered(permit):
                yield
        finally:
            self._trial.release()

    def _time_left_s(self) -> float:
        opened_at = self._breaker._state_storage.opened_at  # pyright: ignore[reportPrivateUsage] - no public way
        elapsed_s = (datetime.now(UTC) - opened_at).total_seconds() if opened_at else 0.0
        return self._recovery_s - elapsed_s


@contextmanager
def _entered(permit: Any) -> Generator[None]:
    """A `with` for a context manager whose `__enter__` was called already."""
    try:
        yield
    except BaseException as error:
        if not permit.__exit__(type(error), error, error.__traceback__):
            raise
    else:
        permit.__exit__(None, None, None)


class _Counts(pybreaker.CircuitMemoryStorage, pybreaker.CircuitBreakerListener):
    """The counts of failures. The caller's fault and ours say nothing about the instance; pybreaker takes what is
    excluded for a success, so that a caller who tears its body could close the breaker of a dead instance."""

    _is_silent = False  # from the verdict to `success`, which follows without a switch of greenlets

    def says_nothing(self, error: BaseException) -> bool:
        self._is_silent = isinstance(error, CallerGone | EmptyPoolError)
        return self._is_silent

    @pybreaker.CircuitMemoryStorage.opened_at.setter
    def opened_at(self, datetime: datetime) -> None:
        if self.state != pybreaker.STATE_OPEN:  # what began before the breaker opened and fails late is no news
            self._opened_at = datetime

    def reset_counter(self) -> None:
        if not self._is_silent:
            super().reset_counter()

    def increment_success_counter(self) -> None:
        if not self._is_silent:
            super().increment_success_counter()

    def success(self, cb: pybreaker.CircuitBreaker) -> None:
        self._is_silent = False


class _Announcer(pybreaker.CircuitBreakerListener):
    """One log line and one metric for each change of state."""

    def __init__(self, service: str, instance: str, metrics: Metrics) -> None:
        self._service, self._instance, self._metrics = service, instance, metrics

    def state_change(self, cb: pybreaker.CircuitBreaker, old_state: Any, new_state: Any) -> None:
        before = old_state.name if old_state else "none"
        if before == new_state.name:
            return  # calls that were under way when the breaker opened fail one by one afterwards
        log.warning("breaker", to=self._service, instance=self._instance, state=new_state.name, before=before)
        self._metrics.breaker(self._service, self._instance, new_state.name)
