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
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote_to_bytes

from gunicorn.config import Config
from gunicorn.http.message import MAX_REQUEST_LINE, TOKEN_RE

from common.answers import ALLOWED
from common.messages import FIELDS, HEAD
from common.remembering import Known

LINE = re.compile(r"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) ((/[!\"$->@-~]*)\??([!\"$-~]*)) HTTP/1\.1")
"""A plain request line: method, target, and its path and query. No target with a `#`: gunicorn takes a fragment off."""

NEVER_PLAIN = frozenset({"transfer-encoding", "expect", "upgrade"})

LONGEST_LENGTH = 18
"""Digits of a Content-Length; more are not plain."""

LONGEST_NAME = 100
"""In bytes."""

REMEMBERED_BYTES = 4 << 10
"""Longer fields are read anew each time: a connection that idles is to hold little."""


class Fields(NamedTuple):
    """What a request's fields say."""

    environ: dict[str, Any]
    length: int  # of the body
    closes: bool  # the caller wants the connection to end


PlainHead: TypeAlias = tuple[dict[str, Any], Fields, int]
"""The WSGI environment, but for what depends on more than the head; the fields, which are shared by requests; and how
many bytes there were to the end of the empty line."""


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
        self._fields: Fields | None = None

    def read(self, data: bytes) -> PlainHead | None:
        """The head that `data` begins with; None if it is not whole, or not plain."""
        end = data.find(b"\r\n\r\n")
        line_end = data.find(b"\r\n", 0, end) if end > 0 else -1  # -1, too, where no field follows
        line = LINE.fullmatch(data[:line_end].decode("latin-1")) if 0 < line_end <= self._line_limit else None
        if line is None:
            return None
        block = data[line_end + 2 : end]
        fields = self._fields if block == self._block else self._read_fields(block)
        if fields is None:
            return None
        environ = fields.environ.copy()
        environ["REQUEST_METHOD"], environ["RAW_URI"], path, environ["QUERY_STRING"] = line.groups()
        environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1") if "%" in path else path
        return environ, fields, end + 4

    def _read_fields(self, block: bytes) -> Fields | None:
        lines = block.decode("latin-1").split("\r\n")
        if (
            block.translate(None, ALLOWED) != b"\r\n" * (len(lines) - 1)
            or len(block) + 2 > self._size_limit  # of one field, but whose fields are longer together is not plain
            or len(lines) > self._fields_limit
        ):
            return None
        fields: dict[str, str] = {}
        environ = self._template.copy()
        environ[HEAD], environ[FIELDS] = block, fields
        for line in lines:
            written, colon, value = line.partition(":")
            name = _NAMES[written]
            if name is None or not colon:
                return None
            lower, key = name
            fields[lower] = environ[key] = value.strip(" \t")
        length, connection = fields.get("content-length", "0"), fields.get("connection", "keep-alive").lower()
        if (
            len(fields) != len(lines)  # one came twice
            or "host" not in fields
            or not (length.isascii() and length.isdigit() and len(length) <= LONGEST_LENGTH)
            or connection not in ("close", "keep-alive")
            or fields.get("content-type") == ""
        ):
            return None
        read = Fields(environ, int(length), connection == "close")
        if len(block) <= REMEMBERED_BYTES:
            self._block, self._fields = block, read
        return read


def _name(written: str) -> tuple[str, str] | None:
    """A field's name in small letters and as the environment has it; None for what is no token, or is not plain. A name
    with an underscore isn't: in the environment it would be another's."""
    lower = written.lower()
    if len(written) > LONGEST_NAME or not TOKEN_RE.fullmatch(written) or "_" in written or lower in NEVER_PLAIN:
        return None
    key = written.upper().replace("-", "_")
    return lower, key if lower in ("content-type", "content-length") else f"HTTP_{key}"


_NAMES = Known(_name)
