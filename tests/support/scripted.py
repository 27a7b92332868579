"""A service whose connections a test plays by hand: what it reads when, and which bytes it sends in between."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.support import http1

TIMEOUT_S = 10.0


class Peer:
    """One connection, from the service's side. Every wait is bounded."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = http1.Reader(connection)

    def head(self) -> http1.Head:
        """Read a request's head. Raises EOFError when there is none."""
        return self._reader.head()

    def request(self) -> tuple[http1.Head, bytes]:
        """Read a whole request."""
        head = self.head()
        is_chunked = http1.is_chunked(head)
        return head, self._reader.chunked() if is_chunked else self._reader.exactly(http1.content_length(head) or 0)

    def exactly(self, length: int) -> bytes:
        """Read that many bytes."""
        return self._reader.exactly(length)

    def some(self) -> bytes:
        """Read what has come and forget it, for bodies that are too big to keep. Raises EOFError at the end."""
        piece = self._reader.exactly(len(self._reader.ahead)) or self._connection.recv(1 << 20)
        if not piece:
            raise EOFError
        return piece

    def to_end(self) -> bytes:
        """Read until the gateway ends the connection."""
        return self._reader.to_end()

    def send(self, raw: bytes) -> None:
        """Send these bytes."""
        self._connection.sendall(raw)

    def say_goodbye(self) -> None:
        """End TLS as it should be ended, by a closure alert."""
        assert isinstance(self._connection, ssl.SSLSocket)
        with suppress(OSError):  # which nobody needs to return
            self._connection.unwrap()


Act = Callable[[Peer], None]


def well(peer: Peer) -> None:
    """Answers one request with 200 and nothing else."""
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


class Scripted:
    """Listens on 127.0.0.1:`port`. Plays `act` on each connection in a thread, then closes it."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.act: Act = well
        self.errors: list[BaseException] = []  # of acts, but for connections that the gateway ended
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(TIMEOUT_S)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._play, args=(connection, self.act), daemon=True).start()

    def _play(self, connection: socket.socket, act: Act) -> None:
        connection.settimeout(TIMEOUT_S)
        try:
            shaken = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
        except OSError:  # the gateway does not trust us, or we don't trust it
            connection.close()
            return
        with shaken as secured:
            try:
                act(Peer(secured))
                with suppress(OSError):  # closing with unread bytes would reset what was just sent
                    secured.shutdown(socket.SHUT_WR)
                    secured.settimeout(0.5)
                    while secured.recv(65536):
                        pass
            except (EOFError, ConnectionError):
                pass
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                self.errors.append(error)
