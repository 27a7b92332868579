"""The sending of a body that comes from the caller just now, while the answer may begin already.

The body goes out in a greenlet of its own, piece by piece as the caller sends it, in the framing that we chose: the
caller's own chunks end here. Meanwhile the greenlet of the request waits for the first of

    the body is out          then the time-out for the answer begins
    an answer begins         interim (1xx): it is passed on and the waiting goes on; final: it is passed on while the
                             rest of the body still goes out, for a service may answer as it reads
    the caller broke off     `CallerGone`; the service's connection is cut, so that half a body is never taken for one
    it was too long          `BodyTooLong`, which becomes 413 if nothing was answered yet

A body whose caller expects `100 Continue` of the service is held back until that comes, or for a second: who does not
know the expectation does not answer it (RFC 9110, 10.1.1).

When the answer is whole before the body is, the rest is of no use to anybody: `stop`, and neither connection is used
again (RFC 9112, 9.5).
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

import gevent
from gevent.event import Event
from gevent.socket import wait_read

from gateway.body import Body

PIECE_BYTES = 64 << 10
EXPECT_WAIT_S = 1.0


class Sending:
    """Begins when it is made. Shared by the two greenlets: the one sends and notes what went wrong, the other waits,
    lets go and stops."""

    def __init__(self, connection: socket.socket, body: Body, *, is_held: bool) -> None:
        self._connection = connection
        self._body = body
        self._may_begin = Event()
        self._error: Exception | None = None
        self.is_held = is_held  # until `let_go`
        self._greenlet = gevent.spawn(self._send)

    def let_go(self) -> None:
        """The service wants the body."""
        self._may_begin.set()

    def wait(self) -> None:
        """Return when the body is out or an answer begins. Raises what the body's source raised, and `TimeoutError`
        when the service does not take it.

        Through TLS an answer is noticed only when the body is out: what comes there first may be no answer.
        """
        if isinstance(self._connection, ssl.SSLSocket):
            self._greenlet.join()
        else:
            answer = gevent.spawn(wait_read, self._connection.fileno())
            try:
                gevent.wait([self._greenlet, answer], count=1)
            finally:  # a timer may strike; and nobody may wait for a file that is closed
                answer.kill()
        self.check()

    def check(self) -> None:
        """Raises what `wait` does, and does not wait."""
        if self._error is not None and not isinstance(self._error, ConnectionError):  # there: it may have answered
            raise self._error

    def stop(self) -> bool:
        """Send no more. Whether all of it was sent."""
        self._greenlet.kill()
        return self._greenlet.value is True

    def _send(self) -> bool:
        if self.is_held:
            self._may_begin.wait(EXPECT_WAIT_S)
            self.is_held = False
        is_chunked = self._body.length is None
        try:
            while piece := self._body.read(PIECE_BYTES):
                self._connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
            if is_chunked:
                self._connection.sendall(b"0\r\n\r\n")
        except Exception as error:  # noqa: BLE001 - noted for the other greenlet, which raises it
            self._error = error
            if not isinstance(error, OSError):
                with suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)
            return False
        return True
