"""The connections to Redis (or Valkey) that everything in a worker shares."""

from __future__ import annotations

import redis
from gevent import monkey
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.pipe import Pipe
from gateway.scripts import Pooled, Way
from gateway.settings import GatewaySettings

PREFIX = "gateway"
"""First word of every key."""


def pool(settings: GatewaySettings, *, timeout_ms: int | None = None) -> redis.ConnectionPool:
    """A pool that waits for a free connection instead of failing, and calls that fail at once instead of retrying.

    The retries and time-outs that redis-py defaults to cost seconds a call while Redis is away. A worker has two pools,
    of half its connections each. The one for the limits has `timeout_ms` for all; half of it may be spent waiting.
    """
    timeout_s = (timeout_ms or settings.redis_timeout_ms) / 1000
    return redis.BlockingConnectionPool.from_url(
        settings.redis_url,
        max_connections=max(1, settings.redis_pool_size // 2),
        timeout=timeout_s / 2 if timeout_ms else timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=30,
    )


def client(connections: redis.ConnectionPool) -> redis.Redis:
    """A client that borrows its connections from `connections`."""
    return redis.Redis(connection_pool=connections)


def way(connections: redis.ConnectionPool, patience_ms: int) -> Way:
    """How scripts get to Redis: in a worker by one connection for all greenlets, made as those of `connections`."""
    is_worker = monkey.is_module_patched("socket")
    return Pipe(connections, patience_ms / 1000) if is_worker else Pooled(connections)
