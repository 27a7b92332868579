"""The transport adapter of a backend's `requests` session: HTTP/1.1 over urllib3, with the caller's bytes left alone.

What differs from the stock adapter, and why:

- The request target goes out as it is. urllib3 would re-encode it (`%7e` becomes `~`, `%c3` becomes `%C3`).
- Repeated fields stay repeated, and no field is added (no User-Agent, no Accept-Encoding of urllib3's).
- Interim answers (1xx) are skipped. http.client takes 103 for the final one.
- Answers with a torn or malformed head are refused. http.client makes the best of it, and loses the length on the way.
- Answers whose framing is doubtful are refused: several lengths, a length beside chunks (RFC 9112, 6.3), an odd coding.
"""

from __future__ import annotations

import http.client
import math
import re
import time
from collections.abc import Iterable
from email.errors import FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect
from typing import IO, Any, cast

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPHeaderDict, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import SKIP_HEADER

from gateway.body import Body

POOL_WAIT_S = 2.0
LONGEST_IDLE_S = 1.5  # gunicorn itself keeps connections for 2 s by default, others for longer
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # folded lines too (RFC 9112, 5.2)
_MALFORMED = (FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect)


class OutgoingHeaders(HTTPHeaderDict):
    """The fields of one request, with the raw target that goes with them."""

    def __init__(self, pairs: Iterable[tuple[str, str]], target: str) -> None:
        super().__init__()
        for name, value in pairs:
            self.add(name, value)
        for name in ("User-Agent", "Accept-Encoding"):
            if name not in self:
                self.add(name, SKIP_HEADER)
        self.target = target

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
        if not all(_NAME.fullmatch(name) and not _CONTROL.search(value) for name, value in self.msg.items()):
            raise http.client.HTTPException("a field that is not one")

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # pyright: ignore[reportAttributeAccessIssue] - CPython's
            if not 100 <= status < 200 or status in (100, 101):  # begin() itself skips 100
                return version, status, reason
            http.client.parse_headers(self.fp)


class _RawTarget:
    """Mixed into urllib3's connections: sends the target that stands in the headers, not the re-encoded one."""

    response_class = _FinalResponse

    def request(self, method: str, url: str, *args: Any, headers: object = None, **kwargs: Any) -> None:
        if isinstance(headers, OutgoingHeaders):
            url = headers.target
        super().request(method, url, *args, headers=headers, **kwargs)  # pyright: ignore[reportAttributeAccessIssue] - mixin


class _HTTPConnection(_RawTarget, HTTPConnection):
    pass


class _HTTPSConnection(_RawTarget, HTTPSConnection):
    pass


class _CarefulPool:
    """Mixed into urllib3's pools. A full pool is waited for, but not for ever: raises `EmptyPoolError`. A connection
    that idled for longer than servers commonly keep one open is not used again: it may be closing just now."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection = super()._get_conn(timeout or POOL_WAIT_S)  # pyright: ignore[reportAttributeAccessIssue] - mixin
        if time.monotonic() - getattr(connection, "idle_since", math.inf) > LONGEST_IDLE_S:
            connection.close()  # it connects anew when it is used
        return connection

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.idle_since = time.monotonic()
        super()._put_conn(conn)  # pyright: ignore[reportAttributeAccessIssue] - mixin


class _HTTPPool(_CarefulPool, HTTPConnectionPool):
    ConnectionCls = _HTTPConnection  # pyright: ignore[reportAssignmentType] - the mixin hides its base from the checker


class _HTTPSPool(_CarefulPool, HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection  # pyright: ignore[reportAssignmentType] - as above


class RawTargetAdapter(HTTPAdapter):
    """Mounted on a backend's session. `exchange` is the call that keeps the promises above."""

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


def prepare(
    method: str, base_url: str, target: str, headers: list[tuple[str, str]], body: Body
) -> requests.PreparedRequest:
    """A request that nothing re-encodes: `requests` would re-quote the URL and fold repeated fields.

    The body's length is known by now, so Content-Length goes out and never Transfer-Encoding beside it.
    """
    prepared = requests.PreparedRequest()
    prepared.method = method
    prepared.url = base_url + target
    length = body.length or 0
    has_body = length > 0 or method in ("POST", "PUT", "PATCH")
    framing = [("Content-Length", str(length))] if has_body else []
    prepared.headers = cast("Any", OutgoingHeaders([*headers, *framing], target))
    prepared.body = cast("Any", body) if length else None
    return prepared


def raw_answer(response: requests.Response) -> HTTPResponse:
    """urllib3's response under requests' one: undecoded, with repeated fields. Raises `DoubtfulFraming`."""
    raw = cast("HTTPResponse", response.raw)
    lengths = raw.headers.getlist("Content-Length")
    codings = [value.lower() for value in raw.headers.getlist("Transfer-Encoding")]
    is_length_sound = not lengths or (len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdigit())
    is_coding_sound = not codings or (codings == ["chunked"] and not lengths)
    if raw.status < 200 or not (is_length_sound and is_coding_sound):  # 101: nobody asked for an upgrade
        discard(raw)
        raise DoubtfulFraming(f"status {raw.status}, lengths {lengths}, codings {codings}")
    return raw


def discard(raw: HTTPResponse) -> None:
    """Close the connection of an answer that nobody reads on, and give its place in the pool back: `close` alone would
    keep that place for ever."""
    raw.close()
    raw.release_conn()


class DoubtfulFraming(Exception):
    """The service announced more than one length, or something that is none; where its answer ends is unknown."""
