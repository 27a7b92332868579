"""Where the logs are: in Redis, for all workers and hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import redis

from gateway.limits.asked import COUNTS, KEYS, Asked, Passed
from gateway.limits.verdict import Bucket, Verdict, verdict
from gateway.limits.window import ADD, Ask, Log, Told, read, wait_us
from gateway.scripts import Way

ADDED_AT_ONCE = 200


class Store:
    """One worker's way to the logs. Shared by its greenlets; a log is only ever changed by one script.

    Each method but the constructor raises `redis.RedisError` where Redis is away, slow, full or refuses to write.
    """

    def __init__(self, client: redis.Redis, way: Way) -> None:
        """Requests are counted by `way`, all else is done by `client`."""
        self.client, self._way = client, way
        self._add = client.register_script(ADD)

    def hit(self, buckets: Sequence[Bucket], cost: int) -> Verdict:
        """Count a request in all buckets, or in none when one of them is full: one script, one round trip."""
        asked = Asked.of(buckets)
        limits = asked.limits
        reply = COUNTS.run(self._way, limits.head, limits.count, limits.packed(asked.whoms, cost))
        answer = cast("list[int]", reply)
        if not answer[0]:
            return Passed(asked, answer)
        told = [Told(used, wait) for used, wait in zip(answer[1::2], answer[2::2], strict=True)]
        each = asked.buckets
        return verdict(each, [bucket.rate.amount for bucket in each], cost, answer[0], told)

    def add(self, counted: Sequence[tuple[Ask, int, int]]) -> None:
        """Count what was let pass elsewhere: how much, and how many microseconds ago the last of it came."""
        for start in range(0, len(counted), ADDED_AT_ONCE):
            some = counted[start : start + ADDED_AT_ONCE]
            numbers = [n for ask, count, age_us in some for n in (ask.limit, ask.window_us, count, age_us)]
            self._add([KEYS + ask.key for ask, _count, _age in some], numbers)

    def look(self, keys: Sequence[str]) -> tuple[list[Log], int]:
        """The logs as they are, without counting anything, and the time in microseconds."""
        with self.client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.mget([KEYS + key for key in keys])
            (seconds, micros), texts = pipe.execute()
        now_us = seconds * 1_000_000 + micros
        return [read(text, now_us) for text in texts], now_us

    def foresee(self, buckets: Sequence[Bucket], cost: int) -> Verdict:
        """What `hit` would say, but for what is counted."""
        asks = [bucket.ask() for bucket in buckets]
        logs, now_us = self.look([ask.key for ask in asks])
        too_many = [log.used + cost - ask.limit for log, ask in zip(logs, asks, strict=True)]
        told = [
            Told(log.used, wait_us(log, now_us, more, ask.window_us))
            for log, ask, more in zip(logs, asks, too_many, strict=True)
        ]
        refused = next((number for number, more in enumerate(too_many, 1) if more > 0), 0)
        return verdict(buckets, [ask.limit for ask in asks], cost, refused, told)

    def keys(self, pattern: str) -> Iterator[str]:
        """Of the logs that fit a pattern of Redis."""
        for key in cast("Iterator[bytes]", self.client.scan_iter(match=KEYS + pattern, count=1000)):
            yield key.decode("utf-8", "replace").removeprefix(KEYS)

    def forget(self, keys: Sequence[str]) -> int:
        """How many of these logs there were."""
        return self.client.delete(*(KEYS + key for key in keys)) if keys else 0
