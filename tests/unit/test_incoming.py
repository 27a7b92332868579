"""How slowly a caller may send, with a clock that the test moves and a socket that plays a script."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import pytest
from gunicorn.config import Config

from common.incoming import BodyTooSlow, HeadTooSlow, Incoming, Pace
from common.messages import IncomingBody, Request

HEAD = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
PACE = Pace(head_s=10, pause_s=30, body_min_rate=100, requests=3, age_s=100)


class Caller:
    """A socket on which pieces come, each after so many seconds; it times out as one does."""

    def __init__(self, script: Iterable[tuple[float, bytes]]) -> None:
        self.now = 1000.0
        self._script = list(script)
        self._timeout: float | None = None

    def settimeout(self, timeout_s: float | None) -> None:
        self._timeout = timeout_s

    def recv(self, size: int) -> bytes:
        if not self._script:
            return b""
        wait_s, piece = self._script.pop(0)
        if self._timeout is not None and wait_s > self._timeout:
            self.now += self._timeout
            raise TimeoutError
        self.now += wait_s
        if len(piece) > size:
            self._script.insert(0, (0, piece[size:]))
        return piece[:size]


def incoming(*script: tuple[float, bytes], pace: Pace = PACE) -> tuple[Incoming, Caller]:
    caller = Caller(script)
    return Incoming(caller, pace, 20, clock=lambda: caller.now), caller  # pyright: ignore[reportArgumentType] - a double


def next_request(connection: Incoming) -> Request:
    connection.await_request()
    request = Request(Config(), connection, ("127.0.0.1", 1))
    connection.await_body()
    return request


def trickle(raw: bytes, every_s: float) -> list[tuple[float, bytes]]:
    return [(every_s, raw[place : place + 1]) for place in range(len(raw))]


@pytest.mark.parametrize(
    "script", [[(19.9, HEAD)], [(19, HEAD[:1]), (9.9, HEAD[1:])], trickle(HEAD, 0.3)], ids=["late", "torn", "trickling"]
)
def test_head_that_comes_in_its_time_is_read(script: list[tuple[float, bytes]]) -> None:
    connection, _ = incoming(*script)

    assert next_request(connection).method == "GET"


@pytest.mark.parametrize(
    "script",
    [
        [(1, HEAD[:5]), (10.1, HEAD[5:])],
        [(1, b"\r\n"), (10.1, HEAD)],
        [(1, HEAD[:5]), (9, HEAD[5:6]), (9, HEAD[6:])],
        [(1, HEAD[:5]), (5, HEAD[5:6]), (5, HEAD[6:7]), (0, HEAD[7:])],
        trickle(HEAD, 1),
    ],
    ids=["torn", "empty line", "two pauses", "the last moment", "trickling"],
)
def test_head_that_is_begun_and_not_whole_in_time_is_too_slow(script: list[tuple[float, bytes]]) -> None:
    connection, caller = incoming(*script)

    with pytest.raises(HeadTooSlow):
        next_request(connection)

    assert caller.now <= 1000 + 1 + 10


def test_connection_on_which_nothing_comes_ends_without_a_word() -> None:
    connection, caller = incoming((20.1, HEAD))

    with pytest.raises(StopIteration):
        next_request(connection)

    assert caller.now == 1020


def test_time_of_a_head_that_came_with_the_request_before_it_counts_at_once() -> None:
    connection, caller = incoming((0, HEAD + HEAD[:5]), (10.1, HEAD[5:]))
    next_request(connection)

    with pytest.raises(HeadTooSlow):
        next_request(connection)

    assert caller.now == 1010


def post(*script: tuple[float, bytes], length: int = 100_000, pace: Pace = PACE) -> IncomingBody:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % length
    connection, _ = incoming((0, head), *script, pace=pace)
    return cast("IncomingBody", next_request(connection).body)


def test_body_that_trickles_is_too_slow_though_it_never_pauses_for_long() -> None:
    body = post(*trickle(b"x" * 1000, 5))

    with pytest.raises(BodyTooSlow):
        body.read(100_000)

    assert body.failed


def test_body_may_pause_and_go_on() -> None:
    body = post((29, b"x"), (0, b"x" * 2999), (29, b"x" * 97_000))

    assert len(body.read(100_000)) == 100_000


def test_body_at_the_least_rate_passes() -> None:
    body = post(*[(1, b"x" * 100)] * 1000)

    assert len(body.read(100_000)) == 100_000


def test_without_a_least_rate_a_body_may_trickle() -> None:
    body = post(*trickle(b"x" * 100, 25), length=100, pace=Pace(body_min_rate=0))

    assert len(body.read(100)) == 100


def test_body_that_pauses_for_too_long_is_a_time_out() -> None:
    body = post((0, b"x"), (30.1, b"x"))

    with pytest.raises(TimeoutError):
        body.read(100_000)


def test_time_in_which_nobody_reads_is_not_the_callers() -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\n"
    connection, caller = incoming((0, head), (1, b"x" * 10), (0, b"x" * 10))
    body = cast("IncomingBody", next_request(connection).body)

    first = body.read1(10)
    caller.now += 3600

    assert first + body.read1(10) == b"x" * 20


def test_connection_ends_after_so_many_requests() -> None:
    connection, _ = incoming(*[(0, HEAD)] * 3)

    last: list[bool] = []
    for _number in range(3):
        next_request(connection)
        last.append(connection.is_last)

    assert last == [False, False, True]


def test_connection_ends_after_so_much_time() -> None:
    connection, caller = incoming((0, HEAD), (0, HEAD))
    next_request(connection)
    before = connection.is_last
    caller.now += 100

    next_request(connection)

    assert (before, connection.is_last) == (False, True)
