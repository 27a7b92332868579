"""A raw HTTP/1.1 client: what goes out are the bytes of the test, what comes back is kept byte for byte.

Errors:
    NoAnswer             the connection ended, or was reset, before a whole head had arrived
    http1.Malformed      the answer is not HTTP/1.1, or its framing is ambiguous
    TimeoutError         nothing came for `timeout` seconds
A body that was cut short is no error: `RawAnswer.is_complete` tells.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

from tests.support import http1

_STATUS_LINE = re.compile(r"HTTP/1\.[01] ([1-5][0-9]{2})(?: .*)?")
_BODILESS = frozenset({204, 304})
CLOSE_POLL_S = 0.001  # a server that closes without having said so is seen if it was that fast

Pairs = Iterable[tuple[str, str]]


class NoAnswer(ConnectionError):
    """The connection ended before an answer's head was complete; `raw` is what had arrived."""

    def __init__(self, raw: bytes, *, was_reset: bool) -> None:
        super().__init__(f"the connection was {'reset' if was_reset else 'closed'} after {raw!r}")
        self.raw = raw
        self.was_reset = was_reset


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """One answer as it stood on the wire; `body` is decoded if it was chunked, never if it was compressed."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    raw: bytes  # every byte of it, interim answers included
    interim: list[int]  # the statuses of the 1xx answers before it
    is_complete: bool  # the body is as long as was announced
    closed: bool  # the server has closed the connection, as far as could be seen at once

    def all(self, name: str) -> list[str]:
        """Every value of a header, its name in any case."""
        return http1.all_values(self.headers, name)

    def header(self, name: str) -> str | None:
        """The only value of a header, None without it. Raises ValueError when it was repeated."""
        values = self.all(name)
        if len(values) > 1:
            raise ValueError(f"{name} was sent {len(values)} times: {values}")
        return values[0] if values else None

    def json(self) -> dict[str, object]:
        """The body as a JSON object. Raises ValueError when it is not one."""
        value: object = json.loads(self.body)
        if not isinstance(value, dict):
            raise ValueError(f"not a JSON object: {self.body!r}")
        return cast("dict[str, object]", value)


class Connection:
    """One connection to 127.0.0.1:`port`, for several exchanges or for a request sent in pieces."""

    def __init__(self, port: int, *, timeout: float = 5.0) -> None:
        """`timeout` in seconds bounds connecting and each wait for bytes."""
        self.timeout = timeout
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = http1.Reader(self._socket)

    def send(self, raw: bytes) -> None:
        """Send these bytes and no others."""
        self._socket.sendall(raw)

    def finish_sending(self) -> None:
        """Close our half of the connection."""
        self._socket.shutdown(socket.SHUT_WR)

    def exchange(self, raw: bytes) -> RawAnswer:
        """Send a request and read its answer. A server that answers before it has read all of it is heard."""
        with suppress(BrokenPipeError, ConnectionResetError):  # its answer may have arrived all the same
            self.send(raw)
        return self.answer(to=raw.partition(b" ")[0].decode("latin-1"))

    def answer(self, *, to: str = "GET") -> RawAnswer:
        """Read the next final answer, knowing the method that it answers."""
        start = len(self._reader.taken) - len(self._reader.ahead)
        interim: list[int] = []
        while True:
            head, status = self._head(start)
            if status >= 200 or status == 101:
                break
            interim.append(status)
        body, is_complete = self._body(head, status, to)
        end = len(self._reader.taken) - len(self._reader.ahead)
        raw = bytes(self._reader.taken[start:end])
        return RawAnswer(status, head.headers, body, raw, interim, is_complete, self._is_closed(head))

    def everything(self, *, quiet_s: float | None = None) -> bytes:
        """All bytes until the server closes or resets, or (if given) has been quiet for `quiet_s` seconds."""
        self._socket.settimeout(self.timeout if quiet_s is None else quiet_s)
        deadline = time.monotonic() + self.timeout
        try:
            while self._reader.fill() and time.monotonic() < deadline:
                pass
        except TimeoutError:
            if quiet_s is None:
                raise
        finally:
            self._socket.settimeout(self.timeout)
        return self._reader.ahead

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _head(self, start: int) -> tuple[http1.Head, int]:
        try:
            head = self._reader.head()
        except (EOFError, http1.Truncated) as error:
            raise NoAnswer(bytes(self._reader.taken[start:]), was_reset=self._reader.was_reset) from error
        line = _STATUS_LINE.fullmatch(head.start)
        if line is None:
            raise http1.Malformed(f"not a status line: {head.start!r}")
        return head, int(line[1])

    def _body(self, head: http1.Head, status: int, method: str) -> tuple[bytes, bool]:
        # RFC 9112, 6.3, in its order
        if method == "HEAD" or status in _BODILESS or status == 101:
            return b"", True
        try:
            if http1.is_chunked(head):
                return self._reader.chunked(), True
            length = http1.content_length(head)
            if length is not None:
                return self._reader.exactly(length), True
        except http1.Truncated as cut:
            return cut.body, False
        return self._reader.to_end(), not self._reader.was_reset

    def _is_closed(self, head: http1.Head) -> bool:
        announced = "close" in ",".join(head.all("Connection")).lower()
        if self._reader.ahead:
            return False
        self._socket.settimeout(self.timeout if announced else CLOSE_POLL_S)
        try:
            return not self._reader.fill()
        except TimeoutError:
            return False
        finally:
            self._socket.settimeout(self.timeout)


def exchange(port: int, raw: bytes, *, timeout: float = 5.0) -> RawAnswer:
    """Send these bytes on a new connection and read one answer."""
    with Connection(port, timeout=timeout) as connection:
        return connection.exchange(raw)


def send_and_read_all(port: int, raw: bytes, *, timeout: float = 5.0, quiet_s: float = 0.3) -> bytes:
    """Send these bytes on a new connection; every byte until it is closed, or quiet for `quiet_s`."""
    with Connection(port, timeout=timeout) as connection:
        connection.send(raw)
        return connection.everything(quiet_s=quiet_s)


def request_bytes(
    method: str, target: str, headers: Pairs = (), body: bytes = b"", *, host: str = "localhost"
) -> bytes:
    """A request as bytes: target and headers as given; Host, and a body's Content-Length, unless given."""
    fields = list(headers)
    given = {name.lower() for name, _ in fields}
    if "host" not in given:
        fields.insert(0, ("Host", host))
    if body and not given & {"content-length", "transfer-encoding"}:
        fields.append(("Content-Length", str(len(body))))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def get(port: int, target: str, headers: Pairs = (), *, timeout: float = 5.0) -> RawAnswer:
    """GET a target that goes out byte for byte: dot segments, encodings and double slashes stay."""
    return exchange(port, request_bytes("GET", target, headers, host=f"127.0.0.1:{port}"), timeout=timeout)


def request(
    port: int, method: str, target: str, headers: Pairs = (), body: bytes = b"", *, timeout: float = 5.0
) -> RawAnswer:
    """Like `get()`, with any method and body."""
    raw = request_bytes(method, target, headers, body, host=f"127.0.0.1:{port}")
    return exchange(port, raw, timeout=timeout)
