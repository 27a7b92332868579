"""Is an instance fit for requests? What one worker knows of that, and who is told when it changes.

`standing` has the rules; here they meet the world. Three come with something new:

    requests    how they end, where that is the instance's doing: `trying` is around each try
    checks      the worker on duty asks the instance itself (`checks`)
    others      what another worker has found out, or an operator has ordered (`sharing`)

Each change is one log line and one metric, made by the worker that finds it out; then the others are told.

*Which failures speak against an instance.* No connection, a reset, an answer that is torn or late, and 502, 503, 504:
it, or what stands before it, can't work. A 500 does not, though the breaker counts it. It is most often a fault in the
code for one kind of request, which all instances share, and a caller who knows such a request must not be able to have
half of them left out with three requests. What the caller or the gateway caused says nothing (`breaker.says_nothing`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from gateway.backend.breaker import says_nothing
from gateway.backend.standing import ActiveRule, EjectionRule, HasStanding, Report, Standing, may_eject
from gateway.observability.metrics import Metrics
from gateway.services import Service

log = structlog.get_logger("fitness")

UNFIT = frozenset({502, 503, 504})
_NEVER_CHECKED = ActiveRule("", 0.0, 0.0, 1, 1)

Tell = Callable[[Report], None]


class Fitness:
    """Of one instance in one worker. Shared by its greenlets; nothing here switches."""

    def __init__(
        self,
        service: Service,
        url: str,
        metrics: Metrics,
        *,
        joined_at: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`joined_at` is for an instance that joins others at work, by `clock`."""
        self._service, self._url, self._metrics, self._clock = service, url, metrics, clock
        self.standing = Standing(
            service.check or _NEVER_CHECKED,
            service.ejection or EjectionRule(),
            slow_start_s=service.slow_start_s,
            joined_at=joined_at,
        )
        self.fellows: Callable[[], Sequence[HasStanding]] = tuple
        """All instances of the service, this one among them."""
        self.tell: Tell = _nobody

    @property
    def share(self) -> float:
        """Its part of the traffic that it would get otherwise: above 0, at most 1."""
        return self.standing.share(self._clock())

    def answered(self, status: int) -> None:
        """A try brought this status."""
        if status in UNFIT:
            self._failed()
        else:
            self.standing.succeeded()

    def failed(self, error: BaseException) -> None:
        """A try brought no answer, but `error`."""
        if not says_nothing(error):
            self._failed()

    def returned(self) -> None:
        """Its breaker has closed: the slow start begins."""
        self.standing.returned(self._clock())

    def checked(self, is_ok: bool, reason: str = "") -> None:
        """An active check has ended; `reason` says why it failed."""
        was_well = self.standing.is_well
        if not self.standing.checked(is_ok, self._clock()):
            return
        self._metrics.instance_up(self._service.key, self._url, is_ok)
        if was_well is not is_ok:
            words = {"to": self._service.key, "instance": self._url}
            if is_ok:
                log.warning("instance_healthy", **words)
            else:
                log.warning("instance_unhealthy", **words, reason=reason)
        self.tell(Report(self._url, is_well=is_ok))

    def set_draining(self, is_draining: bool, *, by: str = "") -> None:
        """An operator, `by`, wants no new requests to go there, or wants them to again. Without a name it is no news:
        another worker was told."""
        if self._drain(is_draining) and by:
            event = "instance_draining" if is_draining else "instance_undrained"
            log.warning(event, to=self._service.key, instance=self._url, by=by)

    def learn(self, report: Report) -> None:
        """Take over what another worker says."""
        now = self._clock()
        if self._service.check is None:
            report = replace(report, is_well=None)
        may = self._service.ejection is not None and may_eject(self.fellows(), now)
        if self.standing.learn(report, now, may_eject=may):
            log.debug("instance_news", to=self._service.key, instance=self._url, state=self.standing.reason(now))

    def take_over(self, before: Fitness) -> None:
        """Know what `before` knew, the fitness of this instance by the rules that held until now."""
        if before is not self:
            self.learn(before.report())

    def report(self) -> Report:
        """All that another worker should know, but for the drain: Redis has that."""
        return replace(self.standing.snapshot(self._url, self._clock()), is_draining=None)

    def _drain(self, is_draining: bool) -> bool:
        now = self._clock()
        return self.standing.drain(now) if is_draining else self.standing.undrain(now)

    def _failed(self) -> None:
        rule, now = self._service.ejection, self._clock()
        if rule is None or not self.standing.failed(now) or not may_eject(self.fellows(), now):
            return
        seconds = self.standing.eject(now) - now
        self._metrics.ejected(self._service.key)
        log.warning(
            "instance_ejected",
            to=self._service.key,
            instance=self._url,
            seconds=round(seconds, 3),
            failures=rule.failures,
        )
        self.tell(Report(self._url, ejected_s=seconds))


def _nobody(report: Report) -> None:
    pass
