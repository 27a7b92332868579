"""Gives back what was held for too long, every few seconds, in a greenlet of each worker."""

from __future__ import annotations

import structlog

from common.models import utc_now
from product_service.reservations import Reservations

log = structlog.get_logger("sweeper")


def sweep(reservations: Reservations) -> None:
    """Give back what is due now. Whatever goes wrong is one warning, and the next round tries again."""
    try:
        expired = reservations.expire_due(now=utc_now())
    except Exception as error:  # noqa: BLE001 - the rounds must go on
        log.warning("sweep_failed", reason=type(error).__name__)
        return
    if expired:
        log.info("reservations_expired", count=expired)
