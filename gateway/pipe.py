"""One connection to Redis for all greenlets of a worker.

What they ask in one turn of the loop goes out in one `send`. A reply does not say whose it is, it has only its place
in the row, so whoever gives up waiting leaves the place behind, and the reply that comes for it is thrown away.

    closed      the first command has a greenlet make a connection, as redis-py does it: TLS, AUTH, SELECT
    connecting  commands wait, each for `patience_s`; the connection itself may take longer (`CONNECT_S`): in a worker
                that has much to do its many steps do
    open        one watcher of the loop reads, and hands each reply to the first in the row

The connection is dropped whole, and all who wait are failed, by the first thing that is not as it should be: an error
of the socket, bytes that are no reply, a reply that nobody waits for, or one that takes longer than `patience_s`. What
was sent by then may have been done or not, so nothing is ever sent twice.
"""

from __future__ import annotations

import ssl
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, cast

import gevent
import hiredis
import redis
from gevent.hub import Waiter, get_hub
from redis.connection import DefaultParser

if TYPE_CHECKING:
    from socket import socket

ALL_IN_USE = "No connection available."
"""What redis-py says of a pool that has none left, and we of a row that is full: no sign that Redis is away."""
MOST_WAITING = 10_000
MOST_UNSENT_BYTES = 8 << 20
CONNECT_S = 1.0
SWEEPS = 8
"""In the time of one patience; so a wait may be longer than that by an eighth."""

_NOT_YET = object()
_NOT_READY = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_READ_BYTES = 1 << 16


class Watcher(Protocol):
    """Of gevent's loop."""

    def start(self, callback: object, *args: object) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


class Pipe:
    """Belongs to one hub, whose greenlets share it. All but `call` and `_connect` runs in the hub, so that no two steps
    mix."""

    def __init__(self, pool: redis.ConnectionPool, patience_s: float, *, most_waiting: int = MOST_WAITING) -> None:
        """Connections are made as those of `pool`, none of which is used."""
        self._pool, self._patience_s, self._most_waiting = pool, patience_s, most_waiting
        self._row: deque[Waiter[object]] = deque()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._answered = self._sent = 0  # how many, since ever
        self._batches: deque[tuple[int, float]] = deque()  # up to which reply, and when it must be here
        self._is_due = False
        self._connecting: gevent.Greenlet[[], None] | None = None
        self._line: _Line | None = None
        self._sweeper: Watcher | None = None

    def call(self, packed: bytes) -> object:
        """The reply to one packed command. Raises `redis.RedisError`, also for an error that is the reply."""
        if len(self._row) >= self._most_waiting or self._unsent_bytes > MOST_UNSENT_BYTES:
            raise redis.ConnectionError(ALL_IN_USE)
        hub = get_hub()
        waiter: Waiter[object] = Waiter(hub)
        self._row.append(waiter)
        self._unsent.append(packed)
        self._unsent_bytes += len(packed)
        if not self._is_due:
            self._is_due = True
            hub.loop.run_callback(self._flush)
        reply = waiter.get()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _flush(self) -> None:
        self._is_due = False
        if not self._row:  # dropped meanwhile
            return
        self._batches.append((self._answered + len(self._row), time.monotonic() + self._patience_s))
        if self._sweeper is None:
            self._sweeper = cast("Watcher", get_hub().loop.timer(self._patience_s / SWEEPS, self._patience_s / SWEEPS))
            self._sweeper.start(self._sweep)
        if self._line is not None:
            self._send()
        elif self._connecting is None:
            self._connecting = gevent.spawn(self._connect)

    def _connect(self) -> None:
        run, limit_s = get_hub().loop.run_callback, max(CONNECT_S, self._patience_s)
        bounds: dict[str, Any] = {"socket_timeout": limit_s, "socket_connect_timeout": limit_s}
        try:
            connection = self._pool.connection_class(**{**self._pool.connection_kwargs, **bounds})
            with gevent.Timeout(limit_s, redis.TimeoutError("no connection in time")):
                connection.connect()
        except Exception as error:  # noqa: BLE001 - whatever it is, all who wait are told
            run(self._drop, error if isinstance(error, redis.RedisError) else redis.ConnectionError(str(error)))
        else:
            run(self._open, connection)

    def _open(self, connection: redis.Connection) -> None:
        self._connecting, self._line = None, _Line(connection)
        self._line.readable.start(self._read)
        self._send()

    def _send(self) -> None:
        """What is unsent, or as much of it as the kernel takes."""
        line = self._line
        if line is None or not self._unsent:
            return
        self._sent = self._answered + len(self._row)
        data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
        try:
            sent = line.socket.send(data)
        except _NOT_READY:
            sent = 0
        except OSError as error:
            self._drop(redis.ConnectionError(f"Error while writing to socket: {error}"))
            return
        rest = data[sent:]
        self._unsent, self._unsent_bytes = [rest] if rest else [], len(rest)
        if rest:
            line.writable.start(self._send)
        else:
            line.writable.stop()

    def _read(self) -> None:
        """Hand out all replies that are here."""
        line = self._line
        is_more = line is not None
        while is_more and line is not None:
            try:
                data = line.socket.recv(_READ_BYTES)
            except _NOT_READY:
                return
            except OSError as error:
                self._drop(redis.ConnectionError(f"Error while reading from socket: {error}"))
                return
            if not data:
                self._drop(redis.ConnectionError("Connection closed by server."))
                return
            is_more = self._hand_out(line, data) and line.has_more()

    def _hand_out(self, line: _Line, data: bytes) -> bool:
        """Whether the connection is as it should be."""
        row, take = self._row, line.reader.gets
        line.reader.feed(data)
        try:
            while (reply := take(False)) is not _NOT_YET:  # False: bytes, not text
                if type(reply) is hiredis.PushNotification:
                    continue
                if self._answered == self._sent:  # who is in the row by now has asked nothing yet
                    raise redis.InvalidResponse("a reply that nobody waits for")
                waiter = row.popleft()
                self._answered += 1
                waiter.switch(reply)
        except redis.InvalidResponse as error:
            self._drop(error)
            return False
        return True

    def _sweep(self) -> None:
        while self._batches and self._batches[0][0] <= self._answered:
            self._batches.popleft()
        if self._is_late():
            self._read()  # where it is this worker that was late, the reply is here
            if self._is_late():
                error = redis.TimeoutError("no answer in time")
                self._fail(error) if self._connecting else self._drop(error)
        if not self._row and self._sweeper is not None:
            self._sweeper.close()
            self._sweeper = None

    def _is_late(self) -> bool:
        """Whether the one that waits longest has waited too long."""
        return bool(self._batches) and self._batches[0][0] > self._answered and self._batches[0][1] <= time.monotonic()

    def _drop(self, error: redis.RedisError) -> None:
        """Fail all who wait, with the connection. Who comes later begins anew."""
        if self._line is not None:
            self._line.close()
        self._connecting = self._line = None
        self._fail(error)

    def _fail(self, error: redis.RedisError) -> None:
        row, self._row = self._row, deque()
        self._answered += len(row)
        self._unsent, self._unsent_bytes = [], 0
        self._batches.clear()
        for waiter in row:
            waiter.switch(type(error)(*error.args))


class _Line:
    """An open connection."""

    def __init__(self, connection: redis.Connection) -> None:
        loop = get_hub().loop
        self._connection = connection
        self.socket = cast("socket", connection._sock)  # pyright: ignore[reportPrivateUsage] - nothing public gives it
        self.socket.setblocking(False)
        self.reader = hiredis.Reader(
            protocolError=redis.InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_NOT_YET
        )
        self.readable = cast("Watcher", loop.io(self.socket.fileno(), 1))
        self.writable = cast("Watcher", loop.io(self.socket.fileno(), 2))

    def has_more(self) -> bool:
        """Whether TLS has taken more from the kernel than it has given out, of which the loop knows nothing."""
        return isinstance(self.socket, ssl.SSLSocket) and self.socket.pending() > 0

    def close(self) -> None:
        for watcher in (self.readable, self.writable):
            watcher.stop()
            watcher.close()
        self._connection.disconnect()
