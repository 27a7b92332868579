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
            tally = self._fresh[labels] = _empty(self._buckets_s)
        tally[bisect_left(self._buckets_s, seconds)] += 1
        tally[-1] += seconds

    def flush(self) -> None:
        fresh, self._fresh = self._fresh, {}
        for labels, (*counts, seconds) in fresh.items():
            _add(self._histogram.labels(*labels), counts, seconds)


class Timings:
    """Requests and how long they took: a counter and a histogram in one. Shared as `Counts` are."""

    def __init__(self, counter: Counter, histogram: Histogram, buckets_s: Sequence[float]) -> None:
        """`histogram` has the first two labels of `counter`."""
        self._counter, self._histogram, self._buckets_s = counter, histogram, tuple(buckets_s)
        self._fresh: dict[tuple[str, str, str, int], list[float]] = {}

    def add(self, service: str, route: str, method: str, status: int, seconds: float) -> None:
        key = service, route, method, status
        tally = self._fresh.get(key)
        if tally is None:
            tally = self._fresh[key] = _empty(self._buckets_s)
        tally[bisect_left(self._buckets_s, seconds)] += 1
        tally[-1] += seconds

    def flush(self) -> None:
        fresh, self._fresh = self._fresh, {}
        for (service, route, method, status), (*counts, seconds) in fresh.items():
            self._counter.labels(service, route, method, str(status)).inc(sum(counts))
            _add(self._histogram.labels(service, route), counts, seconds)


def _empty(buckets_s: Sequence[float]) -> list[float]:
    """How many by bucket, then the sum of all seconds."""
    return [0.0] * (len(buckets_s) + 2)


def _add(histogram: Histogram, counts: Sequence[float], seconds: float) -> None:
    """As so many calls of `observe`, which takes one at a time."""
    parts: Any = histogram
    parts._sum.inc(seconds)
    for bucket, count in zip(parts._buckets, counts, strict=True):
        if count:
            bucket.inc(count)
