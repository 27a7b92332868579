"""A service over real sockets that does what a path names: `/slow/1.5`, `/cut`, ... (see behaviours.py).

It runs in threads of the test process, which is not monkey patched. It is strict where servers are lenient: a
request that is not plain HTTP/1.1, or whose framing is ambiguous, is answered 400, and kept in `malformed`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.support.behaviours import Call, Wait, as_json, behaviour_of
from tests.support.conversation import Conversation
from tests.support.ports import free_port
from tests.support.received import Received
from tests.support.revoking import PATH as POLL_PATH
from tests.support.revoking import RevocationLog

STOP_TIMEOUT_S = 5.0
ACCEPT_POLL_S = 0.5


class StubService:
    """One service on `address`:`port`. Thread-safe. Starts when made, and on the same port after `stop()`.

    `json` maps a path to the JSON it answers, before any behaviour; paths in `failing` are answered 503, before all
    else; `etag` is what `/cacheable` carries. What was `revoked` is told to whoever polls for it; these polls, and
    the connections that they come on, are counted nowhere else.
    """

    def __init__(self, port: int | None = None, *, address: str = "127.0.0.1") -> None:
        """`address` is one of the loopback's, IPv4 or IPv6."""
        self.port = free_port() if port is None else port
        self.address = address
        self.json: dict[str, object] = {}
        self.failing: set[str] = set()
        self.etag = '"1"'
        self.revoked = RevocationLog()
        self._changed = threading.Condition()  # protects all below
        self._requests: list[Received] = []
        self._malformed: list[bytes] = []
        self._times_seen: Counter[str] = Counter()
        self._counted: set[int] = set()
        self._polling: set[int] = set()
        self._last_connection = 0
        self._open: dict[int, socket.socket] = {}
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._stopping = threading.Event()
        self.start()

    @property
    def url(self) -> str:
        """The address, without a slash at its end."""
        return f"http://[{self.address}]:{self.port}" if ":" in self.address else f"http://{self.address}:{self.port}"

    @property
    def requests(self) -> list[Received]:
        """What arrived whole since the last `clear()`, in order."""
        with self._changed:
            return list(self._requests)

    @property
    def malformed(self) -> list[bytes]:
        """What arrived and was no acceptable request, or was cut short: all bytes of each such connection."""
        with self._changed:
            return list(self._malformed)

    @property
    def connections(self) -> int:
        """How many connections were accepted since the last `clear()`; their numbers are never reused."""
        with self._changed:
            return len(self._counted)

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        with self._changed:
            return len(self._open.keys() - self._polling)

    def clear(self) -> None:
        """Forget requests, counts and canned answers; connections stay open."""
        with self._changed:
            self._requests.clear()
            self._malformed.clear()
            self._times_seen.clear()
            self._counted.clear()
            self.json.clear()
            self.failing.clear()
            self.etag = '"1"'

    def wait_for_requests(self, count: int, *, timeout_s: float = 15.0) -> list[Received]:
        """The requests, once there are at least `count`. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._requests) >= count, timeout_s):
                raise TimeoutError(f"{len(self._requests)} of {count} requests came in {timeout_s:g} s")
            return list(self._requests)

    def start(self) -> Self:
        """Listen again after `stop()`. Nothing happens when it listens already."""
        with self._changed:
            if self._listener is None:
                self._stopping = threading.Event()
                family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
                self._listener = socket.create_server((self.address, self.port), family=family, backlog=256)
                self._listener.settimeout(ACCEPT_POLL_S)
                self._spawn(self._accept, self._listener, self._stopping)
        return self

    def stop(self) -> None:
        """Close the listener and every connection: connecting is refused from now on."""
        with self._changed:
            self._stopping.set()
            if self._listener is not None:
                _shut_down(self._listener)
            self._listener = None
            for connection in self._open.values():
                _shut_down(connection)
            threads, self._threads = self._threads, []
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def drop_connections(self) -> None:
        """Close the connections that are open, as a service does with idle ones; go on listening."""
        with self._changed:
            for connection in self._open.values():
                _shut_down(connection)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _accept(self, listener: socket.socket, stopping: threading.Event) -> None:
        with listener:
            while not stopping.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:  # stop() shut it down, or time-out (macOS is not woken by that)
                    continue
                with self._changed:
                    if stopping.is_set():
                        connection.close()
                        return
                    self._last_connection += 1
                    self._counted.add(self._last_connection)
                    self._open[self._last_connection] = connection
                    self._spawn(self._serve, connection, self._last_connection, stopping)

    def _serve(self, connection: socket.socket, number: int, stopping: threading.Event) -> None:
        try:
            Conversation(connection, number, self._call_for, self._note_malformed, stopping).run()
        finally:
            with self._changed:
                del self._open[number]
            connection.close()

    def _call_for(self, received: Received, wait: Wait, is_first: bool) -> list[bytes] | Call:
        """Note a request; its canned answer, or what a behaviour needs to answer it."""
        if received.path == POLL_PATH:
            return self._told(received, wait)
        with self._changed:
            self._requests.append(received)
            self._times_seen[received.target] += 1
            self._changed.notify_all()
            if received.path in self.failing:
                return as_json({}, status=503)
            if received.path in self.json:
                return as_json(self.json[received.path])
            times_seen = self._times_seen[received.target]
        arguments = behaviour_of(received.path)[1]
        return Call(received, arguments, times_seen, is_first, self.url, self.etag, wait)

    def _told(self, received: Received, wait: Wait) -> list[bytes]:
        with self._changed:
            self._counted.discard(received.connection)
            self._polling.add(received.connection)
            if POLL_PATH in self.failing:
                return as_json({}, status=503)
        return self.revoked.answer(received, wait)

    def _note_malformed(self, raw: bytes) -> None:
        with self._changed:
            self._malformed.append(raw)

    def _spawn(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, name=f"stub-{self.port}", daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()]
        thread.start()
        self._threads.append(thread)


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):  # the other side was faster
        connection.shutdown(socket.SHUT_RDWR)
