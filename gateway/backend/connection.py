"""One connection to an instance: HTTP/1.1 by http.client and urllib3, which are kept from mending what passes.

What goes out is what `OutgoingHeaders` say: the target byte for byte, the fields in their order, the body. One that
streams is sent by a greenlet of its own, see `sending`; any other one is sent first. What comes in is read strictly:
interim answers are passed on to the caller of a verbatim service and skipped for others, a head that is torn or
malformed is refused.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Iterable
from email.errors import FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect
from functools import partial
from typing import IO, Any, cast

from urllib3 import HTTPHeaderDict, HTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection, _ResponseOptions  # pyright: ignore[reportPrivateUsage]

from common.tls import CertificateFault, Renewing
from gateway.backend.sending import PIECE_BYTES, Sending
from gateway.body import Body, CallerGone
from gateway.headers import interim_fields

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # folded lines too (RFC 9112, 5.2)
_MALFORMED = (FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect)


class OutgoingHeaders(HTTPHeaderDict):
    """The fields of one request, in their order, with the raw target and the body that go with them."""

    def __init__(self, pairs: Iterable[tuple[str, str]], target: str, body: Body) -> None:
        self.pairs = list(pairs)
        super().__init__(self.pairs)
        self.target, self.body = target, body

    def copy(self) -> OutgoingHeaders:
        return self  # urllib3 copies before each request; nothing changes these


class _Lines:
    """A response's file while its head is read: remembers whether the last line was the empty one or the end."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.last = b""

    def readline(self, limit: int) -> bytes:
        self.last = self.file.readline(limit)
        return self.last

    def close(self) -> None:
        self.file.close()


class _FinalResponse(http.client.HTTPResponse):
    """Reads past interim answers, whatever their number says. Raises `HTTPException` for a head that is not whole."""

    def __init__(self, *args: Any, body: Body, sending: Sending | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._request_body, self._sending = body, sending

    def begin(self) -> None:
        if cast("object", self.headers) is not None:
            return  # begun already
        lines = _Lines(self.fp)
        self.fp = cast("Any", lines)
        try:
            super().begin()
        finally:
            self.fp = self.fp and cast("Any", lines.file)  # None: closed
        if not lines.last or any(isinstance(defect, _MALFORMED) for defect in self.msg.defects):
            raise http.client.HTTPException("the head is torn or malformed")
        _check_fields(self.msg)

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # pyright: ignore[reportAttributeAccessIssue] - CPython's
            if not 100 <= status < 200 or status == 101:
                return version, status, reason
            self._pass_on(status, http.client.parse_headers(self.fp))

    def _pass_on(self, status: int, fields: http.client.HTTPMessage) -> None:
        _check_fields(fields)
        if self._request_body.is_verbatim and self._request_body.tell is not None:
            try:
                self._request_body.tell(status, interim_fields(fields.items()))
            except OSError as error:
                raise CallerGone("nobody hears the interim answer") from error
        if self._sending is not None:
            if status == 100:
                self._sending.let_go()
            self._sending.wait()


def _check_fields(fields: http.client.HTTPMessage) -> None:
    if not all(_NAME.fullmatch(name) and not _CONTROL.search(value) for name, value in fields.items()):
        raise http.client.HTTPException("a field that is not one")


class RawConnection(HTTPConnection):
    """Sends the target, the fields and the body of `OutgoingHeaders` as they are."""

    _sending: Sending | None = None

    def request(self, method: str, url: str, body: object = None, headers: object = None, **options: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - urllib3 calls it by these names
        """Send the head and the body, or begin to send a body that streams."""
        outgoing = cast("OutgoingHeaders", headers)
        if self.sock is not None:
            self.sock.settimeout(self.timeout)
        options.pop("chunked")
        self._response_options = _ResponseOptions(method, url, **options)
        self.putrequest(method, outgoing.target, skip_host="Host" in outgoing, skip_accept_encoding=True)
        for name, value in outgoing.pairs:
            self.putheader(name, value)
        self.endheaders()
        if outgoing.body.streams:
            self._sending = Sending(cast("socket.socket", self.sock), outgoing.body, is_held="Expect" in outgoing)
        elif outgoing.body.length:
            while piece := outgoing.body.read(PIECE_BYTES):
                self.send(piece)
        self.response_class = cast("Any", partial(_FinalResponse, body=outgoing.body, sending=self._sending))

    def getresponse(self) -> HTTPResponse:
        sending, self._sending = self._sending, None  # else an answer that ends the connection would end it, too
        if sending is None:
            return super().getresponse()
        self.sock.settimeout(self.timeout)
        try:
            sending.wait()
            response = super().getresponse()
        except BaseException:
            sending.stop()
            sending.check()  # whose fault it was
            raise
        if sending.is_held:  # this answer came instead of "100 Continue"
            sending.stop()
        self._sending = sending
        return response

    def end_sending(self) -> None:
        """The answer is whole, or nobody reads on."""
        if self._sending is not None and not self._sending.stop():
            self.close()
        self._sending = None

    def close(self) -> None:
        if self._sending is not None:
            self._sending.stop()
        super().close()


class HandshakeFailed(ssl.SSLError):
    """TLS did not come about: the instance is not whom we trust, or does not trust us. It got none of the request."""


class RawTLSConnection(RawConnection, HTTPSConnection):
    """As `RawConnection`, over TLS with whom `trust` says. Set before the first use."""

    trust: Renewing

    def connect(self) -> None:
        """Raises `HandshakeFailed`."""
        try:
            self.ssl_context = self.trust.context()
            super().connect()
        except (ssl.SSLError, CertificateFault, ConnectionError) as error:
            raise HandshakeFailed(_reason(error)) from error


def _reason(error: Exception) -> str:
    """What was wrong, in the library's short words: `certificate has expired`, `Hostname mismatch`."""
    if isinstance(error, CertificateFault):
        return f"our {error.part}: {error.words}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message.partition(",")[0]
    return str(getattr(error, "reason", "") or type(error).__name__).replace("_", " ").lower()
