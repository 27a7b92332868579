"""A connection to an instance: bytes in and out, for greenlets, with as little around the system calls as can be.

One greenlet reads and one may send beside it. The socket's readiness is watched by one watcher for as long as the
connection lives, so that neither a watcher nor a change of the kernel's set is needed for each wait:

    somebody reads        it is switched to; first the wait, then the call, for an answer is never there already
    in use, nobody reads  the watcher rests until the next read: the kernel holds back who sends too fast
    idle in its pool      whatever comes now, be it the end, is nothing that anybody waits for: `on_news`
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from gevent import get_hub, getcurrent
from gevent.lock import BoundedSemaphore
from gevent.socket import wait_write
from greenlet import greenlet

from gateway.backend.alarms import alarms
from gateway.backend.parsing import AnswerParser

PIECE_BYTES = 64 << 10


class Connection:
    """Belongs to the request that has taken it from the pool, or made it."""

    def __init__(self, connected: socket.socket) -> None:
        """`connected` does not block."""
        self._socket = connected
        self._hub = hub = get_hub()
        self._alarms = alarms()
        self._reader: greenlet | None = None  # while it waits
        self._error: Exception | None = None
        self._patience_s = math.inf
        self.rings_at = math.inf
        self.is_closed = False
        self.on_news: Callable[[Connection], None] | None = None
        """Told of anything that comes while nobody uses the connection."""
        self.answers = AnswerParser()
        self.made_at = self.idle_since = monotonic()
        self._readable = hub.loop.io(connected.fileno(), 1)
        self._watch()

    @property
    def has_news(self) -> bool:
        """Whether something came that the event loop has not told yet; asks the kernel."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def receive(self) -> bytes:
        """What has come, after a wait for it; b"" at the end. Raises `TimeoutError` when nothing comes for as long as
        `be_patient` says, what `interrupt` was given, and `OSError`."""
        while True:
            if self._error is not None:
                raise self._error
            if not self._is_watched:
                self._watch()
            self._reader = getcurrent()
            if self._patience_s != math.inf:
                self.rings_at = monotonic() + self._patience_s
                self._alarms.set(self)
            try:
                self._hub.switch()
            finally:
                self._reader = None
                self._alarms.cancel(self)
            if self._error is not None:
                raise self._error
            try:
                return self._socket.recv(PIECE_BYTES)
            except BlockingIOError:
                continue

    def send(self, data: bytes | memoryview) -> int:
        """Send what the kernel takes at once. Returns how many bytes it took."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    def send_all(self, data: bytes, timeout_s: float) -> None:
        """Raises `TimeoutError` when the other end takes nothing for so long, and `OSError`."""
        self._put_all(data, timeout_s)

    def be_patient(self, patience_s: float) -> None:
        """Each wait for something to read may take so long from now on, also one under way."""
        self._patience_s = patience_s
        if self._reader is not None:
            self._alarms.cancel(self)
            self.rings_at = monotonic() + patience_s
            self._alarms.set(self)

    def interrupt(self, error: Exception) -> None:
        """Whoever reads, now or later, gets `error` instead. Does not switch."""
        self._error = error
        self._hub.loop.run_callback(self._wake)

    def rest(self, on_news: Callable[[Connection], None]) -> None:
        """Nobody uses it from now on."""
        self.on_news = on_news
        if not self._is_watched:
            self._watch()

    def shut(self) -> None:
        """Nothing comes or goes any more, and the other end sees that at once. `close` is still wanted."""
        with suppress(OSError):  # it is over already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._readable.stop()
            self._readable.close()
            self._socket.close()

    def ring(self) -> None:
        """For `alarms`: nothing came in time."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.throw(TimeoutError("nothing came in time"))

    def _watch(self) -> None:
        self._is_watched = True
        self._readable.start(self._is_readable)

    def _put_all(self, data: bytes, timeout_s: float) -> None:
        rest = memoryview(data)
        while rest:
            if not (sent := Connection.send(self, rest)):
                patience_s = None if timeout_s == math.inf else timeout_s
                wait_write(self._socket.fileno(), patience_s, TimeoutError("nothing was taken in time"))
            rest = rest[sent:]

    def _is_readable(self) -> None:
        if self._reader is not None:
            self._wake()
        elif self.on_news is not None:
            self.on_news(self)
        else:
            self._readable.stop()
            self._is_watched = False

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.switch()


class SecureConnection(Connection):
    """The same through TLS, which is worked out in memory: the sockets, the waits and the deadlines are the same, and
    what comes counts only when it is the instance's word (it may be the protocol's own). So does the end: one without
    a closure alert may be anybody's doing, and raises `ssl.SSLEOFError` (RFC 9112, 9.8)."""

    def __init__(self, connected: socket.socket, context: ssl.SSLContext, server_name: str) -> None:
        """`handshake` is still wanted."""
        self._came, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._sending = BoundedSemaphore(1)
        self._tls = context.wrap_bio(self._came, self._goes, server_hostname=server_name)
        super().__init__(connected)

    def handshake(self, timeout_s: float) -> None:
        """Raises `ssl.SSLError`, `TimeoutError` and `OSError`."""
        ends_at = monotonic() + timeout_s
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush(timeout_s)
                self.be_patient(max(0.0, ends_at - monotonic()))
                self._take_in()
            except ssl.SSLError:
                self._flush(timeout_s)  # the other end is told why
                raise
            else:
                return self._flush(timeout_s)

    def receive(self) -> bytes:
        while True:
            try:
                return self._tls.read(PIECE_BYTES)
            except ssl.SSLWantReadError:
                if not self._sending.locked():  # else it is taken along; who only reads must not wait for it
                    self._flush(self._patience_s)  # an answer to what came just now
                self._take_in()
            except ssl.SSLZeroReturnError:
                return b""

    def send(self, data: bytes | memoryview) -> int:
        """All of it, as far as the caller is concerned: what is enciphered can't be taken back."""
        self._tls.write(data)
        self._flush(self._patience_s)
        return len(data)

    def send_all(self, data: bytes, timeout_s: float) -> None:
        self._tls.write(data)
        self._flush(timeout_s)

    def _take_in(self) -> None:
        if came := super().receive():
            self._came.write(came)
        else:
            self._came.write_eof()

    def _flush(self, timeout_s: float) -> None:
        with self._sending:
            self._put_all(self._goes.read(), timeout_s)
