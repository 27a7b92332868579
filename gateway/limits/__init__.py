"""Rate limits: exact over all workers while Redis answers, each worker's share of them while it does not.

    tiers     which limits count a request, and whom they count
    counting  `Limits`: in Redis, or in this worker's memory while Redis is away
    window    how requests are counted, in one script and one round trip
    store     the logs in Redis; `local`, those in memory
    asked     what a request is counted in, packed once for all callers
    verdict   what was said, and the header fields that tell it; `telling`, the refusals
    pages     the same for the pages that Flask serves, by Flask-Limiter

The `@limited` policy is where requests to services meet them.
"""

from __future__ import annotations

from flask import Flask

from gateway import shared
from gateway.limits import pages
from gateway.limits.counting import Limits, StoreDown
from gateway.limits.store import Store
from gateway.limits.tiers import Rates
from gateway.limits.verdict import Bucket, Row, Verdict
from gateway.observability.metrics import Metrics
from gateway.settings import GatewaySettings

__all__ = ["Bucket", "Limits", "Rates", "Row", "Store", "StoreDown", "Verdict", "init_app", "store_of"]


def store_of(settings: GatewaySettings, *, timeout_ms: int | None = None) -> Store:
    """The logs in Redis, by connections of their own: nobody waits for a limit as long as for the cache."""
    patience_ms = timeout_ms or settings.limits_timeout_ms
    pool = shared.pool(settings, timeout_ms=patience_ms)
    return Store(shared.client(pool), shared.way(pool, patience_ms))


def init_app(app: Flask, settings: GatewaySettings, metrics: Metrics) -> Limits:
    """The limits of this app's services, and of its own pages."""
    made = Limits(
        store_of(settings),
        metrics,
        workers=settings.workers or 1,
        rates=Rates.of(settings),
    )
    pages.init_app(app, made, f"{settings.anonymous_requests} per {settings.rate_limit_window} second")
    return made
