"""Waiting for what comes on a socket."""

from __future__ import annotations

from collections.abc import Generator

import gevent
import gevent.socket
import pytest

from common.source import Source, source_of

Ends = tuple[Source, gevent.socket.socket]
"""Ours of a connection, and the caller's."""


@pytest.fixture
def ends() -> Generator[Ends]:
    ours, callers = gevent.socket.socketpair()
    source = source_of(ours)
    yield source, callers
    source.close()
    ours.close()
    callers.close()


def test_what_has_come_is_given_at_once_and_the_end_as_nothing(ends: Ends) -> None:
    source, callers = ends
    callers.sendall(b"one")
    callers.sendall(b"two")
    first = source.next()
    callers.close()

    assert (first, source.next(), source.next()) == (b"onetwo", b"", b"")


def test_source_waits_for_what_comes_later_again_and_again(ends: Ends) -> None:
    source, callers = ends
    heard: list[bytes] = []
    for piece in (b"one", b"two", b"three"):
        gevent.spawn(callers.sendall, piece)
        heard.append(source.next())

    assert heard == [b"one", b"two", b"three"]


def test_others_go_first_where_something_is_there_already(ends: Ends) -> None:
    source, callers = ends
    order: list[str] = []
    for _ in range(3):
        callers.sendall(b"x")
        gevent.spawn(order.append, "other")
        source.next()
        order.append("we")

    assert order == ["other", "we"] * 3


def test_what_comes_while_nobody_waits_keeps_the_loop_quiet_and_is_there_later(ends: Ends) -> None:
    source, callers = ends
    callers.sendall(b"one")
    source.next()
    callers.sendall(b"two")
    before = gevent.get_hub().loop.iteration

    gevent.sleep(0.05)
    turns = gevent.get_hub().loop.iteration - before

    assert turns < 50
    assert source.next() == b"two"


def test_who_is_broken_off_while_waiting_can_wait_again(ends: Ends) -> None:
    source, callers = ends
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        source.next()
    gevent.sleep(0)
    callers.sendall(b"one")

    assert source.next() == b"one"
