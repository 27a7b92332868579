"""May an instance get the next request, and how large a part of the traffic? Pure rules; the caller brings the clock.

Three things can keep an instance away, each on its own; `reason` names the first of them that holds:

    draining    an operator said so, and it lasts until the operator takes it back
    unhealthy   `unhealthy_after` active checks in a row failed; over when `healthy_after` in a row have succeeded
    ejected     `failures` requests in a row failed; over when its time is up

An instance that was never checked counts as well: the first verdict, good or bad, takes as many checks as any other.

*Ejection.* The n-th lasts `period_s` * 2**(n-1), at most `longest_s`; n stops growing there. Each whole `period_s` in
good standing (none of the three above) takes one off n again. Failures while ejected are no news: they belong to
requests that were on their way. The failures may have a cause that all instances share, and then ejecting helps nobody,
so at most half of them ever are: `may_eject` is asked first. Where it says no, the next failure asks again.

*Slow start.* An instance that is back (from any of the three, from an open breaker, or new in a running service) has
cold caches and no connections. Its share of the traffic rises in a line from `SLOWEST_SHARE` to 1 in `slow_start_s`.

*Election.* When every instance that is not draining is unhealthy, the checks are more likely to be wrong (their path,
the network of the one who checks) than all instances to be down, and with nobody to ask the answer would be an error
anyway: the verdicts are passed over ("fail open"). An ejection is passed over in the same way; it is a guess from the
past, whereas a good check is fresh, so an ejected instance goes before an unhealthy one. Draining is no guess. It is
never passed over: an instance about to stop would cut the request short, so where all are draining nobody is electable
and the caller gets a 503.

*Sharing.* Workers tell each other by `Report`. It holds the seconds that are left, for clocks of two hosts differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol, TypeVar

SLOWEST_SHARE = 0.1
SAME_S = 0.25  # two ends of an ejection that are no further apart are one: the rest is how long the report took
LONGEST_TOLD_S = 86_400.0

Reason = Literal["well", "unhealthy", "ejected", "draining"]


@dataclass(frozen=True, slots=True)
class ActiveRule:
    """How an instance is checked, and how many checks in a row (at least 1) make a verdict."""

    path: str
    interval_s: float
    timeout_s: float
    unhealthy_after: int
    healthy_after: int


@dataclass(frozen=True, slots=True)
class EjectionRule:
    """When its requests speak against an instance, and for how long."""

    failures: int = 3  # in a row, at least 1
    period_s: float = 5.0  # the first ejection; above 0
    longest_s: float = 300.0  # from `period_s` to `LONGEST_TOLD_S`


@dataclass(frozen=True, slots=True)
class Report:
    """What one worker tells another of the instance at `url`. What it does not say (None, 0) stays as it is.

    A worker that starts wants whole ones (`Standing.snapshot`). All others are told only what has changed: a worker
    that had not heard of a drain would take it back with a whole one.
    """

    url: str
    is_well: bool | None = None
    ejected_s: float = 0.0  # from now on
    is_draining: bool | None = None

    def to_dict(self) -> dict[str, str | float | bool | None]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, told: object) -> Report | None:
        """What `to_dict` gave, or None for anything else. Unknown keys are passed over, for a newer release may send
        more."""
        match told:
            case {"url": str(url), **rest} if url:
                is_well, is_draining = rest.get("is_well"), rest.get("is_draining")
                ejected_s = rest.get("ejected_s", 0.0)
            case _:
                return None
        if not all(isinstance(value, bool | None) for value in (is_well, is_draining)):
            return None
        if isinstance(ejected_s, bool) or not isinstance(ejected_s, int | float):
            return None
        if not 0 <= ejected_s <= LONGEST_TOLD_S:  # NaN is not, either
            return None
        return cls(url, is_well, float(ejected_s), is_draining)


class Standing:
    """Of one instance in one worker. Shared by its greenlets; no method switches, so it needs no lock.

    `now` is a monotonic clock's time in seconds, the same clock for all methods.
    """

    def __init__(
        self, active: ActiveRule, ejection: EjectionRule, *, slow_start_s: float = 0.0, joined_at: float | None = None
    ) -> None:
        """`slow_start_s` 0: the whole share at once. `joined_at` is for an instance that joins a running service."""
        self._active, self._ejection, self._slow_start_s = active, ejection, slow_start_s
        self._verdict: bool | None = None  # of the active checks
        self._streak = 0  # of them: successes in a row, or failures as a negative number
        self._failures = 0  # of requests, in a row
        self._ejections = 0
        self._ejected_until = -math.inf
        self._is_draining = False
        self._back_at = -math.inf if joined_at is None else joined_at  # inf: nobody knows when
        self._since: dict[Reason, float] = {}

    @property
    def is_well(self) -> bool:
        """What the active checks say."""
        return self._verdict is not False

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    def is_ejected(self, now: float) -> bool:
        return now < self._ejected_until

    def is_good(self, now: float) -> bool:
        """Nothing keeps it away: `reason` would say `well`."""
        return not self._is_draining and self._verdict is not False and now >= self._ejected_until

    def share(self, now: float) -> float:
        """Its part of what it would get otherwise: above 0, at most 1."""
        if self._slow_start_s <= 0:
            return 1.0
        risen = (now - self._back_at) / self._slow_start_s
        return min(1.0, SLOWEST_SHARE + (1 - SLOWEST_SHARE) * max(0.0, risen))

    def reason(self, now: float) -> Reason:
        """Why it gets requests, or none."""
        if self._is_draining:
            return "draining"
        if not self.is_well:
            return "unhealthy"
        return "ejected" if self.is_ejected(now) else "well"

    def since(self, now: float) -> float | None:
        """When what `reason` says began; None: it has been well from the start."""
        reason = self.reason(now)
        if reason != "well":
            return self._since[reason]
        return None if math.isinf(self._back_at) else self._back_at

    def until(self, now: float) -> float | None:
        """When what `reason` says will end, where that is known."""
        return self._ejected_until if self.reason(now) == "ejected" else None

    def checked(self, is_ok: bool, now: float) -> bool:
        """An active check has ended. Returns whether there is another verdict, or the first one."""
        self._streak = max(0, self._streak) + 1 if is_ok else min(0, self._streak) - 1
        needed = self._active.healthy_after if is_ok else self._active.unhealthy_after
        return abs(self._streak) >= needed and self._judge(is_ok, now)

    def succeeded(self) -> None:
        """A request got its answer."""
        self._failures = 0

    def failed(self, now: float) -> bool:
        """A request failed by the instance's fault. Returns whether it should be ejected, if `may_eject` agrees."""
        if self.is_ejected(now):
            return False
        self._failures += 1
        return self._failures >= self._ejection.failures

    def eject(self, now: float) -> float:
        """Give it no requests for a while. Returns until when; one that is ejected already stays so no longer."""
        if self.is_ejected(now):
            return self._ejected_until
        self._moved(now)  # before it is counted: good standing may have taken some off
        if self._ejection_s() < self._ejection.longest_s:
            self._ejections += 1
        self._failures = 0
        self._ejected_until = now + self._ejection_s()
        self._since["ejected"] = now
        self._moved(now)
        return self._ejected_until

    def returned(self, now: float) -> None:
        """It is back from what is not known here, an open breaker: the slow start begins."""
        self._moved(now)

    def drain(self, now: float) -> bool:
        """No new requests. Returns whether that is news."""
        return self._set_draining(True, now)

    def undrain(self, now: float) -> bool:
        """As before `drain`. Returns whether that is news."""
        return self._set_draining(False, now)

    def snapshot(self, url: str, now: float) -> Report:
        """All that another worker should know of it."""
        return Report(url, self._verdict, max(0.0, self._ejected_until - now), self._is_draining)

    def learn(self, report: Report, now: float, *, may_eject: bool) -> bool:
        """Take over what another worker says, its ejection only if one more may be. Returns whether it was news.

        To learn a report twice is to learn it once, and one's own that comes back is no news.
        """
        is_news = report.is_well is not None and self._judge(report.is_well, now)
        if report.is_draining is not None:
            is_news |= self._set_draining(report.is_draining, now)
        ends = now + min(report.ejected_s, self._ejection.longest_s)
        if ends > max(now, self._ejected_until + SAME_S) and (may_eject or self.is_ejected(now)):
            self.eject(now)
            self._ejected_until = ends  # the other one's time, so that all workers agree
            self._moved(now)
            is_news = True
        return is_news

    def _judge(self, is_well: bool, now: float) -> bool:
        if is_well is self._verdict:
            return False
        was_well = self.is_well
        self._verdict, self._streak = is_well, 0
        if is_well is not was_well:  # the first verdict, when it is good, brings nobody back
            self._since["unhealthy"] = now
            self._moved(now)
        return True

    def _set_draining(self, is_draining: bool, now: float) -> bool:
        if is_draining is self._is_draining:
            return False
        self._is_draining = is_draining
        self._since["draining"] = now
        self._moved(now)
        return True

    def _ejection_s(self) -> float:
        return min(self._ejection.longest_s, self._ejection.period_s * 2.0 ** (self._ejections - 1))

    def _moved(self, now: float) -> None:
        """Something has changed: note what good standing has earned until now, and when the instance is back."""
        if self._ejections:
            good_s = max(0.0, now - self._back_at)
            self._ejections = max(0, self._ejections - int(good_s // self._ejection.period_s))
        is_away = self._is_draining or not self.is_well
        self._back_at = math.inf if is_away else max(now, self._ejected_until)


class HasStanding(Protocol):
    """An instance, as far as it matters here."""

    @property
    def standing(self) -> Standing: ...


S = TypeVar("S", bound=HasStanding)


def electable(instances: Sequence[S], now: float) -> list[S]:
    """Those who may get the next request, in their order; empty only if all are draining."""
    candidates = _candidates(instances)
    return [candidate for candidate in candidates if not candidate.standing.is_ejected(now)] or candidates


def may_eject(instances: Sequence[HasStanding], now: float) -> bool:
    """Whether one more ejection would leave at least half of them, and half of those that requests can go to now: where
    some are unhealthy or draining already, the last one that works is not taken away, too."""
    return _has_half_left(instances, now) and _has_half_left(_candidates(instances), now)


def _candidates(instances: Sequence[S]) -> list[S]:
    """Those who are not draining and well; where nobody is well, all who are not draining."""
    staying = [instance for instance in instances if not instance.standing.is_draining]
    return [instance for instance in staying if instance.standing.is_well] or staying


def _has_half_left(instances: Sequence[HasStanding], now: float) -> bool:
    ejected = sum(instance.standing.is_ejected(now) for instance in instances)
    return 2 * (ejected + 1) <= len(instances)
