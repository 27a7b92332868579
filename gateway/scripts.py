"""Scripts that run in Redis, asked for by their digest, in one packed command.

Who asks packs the arguments, for most of them are the same each time. A script that Redis does not know, since it was
started anew, is sent in full, which also makes it known. That is once for each request at most, and counts nothing
twice: what refused the first command has done nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import redis
from redis.exceptions import NoScriptError


class Way(Protocol):
    """How a command gets to Redis."""

    def call(self, packed: bytes) -> object:
        """The reply. Raises `redis.RedisError`."""
        ...


class Script:
    """One script. `arguments` are packed: how many keys, the keys, the rest; there are `count` of them."""

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode()

    def head(self, count: int) -> bytes:
        """What stands before so many arguments."""
        return b"*%d\r\n%b%b" % (count + 2, bulk(b"EVALSHA"), bulk(self._digest))

    def run(self, way: Way, head: bytes, count: int, arguments: bytes) -> object:
        """`head` is that of `count`."""
        try:
            return way.call(head + arguments)
        except NoScriptError:
            return way.call(b"*%d\r\n%b%b%b" % (count + 2, bulk(b"EVAL"), bulk(self._text), arguments))

    def ask(self, way: Way, keys: Iterable[str], rest: Iterable[str | int]) -> object:
        """As `run`, for arguments that are not packed yet."""
        named = [key.encode("utf-8", "surrogatepass") for key in keys]
        parts = [str(len(named)).encode(), *named, *(str(each).encode() for each in rest)]
        return self.run(way, self.head(len(parts)), len(parts), b"".join(map(bulk, parts)))


class Pooled:
    """A connection for each call, from a pool: for processes whose threads are none of gevent's."""

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._pool = pool

    def call(self, packed: bytes) -> object:
        connection = self._pool.get_connection()
        try:
            connection.send_packed_command([packed])
            return connection.read_response()
        except redis.ResponseError:
            raise
        except BaseException:  # a reply that is still to come must not become another one's
            connection.disconnect()
            raise
        finally:
            self._pool.release(connection)


def bulk(value: bytes) -> bytes:
    """`value` as Redis' protocol has it."""
    return b"$%d\r\n%b\r\n" % (len(value), value)
