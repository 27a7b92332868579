"""The writer of one answer, for both of a worker's ways through a connection.

The head goes out with the first piece of the body, in one `send` where that is short, and is checked as a whole: when
it is made, each field is one line and no byte of it is a control character (RFC 9110, 5.5).

An answer says nothing of what serves it. One that carries a `Date` of its own speaks for itself: its `Server` passes,
and no other `Date` is added. What is true of one connection only is the worker's to say, so such fields are dropped
(RFC 9110, 7.6.1); `Connection: close` ends the connection. An application may send interim answers (RFC 9110, 15.2).
"""

# the stubs are older than gunicorn
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import time
from collections.abc import Iterable
from enum import IntEnum
from functools import lru_cache
from typing import Any, Self

import structlog
from gunicorn import util
from gunicorn.http.errors import InvalidResponseHeader, InvalidResponseHeaderName
from gunicorn.http.message import TOKEN_RE
from gunicorn.http.wsgi import STATUS_RE

from common.messages import IncomingBody, Request
from common.problems import status_line

log = structlog.get_logger("edge")

CONTINUE = 100
EARLY_HINTS = 103
NO_CONTENT = 204
NOT_MODIFIED = 304

JOINED_BYTES = 64 << 10
"""A first piece of at most so many is copied behind its head, to save a `send`."""

ALLOWED = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
"""What may stand in the value of a field; CR and LF are left to end its line."""

KNOWN_NAMES = 1000


class _Kind(IntEnum):
    """What becomes of a field."""

    PLAIN = 0
    LENGTH = 1
    DATE = 2
    SERVER = 3
    CONNECTION = 4
    UPGRADE = 5
    DROPPED = 6


_KINDS = {
    **dict.fromkeys(util.hop_headers, _Kind.DROPPED),
    "content-length": _Kind.LENGTH,
    "date": _Kind.DATE,
    "server": _Kind.SERVER,
    "connection": _Kind.CONNECTION,
    "upgrade": _Kind.UPGRADE,
}


class Response:
    """For one greenlet. `start_response`, then `write` for each piece, then `close`."""

    __slots__ = (
        "_body",
        "_date",
        "_fields",
        "_is_1_0",
        "_is_chunked",
        "_is_head",
        "_is_upgrade",
        "_length",
        "_must_close",
        "_omits_body",
        "_sent",
        "_sock",
        "_status",
        "_status_line",
        "headers_sent",
    )

    def __init__(
        self,
        sock: Any,
        *,
        is_head: bool,
        must_close: bool,
        is_1_0: bool = False,
        body: IncomingBody | None = None,
    ) -> None:
        """`must_close`: the connection ends with this answer. `body`: of the request, where some is still to come."""
        self._sock = sock
        self._is_head, self._is_1_0, self._must_close, self._body = is_head, is_1_0, must_close, body
        self._status = 0  # not started
        self._sent = 0
        self._is_upgrade = False
        self.headers_sent = False

    @classmethod
    def to(cls, request: Request, sock: Any, _cfg: object = None) -> Self:
        """The answer to a request that gunicorn's parser has read."""
        body = request.body
        assert isinstance(body, IncomingBody)
        response = cls(
            sock,
            is_head=request.method == "HEAD",
            must_close=request.should_close(),
            is_1_0=request.version == (1, 0),
            body=body,
        )
        body.go_on = response.go_on
        return response

    def force_close(self) -> None:
        """The connection ends with this answer."""
        self._must_close = True

    def should_close(self) -> bool:
        """Whether the connection ends with this answer. True, too, of one whose end nothing else tells."""
        if self._must_close:
            return True
        if self._length is not None or self._is_chunked:
            return False
        return not self._omits_body

    def go_on(self) -> None:
        """Tell the caller to send the body that it holds back."""
        self.tell(CONTINUE, ())

    def early_hints(self, fields: Iterable[tuple[str, str]]) -> None:
        """PEP 3333 knows nothing of it; gunicorn offers it as `wsgi.early_hints`."""
        self.tell(EARLY_HINTS, fields)

    def tell(self, status: int, fields: Iterable[tuple[str, str]]) -> None:
        """Send an interim answer, unless the final one has begun or the caller speaks HTTP/1.0, which knows none."""
        if status == CONTINUE and self._body is not None:
            self._body.is_awaited = False
        if self.headers_sent or self._is_1_0:
            return
        lines: list[str] = []
        for name, value in fields:
            _kind_of(name)
            lines.append(f"{name}: {value}\r\n")
        self._sock.sendall(f"HTTP/1.1 {status_line(status)}\r\n".encode("latin-1") + _checked(lines) + b"\r\n")

    def start_response(self, status: str, headers: Iterable[tuple[str, str]], exc_info: Any = None) -> Any:
        """PEP 3333's. Raises gunicorn's `InvalidResponseHeader` for a field that would break out of its line."""
        if exc_info:
            try:
                if self.headers_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._status:
            raise AssertionError("Response headers already set!")
        self._status, self._status_line = _status(status)
        self._take(headers)
        code = self._status
        self._omits_body = self._is_head or code in (NO_CONTENT, NOT_MODIFIED) or code < 200
        self._is_chunked = self._length is None and not self._omits_body and not self._is_1_0
        return self.write

    def _take(self, headers: Iterable[tuple[str, str]]) -> None:
        kinds, lines = _kinds, list[str]()
        self._length, self._date = None, None
        doubtful: list[str] = []  # passes if the answer speaks for itself
        for name, value in headers:
            kind = kinds.get(name)
            if kind is None:
                kind = _kind_of(name)
            value = value.strip(" \t")
            if not kind:
                lines.append(f"{name}: {value}\r\n")
            elif kind == _Kind.LENGTH:
                self._announce(name, value)
                if self._status != NO_CONTENT and self._status >= 200:  # RFC 9110, 8.6
                    lines.append(f"{name}: {value}\r\n")
            elif kind == _Kind.DATE:
                self._date = b""
                lines.append(f"{name}: {value}\r\n")
            elif kind == _Kind.SERVER:
                doubtful.append(f"{name}: {value}\r\n")
                lines.append(doubtful[-1])
            elif kind == _Kind.CONNECTION:
                self._must_close |= value.lower() == "close"
                self._is_upgrade |= value.lower() == "upgrade"
            elif kind == _Kind.UPGRADE and value.lower() == "websocket":
                lines.append(f"{name}: {value}\r\n")
        if doubtful and self._date is None:
            lines = [line for line in lines if line not in doubtful]
        self._fields = _checked(lines)

    def _announce(self, name: str, value: str) -> None:
        if not (value.isascii() and value.isdigit()) or self._length not in (None, int(value)):
            raise InvalidResponseHeader(name)
        self._length = int(value)

    def _head(self) -> bytes:
        if not self._status:
            raise AssertionError("start_response was not called")
        if self._body is not None and self._body.is_awaited:  # it may be sent or not: what follows could be either
            self._must_close = True
        self.headers_sent = True
        connection = b"upgrade" if self._is_upgrade else b"close" if self.should_close() else b"keep-alive"
        return b"HTTP/1.%d %b\r\n%bConnection: %b\r\n%b%b\r\n" % (
            not self._is_1_0,
            self._status_line,
            _date(int(time.time())) if self._date is None else b"",
            connection,
            b"Transfer-Encoding: chunked\r\n" if self._is_chunked else b"",
            self._fields,
        )

    def write(self, data: bytes) -> None:
        """A piece of the body. What is beyond the announced length, or has no place in this answer, is not sent."""
        if not isinstance(data, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] - an application may be wrong
            raise TypeError(f"{data!r} is not a byte")
        head = b"" if self.headers_sent else self._head()
        if self._omits_body:
            if data:
                log.warning("body_dropped", status=self._status)
            data = b""
        elif self._length is not None:
            if len(data) > self._length - self._sent:
                data = data[: self._length - self._sent]
            self._sent += len(data)
        elif data and self._is_chunked:  # an empty chunk would be the end
            data = b"%X\r\n%b\r\n" % (len(data), data)
        if head and len(data) > JOINED_BYTES:
            self._send(head)
            self._send(data)
        elif head or data:
            self._send(head + data)

    def close(self) -> None:
        """The body is whole. One that is shorter than was announced ends the connection, which is how it is told."""
        if not self.headers_sent:
            self.write(b"")
        if self._is_chunked:
            self._send(b"0\r\n\r\n")
        elif self._length is not None and self._sent < self._length and not self._omits_body:
            self._must_close = True

    def _send(self, data: bytes) -> None:
        sent = self._sock.send(data)  # `sendall` asks the system for the size of its buffer first
        if sent < len(data):
            self._sock.sendall(memoryview(data)[sent:])


_kinds: dict[str, _Kind] = {}
"""Names that were found to be tokens, and what becomes of such fields; at most `KNOWN_NAMES`."""


def _kind_of(name: str) -> _Kind:
    if not TOKEN_RE.fullmatch(name):
        raise InvalidResponseHeaderName(repr(name))
    if len(_kinds) >= KNOWN_NAMES:
        _kinds.clear()
    kind = _kinds[name] = _KINDS.get(name.lower(), _Kind.PLAIN)
    return kind


def _checked(lines: list[str]) -> bytes:
    """`lines` as bytes, each of them one line of the head."""
    try:
        raw = "".join(lines).encode("latin-1")
        is_sound = raw.translate(None, ALLOWED) == b"\r\n" * len(lines)
    except UnicodeEncodeError:
        raw, is_sound = b"", False
    if is_sound:
        return raw
    if len(lines) == 1:
        raise InvalidResponseHeader(lines[0].partition(":")[0])
    for line in lines:
        _checked([line])
    raise AssertionError("each line is sound, and all of them are not")


@lru_cache(maxsize=256)
def _status(status: str) -> tuple[int, bytes]:
    if not STATUS_RE.fullmatch(status):
        raise ValueError(f"Invalid status {status!r}")
    return int(status[:3]), status.encode("latin-1")


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return f"Date: {util.http_date(second)}\r\n".encode()
