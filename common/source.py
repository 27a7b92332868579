"""Where a connection's bytes come from: waits for them as often as there are requests, with one watcher that stays.

gevent's own wait makes an object and starts and stops a watcher each time, which costs a system call whenever the
greenlet has waited for something else in between. Here the watcher is stopped only when something comes while nobody
waits. Each wait goes through the hub, also where there is something to read already: so everybody else whose turn it is
goes before the next request of this connection.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any, cast

import gevent

RECEIVED_BYTES = 64 << 10

A_TURN_S = 1e-9
"""The shortest sleep there is: by a timer, so that the loop looks at all sockets before it ends."""

_READ = 1


def source_of(client: socket.socket) -> Source:
    """Made by the greenlet that reads from it; to be closed before the socket."""
    return SecuredSource(client) if isinstance(client, ssl.SSLSocket) else Source(client)


class Source:
    """A socket of gevent's to read from, for one greenlet."""

    def __init__(self, client: Any) -> None:
        self._hub = gevent.get_hub()
        self._greenlet = cast("gevent.Greenlet[..., object]", gevent.getcurrent())
        self._watcher: Any = self._hub.loop.io(client.fileno(), _READ)
        self._is_waiting = False
        self._recv = client._sock.recv  # the system's: never waits

    def next(self) -> bytes:
        """What has come, once something has; b"" at the end."""
        while True:
            self._wait()
            try:
                return self._recv(RECEIVED_BYTES)
            except BlockingIOError:  # it is gone again
                pass

    def _wait(self) -> None:
        if not self._watcher.active:
            self._watcher.start(self._come)
        self._is_waiting = True
        try:
            while self._is_waiting:
                self._hub.switch()
        finally:
            self._is_waiting = False

    def _come(self) -> None:
        """Runs in the hub."""
        if self._is_waiting:
            self._is_waiting = False
            self._greenlet.switch()
        else:
            self._watcher.stop()

    def close(self) -> None:
        self._watcher.close()


class SecuredSource(Source):
    """One that speaks TLS. What was decrypted and not taken shows on no socket."""

    def __init__(self, client: ssl.SSLSocket) -> None:
        super().__init__(client)
        self._client = client

    def next(self) -> bytes:
        while True:
            if self._client.pending():
                gevent.sleep(A_TURN_S)
            else:
                self._wait()
            timeout_s = self._client.gettimeout()
            self._client.settimeout(0)  # part of a record is no reason to wait here
            try:
                return self._client.recv(RECEIVED_BYTES)
            except ssl.SSLWantReadError:
                pass
            finally:
                self._client.settimeout(timeout_s)
