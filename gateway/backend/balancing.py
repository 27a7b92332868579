"""Which instance gets the next request? Pure choices over what is known of the instances of one service.

    round-robin     each in turn, in proportion to its weight (smooth: 5,1,1 gives a a b a c a a)
    least-requests  the one with the fewest requests in flight, for its weight
    peak-ewma       of two drawn at random the one with the lower latency times load (power of two choices); a slow
                    answer counts at once, a fast one by and by
    hash            always the same one for the same key (rendezvous hashing): when an instance leaves, only its own
                    keys move, and when it is back they return

A `Balancer` belongs to one backend in one worker. `pick` does not switch greenlets, so it needs no lock.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from gateway.services_file import Strategy


class Candidate(Protocol):
    """What a balancer may know of an instance."""

    @property
    def url(self) -> str: ...
    @property
    def weight(self) -> float:
        """Its share, above 0."""
        ...

    @property
    def in_flight(self) -> int: ...
    @property
    def latency_s(self) -> float:
        """What is to be expected; 0 when nothing is known."""
        ...


C = TypeVar("C", bound=Candidate)


class Balancer:
    """The strategy of one backend, with what it remembers between two picks."""

    def __init__(self, strategy: Strategy, *, draw: Callable[[int], int] = random.randrange) -> None:
        """`draw(n)` gives a random whole number below n."""
        self._strategy: Strategy = strategy
        self._draw = draw
        self._credit: dict[str, float] = {}

    def pick(self, candidates: Sequence[C], key: str = "") -> C:
        """One of `candidates` (at least one); `key` is what `hash` goes by."""
        if len(candidates) == 1:
            return candidates[0]
        match self._strategy:
            case "round-robin":
                return self._round_robin(candidates)
            case "least-requests":
                # round robin among equals, else the first of them gets all the first requests
                fewest = min(_load(candidate) for candidate in candidates)
                return self._round_robin([candidate for candidate in candidates if _load(candidate) == fewest])
            case "peak-ewma":
                return self._better_of_two(candidates)
            case "hash":
                return max(candidates, key=lambda candidate: _rendezvous_score(key, candidate))

    def _round_robin(self, candidates: Sequence[C]) -> C:
        """Smooth weighted round robin: each earns its weight, the richest goes and pays what all have earned."""
        credit, richest, most, earned = self._credit, candidates[0], -math.inf, 0.0
        for candidate in candidates:
            weight, url = candidate.weight, candidate.url
            credit[url] = own = credit.get(url, 0.0) + weight
            earned += weight
            if own > most:
                richest, most = candidate, own
        credit[richest.url] -= earned
        return richest

    def _better_of_two(self, candidates: Sequence[C]) -> C:
        first = self._draw(len(candidates))
        second = (first + 1 + self._draw(len(candidates) - 1)) % len(candidates)
        return min((candidates[first], candidates[second]), key=_expected_wait)


def _load(candidate: Candidate) -> float:
    return candidate.in_flight / candidate.weight


def _expected_wait(candidate: Candidate) -> float:
    return candidate.latency_s * (candidate.in_flight + 1) / candidate.weight


def _rendezvous_score(key: str, candidate: Candidate) -> float:
    """Weighted rendezvous hashing: each instance draws a lot for the key; the key goes to the highest."""
    digest = hashlib.blake2b(f"{key}\n{candidate.url}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    lot = (int.from_bytes(digest, "big") + 0.5) / 2**64
    return -candidate.weight / math.log(lot)


class PeakEwma:
    """Latency as it is to be expected: jumps up with a slow answer, comes down with time constant `decay_s`."""

    def __init__(self, *, decay_s: float = 10.0) -> None:
        self._decay_s = decay_s
        self._value_s = 0.0
        self._at = 0.0

    @property
    def value_s(self) -> float:
        return self._value_s

    def observe(self, latency_s: float, now: float) -> None:
        """`now` is a monotonic clock's time, in seconds."""
        if latency_s >= self._value_s:
            self._value_s = latency_s
        else:
            kept = math.exp(-max(0.0, now - self._at) / self._decay_s)
            self._value_s = self._value_s * kept + latency_s * (1 - kept)
        self._at = now
