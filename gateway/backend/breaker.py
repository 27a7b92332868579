"""The circuit breaker of one instance, in one worker: pybreaker, and a gate that it lacks.

States: *closed* lets everything through and counts failures in a row; at the threshold it becomes *open* and refuses
for the recovery time; then it is *half-open* and one request, the trial, may pass: success closes it, failure opens it
again.

pybreaker's own `call()` holds its lock while the call runs, which would serialise all greenlets, so its `calling()` is
used; and in half-open that lets everybody through, so a semaphore with one permit stands before it.

What a worker finds out, the others of its host `learn`: that it is open, and for how long yet, or closed. Each makes
its own trial, so half-open is never told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

import pybreaker
import structlog
from gevent import GreenletExit
from gevent.lock import BoundedSemaphore

from gateway.backend.countdown import WishOver
from gateway.body import CallerGone
from gateway.observability.metrics import Metrics

log = structlog.get_logger("breaker")

SAME_S = 0.25  # two ends of an open time that are no further apart are one: the rest is how long the news took


class BreakerOpen(Exception):
    """The instance failed too often of late; it is left alone for `retry_after_s` more seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"open for {retry_after_s} s more")
        self.retry_after_s = retry_after_s


class NoVerdict(Exception):
    """Leaves the block around a call of which the instance is neither proud nor guilty."""


class Breaker:
    """Shared by the greenlets of a worker; pybreaker's lock protects its state, the semaphore the trial."""

    def __init__(self, service: str, instance: str, metrics: Metrics, *, failures: int, recovery_s: float) -> None:
        self._trial = BoundedSemaphore(1)
        self._while_closed = _WhileClosed(self)
        self._counts = counts = _Counts(pybreaker.STATE_CLOSED)
        self._announcer = _Announcer(service, instance, metrics, self._changed)
        self.tell: Callable[[str, float], None] = _nobody
        """Told what was found out here: `open`, with the seconds until a trial, or `closed`. Must not switch."""
        self.on_closed: Callable[[], None] = _nothing
        """Told whenever it closes. Must not switch."""
        self._recovery_s = recovery_s
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=failures,
            reset_timeout=recovery_s,
            exclude=[counts.is_silent_about],
            state_storage=counts,
            listeners=[self._announcer, counts],
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
        if self._counts.is_closed:
            return True
        state = self._breaker.current_state
        return not self._trial.locked() and (state == pybreaker.STATE_HALF_OPEN or self._time_left_s() <= 0)

    @property
    def seconds_left(self) -> int:
        """What to tell a caller who is refused: whole seconds, at least 1."""
        return max(1, math.ceil(self._time_left_s()))

    @property
    def left_s(self) -> float:
        """Until an open breaker lets a trial through; 0.0 if it would do so now."""
        return max(0.0, self._time_left_s()) if self.state == pybreaker.STATE_OPEN else 0.0

    def announce(self) -> None:
        """Show the state as a metric, also while nothing changes it."""
        self._metrics.breaker(*self._labels, self.state)

    def learn(self, state: str, left_s: float) -> None:
        """Take over what another worker has found out: `open` for `left_s` more seconds, or `closed`.

        An open one that would stay so for longer does. Any other state is nothing to learn.
        """
        with self._announcer.learning():
            if state == pybreaker.STATE_CLOSED and self.state != pybreaker.STATE_CLOSED:
                self._breaker.close()
            elif state == pybreaker.STATE_OPEN and min(left_s, self._recovery_s) > self.left_s + SAME_S:
                self._breaker.open()
                self._counts.opened_ago(max(0.0, self._recovery_s - left_s))

    @property
    def is_closed(self) -> bool:
        return self._counts.is_closed

    def calling(self) -> AbstractContextManager[None]:
        """Around one call: an exception that leaves the block is a failure, but for those that say nothing about the
        instance (`says_nothing`). Raises `BreakerOpen`."""
        return self._while_closed if self._counts.is_closed else self._trying()

    def succeeded(self) -> None:
        """A call that began while it was closed has succeeded."""
        if self._counts.counter:
            self._counts.reset_counter()

    def failed(self, error: BaseException) -> None:
        """A call that began while it was closed has failed; where it has opened since then, that is no news."""
        if self._counts.is_closed and not says_nothing(error):
            permit = self._breaker.calling()
            permit.__enter__()
            permit.__exit__(type(error), error, error.__traceback__)

    @contextmanager
    def _trying(self) -> Generator[None]:
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

    def _changed(self, state: str, is_learnt: bool) -> None:
        if state == pybreaker.STATE_CLOSED:
            self.on_closed()
        if state != pybreaker.STATE_HALF_OPEN and not is_learnt:
            self.tell(state, self._time_left_s() if state == pybreaker.STATE_OPEN else 0.0)

    def _time_left_s(self) -> float:
        opened_at = self._breaker._state_storage.opened_at  # pyright: ignore[reportPrivateUsage] - no public way
        elapsed_s = (datetime.now(UTC) - opened_at).total_seconds() if opened_at else 0.0
        return self._recovery_s - elapsed_s


class _WhileClosed:
    """Around a call while the breaker is closed, which is nearly always: pybreaker hears of it only if it fails. One
    for all such calls, for it remembers nothing."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._breaker.succeeded()
        else:
            self._breaker.failed(error)


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


def says_nothing(error: BaseException) -> bool:
    """Whether a call that ended so is no word about the instance: the caller's fault, or ours, or called off."""
    return isinstance(error, CallerGone | WishOver | NoVerdict | GreenletExit)


class _Counts(pybreaker.CircuitMemoryStorage, pybreaker.CircuitBreakerListener):
    """The counts of failures. pybreaker takes what is excluded for a success, so that a caller who tears its body could
    close the breaker of a dead instance; here it is neither."""

    is_closed = True
    _is_silent = False  # from the verdict to `success`, which follows without a switch of greenlets

    def is_silent_about(self, error: BaseException) -> bool:
        self._is_silent = says_nothing(error)
        return self._is_silent

    @pybreaker.CircuitMemoryStorage.state.setter
    def state(self, state: str) -> None:
        self._state = state
        self.is_closed = state == pybreaker.STATE_CLOSED

    @pybreaker.CircuitMemoryStorage.opened_at.setter
    def opened_at(self, datetime: datetime) -> None:
        if self.state != pybreaker.STATE_OPEN:  # what began before the breaker opened and fails late is no news
            self._opened_at = datetime

    def opened_ago(self, seconds: float) -> None:
        """It opened, but in another worker, and so long ago."""
        self._opened_at = datetime.now(UTC) - timedelta(seconds=seconds)

    def reset_counter(self) -> None:
        if not self._is_silent:
            super().reset_counter()

    def increment_success_counter(self) -> None:
        if not self._is_silent:
            super().increment_success_counter()

    def success(self, cb: pybreaker.CircuitBreaker) -> None:
        self._is_silent = False


class _Announcer(pybreaker.CircuitBreakerListener):
    """One log line and one metric for each change of state. What is learnt has its line where it was found out."""

    def __init__(self, service: str, instance: str, metrics: Metrics, follow: Callable[[str, bool], None]) -> None:
        """`follow` is called with each new state, and whether it was learnt."""
        self._service, self._instance, self._metrics, self._follow = service, instance, metrics, follow
        self._is_learning = False

    @contextmanager
    def learning(self) -> Generator[None]:
        """Changes within the block, which does not switch, come from another worker."""
        self._is_learning = True
        try:
            yield
        finally:
            self._is_learning = False

    def state_change(self, cb: pybreaker.CircuitBreaker, old_state: Any, new_state: Any) -> None:
        before, state = old_state.name if old_state else "none", new_state.name
        if before == state:
            return  # calls that were under way when the breaker opened fail one by one afterwards
        tell = log.debug if self._is_learning else log.warning
        tell("breaker", to=self._service, instance=self._instance, state=state, before=before)
        self._metrics.breaker(self._service, self._instance, state)
        self._follow(state, self._is_learning)


def _nobody(state: str, left_s: float) -> None:
    pass


def _nothing() -> None:
    pass
