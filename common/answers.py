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
from functools import lru_cache
from typing import Any, Self

import structlog
from gunicorn import util
from gunicorn.http.errors import InvalidResponseHeader, InvalidResponseHeaderName
from gunicorn.http.message import TOKEN_RE
from gunicorn.http.wsgi import STATUS_RE

from common.messages import IncomingBody, Request
from common.problems import status_line
from common.remembering import Known
from common.turns import keep_step

log = structlog.get_logger("edge")

CONTINUE = 100
EARLY_HINTS = 103
NO_CONTENT = 204
NOT_MODIFIED = 304

JOINED_BYTES = 64 << 10
"""A first piece of at most so many is copied behind its head, to save a `send`."""

ALLOWED = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
"""What may stand in the value of a field; CR and LF are left to end its line."""


# what becomes of a field: each that is not plain has its own branch in `Response._take`
_PLAIN, _LENGTH, _DATE, _SERVER, _CONNECTION, _UPGRADE, _DROPPED = range(7)
_KINDS = {
    **dict.fromkeys(util.hop_headers, _DROPPED),
    "content-length": _LENGTH,
    "date": _DATE,
    "server": _SERVER,
    "connection": _CONNECTION,
    "upgrade": _UPGRADE,
}


class Response:
    """For one greenlet. `start_response`, then `write` for each piece, then `close`."""

    headers_sent = False
    _status = 0  # not started
    _sent = 0
    _length: int | None = None
    _is_chunked = False
    _is_upgrade = False

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
        if body.is_awaited:  # else the two would hold each other for nothing
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
            _ = _kinds[name]  # raises for what is no name
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
        code = self._status = _code(status)
        self._status_line = status
        self._take(headers)
        self._omits_body = self._is_head or code in (NO_CONTENT, NOT_MODIFIED) or code < 200
        self._is_chunked = self._length is None and not self._omits_body and not self._is_1_0
        return self.write

    def _take(self, headers: Iterable[tuple[str, str]]) -> None:
        lines: list[str] = []
        doubtful: list[str] = []  # passes if the answer speaks for itself
        self._length, self._speaks_for_itself = None, False
        for name, value in headers:
            kind = _kinds[name]
            value = value.strip(" \t")
            if kind == _PLAIN:
                lines.append(f"{name}: {value}\r\n")
            elif kind == _LENGTH:
                self._announce(name, value)
                if self._status != NO_CONTENT and self._status >= 200:  # RFC 9110, 8.6
                    lines.append(f"{name}: {value}\r\n")
            elif kind == _DATE:
                self._speaks_for_itself = True
                lines.append(f"{name}: {value}\r\n")
            elif kind == _SERVER:
                doubtful.append(f"{name}: {value}\r\n")
                lines.append(doubtful[-1])
            elif kind == _CONNECTION:
                self._must_close |= value.lower() == "close"
                self._is_upgrade |= value.lower() == "upgrade"
            elif kind == _UPGRADE and value.lower() == "websocket":
                lines.append(f"{name}: {value}\r\n")
        if doubtful and not self._speaks_for_itself:
            lines = [line for line in lines if line not in doubtful]
        self._fields = _checked(lines)

    def _announce(self, name: str, value: str) -> None:
        length = int(value) if value.isascii() and value.isdigit() else -1
        if length < 0 or self._length not in (None, length):
            raise InvalidResponseHeader(name)
        self._length = length

    def _head(self) -> bytes:
        if not self._status:
            raise AssertionError("start_response was not called")
        if self._body is not None and self._body.is_awaited:  # it may be sent or not: what follows could be either
            self._must_close = True
        self.headers_sent = True
        connection = "upgrade" if self._is_upgrade else "close" if self.should_close() else "keep-alive"
        second = 0 if self._speaks_for_itself else int(time.time())
        begin = _begin(self._is_1_0, self._status_line, second, connection)
        if self._is_chunked:
            begin += b"Transfer-Encoding: chunked\r\n"
        return begin + self._fields + b"\r\n"

    def write(self, data: bytes) -> None:
        """A piece of the body. What is beyond the announced length, or has no place in this answer, is not sent."""
        if not isinstance(data, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] - an application may be wrong
            raise TypeError(f"{data!r} is not a byte")
        head = b""
        if not self.headers_sent:
            head = self._head()
        if self._omits_body:
            if data and not self._sent:
                log.warning("body_dropped", status=self._status)
            self._sent, data = self._sent + len(data), b""
        elif self._length is not None:
            if len(data) > self._length - self._sent:
                data = data[: self._length - self._sent]
            self._sent += len(data)
        elif data and self._is_chunked:  # an empty chunk would be the end
            data = b"%X\r\n%b\r\n" % (len(data), data)
        if head:
            keep_step()
            if len(data) > JOINED_BYTES:
                self._send(head)
                self._send(data)
            else:
                self._send(head + data)
            keep_step()  # what is left to do has nothing to do with sending
        elif data:
            self._send(data)

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


def _kind_of(name: str) -> int:
    if not TOKEN_RE.fullmatch(name):
        raise InvalidResponseHeaderName(repr(name))
    return _KINDS.get(name.lower(), _PLAIN)


_kinds = Known(_kind_of)
"""What becomes of a field, by its name as it is written."""


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
def _code(status: str) -> int:
    if not STATUS_RE.fullmatch(status):
        raise ValueError(f"Invalid status {status!r}")
    return int(status[:3])


@lru_cache(maxsize=64)
def _begin(is_1_0: bool, status_line: str, second: int, connection: str) -> bytes:
    """The first lines of a head. `second`: of the date, 0 for none."""
    version = "HTTP/1.0" if is_1_0 else "HTTP/1.1"
    date = f"Date: {util.http_date(second)}\r\n" if second else ""
    return f"{version} {status_line}\r\n{date}Connection: {connection}\r\n".encode("latin-1")
