"""How a connection to an instance comes about: its address, the wait for TCP, and TLS where the instance speaks it.

A numeric address goes to the kernel as it is. A name is resolved by gevent's resolver, and what came is kept for
`NAME_KEPT_S`: services whose names move faster are resolved by their TTL elsewhere (`dns`), and have numeric addresses
here. The time for connecting is one for all: the name, each of its addresses in turn, and the handshake.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
from contextlib import suppress
from time import monotonic
from typing import cast
from urllib.parse import urlsplit

from gevent import Timeout, monkey
from gevent.socket import getaddrinfo, wait_write
from requests import ConnectionError as NoConnection
from requests import ConnectTimeout
from requests.exceptions import SSLError

from common.tls import CertificateFault, Renewing
from gateway.backend.connection import Connection, SecureConnection

NAME_KEPT_S = 5.0
_PORTS = {"http": 80, "https": 443}
_Place = tuple[socket.AddressFamily, tuple[str, int]]

_plain_socket = cast("type[socket.socket]", monkey.get_original("socket", "socket"))


class Unreachable(NoConnection):
    """No connection came about: the instance got none of the request."""


class HandshakeFailed(SSLError):
    """TLS did not come about: the instance is not whom we trust, or does not trust us. It got none of the request."""


class Dial:
    """To one instance. Shared by greenlets; what is remembered changes in single steps."""

    def __init__(self, url: str, server_name: str, trust: Renewing) -> None:
        """`server_name` is whose certificate is wanted; "" the host in the URL. `trust` is who may certify it."""
        parts = urlsplit(url)
        host, self._is_secure = parts.hostname or "", parts.scheme == "https"
        default = _PORTS[parts.scheme]
        self._host, self._port = host, parts.port or default
        shown = f"[{host}]" if ":" in host else host
        self.authority = shown if self._port == default else f"{shown}:{self._port}"
        """As `Host` has it."""
        self._server_name, self._trust = server_name or host, trust
        self._is_numeric = _is_numeric(host)
        self._places: list[_Place] = []
        self._resolved_at = 0.0

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
        fault: OSError = OSError("the name has no address")
        for place in self._resolved(ends_at):
            try:
                return _reach(place, ends_at)
            except TimeoutError:
                raise
            except OSError as error:
                fault = error
        self._resolved_at = 0.0
        raise fault

    def _resolved(self, ends_at: float) -> list[_Place]:
        now = monotonic()
        if not self._places or (not self._is_numeric and now - self._resolved_at > NAME_KEPT_S):
            if self._is_numeric:
                family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
                self._places = [(family, (self._host, self._port))]
            else:
                with Timeout(max(0.0, ends_at - now), TimeoutError("the name is not resolved in time")):
                    found = getaddrinfo(self._host, self._port, 0, socket.SOCK_STREAM)
                self._places = [(family, address) for family, _, _, _, address in found]  # pyright: ignore[reportAttributeAccessIssue]
                self._resolved_at = now
        return self._places

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


def _reach(place: _Place, ends_at: float) -> socket.socket:
    family, address = place
    made = _plain_socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fault = made.connect_ex(address)
        if fault == errno.EINPROGRESS:
            wait_write(made.fileno(), max(0.0, ends_at - monotonic()), TimeoutError("no connection in time"))
            fault = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if fault:
            raise OSError(fault, errno.errorcode.get(fault, ""))
    except BaseException:
        made.close()
        raise
    return made


def _is_numeric(host: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host.partition("%")[0]))
    return False


def _reason(error: Exception) -> str:
    """What was wrong, in the library's short words: `certificate has expired`, `Hostname mismatch`."""
    if isinstance(error, CertificateFault):
        return f"our {error.part}: {error.words}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message.partition(",")[0]
    return str(getattr(error, "reason", "") or type(error).__name__).replace("_", " ").lower()
