"""What one worker counts for itself while Redis can't be asked."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from gateway.limits.verdict import Bucket, Verdict, verdict
from gateway.limits.window import Ask, acquire, read

MOST_LOGS = 10_000
"""Of a kilobyte at most each; usually of 50 bytes. Then the one that was not asked for the longest is forgotten."""


class LocalCounts:
    """Logs in memory, held to a worker's share of each limit. Its greenlets share them: a method is one step."""

    def __init__(self, workers: int, *, most: int = MOST_LOGS, clock: Callable[[], float] = time.monotonic) -> None:
        self._workers, self._most, self._clock = workers, most, clock
        self._logs: OrderedDict[str, bytes] = OrderedDict()

    def hit(self, buckets: Sequence[Bucket], cost: int) -> Verdict:
        """As `Store.hit`. A share is rounded up, and never less than one request costs, or none would ever pass."""
        shares = [max(cost, math.ceil(bucket.rate.amount / self._workers)) for bucket in buckets]
        asks = [bucket.ask(share) for bucket, share in zip(buckets, shares, strict=True)]
        refused, told = acquire(self._logs, asks, cost, self.now_us())
        for ask in asks:
            if ask.key in self._logs:  # refused ones, too: a flood must not be forgotten
                self._logs.move_to_end(ask.key)
        while len(self._logs) > self._most:
            self._logs.popitem(last=False)
        return verdict(buckets, shares, cost, refused, told)

    def counted(self, since_us: float = 0.0) -> list[tuple[Ask, int, int]]:
        """What was counted since then, in the form of `Store.add`. Limits are those of the shares."""
        now_us = self.now_us()
        found = ((key, read(text, now_us)) for key, text in list(self._logs.items()))
        return [
            (Ask(key, log.limit, log.window_us), count, int(now_us - log.last_us))
            for key, log in found
            if (count := log.used_since(since_us))
        ]

    def now_us(self) -> float:
        return self._clock() * 1e6
