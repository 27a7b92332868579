"""The Redis of the bench: an embedded one, which says itself how many scripts it has run."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import redis

from deploy.local.valkey import Valkey
from tests.support.ports import free_port

SCRIPTS = ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_fcall")


class CountingRedis:
    """Started and ended by a `with`."""

    def __init__(self, folder: Path) -> None:
        self._server = Valkey(folder / "redis", port=free_port())
        self._databases = itertools.cycle(range(16))
        self._client: redis.Redis | None = None

    def __enter__(self) -> Self:
        self._server.start()
        self._client = redis.Redis.from_url(self._server.url)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client:
            self._client.close()
        self._server.stop()

    def database(self) -> str:
        """The URL of a database that nobody else uses just now, emptied."""
        url = f"{self._server.url.rpartition('/')[0]}/{next(self._databases)}"
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        return url

    def scripts(self) -> int:
        """How many it has run since it began."""
        assert self._client
        told = cast("dict[str, dict[str, int]]", self._client.info("commandstats"))
        return sum(told[name]["calls"] for name in SCRIPTS if name in told)
