"""Heads of plain requests, read strictly and without a detour: what is not plain is left to gunicorn's parser.

Plain is, to the letter: `METHOD /target HTTP/1.1` with one of the usual methods and a target of visible ASCII, then
lines of `token: value` without control characters, no field twice, `Host` among them, nothing about the framing but one
`Content-Length` in digits, and nothing that asks for more than an answer (`Expect`, `Upgrade`). The limits of lengths
are gunicorn's. So nothing doubtful is decided here: it is refused, or served, by the parser that knows how.

What a caller sends on one connection is nearly the same from request to request. So a `HeadReader`, which belongs to
one connection, remembers what it made of the last request's fields as long as the next brings the same bytes. Nothing
of them outlives the connection: there may be a token among them. All connections share what is known of fields' names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from gunicorn.config import Config
from gunicorn.http.message import MAX_REQUEST_LINE, TOKEN_RE

from common.answers import ALLOWED
from common.messages import FIELDS, HEAD

LINE = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!\"$-~]*) HTTP/1\.1")
"""A plain request line. A target with a `#` is not plain: gunicorn takes a fragment off it."""

NEVER_PLAIN = frozenset({"transfer-encoding", "expect", "upgrade"})

LONGEST_LENGTH = 18
"""Digits of a Content-Length; more are not plain."""

KNOWN_NAMES = 1000


class PlainHead(NamedTuple):
    """The head of one request."""

    environ: dict[str, Any]  # without what depends on more than the head
    is_head: bool
    length: int  # of the body
    closes: bool  # the caller wants the connection to end
    size: int  # in bytes, to the end of the empty line


class _Fields(NamedTuple):
    """What a request's fields say."""

    environ: dict[str, Any]
    length: int
    closes: bool


class _Name(NamedTuple):
    lower: str
    key: str  # in the WSGI environment


class HeadReader:
    """Reads the heads that come on one connection."""

    __slots__ = ("_block", "_fields", "_fields_limit", "_line_limit", "_size_limit", "_template")

    def __init__(self, config: Config, template: Mapping[str, Any]) -> None:
        """`template`: what is in the WSGI environment of each request on this connection."""
        self._line_limit: int = min(config.limit_request_line, MAX_REQUEST_LINE)
        self._fields_limit: int = config.limit_request_fields
        self._size_limit: int = config.limit_request_field_size
        self._template = dict(template)
        self._block = b""
        self._fields: _Fields | None = None

    def read(self, data: bytes) -> PlainHead | None:
        """The head that `data` begins with; None if it is not whole, or not plain."""
        end = data.find(b"\r\n\r\n")
        line_end = data.find(b"\r\n", 0, end) if end > 0 else -1  # -1, too, where no field follows
        line = LINE.fullmatch(data, 0, line_end) if 0 < line_end <= self._line_limit else None
        if line is None:
            return None
        block = data[line_end + 2 : end]
        if block != self._block:
            self._block, self._fields = block, self._read_fields(block)
        fields = self._fields
        if fields is None:
            return None
        environ = fields.environ.copy()
        target = line[2].decode()
        path, _, query = target.partition("?")
        environ["REQUEST_METHOD"] = method = line[1].decode()
        environ["RAW_URI"] = target
        environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1") if "%" in path else path
        environ["QUERY_STRING"] = query
        return PlainHead(environ, method == "HEAD", fields.length, fields.closes, end + 4)

    def _read_fields(self, block: bytes) -> _Fields | None:
        lines = block.decode("latin-1").split("\r\n")
        if (
            block.translate(None, ALLOWED) != b"\r\n" * (len(lines) - 1)
            or len(block) + 2 > self._size_limit  # of one field, but whose fields are longer together is not plain
            or len(lines) > self._fields_limit
        ):
            return None
        length, closes = 0, False
        fields: dict[str, str] = {}
        environ = self._template | {HEAD: block, FIELDS: fields}
        for line in lines:
            written, colon, value = line.partition(":")
            name = _names.get(written) or _name(written)
            if not colon or name is None or name.lower in fields:
                return None
            value = value.strip(" \t")
            lower = name.lower
            if lower == "content-length":
                if not (value.isascii() and value.isdigit() and len(value) <= LONGEST_LENGTH):
                    return None
                length = int(value)
            elif lower == "connection":
                closes = value.lower() == "close"
                if not closes and value.lower() != "keep-alive":
                    return None
            fields[lower] = environ[name.key] = value
        if "host" not in fields or fields.get("content-type") == "":
            return None
        return _Fields(environ, length, closes)


_names: dict[str, _Name] = {}
"""Of plain fields, as callers write them; at most `KNOWN_NAMES`."""


def _name(written: str) -> _Name | None:
    """None for what is no token, or is not plain. A name with an underscore isn't: in the environment it would be
    another's."""
    lower = written.lower()
    if not TOKEN_RE.fullmatch(written) or "_" in written or lower in NEVER_PLAIN:
        return None
    key = written.upper().replace("-", "_")
    if len(_names) >= KNOWN_NAMES:
        _names.clear()
    _names[written] = name = _Name(lower, key if lower in ("content-type", "content-length") else f"HTTP_{key}")
    return name
