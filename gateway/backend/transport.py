"""The transport adapter of a backend's `requests` session: HTTP/1.1 over urllib3, with the caller's bytes left alone.

What differs from the stock adapter, and why:

- The request target goes out as it is. urllib3 would re-encode it (`%7e` becomes `~`, `%c3` becomes `%C3`).
- Repeated fields stay repeated, and no field is added (no User-Agent, no Accept-Encoding of urllib3's).
- A body that streams is sent while the answer is awaited.
- Interim answers (1xx) are passed on or skipped. http.client takes 103 for the final one.
- Answers with a torn or malformed head are refused. http.client makes the best of it, and loses the length on the way.
- An instance is verified by what its service trusts, and by nothing that `requests` would add.
- Answers whose framing is doubtful are refused: several lengths, a length beside chunks (RFC 9112, 6.3), an odd coding.
"""

from __future__ import annotations

import http.client
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool

from common.tls import Renewing, trusting
from gateway.backend.connection import OutgoingHeaders, RawConnection, RawTLSConnection
from gateway.body import Body

if TYPE_CHECKING:
    from queue import LifoQueue

POOL_WAIT_S = 2.0
LONGEST_IDLE_S = 1.5  # gunicorn itself keeps connections for 2 s by default, others for longer


class _CarefulPool:
    """Mixed into urllib3's pools. A full pool is waited for, but not for ever: raises `EmptyPoolError`. A connection
    that idled for longer than servers commonly keep one open is not used again: it may be closing just now."""

    _is_retired = False

    def retire(self) -> None:
        """Keep no connection: those that idle are closed now, the others when they come back. Who is late still gets
        one. (urllib3's own `close` would refuse it.)"""
        self._is_retired = True
        places = cast("LifoQueue[RawConnection | None]", cast("HTTPConnectionPool", self).pool)
        taken = [places.get(block=False) for _ in range(places.qsize())]
        for connection in taken:
            if connection is not None:
                connection.close()
            places.put(connection, block=False)

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection = super()._get_conn(timeout or POOL_WAIT_S)  # pyright: ignore[reportAttributeAccessIssue] - mixin
        if time.monotonic() - getattr(connection, "idle_since", math.inf) > LONGEST_IDLE_S:
            connection.close()  # it connects anew when it is used
        return connection

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.end_sending()
            conn.idle_since = time.monotonic()
            if self._is_retired:
                conn.close()
        super()._put_conn(conn)  # pyright: ignore[reportAttributeAccessIssue] - mixin


class _HTTPPool(_CarefulPool, HTTPConnectionPool):
    ConnectionCls = RawConnection  # pyright: ignore[reportAssignmentType] - no class can be what urllib3 declares


class _HTTPSPool(_CarefulPool, HTTPSConnectionPool):
    ConnectionCls = RawTLSConnection  # pyright: ignore[reportAssignmentType] - as above

    def __init__(self, *args: Any, trust: Renewing, **options: Any) -> None:
        super().__init__(*args, **options)
        self._trust = trust

    def _new_conn(self) -> Any:
        connection = cast("RawTLSConnection", super()._new_conn())
        connection.trust = self._trust
        return connection


class RawTargetAdapter(HTTPAdapter):
    """Mounted on a backend's session. `exchange` is the call that keeps the promises above."""

    def __init__(self, pool_size: int, *, server_name: str = "", trust: Renewing | None = None) -> None:
        """`server_name` is whose certificate is wanted; "" the host in the URL, which may be an IP address. `trust` is
        who may certify it; None: those whom the public knows."""
        self._tls = {"server_hostname": server_name} if server_name else dict[str, str]()
        self._trust = trust or trusting()
        super().__init__(pool_connections=1, pool_maxsize=pool_size, pool_block=True, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs, **self._tls)
        self.poolmanager.pool_classes_by_scheme = {
            "http": _HTTPPool,
            "https": cast("type[_HTTPSPool]", partial(_HTTPSPool, trust=self._trust)),
        }

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing: the context does it. The stock one would have the public ones trusted beside a service's own."""

    def close(self) -> None:
        """Nobody new will come: see `_CarefulPool.retire`. Who is late may still send."""
        pools = self.poolmanager.pools
        for key in pools.keys():  # noqa: SIM118 - it can't be iterated over
            cast("_CarefulPool", pools[key]).retire()


def prepare(
    method: str, base_url: str, target: str, headers: list[tuple[str, str]], body: Body
) -> requests.PreparedRequest:
    """A request that nothing re-encodes: `requests` would re-quote the URL and fold repeated fields.

    The body is framed here, and in one way only: by Content-Length where the length is known, else in chunks of ours.
    """
    prepared = requests.PreparedRequest()
    prepared.method = method
    prepared.url = f"{base_url}/"  # only tells where to connect
    prepared.headers = cast("Any", OutgoingHeaders(_framed(method, headers, body), target, body))
    return prepared


def _framed(method: str, headers: list[tuple[str, str]], body: Body) -> list[tuple[str, str]]:
    """`headers` with our framing. A Content-Length among them keeps its place, whatever it says."""
    if body.length is None:
        return [*(pair for pair in headers if pair[0].lower() != "content-length"), ("Transfer-Encoding", "chunked")]
    length = str(body.length)
    if any(name.lower() == "content-length" for name, _ in headers):
        return [(name, length if name.lower() == "content-length" else value) for name, value in headers]
    is_expected = method in ("POST", "PUT", "PATCH") and not body.is_verbatim
    return [*headers, ("Content-Length", length)] if body.length or is_expected else headers


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


def fields_of(raw: HTTPResponse) -> list[tuple[str, str]]:
    """The answer's fields in the order in which they came; urllib3 puts those of one name together."""
    original = cast("http.client.HTTPResponse", raw._original_response)  # pyright: ignore[reportPrivateUsage]
    return original.headers.items()


def discard(raw: HTTPResponse) -> None:
    """Close the connection of an answer that nobody reads on, and give its place in the pool back: `close` alone would
    keep that place for ever."""
    raw.close()
    raw.release_conn()


class DoubtfulFraming(Exception):
    """The service announced more than one length, or something that is none; where its answer ends is unknown."""
