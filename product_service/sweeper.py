"""Gives back what was held for too long, every few seconds, in a greenlet of each worker."""

from __future__ import annotations

import random

import gevent
import structlog
from gunicorn.workers.base import Worker

from common.models import utc_now
from product_service.reservations import Reservations

log = structlog.get_logger("sweeper")


def spawn(worker: Worker, reservations: Reservations, interval_s: float) -> None:
    """Sweep until `worker` begins to stop. Any number of workers and hosts may do so at once."""

    def sweep_on() -> None:
        while worker.alive:
            gevent.sleep(interval_s * random.uniform(0.75, 1.25))  # else all workers come at the same moment
            sweep(reservations)

    gevent.spawn(sweep_on)


def sweep(reservations: Reservations) -> None:
    """Give back what is due now. Whatever goes wrong is one warning, and the next round tries again."""
    try:
        expired = reservations.expire_due(now=utc_now())
    except Exception as error:  # noqa: BLE001 - the rounds must go on
        log.warning("sweep_failed", reason=type(error).__name__)
        return
    if expired:
        log.info("reservations_expired", count=expired)
