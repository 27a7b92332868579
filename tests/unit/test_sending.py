"""A body on its way while the answer may begin: who is let go when, and what becomes of a sending that ends early."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Generator

import gevent
import pytest

from gateway.backend.sending import Sending
from gateway.body import Body, CallerGone

Sockets = tuple[socket.socket, socket.socket]
"""Our end of the connection and the service's."""


@pytest.fixture
def sockets() -> Generator[Sockets]:
    ours, services = socket.socketpair()
    ours.settimeout(0.1)
    services.settimeout(1)
    with ours, services:
        yield ours, services


class Doing:
    """A caller that does something each time that it is asked for a piece."""

    def __init__(self, *steps: Callable[[], bytes]) -> None:
        self._steps = list(steps)

    def read1(self, size: int = -1, /) -> bytes:
        return self._steps.pop(0)() if self._steps else b""

    read = read1


def streaming(reader: io.BytesIO | Doing, length: int | None = None) -> Body:
    body = Body(reader, length)
    body.pass_through(None)
    return body


def gone() -> bytes:
    raise CallerGone("the body ended early")


@pytest.mark.parametrize(("length", "on_the_wire"), [(None, b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"), (8, b"onethree")])
def test_each_piece_goes_out_for_itself(sockets: Sockets, length: int | None, on_the_wire: bytes) -> None:
    sending = Sending(sockets[0], streaming(Doing(lambda: b"one", lambda: b"three"), length), is_held=False)

    sending.wait()

    assert sockets[1].recv(100) == on_the_wire
    assert sending.stop()


def test_waiting_ends_when_an_answer_begins(sockets: Sockets) -> None:
    def slow() -> bytes:
        gevent.sleep(10)
        return b"never"

    sending = Sending(sockets[0], streaming(Doing(slow)), is_held=False)
    sockets[1].sendall(b"HTTP/1.1 413 ")

    with gevent.Timeout(2):
        sending.wait()

    assert not sending.stop()


def test_caller_that_breaks_off_is_told_and_the_service_sees_the_end(sockets: Sockets) -> None:
    sending = Sending(sockets[0], streaming(Doing(lambda: b"half", gone)), is_held=False)

    with pytest.raises(CallerGone):
        sending.wait()

    assert sockets[1].recv(100) == b"4\r\nhalf\r\n"
    assert sockets[1].recv(100) == b""
    assert not sending.stop()


def test_service_that_has_closed_may_have_answered_before(sockets: Sockets) -> None:
    def answered_and_closed() -> bytes:
        sockets[1].sendall(b"HTTP/1.1 413 ")
        sockets[1].close()
        return b"x" * 1000

    sending = Sending(sockets[0], streaming(Doing(answered_and_closed)), is_held=False)

    sending.wait()

    assert sockets[0].recv(100) == b"HTTP/1.1 413 "
    assert not sending.stop()


def test_service_that_takes_nothing_is_out_of_time(sockets: Sockets) -> None:
    sending = Sending(sockets[0], streaming(Doing(*[lambda: b"x" * 65536] * 100)), is_held=False)

    with pytest.raises(TimeoutError):
        sending.wait()


def test_body_that_is_held_goes_out_when_it_is_let_go(sockets: Sockets) -> None:
    sending = Sending(sockets[0], streaming(io.BytesIO(b"body"), 4), is_held=True)
    gevent.sleep(0.05)
    was_held = sending.is_held

    sending.let_go()
    sending.wait()

    assert was_held
    assert not sending.is_held
    assert sockets[1].recv(100) == b"body"


def test_body_that_is_held_is_not_even_read_when_it_is_stopped(sockets: Sockets) -> None:
    body = streaming(io.BytesIO(b"body"), 4)
    sending = Sending(sockets[0], body, is_held=True)

    assert not sending.stop()
    assert body.is_at_start
