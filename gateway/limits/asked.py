"""What one request is counted in, ready to be sent: what is the same for all callers of a route is made once.

A `LimitSet` has the limits, packed for the script but for whom each one counts, and the header fields but for their
numbers. `Asked` is such a set and its caller. Whoever looks at it sees `Bucket`s, but on the way of a request that
passes none is made.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from gateway.limits.verdict import MOST_TOLD, PASSING, Bucket, Row, Tier, Verdict, policy, quoted
from gateway.limits.window import ACQUIRE
from gateway.scripts import Script, bulk
from gateway.shared import PREFIX

if TYPE_CHECKING:
    from limits import RateLimitItem

KEYS = f"{PREFIX}:limits:"
COUNTS = Script(ACQUIRE)


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit, whomever it counts."""

    tier: Tier
    name: str
    rate: RateLimitItem
    service: str = ""  # "" for the whole gateway

    def of(self, whom: str) -> Bucket:
        return Bucket(self.tier, self.name, self.rate, self.service, whom)


class LimitSet:
    """Never changes. The narrowest limit is the first: of several that are full the first one is told."""

    __slots__ = (
        "_keys",
        "_lengths",
        "_policy",
        "_rate_limit",
        "_tail",
        "_told",
        "count",
        "head",
        "is_beyond_telling",
        "limits",
    )

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = tuple(limits)
        asks = [each.of("").ask() for each in self.limits]
        names = [(KEYS + ask.key).encode() for ask in asks]
        self.count = 2 + 3 * len(names)
        self.head = COUNTS.head(self.count)
        self._keys = bulk(b"%d" % len(names)) + b"".join(
            b"$%%d\r\n%b%%b\r\n" % name.replace(b"%", b"%%") for name in names
        )
        self._lengths = [len(name) for name in names]
        self._tail = b"".join(bulk(b"%d" % number) for ask in asks for number in (ask.limit, ask.window_us))
        told = [(place, each) for place, each in enumerate(self.limits) if each.tier != "global"]
        self._told = [(2 * place + 1, each.rate.amount, each.tier not in PASSING) for place, each in told]
        self.is_beyond_telling = any(each.rate.amount > MOST_TOLD for each in self.limits)
        self._policy = ("RateLimit-Policy", ", ".join(policy(each.name, each.rate) for _, each in told))
        self._rate_limit = ", ".join(f"{quoted(each.name).replace('%', '%%')};r=%d;t=%d" for _, each in told)

    def packed(self, whoms: Sequence[bytes], cost: int) -> bytes:
        """The arguments of the script that counts a request, behind `head`."""
        values: list[object] = []
        for length, whom in zip(self._lengths, whoms, strict=True):
            values += (length + len(whom), whom)
        return self._keys % tuple(values) + (_ONE if cost == 1 else bulk(b"%d" % cost)) + self._tail

    def fields(self, answer: Sequence[int]) -> list[tuple[str, str]]:
        """The header fields of a request that passed, as `Verdict.headers`; `answer` is that of the script. In it no
        limit is overdrawn, and what counts has not left its window."""
        values: list[int] = []
        limit = least = reset_s = -1
        for place, amount, is_lasting in self._told:
            left, seconds = amount - answer[place], -(answer[place + 1] // -1_000_000)
            values += (left, seconds)
            if is_lasting and (left < least or limit < 0):
                limit, least, reset_s = amount, left, seconds
        if not values:
            return []
        fields = [self._policy, ("RateLimit", self._rate_limit % tuple(values))]
        if limit >= 0:
            fields += (
                ("X-RateLimit-Limit", f"{limit}"),
                ("X-RateLimit-Remaining", f"{least}"),
                ("X-RateLimit-Reset", f"{int(time.time()) + reset_s}"),
            )
        return fields


class Asked(Sequence[Bucket]):
    """The limits of `limits`, each for one of `whoms`: `user:7`, `address:192.0.2.1`, "" for all."""

    __slots__ = ("limits", "whoms")

    def __init__(self, limits: LimitSet, whoms: Sequence[bytes]) -> None:
        self.limits, self.whoms = limits, whoms

    @classmethod
    def of(cls, buckets: Sequence[Bucket]) -> Asked:
        """What is in `buckets`, which may be of any limits."""
        if isinstance(buckets, cls):
            return buckets
        limits = [Limit(each.tier, each.name, each.rate, each.service) for each in buckets]
        return cls(LimitSet(limits), [as_key(each.whom) for each in buckets])

    @property
    def buckets(self) -> list[Bucket]:
        pairs = zip(self.limits.limits, self.whoms, strict=True)
        return [limit.of(whom.decode("utf-8", "surrogatepass")) for limit, whom in pairs]

    def __len__(self) -> int:
        return len(self.whoms)

    def __iter__(self) -> Iterator[Bucket]:
        return iter(self.buckets)  # made once, not for each of them

    @overload
    def __getitem__(self, index: int) -> Bucket: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Bucket]: ...
    def __getitem__(self, index: int | slice) -> Bucket | Sequence[Bucket]:
        return self.buckets[index]


class Passed(Verdict):
    """That of a request that passed, as the script told it."""

    __slots__ = ("_answer", "_asked")

    def __init__(self, asked: Asked, answer: Sequence[int]) -> None:
        self.refused = None
        self._asked, self._answer = asked, answer

    @property
    def rows(self) -> tuple[Row, ...]:
        said = zip(self._asked.buckets, self._answer[1::2], self._answer[2::2], strict=True)
        return tuple(Row(bucket, max(0, bucket.rate.amount - used), wait_us / 1e6) for bucket, used, wait_us in said)

    def headers(self) -> list[tuple[str, str]]:
        limits = self._asked.limits
        return super().headers() if limits.is_beyond_telling else limits.fields(self._answer)


def as_key(whom: str) -> bytes:
    """A name as it stands in Redis; foreign issuers may have put anything into it."""
    return whom.encode("utf-8", "surrogatepass")


_ONE = bulk(b"1")
