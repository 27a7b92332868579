"""How a connection to an instance comes about: its address, the wait for TCP, and TLS where the instance speaks it.

The time for connecting is one for all: the name (`places`), each of its addresses in turn, and the handshake.
"""

from __future__ import annotations

import errno
import socket
import ssl
from time import monotonic
from typing import cast
from urllib.parse import urlsplit

from gevent import monkey
from gevent.socket import wait_write
from requests import ConnectionError as NoConnection
from requests import ConnectTimeout
from requests.exceptions import SSLError

from common.tls import CertificateFault, Renewing
from gateway.backend.connection import Connection, SecureConnection
from gateway.backend.places import Place, Places, Resolve

_PORTS = {"http": 80, "https": 443}

_plain_socket = cast("type[socket.socket]", monkey.get_original("socket", "socket"))


class Unreachable(NoConnection):
    """No connection came about: the instance got none of the request."""


class HandshakeFailed(SSLError):
    """TLS did not come about: the instance is not whom we trust, or does not trust us. It got none of the request."""


class Dial:
    """To one instance. Shared by greenlets."""

    def __init__(self, url: str, server_name: str, trust: Renewing, resolve: Resolve | None = None) -> None:
        """`server_name` is whose certificate is wanted; "" the host in the URL. `trust` is who may certify it.
        `resolve` is that of `Places`."""
        parts = urlsplit(url)
        host, self._is_secure = parts.hostname or "", parts.scheme == "https"
        default = _PORTS[parts.scheme]
        self._places, self._port = Places(host, resolve), parts.port or default
        shown = f"[{host}]" if ":" in host else host
        self.authority = shown if self._port == default else f"{shown}:{self._port}"
        """As `Host` has it."""
        self._server_name, self._trust = server_name or host, trust

    def connect(self, timeout_s: float) -> Connection:
        """Raises `requests.ConnectTimeout`, `Unreachable` and `HandshakeFailed`."""
        ends_at = monotonic() + timeout_s
        try:
            connected = self._connected(ends_at)
        except TimeoutError as error:
            raise ConnectTimeout(error) from error
        except OSError as error:
            raise Unreachable(error) from error
        return self._secured(connected, ends_at) if self._is_secure else Connection(connected)

    def _connected(self, ends_at: float) -> socket.socket:
        try:
            *first, last = self._places.find(max(0.0, ends_at - monotonic()))
            for place in first:
                try:
                    return _reach(place, self._port, ends_at)
                except TimeoutError:
                    raise
                except OSError:  # what is wrong with the last one is told
                    pass
            return _reach(last, self._port, ends_at)
        except OSError:
            self._places.doubt()
            raise

    def _secured(self, connected: socket.socket, ends_at: float) -> Connection:
        connection: SecureConnection | None = None
        try:
            connection = SecureConnection(connected, self._trust.context(), self._server_name)
            connection.handshake(max(0.0, ends_at - monotonic()))
        except BaseException as error:
            connection.close() if connection else connected.close()
            if isinstance(error, TimeoutError):
                raise ConnectTimeout(error) from error
            if isinstance(error, OSError | CertificateFault | ValueError):
                raise HandshakeFailed(_reason(error)) from error
            raise
        return connection


def _reach(place: Place, port: int, ends_at: float) -> socket.socket:
    family, address = place
    made = _plain_socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fault = made.connect_ex((address, port))
        if fault == errno.EINPROGRESS:
            wait_write(made.fileno(), max(0.0, ends_at - monotonic()), TimeoutError("no connection in time"))
            fault = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if fault:
            raise OSError(fault, errno.errorcode.get(fault, ""))
    except BaseException:
        made.close()
        raise
    return made


def _reason(error: Exception) -> str:
    """What was wrong, in the library's short words: `certificate has expired`, `Hostname mismatch`."""
    if isinstance(error, CertificateFault):
        return f"our {error.part}: {error.words}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message.partition(",")[0]
    return str(getattr(error, "reason", "") or type(error).__name__).replace("_", " ").lower()
