"""Rate limits: exact over all workers while Redis answers, each worker's share of them while it does not.

Flask-Limiter's `Limiter` is where storage, strategy and headers are configured. It limits the pages that Flask serves;
the `@limited` policy hits the same storage, with all of a request's limits in one script and one round trip.

The log of a bucket is a sorted set of the requests in the last window. A request is let through when fewer than the
limit are in it; only then is it added. So in no window of that length, wherever it begins, more than the limit pass.
Redis' own clock is used, so the workers' clocks need not agree.

Redis away (`_down_until` in the future): each worker counts in memory, against limit / workers, rounded up. One request
a second tries Redis again. Going down and coming back is one log line each and a gauge.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import redis
import structlog
from flask import Flask, Response, request
from flask_limiter import Limiter, RateLimitExceeded
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import MovingWindowRateLimiter

from common import problems
from common.problems import TooManyRequests
from gateway.exchange import EXCHANGE, SOURCE
from gateway.observability.metrics import Metrics
from gateway.services import DEFAULT_LIMIT
from gateway.settings import GatewaySettings
from gateway.shared import PREFIX

log = structlog.get_logger("limits")

PROBE_INTERVAL_S = 1.0

# KEYS: one log a bucket. ARGV: a name for this call, its cost, then limit and window (microseconds) of each bucket.
# Answers {which bucket refused, or 0; then for each bucket: entries in it, microseconds until its oldest leaves}.
_ACQUIRE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local stamp, cost = string.format('%.0f', now), tonumber(ARGV[2])
local refused, answer = 0, {0}
for i, key in ipairs(KEYS) do
  local limit, window = tonumber(ARGV[1 + 2 * i]), tonumber(ARGV[2 + 2 * i])
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - window))
  local used = redis.call('ZCARD', key)
  local oldest = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if used + cost > limit and refused == 0 then refused = i end
  answer[2 * i] = used
  answer[2 * i + 1] = oldest[2] and (oldest[2] + window - now) or window
end
if refused == 0 then
  for i, key in ipairs(KEYS) do
    for n = 1, cost do redis.call('ZADD', key, stamp, ARGV[1] .. ':' .. n) end
    redis.call('PEXPIRE', key, math.ceil(ARGV[2 + 2 * i] / 1000))
    answer[2 * i] = answer[2 * i] + cost
  end
end
answer[1] = refused
return answer
"""

# KEYS: the log. ARGV: its window in microseconds. Answers {entries in it, the oldest one's time in microseconds}.
_LOOK = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ARGV[1]))
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {redis.call('ZCARD', KEYS[1]), oldest[2] and tonumber(oldest[2]) or now}
"""


@dataclass(frozen=True, slots=True)
class Bucket:
    """One limit as it applies to one caller."""

    name: str
    rate: RateLimitItem
    key: str

    @property
    def window_us(self) -> int:
        return self.rate.get_expiry() * 1_000_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the limits said; `bucket` is the one that refused, else the one with the least left."""

    is_allowed: bool
    bucket: Bucket
    remaining: int
    reset_after_s: float

    @property
    def retry_after_s(self) -> int:
        return max(1, math.ceil(self.reset_after_s))

    def headers(self) -> list[tuple[str, str]]:
        return [
            ("X-RateLimit-Limit", str(self.bucket.rate.amount)),
            ("X-RateLimit-Remaining", str(self.remaining)),
            ("X-RateLimit-Reset", str(int(time.time() + self.retry_after_s))),
        ]


class SlidingLog(RedisStorage):
    """`limits`' Redis storage whose moving window is the log described on top."""

    STORAGE_SCHEME = [f"{PREFIX}+redis"]  # noqa: RUF012 - as the base class has it
    PREFIX = f"{PREFIX}:limits"

    def initialize_storage(self, _uri: str) -> None:
        super().initialize_storage(_uri)
        client = cast("redis.Redis", self.storage)
        self._acquire = client.register_script(_ACQUIRE)
        self._look = client.register_script(_LOOK)

    def acquire(self, buckets: Sequence[Bucket], cost: int = 1) -> Verdict:
        """Count a request in all buckets, or in none when one of them is full. Raises `redis.RedisError`."""
        arguments: list[str | int] = [_unique(), cost]
        for bucket in buckets:
            arguments += [bucket.rate.amount, bucket.window_us]
        answer = cast("list[int]", self._acquire([self.prefixed_key(bucket.key) for bucket in buckets], arguments))
        rows = [
            Verdict(not answer[0], bucket, max(0, bucket.rate.amount - answer[1 + 2 * i]), answer[2 + 2 * i] / 1e6)
            for i, bucket in enumerate(buckets)
        ]
        return rows[answer[0] - 1] if answer[0] else min(rows, key=lambda row: row.remaining)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        answer = self._acquire([self.prefixed_key(key)], [_unique(), amount, limit, expiry * 1_000_000])
        return not cast("list[int]", answer)[0]

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        count, oldest_us = cast("list[int]", self._look([self.prefixed_key(key)], [expiry * 1_000_000]))
        return oldest_us / 1e6, count


class Limits:
    """The limits of one worker. Shared by its greenlets; the log of a bucket is only ever changed by one script."""

    def __init__(self, storage: SlidingLog, metrics: Metrics, *, workers: int) -> None:
        self._storage = storage
        self._metrics = metrics
        self._workers = workers
        self._local = MovingWindowRateLimiter(MemoryStorage())
        self._down_until = 0.0

    @property
    def is_shared(self) -> bool:
        """Whether Redis counts, as far as is known."""
        return not self._down_until

    def hit(self, buckets: Sequence[Bucket]) -> Verdict:
        """Count one request against `buckets` (at least one). Never raises for a store that is away."""
        now = time.monotonic()
        if now < self._down_until:
            return self._hit_locally(buckets)
        if self._down_until:
            self._down_until = now + PROBE_INTERVAL_S  # this request probes; the others don't wait for it
        try:
            verdict = self._storage.acquire(buckets)
        except redis.RedisError as error:
            self._go_local(error)
            return self._hit_locally(buckets)
        if self._down_until:
            self._down_until = 0.0
            log.warning("limits_shared_again")
            self._metrics.limit_store_up(True)
        return verdict

    def used(self, bucket: Bucket) -> int | None:
        """How many requests of the last window are in `bucket`, without counting one; None while nobody knows."""
        if self._down_until:
            return None
        try:
            return self._storage.get_moving_window(bucket.key, bucket.rate.amount, bucket.rate.get_expiry())[1]
        except redis.RedisError:
            return None

    def _go_local(self, error: Exception) -> None:
        if not self._down_until:
            log.warning("limits_local", reason=type(error).__name__, share=f"1/{self._workers}")
            self._metrics.limit_store_up(False)
        self._down_until = time.monotonic() + PROBE_INTERVAL_S

    def _hit_locally(self, buckets: Sequence[Bucket]) -> Verdict:
        shares = [self._share(bucket.rate) for bucket in buckets]
        full = next((i for i, b in enumerate(buckets) if not self._local.test(shares[i], b.key)), None)
        if full is None:
            for share, bucket in zip(shares, buckets, strict=True):
                self._local.hit(share, bucket.key)
        index = full or 0
        window = self._local.get_window_stats(shares[index], buckets[index].key)
        return Verdict(full is None, buckets[index], window.remaining, max(0.0, window.reset_time - time.time()))

    def _share(self, rate: RateLimitItem) -> RateLimitItem:
        return parse(f"{math.ceil(rate.amount / self._workers)} per {rate.get_expiry()} second")


def init_app(app: Flask, settings: GatewaySettings, pool: redis.ConnectionPool, metrics: Metrics) -> Limits:
    """Configure Flask-Limiter, the one place for that, and take its storage for the proxied routes."""
    rate = f"{settings.rate_limit_requests} per {settings.rate_limit_window} second"
    limiter = Limiter(
        _address_of_caller,
        app=app,
        default_limits=[rate],
        storage_uri=f"{PREFIX}+redis://",
        storage_options={"connection_pool": pool},  # pyright: ignore[reportArgumentType] - passed through as it is
        strategy="moving-window",
        headers_enabled=False,  # its Retry-After would be on good answers too; `on_limit` sets it on 429
        in_memory_fallback_enabled=True,
        swallow_errors=True,  # of requests that meet a store which goes away while another one finds that out
        key_prefix="pages",
    )
    app.extensions["limiter_of_pages"] = limiter

    def on_limit(error: RateLimitExceeded) -> Response:
        window = limiter.current_limit
        retry_after_s = max(1, math.ceil(window.reset_at - time.time())) if window else 1
        return problems.response(too_many(DEFAULT_LIMIT, error.limit.limit, retry_after_s), SOURCE)

    app.register_error_handler(RateLimitExceeded, on_limit)
    return Limits(cast("SlidingLog", limiter.storage), metrics, workers=settings.workers or 1)


def too_many(name: str, rate: RateLimitItem, retry_after_s: int) -> TooManyRequests:
    """The refusal of the limit called `name`."""
    return TooManyRequests(
        f"More than {rate.amount} requests in {rate.get_expiry()} seconds are not accepted here (limit '{name}'); "
        f"try again in {retry_after_s} seconds.",
        headers=(("Retry-After", str(retry_after_s)),),
        limit=name,
    )


def _unique() -> str:
    """A member of a log. Not the request's id: a caller behind a proxy may choose that, and repeat it to count once."""
    return os.urandom(8).hex()


def _address_of_caller() -> str:
    return str(request.environ[EXCHANGE].forwarding.caller)
