"""One connection to a stub, from its first request to its end."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from tests.support import behaviours, http1
from tests.support.behaviours import AnswerHead, Call, End, Reset, Wait, behaviour_of, whole
from tests.support.received import Received

LINGER_S = 2.0
_REQUEST_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/1\.([01])")

CallFor = Callable[[Received, Wait, bool], "list[bytes] | Call"]


class Conversation:
    """Reads requests from a connection and answers them. Owned by one thread."""

    def __init__(
        self,
        connection: socket.socket,
        number: int,
        call_for: CallFor,
        note_malformed: Callable[[bytes], None],
        stopping: threading.Event,
    ) -> None:
        self._connection = connection
        self._number = number
        self._call_for = call_for
        self._note_malformed = note_malformed
        self._stopping = stopping
        self._reader = http1.Reader(connection)
        self._count = 0
        self._ends = False

    def run(self) -> None:
        """Answer until either side ends the connection, which the owner then closes."""
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while not self._ends:
                self._answer(self._request())
        except http1.Malformed:
            self._note_malformed(bytes(self._reader.taken))
            self._send_all(whole(400, b"malformed", ("Connection", "close")))
        except http1.Truncated:
            self._note_malformed(bytes(self._reader.taken))
        except Reset:
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (EOFError, End, OSError):
            pass

    def _request(self) -> Received:
        head = self._reader.head()
        line = _REQUEST_LINE.fullmatch(head.start)
        if line is None or len(head.all("Host")) != 1:
            raise http1.Malformed(head.start)
        method, target, minor = line.groups()
        connection = ",".join(head.all("Connection")).lower()
        self._ends = "close" in connection or (minor == "0" and "keep-alive" not in connection)
        return Received(method, target, head.headers, self._body(head, target), self._number)

    def _body(self, head: http1.Head, target: str) -> bytes:
        is_chunked, length = http1.is_chunked(head), http1.content_length(head)
        if behaviour_of(target.partition("?")[0])[0] in behaviours.READS_NO_BODY:
            return b""
        if "100-continue" in head.all("Expect") and (is_chunked or length):
            self._connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return self._reader.chunked() if is_chunked else self._reader.exactly(length or 0)

    def _answer(self, received: Received) -> None:
        self._count += 1
        name, _ = behaviour_of(received.path)
        call = self._call_for(received, self._wait, self._count == 1)
        for piece in behaviours.BEHAVIOURS[name](call) if isinstance(call, Call) else call:
            self._connection.sendall(piece)
            if isinstance(piece, AnswerHead):
                self._ends = self._ends or b"connection: close" in piece.lower()
                if received.method == "HEAD":
                    break
        if name in behaviours.READS_NO_BODY:
            self._linger()

    def _linger(self) -> None:
        # closing with unread bytes resets the connection, and the reset may overtake the answer
        self._connection.shutdown(socket.SHUT_WR)
        self._connection.settimeout(LINGER_S)
        self._reader.to_end()

    def _wait(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise End

    def _send_all(self, pieces: list[bytes]) -> None:
        with suppress(OSError):
            self._connection.sendall(b"".join(pieces))
