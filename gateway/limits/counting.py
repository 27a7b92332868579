"""`Limits`: the limits of one worker, and what it does while Redis is away.

    shared   Redis counts. A call that fails or takes longer than LIMITS_TIMEOUT_MS, all its steps together, makes it
             local
    local    this worker counts in memory, against limit / workers; nobody asks Redis but one prober beside the
             requests, ten times a second at first and once a second at last
    telling  a probe has succeeded: what was let pass meanwhile is added to the logs in Redis. The worker still counts
             for itself until every other worker must have done that, too, else the first one back would find room
             that the others have used up. Then it adds the rest, and it is shared again

Going down and coming back is one log line each and a gauge. A request that finds too many others waiting for Redis
counts locally too, but that is no sign that Redis is away.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence

import redis
import structlog
from limits import RateLimitItemPerSecond

from gateway.limits.local import LocalCounts
from gateway.limits.store import Store
from gateway.limits.tiers import LimitSets, Rates
from gateway.limits.verdict import Bucket, Verdict
from gateway.notation import WhenDown
from gateway.observability.metrics import Metrics
from gateway.pipe import ALL_IN_USE

log = structlog.get_logger("limits")

FIRST_PROBE_S, LAST_PROBE_S = 0.1, 1.0
TELLING_S = LAST_PROBE_S + 0.2
PROBE = Bucket("global", "probe", RateLimitItemPerSecond(1_000_000))


class StoreDown(Exception):
    """Nobody can count for all workers, and this request must not pass uncounted."""


class Limits:
    """Shared by the worker's greenlets; a log is only ever changed by one script."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        *,
        workers: int,
        rates: Rates,
        spawn: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.sets = LimitSets(rates)
        self.store, self._metrics, self._workers = store, metrics, workers
        self._local = LocalCounts(workers)
        self._spawn = spawn or _in_background
        self._is_down = False
        self._told_until_us = 0.0

    @property
    def is_shared(self) -> bool:
        """Whether Redis counts, as far as is known."""
        return not self._is_down

    def hit(self, buckets: Sequence[Bucket], cost: int = 1, when_down: WhenDown = "local") -> Verdict:
        """Count one request against `buckets` (at least one), in all or, if one of them is full, in none.

        Waits for Redis, for LIMITS_TIMEOUT_MS at most, only while it is not known to be away. Raises `StoreDown` for
        `closed` while it is.
        """
        if not self._is_down:
            try:
                return self.store.hit(buckets, cost)
            except redis.RedisError as error:
                if str(error) != ALL_IN_USE:
                    self._go_local(error)
        if when_down == "closed":
            raise StoreDown
        return Verdict(()) if when_down == "open" else self._local.hit(buckets, cost)

    def foresee(self, buckets: Sequence[Bucket], cost: int = 1) -> Verdict | None:
        """What `hit` would say, without counting anything; None while nobody knows."""
        if not self._is_down:
            try:
                return self.store.foresee(buckets, cost)
            except redis.RedisError:
                pass
        return None

    def _go_local(self, error: Exception) -> None:
        if self._is_down:
            return
        self._is_down = True
        log.warning("limits_local", reason=type(error).__name__, share=f"1/{self._workers}")
        self._metrics.limit_store_up(False)
        self._spawn(_prober(self))

    def try_again(self) -> bool:
        """Whether Redis takes what was counted here. Only the prober asks: it may take as long as a time-out."""
        try:
            self.store.hit((PROBE,), 1)
            until_us = self._local.now_us()
            self.store.add(self._local.counted(self._told_until_us))
        except redis.RedisError:
            return False
        except Exception as error:  # without a prober it would never be shared again
            log.error("limits_probe_failed", exc_info=error)
            return False
        self._told_until_us = until_us
        return True

    def go_shared(self) -> None:
        """What was counted here is not forgotten: a Redis that comes and goes must not make room each time."""
        self._is_down = False
        self._metrics.limit_store_up(True)
        log.warning("limits_shared_again")


def _prober(limits: Limits) -> Callable[[], None]:
    """Tries until Redis counts again, or nobody has those limits any more."""
    them = weakref.ref(limits)

    def probe() -> None:
        pause_s, is_telling = FIRST_PROBE_S, False
        while True:
            time.sleep(TELLING_S if is_telling else pause_s)
            present = them()
            if present is None:
                return
            is_well = present.try_again()
            if is_well and is_telling:
                present.go_shared()
                return
            del present
            is_telling, pause_s = is_well, min(LAST_PROBE_S, pause_s * 1.5)

    return probe


def _in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="limits-prober", daemon=True).start()  # a greenlet, where gevent has patched it
