"""Connections that nobody uses: which one is taken next, and which are closed. And how a new one comes about."""

from __future__ import annotations

import errno
import socket
from collections.abc import Generator
from contextlib import ExitStack

import gevent
import pytest
from requests import ConnectTimeout

from common.tls import trusting
from gateway.backend import pool
from gateway.backend.connection import Connection
from gateway.backend.dialling import Dial, HandshakeFailed, Unreachable
from gateway.backend.dns import Resolved
from gateway.backend.pool import Pool
from tests.support.naming import at, nowhere
from tests.support.ports import free_port


class Listener:
    """Accepts connections and keeps them."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(2)
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def accepted(self) -> socket.socket:
        """The next one's other end."""
        made, _ = self._listening.accept()
        made.settimeout(2)
        return made

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def listener() -> Generator[Listener]:
    made = Listener()
    yield made
    made.close()


class Kept:
    """A pool, and both ends of the connections that were made for it."""

    def __init__(self, listener: Listener, stack: ExitStack, most: int = 3) -> None:
        self.pool = Pool(Dial(listener.url, "", trusting()), most)
        self._listener, self._stack = listener, stack
        self.others: dict[Connection, socket.socket] = {}

    def new(self) -> Connection:
        made = self.pool.take(2.0, may_repeat=True)
        assert made not in self.others
        self._stack.callback(made.close)
        self.others[made] = self._stack.enter_context(self._listener.accepted())
        return made

    def take(self, *, may_repeat: bool = True) -> Connection:
        made = self.pool.take(2.0, may_repeat=may_repeat)
        if made not in self.others:
            self._stack.callback(made.close)
            self.others[made] = self._stack.enter_context(self._listener.accepted())
        return made

    def is_ended(self, connection: Connection) -> bool:
        """Whether the other end has seen the end."""
        return self.others[connection].recv(1) == b""


@pytest.fixture
def kept(listener: Listener) -> Generator[Kept]:
    with ExitStack() as stack:
        yield Kept(listener, stack)


def test_the_last_one_that_came_back_is_the_first_to_go(kept: Kept) -> None:
    first, second = kept.new(), kept.new()
    kept.pool.put(first)
    kept.pool.put(second)

    assert [kept.take(), kept.take()] == [second, first]


def test_no_more_are_kept_than_there_may_be(kept: Kept) -> None:
    made = [kept.new() for _ in range(4)]

    for connection in made:
        kept.pool.put(connection)

    assert [connection.is_closed for connection in made] == [False, False, False, True]


def test_one_that_idled_for_too_long_is_closed_though_nobody_asks(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LONGEST_IDLE_S", 0.1)
    old, young = kept.new(), kept.new()
    kept.pool.put(old)
    gevent.sleep(0.06)
    kept.pool.put(young)
    gevent.sleep(0.06)
    closed_first = (old.is_closed, young.is_closed)

    gevent.sleep(0.1)

    assert closed_first == (True, False)
    assert young.is_closed
    assert kept.is_ended(old)


def test_one_that_is_old_is_not_kept_however_busy_it_is(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LONGEST_LIFE_S", 0.05)
    connection = kept.new()
    kept.pool.put(connection)
    connection = kept.take()
    gevent.sleep(0.06)

    kept.pool.put(connection)

    assert connection.is_closed


@pytest.mark.parametrize("news", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
def test_one_on_which_something_comes_while_it_idles_is_closed(kept: Kept, news: bytes) -> None:
    connection = kept.new()
    kept.pool.put(connection)

    other = kept.others[connection]
    other.sendall(news) if news else other.shutdown(socket.SHUT_WR)
    gevent.sleep(0.02)

    assert connection.is_closed
    assert kept.take() is not connection


@pytest.mark.parametrize("idle_s", [0.0, 2 * pool.SURE_S])
def test_what_may_not_be_sent_twice_goes_on_none_that_has_ended_unseen(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, idle_s: float
) -> None:
    connection = kept.new()
    kept.pool.put(connection)
    connection.idle_since -= idle_s
    kept.others[connection].shutdown(socket.SHUT_WR)  # the event loop has had no turn since then

    assert kept.take(may_repeat=bool(idle_s)) is not connection
    assert connection.is_closed


def test_one_that_has_come_back_is_watched_again_though_it_was_not_in_between(kept: Kept) -> None:
    connection = kept.new()
    other = kept.others[connection]
    other.sendall(b"more")
    gevent.sleep(0.02)  # nobody reads, so it is looked away
    connection.be_patient(2.0)
    assert connection.receive() == b"more"
    kept.pool.put(connection)

    other.shutdown(socket.SHUT_WR)
    gevent.sleep(0.02)

    assert connection.is_closed


def test_a_retired_pool_keeps_none_and_still_makes_new_ones(kept: Kept) -> None:
    idle, busy = kept.new(), kept.new()
    kept.pool.put(idle)

    kept.pool.retire()
    kept.pool.put(busy)
    late = kept.take()

    assert (idle.is_closed, busy.is_closed, late.is_closed) == (True, True, False)


# how one comes about


def test_all_addresses_of_a_name_are_tried_in_turn() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
        dial = Dial(f"http://things.internal:{listening.getsockname()[1]}", "", trusting(), at("127.0.0.1", "::1"))

        dial.connect(2.0).close()


def test_name_is_asked_for_anew_when_nobody_is_there_any_more() -> None:
    asked: list[str] = []
    dial = Dial(f"http://things.internal:{free_port()}", "", trusting(), at("127.0.0.1", asked=asked))

    for _ in range(2):
        with pytest.raises(Unreachable) as refused:
            dial.connect(2.0)
        assert isinstance(refused.value.__cause__, ConnectionRefusedError)

    assert asked == ["things.internal"] * 2


def test_name_that_does_not_exist_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        Dial("http://things.invalid", "", trusting(), nowhere).connect(2.0)


def test_name_that_is_not_resolved_in_time_is_out_of_time() -> None:
    def resolve(_name: str) -> Resolved:
        gevent.sleep(5)
        raise AssertionError

    with pytest.raises(ConnectTimeout):
        Dial("http://things.internal", "", trusting(), resolve).connect(0.05)


def test_one_who_takes_no_connection_is_out_of_time() -> None:
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            assert filler.connect_ex(full.getsockname()) in (0, errno.EINPROGRESS)

        with pytest.raises(ConnectTimeout):
            Dial(f"http://127.0.0.1:{full.getsockname()[1]}", "", trusting()).connect(0.1)


def test_one_who_never_shakes_hands_is_out_of_time(listener: Listener) -> None:
    with pytest.raises(ConnectTimeout):
        Dial(f"https://127.0.0.1:{listener.port}", "", trusting()).connect(0.1)


def test_one_who_speaks_no_tls_is_not_trusted(listener: Listener) -> None:
    def act() -> None:
        with listener.accepted() as other:
            other.recv(4)
            other.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    gevent.get_hub().threadpool.spawn(act)

    with pytest.raises(HandshakeFailed, match="wrong version number"):
        Dial(f"https://127.0.0.1:{listener.port}", "", trusting()).connect(2.0)


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://things.internal", "things.internal"),
        ("http://things.internal:80", "things.internal"),
        ("http://things.internal:8080", "things.internal:8080"),
        ("https://things.internal:443", "things.internal"),
        ("https://things.internal:80", "things.internal:80"),
        ("http://[::1]:5004", "[::1]:5004"),
        ("http://[::1]", "[::1]"),
    ],
)
def test_host_is_named_as_in_a_request(url: str, authority: str) -> None:
    assert Dial(url, "", trusting()).authority == authority
