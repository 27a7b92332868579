"""What an instance answers, read strictly: llhttp parses, by httptools; what it would let pass is refused here.

A head is handed to the parser when it is whole, up to 64 KB and 99 fields. So it is known where each interim answer
(1xx) ends and where the answer to a HEAD does, and a head that is torn never looks like one. Refused here:

    another protocol or version, an empty line before the status line, a status below 100, a control
    character in the reason
    a Content-Length that is no plain number, a Transfer-Encoding that is not just `chunked`
    101, for nobody asked for an upgrade
    chunk extensions and trailers without end

llhttp refuses the rest: bare CR and LF, folded lines, names that are no tokens, control characters in values, several
lengths, a length beside chunks, chunks of another form (RFC 9112, 5 to 7). What comes behind a whole answer is for
nobody: the connection is not used again.
"""

from __future__ import annotations

import re

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from requests import RequestException

from common.remembering import Known

MOST_HEAD_BYTES = 64 << 10
MOST_FIELDS = 99
_BARE_LF = re.compile(rb"(?<!\r)\n")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_START = b"HTTP/1."

Fields = list[tuple[str, str]]


class DoubtfulFraming(RequestException):
    """What came is no HTTP, or where it ends can be read in two ways."""


class AnswerParser:
    """Of one connection, for one answer after the other. The names of its callbacks are httptools'."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self._parser = HttpResponseParser(self)
        self._is_spent = False
        self.begin("")

    def begin(self, method: str) -> None:
        """The answer to a request with this method comes next. The one before was whole, and nothing came behind."""
        if self._is_spent:
            self._parser, self._is_spent = HttpResponseParser(self), False
        self._is_for_head = method == "HEAD"
        self._head = b""
        self._fault = ""
        self._strange = self._ends_with = 0
        self._begun = 0
        self.interim: list[tuple[int, Fields]] = []
        """Those that have come; the one who passes them on takes them out."""
        self.is_whole = False
        self.may_go_on = False
        """Another request may be sent on the connection, when this answer is whole."""
        self._begin_head()

    def _begin_head(self) -> None:
        self.has_head = False
        self.fields: Fields = []
        self.status = 0
        self.length: int | None = None
        self.is_chunked = False

    @property
    def protocol(self) -> str:
        return "1.0" if self._is_old else "1.1"

    @property
    def is_bodiless(self) -> bool:
        """There is no body, whatever the fields say (RFC 9112, 6.3)."""
        return self._is_for_head or self.status in (204, 304)

    def feed(self, data: bytes) -> None:
        """Take in what came. Raises `DoubtfulFraming`."""
        if not self.has_head:
            self._feed_head(data)
        else:
            known = len(self._pieces)
            self._parse(data)
            self._strange = 0 if len(self._pieces) > known else self._strange + len(data)
            if self._strange > MOST_HEAD_BYTES and not self.is_whole:
                raise DoubtfulFraming("chunk extensions or trailers without end")

    def end(self) -> bool:
        """Nothing comes any more. Returns whether the answer is whole."""
        if self.has_head and not self.is_whole and not self.is_chunked and self.length is None:
            self.is_whole = True  # the end of the connection was the end of the body
        return self.is_whole

    def take(self) -> bytes:
        """What has come of the body, and was not taken yet."""
        pieces = self._pieces
        if not pieces:
            return b""
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return content

    def _feed_head(self, data: bytes) -> None:
        if self._head:
            data = self._head + data
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                _check_part(data)
                self._head = data
                return
            if not data.startswith(_START) or end > MOST_HEAD_BYTES:
                raise DoubtfulFraming("no head of an answer")
            self._is_old = data[7] == 0x30
            if data[9] != 0x31:
                break
            self._parse(data[:end])
            if self.status == 101:
                raise DoubtfulFraming("status 101")
            self.interim.append((self.status, self.fields))
            self._begin_head()
            self._begun, self.is_whole, data = 0, False, data[end:]
        if self._is_for_head:
            self._is_spent = True  # it waits for the body that the fields announce
            self._parse(data[:end])
            self.is_whole, self.may_go_on = True, self.may_go_on and len(data) == end
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self.is_whole:
                raise DoubtfulFraming(str(error)) from None
            self.may_go_on = False
        if self._fault:
            raise DoubtfulFraming(self._fault)
        if self._begun > 1:
            self.may_go_on = False
            del self._pieces[self._ends_with :]

    def on_message_begin(self) -> None:
        self._begun += 1

    def on_status(self, reason: bytes) -> None:
        if reason != b"OK" and not self.has_head and _CONTROL.search(reason):
            self._fault = "reason"

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.has_head:  # a trailer, or what comes behind
            return
        text, frames = _NAMES[name]
        told = value.decode("latin-1")
        self.fields.append((text, told))
        if frames == "content-length":
            if self.length is not None or not told.isascii() or not told.isdigit():
                self._fault = "Content-Length"
            else:
                self.length = int(told)
        elif frames:
            if self.is_chunked or told.lower() != "chunked":
                self._fault = "Transfer-Encoding"
            self.is_chunked = True

    def on_headers_complete(self) -> None:
        if self.has_head:
            return
        self.has_head = True
        self.status = self._parser.get_status_code()
        if self.status < 100:
            self._fault = "status"
        elif len(self.fields) > MOST_FIELDS:
            self._fault = "number of fields"
        self.may_go_on = not self._is_old and self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        if not self.is_whole:
            self.is_whole, self._ends_with = True, len(self._pieces)


def _read(name: bytes) -> tuple[str, str]:
    text = name.decode("latin-1")
    lower = text.lower()
    return text, lower if lower in ("content-length", "transfer-encoding") else ""


_NAMES = Known(_read)
"""Names of fields as text, and for those that frame a body their lower case."""


def _check_part(head: bytes) -> None:
    """Refuse a head that is not whole as soon as it can't become a sound one."""
    is_begun_well = head[:7] == _START[: len(head)]
    if not is_begun_well or len(head) > MOST_HEAD_BYTES or _BARE_LF.search(head):
        raise DoubtfulFraming("no head of an answer")
