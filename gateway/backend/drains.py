"""Which instances get no new request because an operator said so, in Redis: for all workers of all hosts, and for those
that start later.

The hash `gateway:drains` has a field `SERVICE URL` for each instance of which an operator ever spoke. Its value is 1
(drained) or 0 (not any more), a space, and when that was said. Of two words about an instance the later one holds. What
is not there is not known: a Redis that comes back empty takes no drain back, and the workers write it down again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import redis

from gateway.shared import PREFIX

KEY = f"{PREFIX}:drains"

Name = tuple[str, str]
"""The service's key, and the instance's URL."""


@dataclass(frozen=True, slots=True)
class Word:
    """What an operator said about an instance, and when (Unix time)."""

    is_draining: bool
    said_at: float

    def is_later_than(self, other: Word | None) -> bool:
        return other is None or self.said_at > other.said_at


class Drains:
    """Shared by the greenlets of a worker; each method is one command."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def put(self, name: Name, word: Word) -> None:
        """Raises `redis.RedisError`."""
        self._client.hset(KEY, " ".join(name), f"{int(word.is_draining)} {word.said_at:.6f}")

    def all(self) -> dict[Name, Word]:
        """What was said of each instance; nonsense is left out. Raises `redis.RedisError`."""
        found = cast("Mapping[bytes, bytes]", self._client.hgetall(KEY))
        words = {field: _word(value) for field, value in found.items()}
        return {_name(field): word for field, word in words.items() if word is not None}


def _name(field: bytes) -> Name:
    service, _, url = field.decode("utf-8", "replace").partition(" ")
    return service, url


def _word(value: bytes) -> Word | None:
    state, _, said_at = value.partition(b" ")
    try:
        word = Word(state == b"1", float(said_at))
    except ValueError:
        return None
    return word if state in (b"0", b"1") and math.isfinite(word.said_at) else None
