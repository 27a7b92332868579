"""The transport adapter of a backend's `requests` session: HTTP/1.1 with the caller's bytes left alone.

`docs/transport.md` tells what it promises. A request takes four steps:

1. A connection from the pool, or a new one (`pool`, `dialling`).
2. The head and a short body go out in one piece. What does not fit, and a body that streams, is sent by a greenlet of
   its own while the answer is awaited (`sending`).
3. The head of the answer is read strictly (`parsing`). Interim answers are passed on to the caller of a verbatim
   service and skipped for others.
4. The body is there already, most often; else it is read as it comes. The connection goes back to the pool when the
   answer is whole, the request was sent whole, and nothing says otherwise. In any other case it is closed: after an
   error, a time-out, an answer that nobody reads on, or when the greenlet is killed.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import requests
from requests import ConnectionError as NoConnection
from requests import ReadTimeout, RequestException
from requests.adapters import BaseAdapter
from requests.cookies import RequestsCookieJar
from requests.structures import CaseInsensitiveDict

from common.tls import Renewing, trusting
from common.turns import keep_step
from gateway.backend.connection import PIECE_BYTES, Connection
from gateway.backend.dialling import Dial
from gateway.backend.outgoing import Outgoing
from gateway.backend.pool import Pool
from gateway.backend.retries import IDEMPOTENT
from gateway.backend.sending import Sending
from gateway.body import Body, CallerGone
from gateway.headers import interim_fields

if TYPE_CHECKING:
    from collections.abc import Mapping


class CutShort(ConnectionError):
    """The instance ended the connection before its answer was whole."""


class Incoming:
    """An answer whose head is here: what urllib3's response is to `requests` otherwise, undecoded, with repeated fields
    in their order. Every reading may raise `OSError`; then, and whenever it is closed early, so is its connection."""

    def __init__(self, connection: Connection, pool: Pool, sending: Sending | None) -> None:
        answer = connection.answers
        self.status, self.fields, self.protocol = answer.status, answer.fields, answer.protocol
        self.length, self.is_bodiless = answer.length, answer.is_bodiless
        self._connection: Connection | None = connection
        self._pool, self._sending = pool, sending
        self.content = answer.take()
        """What has come, and was not read yet."""
        if answer.is_whole:
            self._finish(connection)

    @property
    def is_here(self) -> bool:
        """All of it has come."""
        return self._connection is None

    def read(self, most: int | None = None, decode_content: bool = False) -> bytes:
        """All that comes until the end of the body, or `most` bytes of it."""
        pieces: list[bytes] = []
        left = most
        while (left is None or left > 0) and (piece := self.read1(left)):
            pieces.append(piece)
            left = None if left is None else left - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read1(self, most: int | None = None, decode_content: bool = False) -> bytes:
        """What has come, at most `most` bytes, after a wait where nothing has; b"" at the end."""
        if not self.content and self._connection is not None:
            self.content = self._next(self._connection)
        piece, self.content = (self.content, b"") if most is None else (self.content[:most], self.content[most:])
        return piece

    def close(self) -> None:
        """Nobody reads on."""
        connection, self._connection = self._connection, None
        if connection is not None:
            _end(connection, self._sending)

    release_conn = close
    """For `requests`: a whole answer has given its connection back already."""

    def _next(self, connection: Connection) -> bytes:
        answer = connection.answers
        try:
            while not (content := answer.take()) and not answer.is_whole:
                _read_into(connection)
        except BaseException:
            self.close()
            raise
        if answer.is_whole:
            self._finish(connection)
        return content

    def _finish(self, connection: Connection) -> None:
        self._connection = None
        if connection.answers.may_go_on and (self._sending is None or self._sending.is_done):
            self._pool.put(connection)
        else:
            _end(connection, self._sending)


class Response(requests.Response):
    """What is asked of it rarely is made when it is."""

    raw: Incoming  # pyright: ignore[reportIncompatibleVariableOverride]
    _content = False  # pyright: ignore[reportAssignmentType] - what it is in `requests` until it is read
    _content_consumed = False
    _next = None
    encoding = None
    reason = ""

    def __init__(self, request: Outgoing, raw: Incoming) -> None:
        self.request, self.url = request, request.base_url
        self.status_code, self.raw = raw.status, raw

    @cached_property
    def headers(self) -> CaseInsensitiveDict[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Repeated fields folded, as `requests` has them."""
        folded = CaseInsensitiveDict[str]()
        for name, value in self.raw.fields:
            folded[name] = f"{folded[name]}, {value}" if name in folded else value
        return folded

    @cached_property
    def cookies(self) -> RequestsCookieJar:  # pyright: ignore[reportIncompatibleVariableOverride]
        """None: they are the caller's."""
        return RequestsCookieJar()


class RawTargetAdapter(BaseAdapter):
    """Mounted on a backend's session. Shared by the greenlets of a worker."""

    def __init__(self, pool_size: int, *, server_name: str = "", trust: Renewing | None = None) -> None:
        """`server_name` is whose certificate is wanted; "" the host in the URL, which may be an IP address. `trust` is
        who may certify it; None: those whom the public knows."""
        super().__init__()
        self._pool_size, self._server_name, self._trust = pool_size, server_name, trust or trusting()
        self._pools: dict[str, Pool] = {}

    def send(  # pyright: ignore[reportIncompatibleMethodOverride] - of all requests only those of ours
        self,
        request: Outgoing,
        stream: bool = False,
        timeout: float | tuple[float, float] = math.inf,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """The answer to a request. `timeout` is that for connecting and that for each read; the rest is settled by
        what the adapter was made with.

        Raises `requests.ConnectTimeout`, `Unreachable` and `HandshakeFailed`, when the instance got nothing of it;
        `requests.ReadTimeout`, `requests.ConnectionError`, `DoubtfulFraming`, and `CallerGone`.
        """
        connect_s, read_s = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        pool = self._pools.get(request.base_url) or self._pool(request.base_url)
        head = request.head(pool.authority)
        keep_step()  # before a connection is taken, which so has no time to end
        connection = pool.take(connect_s, may_repeat=request.method in IDEMPOTENT)
        sending: Sending | None = None
        try:
            sending = _begin(connection, request, head, read_s)
            await_head(connection, request.content, sending)
            keep_step()
            if request.is_timed and not connection.answers.is_whole:
                connection.be_patient(read_s)
            return Response(request, Incoming(connection, pool, sending))
        except BaseException as error:
            _end(connection, sending)
            if isinstance(error, TimeoutError):
                raise ReadTimeout(error) from error
            if isinstance(error, OSError) and not isinstance(error, RequestException):
                raise NoConnection(error) from error
            raise

    def close(self) -> None:
        """Nobody new will come: no connection is kept. Who is late may still send."""
        for pool in self._pools.values():
            pool.retire()

    @property
    def idle(self) -> int:
        """Connections that are kept."""
        return sum(pool.idle for pool in self._pools.values())

    def _pool(self, base_url: str) -> Pool:
        dial = Dial(base_url, self._server_name, self._trust)
        return self._pools.setdefault(base_url, Pool(dial, self._pool_size))


def _begin(connection: Connection, outgoing: Outgoing, head: bytes, read_s: float) -> Sending | None:
    """Send what can be sent at once; the `Sending` of the rest, if there is any."""
    body = outgoing.content
    connection.answers.begin(outgoing.method or "")
    connection.be_patient(math.inf if outgoing.is_timed else read_s)
    is_streamed = body.streams
    if body.length and not is_streamed:
        head += body.read(PIECE_BYTES)
    try:
        sent = connection.send(head)
    except ConnectionError:  # the service may have answered before
        sent = len(head)
    if sent == len(head) and not is_streamed and body.read_bytes == body.length:
        return None
    is_held = is_streamed and outgoing.expects
    return Sending(connection, body, read_s, is_held=is_held, first=head[sent:])


def _end(connection: Connection, sending: Sending | None) -> None:
    try:
        if sending is not None:
            sending.stop()
    finally:  # also when this greenlet is killed in turn
        connection.close()


def await_head(connection: Connection, body: Body, sending: Sending | None) -> None:
    """Until the final answer's head is there; `body` is the request's."""
    answer = connection.answers
    while not answer.has_head:
        _read_into(connection)
        while answer.interim:
            status, fields = answer.interim.pop(0)
            if body.is_verbatim and body.tell is not None:
                try:
                    body.tell(status, interim_fields(fields))
                except OSError as error:
                    raise CallerGone("nobody hears the interim answer") from error
            if sending is not None and status == 100:
                sending.let_go()
    if sending is not None and sending.is_held:  # this answer came instead of "100 Continue"
        sending.stop()


def _read_into(connection: Connection) -> None:
    """Hand what comes to the parser. Raises `CutShort` when it is the end, and that comes too early."""
    if data := connection.receive():
        connection.answers.feed(data)
    elif not connection.answers.end():
        raise CutShort("the connection ended before the answer did")
