"""The request and the answer of one exchange as gunicorn's worker has them, with what an intermediary wants besides.

A request remembers its header section as it stood on the wire: gunicorn writes names in capitals and drops those with
an underscore, WSGI joins repeated fields. Its body can be read as it comes (`read1`), and a caller who waits for `100
Continue` gets it when the application begins to read, not before: an application that refuses is not sent the body.

An answer says nothing of what serves it: gunicorn's `Server` is never added. One that carries a `Date` of its own
speaks for itself: its `Server` passes, and no other `Date` is added. An application may send interim answers (RFC 9110,
15.2), and may end the connection by `Connection: close`.
"""

# the stubs are older than gunicorn
# pyright: reportAttributeAccessIssue=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from gunicorn import util
from gunicorn.http import message, wsgi
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import InvalidHeader, InvalidResponseHeader, UnsupportedTransferCoding

from common.problems import status_line

HEAD = "common.head"
"""Key of the WSGI environment: the request's header section as bytes, its lines as they came."""

FIELDS = "common.fields"
"""Key of the WSGI environment: the request's fields by lower-case name, repeated ones joined; not to be changed."""

TELL = "common.tell"
"""Key of the WSGI environment: a `Tell`."""

Tell = Callable[[int, Iterable[tuple[str, str]]], None]
"""Sends the caller an interim answer of this status and fields. Raises `OSError` when the caller has gone."""

CONTINUE = 100


SINGLE = frozenset({"AUTHORIZATION", "PROXY-AUTHORIZATION"})
"""Fields that gunicorn lets a request repeat, and of which we and a service might each believe another one."""


class Request(message.Request):
    """A request as it is read from a connection."""

    head: bytes = b""

    def parse_headers(self, data: bytes, from_trailer: bool = False) -> Any:
        if not from_trailer:
            self.head = data
        fields: list[tuple[str, str]] = super().parse_headers(data, from_trailer)
        named = [name for name, _ in fields if name in SINGLE]
        if len(named) != len(set(named)):
            raise InvalidHeader(named[0], req=self)
        return fields

    def should_close(self) -> bool:
        """gunicorn overlooks a `close` that is one of several options (RFC 9110, 7.6.1)."""
        options = (value.lower() for name, value in self.headers if name == "CONNECTION")
        return any("close" in map(str.strip, value.split(",")) for value in options) or super().should_close()

    def set_body_reader(self) -> None:
        """Only `chunked` alone is understood: gunicorn takes `identity, chunked` and `gzip, chunked` besides, which
        would leave the service with a coding that nobody told it of (RFC 9112, 6.1)."""
        codings = [value.strip().lower() for name, value in self.headers if name == "TRANSFER-ENCODING"]
        super().set_body_reader()
        if codings not in ([], ["chunked"]):
            raise UnsupportedTransferCoding(",".join(codings))
        is_awaited, self._expected_100_continue = self._expected_100_continue, False  # else gunicorn sends it at once
        self.body = IncomingBody(cast("Body", self.body).reader, is_awaited=is_awaited)


class IncomingBody(Body):
    """A request's body. One greenlet reads it at a time."""

    def __init__(self, reader: Any, *, is_awaited: bool) -> None:
        super().__init__(reader)
        self.is_awaited = is_awaited and not self.is_at_end  # the caller holds it back until it is told to go on
        self.go_on: Callable[[], None] = lambda: None

    @property
    def is_at_end(self) -> bool:
        """Whether all of it was taken from the connection."""
        reader = self.reader
        return reader.length == 0 if isinstance(reader, LengthReader) else reader.parser is None

    def read1(self, size: int) -> bytes:
        """What has come, at most `size` bytes; waits only while there is nothing. b"" at the end."""
        return self._guarded(_read1_chunked if isinstance(self.reader, ChunkedReader) else _read1, self.reader, size)

    def _read_reader(self, size: int) -> bytes:
        return self._guarded(self.reader.read, size)

    def _guarded(self, read: Callable[..., bytes], *arguments: object) -> bytes:
        if self.is_awaited:
            self.go_on()
        try:
            return read(*arguments)
        except BaseException:  # a greenlet that is killed too: where the next request begins is not known any more
            self.failed = True
            raise


def _read1_chunked(reader: Any, size: int) -> bytes:
    while reader.parser is not None and not reader.buf.tell():  # the parser may yield nothing at the end of a packet
        piece = next(reader.parser, None)
        if piece is None:
            reader.parser = None
        else:
            reader.buf.write(piece)
    here = reader.buf.tell()
    return reader.read(min(size, here)) if here else b""


def _read1(reader: Any, size: int) -> bytes:
    wanted = min(size, reader.length)
    if not wanted:
        return b""
    piece: bytes = reader.unreader.read(None, read_ahead=wanted)
    if len(piece) > wanted:  # what comes behind may be the next request
        reader.unreader.unread(piece[wanted:])
        piece = piece[:wanted]
    reader.length -= len(piece)
    return piece


class Response(wsgi.Response):
    """gunicorn's writer of answers."""

    def __init__(self, req: message.Request, sock: Any, cfg: Any) -> None:
        super().__init__(req, sock, cfg)
        self._speaks_for_itself = False
        self._body = cast("IncomingBody", req.body)
        self._body.go_on = lambda: self.tell(CONTINUE, ())

    def tell(self, status: int, fields: Iterable[tuple[str, str]]) -> None:
        """Send an interim answer, unless the final one has begun or the caller speaks HTTP/1.0, which knows none."""
        if status == CONTINUE:
            self._body.is_awaited = False
        if self.headers_sent or self.req.version == (1, 0):
            return
        lines = [f"HTTP/1.1 {status_line(status)}", *(f"{name}: {value}" for name, value in fields), "", ""]
        util.write(self.sock, "\r\n".join(lines).encode("latin-1"))

    def process_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        fields = list(headers)
        self._speaks_for_itself = any(name.lower() == "date" for name, _ in fields)
        if any(name.lower() == "connection" and value.lower() == "close" for name, value in fields):
            self.force_close()
        for name, value in fields:
            if not (self._speaks_for_itself and name.lower() in ("date", "server")):
                super().process_headers([(name, value)])
            elif wsgi.HEADER_VALUE_RE.fullmatch(value):
                self.headers.append((name, value))
            else:
                raise InvalidResponseHeader(name)

    def default_headers(self) -> list[str]:
        if self._body.is_awaited:  # and so may send it or not: what follows could be either
            self.force_close()
        lines: list[str] = super().default_headers()
        added = ("Server:", "Date:") if self._speaks_for_itself else "Server:"
        return [line for line in lines if not line.startswith(added)]
