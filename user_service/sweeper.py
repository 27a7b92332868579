"""What has to be done now and then, in a greenlet of each worker: what has ended is deleted, a new key may be due."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

INTERVAL_S = 300.0

Rounds = Mapping[str, Callable[[], int]]
"""The event that is logged when something was done, and what does it and tells how often."""

log = structlog.get_logger("sweeper")


def sweep(rounds: Rounds) -> None:
    """Do each once. What goes wrong is one warning, and the next time tries again."""
    for event, work in rounds.items():
        try:
            count = work()
        except Exception as error:  # noqa: BLE001 - the rounds must go on
            log.warning("sweep_failed", round=event, reason=type(error).__name__)
        else:
            if count:
                log.info(event, count=count)
