"""TLS from files: what a client trusts and shows, what a server shows and trusts, at least version 1.2.

Certificates are renewed while we run. So a context is made anew when one of its files has changed: each new connection
asks for it, which costs a `stat` of each file. While the new files can't be used (half of them are written, say) the
last context that worked goes on, and one line of the log says so.

There is no switch that turns verification off.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import certifi
import structlog

log = structlog.get_logger("tls")

PROTOCOLS = ["http/1.1"]


class CertificateFault(Exception):
    """A file can't be used. `part` is `ca`, `certificate` or `key`; the words hold nothing secret."""

    def __init__(self, part: str, words: str) -> None:
        super().__init__(words)
        self.part, self.words = part, words


def client_context(ca: str = "", certificate: str = "", key: str = "") -> ssl.SSLContext:
    """For connections to servers that `ca` certifies, and nobody else; "": those whom the public knows. With
    `certificate` and `key` we say who we are, too. Raises `CertificateFault`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which checks certificates and host names
    _trust(context, ca or certifi.where())
    return _finished(context, certificate, key)


def server_context(certificate: str, key: str, client_ca: str = "") -> ssl.SSLContext:
    """For a listener. With `client_ca` only those get in whom it certifies. Raises `CertificateFault`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    if client_ca:
        _trust(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return _finished(context, certificate, key)


def _finished(context: ssl.SSLContext, certificate: str, key: str) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(PROTOCOLS)
    if certificate:
        _show(context, certificate, key)
    return context


def _trust(context: ssl.SSLContext, ca: str) -> None:
    _must_be_readable("ca", ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError:
        raise CertificateFault("ca", "holds no certificate in PEM form") from None


def _show(context: ssl.SSLContext, certificate: str, key: str) -> None:
    _must_be_readable("certificate", certificate)
    _must_be_readable("key", key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(certificate)
    except ssl.SSLError:
        raise CertificateFault("certificate", "holds no certificate in PEM form") from None
    try:
        context.load_cert_chain(certificate, key, _no_password)
    except _Encrypted:
        raise CertificateFault("key", "is encrypted; write it without a password") from None
    except ssl.SSLError as error:
        is_other = error.reason == "KEY_VALUES_MISMATCH"
        words = "is not the key of the certificate" if is_other else "holds no private key in PEM form"
        raise CertificateFault("key", words) from None


def _must_be_readable(part: str, path: str) -> None:
    try:
        Path(path).read_bytes()
    except FileNotFoundError:
        raise CertificateFault(part, "there is no such file") from None
    except OSError as error:
        raise CertificateFault(part, f"can't be read ({error.strerror})") from None


class _Encrypted(Exception):
    pass


def _no_password() -> str:
    """Else OpenSSL would ask for one at the terminal."""
    raise _Encrypted


@dataclass(frozen=True, slots=True)
class _Signature:
    files: tuple[tuple[int, int, int] | None, ...]

    @classmethod
    def of(cls, paths: Iterable[str]) -> _Signature:
        return cls(tuple(_stat(path) for path in paths if path))


def _stat(path: str) -> tuple[int, int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Renewing:
    """A context that follows its files. Shared by greenlets: nothing switches between a look and the change."""

    def __init__(self, make: Callable[[], ssl.SSLContext], paths: Iterable[str]) -> None:
        self._make, self._paths = make, tuple(paths)
        self._context: ssl.SSLContext | None = None
        self._signature: _Signature | None = None

    def context(self) -> ssl.SSLContext:
        """For a connection that begins now. Raises `CertificateFault` while there has been none that worked."""
        signature = _Signature.of(self._paths)
        if self._context is None or signature != self._signature:
            self._context = self._made(self._context)
            self._signature = signature
        return self._context

    def _made(self, known: ssl.SSLContext | None) -> ssl.SSLContext:
        try:
            return self._make()
        except CertificateFault as fault:
            if known is None:
                raise
            log.error("certificate_not_renewed", part=fault.part, reason=fault.words, files=list(self._paths))
            return known


def trusting(ca: str = "", certificate: str = "", key: str = "") -> Renewing:
    """As `client_context`, made with the first connection."""
    return Renewing(lambda: client_context(ca, certificate, key), (ca, certificate, key))


def showing(certificate: str, key: str, client_ca: str = "") -> Renewing:
    """As `server_context`."""
    return Renewing(lambda: server_context(certificate, key, client_ca), (certificate, key, client_ca))
