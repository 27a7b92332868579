"""One limit as it applies to one caller, what it said of a request, and how the caller is told.

The header fields are those of draft-ietf-httpapi-ratelimit-headers-11 and the older `X-RateLimit-*`. What the whole
gateway bears (`global`) is nobody's business (8.2 there): it is counted, and refuses, but is not told.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from limits import RateLimitItem

from gateway.limits.window import Ask, Told

Tier = Literal["endpoint", "user", "key", "address", "burst", "global"]
PASSING = ("global", "burst")
"""Tiers that no caller goes by."""
MOST_TOLD = 10**15 - 1
"""The largest integer of a structured field (RFC 9651, 3.3.1)."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """`name` is what the services file calls the limit; `whom` it counts: `user:7`, `address:192.0.2.1`, "" for all."""

    tier: Tier
    name: str
    rate: RateLimitItem
    service: str = ""  # "" for the whole gateway
    whom: str = ""

    @property
    def key(self) -> str:
        return f"{self.tier}|{self.service}|{self.name}|{self.whom}"

    def ask(self, share: int = 0) -> Ask:
        """For all of the limit, or for a `share` of it."""
        return Ask(self.key, share or self.rate.amount, self.rate.get_expiry() * 1_000_000)


@dataclass(frozen=True, slots=True)
class Row:
    """What one bucket said."""

    bucket: Bucket
    remaining: int
    reset_after_s: float

    @property
    def seconds(self) -> int:
        return max(1, math.ceil(self.reset_after_s))


class Verdict:
    """What all buckets said. Without rows nothing was counted."""

    __slots__ = ("_rows", "refused")

    def __init__(self, rows: tuple[Row, ...] = (), refused: Row | None = None) -> None:
        self._rows, self.refused = rows, refused

    @property
    def rows(self) -> tuple[Row, ...]:
        return self._rows

    @property
    def is_allowed(self) -> bool:
        return self.refused is None

    @property
    def told(self) -> Row | None:
        """The one that refused, else of those that a caller goes by the one with the least left."""
        if self.refused:
            return self.refused
        lasting = [row for row in self.rows if row.bucket.tier not in PASSING]
        return min(lasting, key=lambda row: row.remaining, default=None)

    @property
    def retry_after_s(self) -> int:
        return self.refused.seconds if self.refused else 0

    def headers(self) -> list[tuple[str, str]]:
        """A refusal's `RateLimit` has the limit that refused alone: no window in it may end after `Retry-After`."""
        rows = [row for row in self.rows if row.bucket.tier != "global"]
        current = rows if self.refused is None else [row for row in (self.refused,) if row.bucket.tier != "global"]
        fields = [
            ("RateLimit-Policy", ", ".join(policy(row.bucket.name, row.bucket.rate) for row in rows)),
            ("RateLimit", ", ".join(_service_limit(row) for row in current)),
        ]
        if (told := self.told) and told.bucket.tier != "global":
            fields += [
                ("X-RateLimit-Limit", str(told.bucket.rate.amount)),
                ("X-RateLimit-Remaining", str(told.remaining)),
                ("X-RateLimit-Reset", str(int(time.time() + told.seconds))),
            ]
        return [(name, value) for name, value in fields if value]


def verdict(buckets: Sequence[Bucket], limits: Sequence[int], cost: int, refused: int, told: Sequence[Told]) -> Verdict:
    """`limits` is what each was held to; `refused` is the number of the first that is full, from 1, or 0. Who was
    refused may come again when none is full any more."""
    rows = tuple(
        Row(bucket, max(0, limit - each.used), each.wait_us / 1e6)
        for bucket, each, limit in zip(buckets, told, limits, strict=True)
    )
    if not refused:
        return Verdict(rows)
    full = [each.wait_us for each, limit in zip(told, limits, strict=True) if each.used + cost > limit]
    return Verdict(rows, replace(rows[refused - 1], reset_after_s=max(full) / 1e6))


def policy(name: str, rate: RateLimitItem) -> str:
    """A member of `RateLimit-Policy`."""
    return f"{quoted(name)};q={min(rate.amount, MOST_TOLD)};w={rate.get_expiry()}"


def _service_limit(row: Row) -> str:
    return f"{quoted(row.bucket.name)};r={min(row.remaining, MOST_TOLD)};t={row.seconds}"


@lru_cache(maxsize=1024)
def quoted(name: str) -> str:
    """A String of a structured field (RFC 9651, 3.3.3)."""
    text = "".join(sign if " " <= sign <= "~" else "?" for sign in name)
    return '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"'
