"""The sending of a body that does not go out at once, while the answer may begin already.

The body goes out in a greenlet of its own, piece by piece as the caller sends it, in the framing that we chose: the
caller's own chunks end here. Meanwhile the greenlet of the request reads, with patience without end, until

    the body is out          then the time-out for the answer begins
    an answer begins         interim (1xx): it is passed on and the reading goes on; final: it is passed on while the
                             rest of the body still goes out, for a service may answer as it reads
    the caller broke off     `CallerGone`; the service's connection is cut, so that half a body is never taken for one
    it was too long          `BodyTooLong`, which becomes 413 if nothing was answered yet

A body whose caller expects `100 Continue` of the service is held back until that comes, or for a second: who does not
know the expectation does not answer it (RFC 9110, 10.1.1).

When the answer is whole before the body is, the rest is of no use to anybody: `stop`, and neither connection is used
again (RFC 9112, 9.5).
"""

from __future__ import annotations

import math

import gevent
from gevent.event import Event

from gateway.backend.connection import PIECE_BYTES, Connection
from gateway.body import Body

EXPECT_WAIT_S = 1.0


class Sending:
    """Begins when it is made. Shared by the two greenlets: the one sends, and interrupts the other if that goes wrong;
    the other reads, lets go and stops."""

    def __init__(
        self, connection: Connection, body: Body, timeout_s: float, *, is_held: bool, first: bytes = b""
    ) -> None:
        """`first` goes before the body. `timeout_s` is for the service to take a piece, and then to answer."""
        self._connection = connection
        self._body = body
        self._timeout_s = timeout_s
        self._first = first
        self._may_begin = Event()
        self.is_held = is_held  # until `let_go`
        connection.be_patient(math.inf)
        self._greenlet = gevent.spawn(self._send)

    def let_go(self) -> None:
        """The service wants the body."""
        self._may_begin.set()

    @property
    def is_done(self) -> bool:
        """All of it was sent."""
        return self._greenlet.value is True

    def stop(self) -> None:
        """Send no more."""
        self._greenlet.kill()

    def _send(self) -> bool:
        connection = self._connection
        try:
            self._send_all()
        except ConnectionError:  # the service may have answered before
            connection.be_patient(self._timeout_s)
            return False
        except Exception as error:  # noqa: BLE001 - the other greenlet raises it
            connection.interrupt(error)
            if not isinstance(error, OSError):
                connection.shut()
            return False
        connection.be_patient(self._timeout_s)
        return True

    def _send_all(self) -> None:
        send = self._connection.send_all
        if self._first:
            send(self._first, self._timeout_s)
        if self.is_held:
            self._may_begin.wait(EXPECT_WAIT_S)
            self.is_held = False
        is_chunked = self._body.length is None
        while piece := self._body.read(PIECE_BYTES):
            send(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece, self._timeout_s)
        if is_chunked:
            send(b"0\r\n\r\n", self._timeout_s)
