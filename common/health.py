"""Health pages, for people and for orchestrators.

`/health` says that the process runs and touches nothing else. `/ready` asks what the process can't work without, and is
503 while it drains. `/health/startup` is 503 until `/ready` was good once, then 200 for good.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import orjson
import structlog
from flask import Blueprint, Flask, Response

log = structlog.get_logger("health")

Check = Callable[[], None]
"""Returns when the dependency answers and raises when it does not."""


@dataclass(slots=True)
class Health:
    """One per app. `is_draining` is set by the worker when it begins to stop."""

    service: str
    version: str
    checks: Mapping[str, Check]
    is_draining: Callable[[], bool] = field(default=lambda: False)
    has_been_ready: bool = False

    def readiness(self) -> tuple[bool, dict[str, object]]:
        """Whether new requests are welcome, and each check's status and latency."""
        rows: dict[str, object] = {}
        is_ready = not self.is_draining()
        for name, check in self.checks.items():
            began = time.perf_counter()
            try:
                check()
                status = "ok"
            except Exception as error:  # noqa: BLE001 - whatever it is, it means "not ready"
                log.warning("not_ready", check=name, reason=type(error).__name__)
                status, is_ready = "unavailable", False
            rows[name] = {"status": status, "latency_ms": round((time.perf_counter() - began) * 1000, 1)}
        self.has_been_ready = self.has_been_ready or is_ready
        status = "draining" if self.is_draining() else "ready" if is_ready else "not ready"
        return is_ready, {"status": status, "service": self.service, "checks": rows}


def page(document: Mapping[str, object], status: int = 200) -> Response:
    """A JSON answer that no cache keeps."""
    body = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    headers = {"Cache-Control": "no-store"} | ({"Retry-After": "1"} if status == 503 else {})
    return Response(body, status=status, content_type="application/json", headers=headers)


def init_app(app: Flask, health: Health) -> None:
    bp = Blueprint("health", __name__)

    @bp.get("/health")
    def alive() -> Response:
        return page({"status": "ok", "service": health.service, "version": health.version})

    @bp.get("/ready")
    def ready() -> Response:
        is_ready, document = health.readiness()
        return page(document, 200 if is_ready else 503)

    @bp.get("/health/startup")
    def startup() -> Response:
        started = health.has_been_ready or health.readiness()[0]
        return page({"status": "started" if started else "starting"}, 200 if started else 503)

    app.extensions["health"] = health
    app.register_blueprint(bp)
