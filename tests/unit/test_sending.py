"""A body on its way while the answer may begin: when it goes out, and what becomes of a sending that ends early."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Generator

import gevent
import pytest

from gateway.backend.connection import Connection
from gateway.backend.sending import Sending
from gateway.body import Body, CallerGone

TIMEOUT_S = 0.1


@pytest.fixture
def sockets() -> Generator[tuple[socket.socket, socket.socket]]:
    """Our end of the connection and the service's."""
    ours, services = socket.socketpair()
    ours.setblocking(False)
    services.settimeout(1)
    with ours, services:
        yield ours, services


@pytest.fixture
def service(sockets: tuple[socket.socket, socket.socket]) -> socket.socket:
    return sockets[1]


@pytest.fixture
def connection(sockets: tuple[socket.socket, socket.socket]) -> Generator[Connection]:
    made = Connection(sockets[0])
    yield made
    made.close()


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


def sent(connection: Connection, body: Body, *, is_held: bool = False, first: bytes = b"") -> Sending:
    return Sending(connection, body, TIMEOUT_S, is_held=is_held, first=first)


def received(connection: Connection) -> bytes:
    """What the other greenlet reads."""
    with gevent.Timeout(2):
        return connection.receive()


def gone() -> bytes:
    raise CallerGone("the body ended early")


def slow() -> bytes:
    gevent.sleep(10)
    return b"never"


@pytest.mark.parametrize(("length", "on_the_wire"), [(None, b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"), (8, b"onethree")])
def test_each_piece_goes_out_for_itself(
    connection: Connection, service: socket.socket, length: int | None, on_the_wire: bytes
) -> None:
    sending = sent(connection, streaming(Doing(lambda: b"one", lambda: b"three"), length))

    gevent.sleep(0.02)

    assert service.recv(100) == on_the_wire
    assert sending.is_done


def test_what_goes_before_the_body_goes_out_before_it_and_at_once(
    connection: Connection, service: socket.socket
) -> None:
    sending = sent(connection, streaming(io.BytesIO(b"body"), 4), is_held=True, first=b"head ")
    gevent.sleep(0.02)
    before = service.recv(100)

    sending.let_go()
    gevent.sleep(0.02)

    assert (before, service.recv(100)) == (b"head ", b"body")


def test_reading_has_no_time_out_until_the_body_is_out(connection: Connection) -> None:
    def late() -> bytes:
        gevent.sleep(3 * TIMEOUT_S)
        return b"last"

    sending = sent(connection, streaming(Doing(late)))

    with pytest.raises(TimeoutError):
        received(connection)

    assert sending.is_done


def test_reading_goes_on_when_an_answer_begins(connection: Connection, service: socket.socket) -> None:
    sending = sent(connection, streaming(Doing(slow)))
    service.sendall(b"HTTP/1.1 413 ")

    assert received(connection) == b"HTTP/1.1 413 "

    sending.stop()
    assert not sending.is_done


def test_caller_that_breaks_off_is_told_and_the_service_sees_the_end(
    connection: Connection, service: socket.socket
) -> None:
    sending = sent(connection, streaming(Doing(lambda: b"half", gone)))

    with pytest.raises(CallerGone):
        received(connection)

    assert service.recv(100) == b"4\r\nhalf\r\n"
    assert service.recv(100) == b""
    assert not sending.is_done


def test_caller_that_breaks_off_while_nobody_reads_is_told_to_who_reads_next(connection: Connection) -> None:
    sent(connection, streaming(Doing(gone)))
    gevent.sleep(0.02)

    with pytest.raises(CallerGone):
        received(connection)


def test_service_that_has_closed_may_have_answered_before(connection: Connection, service: socket.socket) -> None:
    def answered_and_closed() -> bytes:
        service.sendall(b"HTTP/1.1 413 ")
        service.close()
        return b"x" * 1000

    sending = sent(connection, streaming(Doing(answered_and_closed)))

    assert received(connection) == b"HTTP/1.1 413 "
    assert not sending.is_done


def test_service_that_takes_nothing_is_out_of_time(connection: Connection) -> None:
    sent(connection, streaming(Doing(*[lambda: b"x" * 65536] * 100)))

    with pytest.raises(TimeoutError):
        received(connection)


def test_body_that_is_held_is_not_even_read_when_it_is_stopped(connection: Connection) -> None:
    body = streaming(io.BytesIO(b"body"), 4)
    sending = sent(connection, body, is_held=True)

    sending.stop()

    assert not sending.is_done
    assert body.is_at_start
