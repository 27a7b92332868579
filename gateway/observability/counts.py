"""What a worker counts, kept in plain numbers and added to prometheus_client's every `FLUSH_S`.

There each step costs a lock and a write to a mapped file; here a look into a dictionary. What is not added yet is lost
if the worker crashes, and only then.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from prometheus_client import Counter, Histogram

FLUSH_S = 0.1


class Counts:
    """A counter. Shared by the greenlets of a worker: each method is one step, until it comes to prometheus_client."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._fresh: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str) -> None:
        """One more."""
        self._fresh[labels] = self._fresh.get(labels, 0) + 1

    def flush(self) -> None:
        fresh, self._fresh = self._fresh, {}
        for labels, count in fresh.items():
            self._counter.labels(*labels).inc(count)


class Durations:
    """A histogram. Shared as `Counts` are."""

    def __init__(self, histogram: Histogram, buckets_s: Sequence[float]) -> None:
        self._histogram, self._buckets_s = histogram, tuple(buckets_s)
        self._fresh: dict[tuple[str, ...], list[float]] = {}

    def add(self, seconds: float, *labels: str) -> None:
        tally = self._fresh.get(labels)
        if tally is None:
            tally = self._fresh[labels] = [0.0] * (len(self._buckets_s) + 2)  # by bucket, then the sum of all seconds
        tally[bisect_left(self._buckets_s, seconds)] += 1
        tally[-1] += seconds

    def flush(self) -> None:
        fresh, self._fresh = self._fresh, {}
        for labels, (*counts, seconds) in fresh.items():
            self._tell(labels, counts, seconds)

    def _tell(self, labels: Sequence[str], counts: Sequence[float], seconds: float) -> None:
        """As so many calls of `observe`, which takes one at a time."""
        parts: Any = self._histogram.labels(*labels)
        parts._sum.inc(seconds)
        for bucket, count in zip(parts._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class Timings(Durations):
    """Requests and how long they took: a counter besides, of which the histogram has the first two labels."""

    def __init__(self, counter: Counter, histogram: Histogram, buckets_s: Sequence[float]) -> None:
        super().__init__(histogram, buckets_s)
        self._counter = counter

    def _tell(self, labels: Sequence[str], counts: Sequence[float], seconds: float) -> None:
        self._counter.labels(*labels).inc(sum(counts))
        super()._tell(labels[:2], counts, seconds)
