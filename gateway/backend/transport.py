"""The transport adapter of a backend's `requests` session: HTTP/1.1 over urllib3, with the caller's bytes left alone.

What differs from the stock adapter, and why:

- The request target goes out as it is. urllib3 would re-encode it (`%7e` becomes `~`, `%c3` becomes `%C3`).
- Repeated fields stay repeated, and no field is added (no User-Agent, no Accept-Encoding of urllib3's).
- Interim answers (1xx) are skipped. http.client takes 103 for the final one.
- Answers with conflicting lengths are refused (RFC 9112, 6.3).
"""

from __future__ import annotations

import http.client
from collections.abc import Iterable
from typing import Any, cast

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPHeaderDict, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import SKIP_HEADER

from gateway.exchange import Body

POOL_WAIT_S = 2.0


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


class _FinalResponse(http.client.HTTPResponse):
    """Reads past interim answers, whatever their number says."""

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


class _BoundedWait:
    """Mixed into urllib3's pools: a full pool is waited for, but not for ever. Raises `EmptyPoolError`."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        return super()._get_conn(timeout or POOL_WAIT_S)  # pyright: ignore[reportAttributeAccessIssue] - mixin


class _HTTPPool(_BoundedWait, HTTPConnectionPool):
    ConnectionCls = _HTTPConnection  # pyright: ignore[reportAssignmentType] - the mixin hides its base from the checker


class _HTTPSPool(_BoundedWait, HTTPSConnectionPool):
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
    """urllib3's response under requests' one: undecoded, with repeated fields. Raises `ConflictingLengths`."""
    raw = cast("HTTPResponse", response.raw)
    lengths = {value.strip() for line in raw.headers.getlist("Content-Length") for value in line.split(",")}
    if len(lengths) > 1 or not all(length.isdigit() for length in lengths):
        raw.close()
        raise ConflictingLengths(", ".join(sorted(lengths)))
    return raw


class ConflictingLengths(Exception):
    """The service announced more than one length, or something that is none; where its answer ends is unknown."""
