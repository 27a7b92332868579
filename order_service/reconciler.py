"""Finishes what requests could not, every few seconds, in a greenlet of each worker."""

from __future__ import annotations

import random

import gevent
import structlog
from gunicorn.workers.base import Worker

from common.logs import bind_request, new_request_id
from common.models import utc_now
from order_service.checkout import Checkout

log = structlog.get_logger("reconciler")


def spawn(worker: Worker, checkout: Checkout, interval_s: float) -> None:
    """Reconcile until `worker` begins to stop. Any number of workers and hosts may do so at once."""

    def reconcile_on() -> None:
        while worker.alive:
            gevent.sleep(interval_s * random.uniform(0.75, 1.25))  # else all workers come at the same moment
            reconcile(checkout)

    gevent.spawn(reconcile_on)


def reconcile(checkout: Checkout) -> None:
    """Do what is due now. Whatever goes wrong is one warning, and the next round tries again."""
    bind_request(new_request_id())  # joins our lines with product_service's
    try:
        done = checkout.settle_due(now=utc_now())
    except Exception as error:  # noqa: BLE001 - the rounds must go on
        log.warning("reconciling_failed", reason=type(error).__name__)
        return
    if done:
        log.info("orders_settled", count=done)
