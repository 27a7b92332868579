"""HTTP/1.1 messages byte for byte, for the stub and the raw client: nothing is normalised or forgiven.

Errors:
    Malformed    the bytes are not a message by RFC 9112
    Truncated    the connection ended inside a message; carries what of the body had arrived
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

MAX_HEAD_BYTES = 1_000_000
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class Malformed(ValueError):
    """The bytes are not an HTTP/1.1 message."""


class Truncated(ConnectionError):
    """The connection ended inside a message."""

    def __init__(self, body: bytes = b"") -> None:
        super().__init__("the connection ended inside a message")
        self.body = body


@dataclass(frozen=True, slots=True)
class Head:
    """A start line and header fields as they stood on the wire (latin-1): order, case and repeats kept."""

    start: str
    headers: list[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        """Every value of a field, its name in any case."""
        return all_values(self.headers, name)


def all_values(headers: Iterable[tuple[str, str]], name: str) -> list[str]:
    """Every value of a field among `headers`, its name in any case."""
    return [value for key, value in headers if key.lower() == name.lower()]


class Reader:
    """Reads messages from a connected socket.

    `taken` keeps every byte, `was_reset` tells a reset from a clean end.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.taken = bytearray()
        self.was_reset = False
        self._connection = connection
        self._ahead = bytearray()
        self._ended = False

    @property
    def ahead(self) -> bytes:
        """Bytes that were read and belong to no message yet."""
        return bytes(self._ahead)

    def fill(self) -> bool:
        """Read once more from the socket; False when the other side has ended the connection."""
        if not self._ended:
            try:
                piece = self._connection.recv(65536)
            except ConnectionError:
                piece, self.was_reset = b"", True
            self._ended = not piece
            self.taken += piece
            self._ahead += piece
        return not self._ended

    def head(self) -> Head:
        """The next message's head. Raises EOFError when the connection ended before its first byte."""
        while (end := self._ahead.find(b"\r\n\r\n")) < 0:
            if len(self._ahead) > MAX_HEAD_BYTES:
                raise Malformed("the head is too long")
            if not self.fill():
                raise Truncated if self._ahead else EOFError
        return parse_head(self._take(end + 4)[:-4])

    def exactly(self, length: int) -> bytes:
        """`length` bytes. Raises Truncated with what there was."""
        while len(self._ahead) < length:
            if not self.fill():
                raise Truncated(self._take(len(self._ahead)))
        return self._take(length)

    def to_end(self) -> bytes:
        """Everything until the other side ends the connection."""
        while self.fill():
            pass
        return self._take(len(self._ahead))

    def chunked(self) -> bytes:
        """A chunked body, decoded, its trailer fields dropped (RFC 9112, 7.1)."""
        body = bytearray()
        try:
            while size := self._chunk_size():
                body += self.exactly(size)
                if self.exactly(2) != b"\r\n":
                    raise Malformed("a chunk is longer than its size")
            while self._line():
                pass
        except Truncated as cut:
            raise Truncated(bytes(body) + cut.body) from None
        return bytes(body)

    def _chunk_size(self) -> int:
        size = self._line().split(b";")[0].rstrip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", size):
            raise Malformed(f"not a chunk size: {size!r}")
        return int(size, 16)

    def _line(self) -> bytes:
        while (end := self._ahead.find(b"\r\n")) < 0:
            if not self.fill():
                self._ahead.clear()
                raise Truncated
        return self._take(end + 2)[:-2]

    def _take(self, length: int) -> bytes:
        taken = bytes(self._ahead[:length])
        del self._ahead[:length]
        return taken


def parse_head(raw: bytes) -> Head:
    """A head without its empty line. Raises Malformed for bare line ends, folded lines and odd names."""
    start, *lines = raw.decode("latin-1").split("\r\n")
    headers: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name) or "\n" in value or "\r" in value:
            raise Malformed(f"not a header field: {line!r}")
        headers.append((name, value.strip(" \t")))
    return Head(start, headers)


def content_length(head: Head) -> int | None:
    """The announced length. Raises Malformed when there are several, or it is not a number."""
    lengths = head.all("Content-Length")
    if not lengths:
        return None
    if len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,18}", lengths[0]):
        raise Malformed(f"not one Content-Length: {lengths}")
    return int(lengths[0])


def is_chunked(head: Head) -> bool:
    """The body is chunked. Raises Malformed for any other transfer coding, and for a length beside it."""
    codings = [value.lower() for value in head.all("Transfer-Encoding")]
    if not codings:
        return False
    if codings != ["chunked"] or head.all("Content-Length"):
        raise Malformed(f"ambiguous framing: {head.headers}")
    return True
