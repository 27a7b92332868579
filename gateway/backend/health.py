"""How an instance fares, as rows for the operator's pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import gevent

from gateway.backend.backend import Backend
from gateway.backend.instance import Instance
from gateway.backend.probe import Finding, probe

PATH = "/health"
HEALTH_TIMEOUT_S = 1.0
HEALTH_KEPT_S = 1.0

Row = dict[str, str | int | float | None]


def row_of(instance: Instance) -> Row:
    """What this worker knows of it. `state` is well, unhealthy, ejected or draining; times are ISO 8601, or null."""
    now, standing = time.monotonic(), instance.standing
    return {
        "url": instance.url,
        "weight": round(instance.weight, 3),
        "state": standing.reason(now),
        "since": _time(standing.since(now), now),
        "until": _time(standing.until(now), now),
        "breaker": instance.breaker.state if instance.breaker else "off",
        "in_flight": instance.in_flight,
        "latency_ms": round(instance.latency_s * 1000, 1),
    }


def _time(moment: float | None, now: float) -> str | None:
    if moment is None:
        return None
    return datetime.fromtimestamp(time.time() + moment - now, UTC).isoformat(timespec="milliseconds")


class InstanceHealth:
    """Asks every instance how it is, all at once, and remembers the answers for a second.

    Shared by greenlets: while one asks, the others get what was known before or wait for the first round.
    """

    def __init__(self, ask: Callable[[Instance, str, float], Finding] = probe) -> None:
        self._ask = ask
        self._rows: list[Row] = []
        self._asked_at = float("-inf")

    def rows(self, backends: Iterable[Backend]) -> list[Row]:
        """`status` is up, failing or down, `answer` what came, `latency_ms` after how long; the rest as in `row_of`."""
        if time.monotonic() - self._asked_at >= HEALTH_KEPT_S:
            asked = [
                gevent.spawn(self._row, backend, instance) for backend in backends for instance in backend.instances
            ]
            gevent.joinall(asked)
            self._rows = [greenlet.get() for greenlet in asked]
            self._asked_at = time.monotonic()
        return self._rows

    def _row(self, backend: Backend, instance: Instance) -> Row:
        rule = backend.service.check
        finding = self._ask(instance, rule.path if rule else PATH, HEALTH_TIMEOUT_S)
        # a service that wants no checks may not have the page
        is_up = finding.is_well if rule else 0 < finding.status < 500
        status = "up" if is_up else "failing" if finding.status else "down"
        found = {"status": status, "answer": finding.reason, "latency_ms": finding.latency_ms}
        return {"service": backend.service.key, **row_of(instance), **found}
