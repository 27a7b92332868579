"""Which instances answer? Asked on demand, for the operator's page."""

from __future__ import annotations

import time
from collections.abc import Iterable

import gevent
import requests

from common.http import tuned_session
from gateway.backend.backend import Backend

HEALTH_TIMEOUT_S = 1.0
HEALTH_KEPT_S = 1.0


class InstanceHealth:
    """Asks every instance for `/health`, all at once, and remembers the answers for a second.

    Shared by greenlets: while one asks, the others get what was known before or wait for the first round.
    """

    def __init__(self) -> None:
        self._session = tuned_session(pool_size=4)
        self._rows: list[dict[str, str | float]] = []
        self._asked_at = float("-inf")

    def rows(self, backends: Iterable[Backend]) -> list[dict[str, str | float]]:
        if time.monotonic() - self._asked_at >= HEALTH_KEPT_S:
            asked = [
                gevent.spawn(self._ask, backend.service.key, instance.url)
                for backend in backends
                for instance in backend.instances
            ]
            gevent.joinall(asked)
            self._rows = [greenlet.get() for greenlet in asked]
            self._asked_at = time.monotonic()
        return self._rows

    def _ask(self, service: str, url: str) -> dict[str, str | float]:
        began = time.perf_counter()
        try:
            status = self._session.get(f"{url}/health", timeout=HEALTH_TIMEOUT_S).status_code
            state = "up" if status < 500 else "failing"
        except requests.RequestException:
            state = "down"
        elapsed_ms = round((time.perf_counter() - began) * 1000, 1)
        return {"service": service, "url": url, "status": state, "latency_ms": elapsed_ms}
