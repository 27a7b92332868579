"""Answers as the standard library reads them, with strict checks on top: the gateway's own reading is held against it.

http.client makes the best of a torn or malformed head; here such a head is refused, as is any doubtful framing.
"""

from __future__ import annotations

import http.client
import io
import re
from dataclasses import dataclass
from email.errors import FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect
from typing import IO, Any, cast

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_MALFORMED = (FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect)


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    status: int
    fields: list[tuple[str, str]]
    body: bytes


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


class _Source:
    """What http.client takes for a socket."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, mode: str) -> IO[bytes]:
        return io.BytesIO(self._raw)


class _FinalResponse(http.client.HTTPResponse):
    """Reads past interim answers, whatever their number says."""

    def begin(self) -> None:
        lines = _Lines(self.fp)
        self.fp = cast("Any", lines)
        super().begin()
        self.fp = cast("Any", lines.file)
        if not lines.last or any(isinstance(defect, _MALFORMED) for defect in self.msg.defects):
            raise http.client.HTTPException("the head is torn or malformed")
        _check(self.msg)

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # pyright: ignore[reportAttributeAccessIssue] - CPython's
            if not 100 <= status < 200 or status == 101:
                return version, status, reason
            _check(http.client.parse_headers(self.fp))


def _check(fields: http.client.HTTPMessage) -> None:
    if not all(_NAME.fullmatch(name) and not _CONTROL.search(value) for name, value in fields.items()):
        raise http.client.HTTPException("a field that is not one")


def read_answer(method: str, raw: bytes) -> ReadAnswer | None:
    """The answer to a request with this method, None where `raw`, which is all that comes, does not begin with one."""
    response = _FinalResponse(cast("Any", _Source(raw)), method=method)
    try:
        response.begin()
        lengths = response.msg.get_all("Content-Length", [])
        codings = [value.lower() for value in response.msg.get_all("Transfer-Encoding", [])]
        is_length_sound = not lengths or (len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdigit())
        is_coding_sound = not codings or (codings == ["chunked"] and not lengths)
        if response.status < 200 or not (is_length_sound and is_coding_sound):
            return None
        is_bodiless = method == "HEAD" or response.status in (204, 304)
        return ReadAnswer(response.status, response.msg.items(), b"" if is_bodiless else response.read())
    except (http.client.HTTPException, ValueError, OverflowError):
        return None
