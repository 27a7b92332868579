"""A request as gunicorn's parser reads it, with what an intermediary wants besides; and what our workers add to the
WSGI environment, whichever way a request was read.

A request remembers its header section as it stood on the wire: gunicorn writes names in capitals and drops those with
an underscore, WSGI joins repeated fields. Its body can be read as it comes (`read1`), and a caller who waits for `100
Continue` gets it when the application begins to read, not before: an application that refuses is not sent the body.
"""

# the stubs are older than gunicorn
# pyright: reportAttributeAccessIssue=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any, cast

from gunicorn.http import message
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import InvalidHeader, UnsupportedTransferCoding

HEAD = "common.head"
"""Key of the WSGI environment: the request's header section as bytes, its lines as they came."""

FIELDS = "common.fields"
"""Key of the WSGI environment: the fields as a `Mapping` from names in small letters to values, repeated ones joined as
in the environment. May be missing, and is shared by requests: nobody changes it."""

TELL = "common.tell"
"""Key of the WSGI environment: a `Tell`."""

Tell = Callable[[int, Iterable[tuple[str, str]]], None]
"""Sends the caller an interim answer of this status and fields. Raises `OSError` when the caller has gone."""

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
        if held := self.buf.getvalue():  # `readline` took more than its line
            self.buf = BytesIO()
            self.buf.write(held[size:])
            return held[:size]
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
