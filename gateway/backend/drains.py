"""Which instances get no new request because an operator said so, in Redis: for all workers of all hosts, and for those
that start later.

The hash `gateway:drains` has a field `SERVICE URL` for each instance of which an operator ever spoke: 1 drained, 0 not
any more. What is not there is not known. So a Redis that comes back empty takes no drain back by its silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import redis

from gateway.shared import PREFIX

KEY = f"{PREFIX}:drains"

Name = tuple[str, str]
"""The service's key, and the instance's URL."""


class Drains:
    """Shared by the greenlets of a worker; each method is one command."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def put(self, service: str, url: str, is_draining: bool) -> None:
        """Raises `redis.RedisError`."""
        self._client.hset(KEY, f"{service} {url}", "1" if is_draining else "0")

    def all(self) -> dict[Name, bool]:
        """What was said of each instance. Raises `redis.RedisError`."""
        found = cast("Mapping[bytes, bytes]", self._client.hgetall(KEY))
        drains: dict[Name, bool] = {}
        for field, value in found.items():
            service, _, url = field.decode("utf-8", "replace").partition(" ")
            if value in (b"0", b"1"):
                drains[service, url] = value == b"1"
        return drains
