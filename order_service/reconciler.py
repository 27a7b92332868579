"""Finishes what requests could not, every few seconds, in a greenlet of each worker."""

from __future__ import annotations

import structlog

from common.logs import bind_request, new_request_id
from common.models import utc_now
from order_service.checkout import Checkout

log = structlog.get_logger("reconciler")


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
