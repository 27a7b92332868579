"""Active checks: each instance of a service that wants them is asked, again and again, whether it is well.

One worker of each host asks (`duty`), and tells the others the verdicts (`sharing`). When it dies, another takes over
within half a second, and goes on from what it was told. A worker that can't rely on being told asks for itself as well:

    Redis away      since a second; no news arrive
    silence         nobody has told the verdicts of a service for three of its intervals: whoever is on duty is frozen,
                    or very slow

So health does not depend on Redis, and instances are asked by too many rather than by nobody.

*When.* `interval_s` passes between two checks of an instance, with a jitter of a fifth, so that they do not all come at
once; the first one comes within a second, or within the interval if that is shorter. A check that takes longer than the
interval is waited for. All checks go by the table in force: a reload that changes a rule takes effect with the next.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

import gevent
import structlog
from gevent.pool import Pool

from gateway.backend.backend import Backend
from gateway.backend.duty import Duty
from gateway.backend.instance import Instance
from gateway.backend.probe import Finding, probe
from gateway.backend.sharing import Sharing
from gateway.backend.standing import ActiveRule
from gateway.observability.metrics import Metrics

log = structlog.get_logger("checks")

ROUND_S = 0.1
SEEK_S = 0.5
FIRST_S = 1.0
JITTER = 0.2
MOST_AT_ONCE = 32
SILENT_INTERVALS = 3
DISCONNECTED_S = 1.0

Ask = Callable[[Instance, str, float], Finding]
Place = tuple[str, str]
"""A service's key and an instance's URL."""


class Checks:
    """Those of one worker. What they share is changed by the greenlet that makes the rounds, but for `_under_way`, from
    which each check takes itself; nothing switches between a look and the change that follows."""

    def __init__(
        self,
        duty: Duty,
        sharing: Sharing,
        metrics: Metrics,
        *,
        is_connected: Callable[[], bool],
        ask: Ask = probe,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`is_connected` tells whether others' news arrive now; `draw(a, b)` gives a random number between the two."""
        self._duty, self._sharing, self._metrics = duty, sharing, metrics
        self._is_connected, self._ask, self._clock, self._draw = is_connected, ask, clock, draw
        self._backends: Mapping[str, Backend] = {}
        self._due: dict[Place, float] = {}
        self._tell_due: dict[str, float] = {}
        self._under_way: set[Place] = set()
        self._pool = Pool(MOST_AT_ONCE)
        self._connected_at: float | None = None  # or when the first round was
        self._known: set[Place] = set()

    def follow(self, backends: Mapping[str, Backend]) -> None:
        """Check the instances of these, by the service's key, from now on. Neither waits nor raises."""
        self._backends = backends

    def start(self, is_running: Callable[[], bool]) -> None:
        """Begin, in the worker, until it `is_running` no longer; then another may take over."""
        gevent.spawn(self._go_on, is_running)

    def round(self) -> float:
        """Begin the checks that are due. Returns the seconds after which to ask again; does not wait itself."""
        now = self._clock()
        if self._connected_at is None or self._is_connected():
            self._connected_at = now
        is_on_duty = self._duty.seek()
        is_alone = now - self._connected_at >= DISCONNECTED_S
        is_asking = False
        for key, backend in self._backends.items():
            rule = backend.service.check
            if rule and (is_on_duty or is_alone or self._is_silent(key, rule)):
                is_asking = True
                for instance in backend.instances:
                    self._check_if_due(key, instance, rule, now)
                if is_on_duty:
                    self._tell_if_due(backend, rule, now)
        self._forget_gone()
        return ROUND_S if is_asking else SEEK_S

    def _go_on(self, is_running: Callable[[], bool]) -> None:
        while is_running():
            try:
                pause_s = self.round()
            except Exception as error:
                log.error("checks_stuck", exc_info=error)
                pause_s = FIRST_S
            gevent.sleep(pause_s)
        self._duty.give_back()

    def _is_silent(self, service: str, rule: ActiveRule) -> bool:
        return self._sharing.silent_s(service) > SILENT_INTERVALS * rule.interval_s + FIRST_S

    def _check_if_due(self, service: str, instance: Instance, rule: ActiveRule, now: float) -> None:
        place = service, instance.url
        due = self._due.setdefault(place, now + self._draw(0.0, min(FIRST_S, rule.interval_s)))
        if now < due or place in self._under_way or not self._pool.free_count():
            return
        self._due[place] = now + rule.interval_s * self._draw(1 - JITTER, 1 + JITTER)
        self._under_way.add(place)
        self._pool.spawn(self._check, place, instance, rule)

    def _check(self, place: Place, instance: Instance, rule: ActiveRule) -> None:
        try:
            finding = self._ask(instance, rule.path, rule.timeout_s)
            instance.fitness.checked(finding.is_well, finding.reason)
        finally:
            self._under_way.discard(place)

    def _tell_if_due(self, backend: Backend, rule: ActiveRule, now: float) -> None:
        if now >= self._tell_due.get(backend.service.key, 0.0):
            self._tell_due[backend.service.key] = now + rule.interval_s
            self._sharing.tell_all(backend)

    def _forget_gone(self) -> None:
        """Instances that are none any more are not due, and no metric speaks of them."""
        known = {(key, instance.url) for key, backend in self._backends.items() for instance in backend.instances}
        for gone in self._known - known:
            self._due.pop(gone, None)
            self._metrics.gone(*gone)
        self._known = known
