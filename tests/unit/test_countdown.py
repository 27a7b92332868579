"""The time of a request: what is left of it, when it ends a try, and when it stands still."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import gevent
import pytest

from gateway.backend.countdown import Countdown, Limit, OutOfTime, WishOver
from gateway.body import CallerGone
from tests.support.deadlines import Clock

LATE_S = 0.6


class Sleepy(io.BytesIO):
    """A caller's body whose pieces are late: `sleep` is called before each."""

    def __init__(self, content: bytes, sleep: Callable[[], object]) -> None:
        super().__init__(content)
        self._sleep = sleep

    def read(self, size: int | None = -1, /) -> bytes:
        self._sleep()
        return super().read(size)

    def read1(self, size: int | None = -1, /) -> bytes:
        self._sleep()
        return super().read1(size)


def elapsed_s(run: Callable[[], object]) -> float:
    """How long `run` takes until it is out of time."""
    began = time.monotonic()
    with pytest.raises(OutOfTime):
        run()
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("total_s", "wish_s", "spent_s", "left_s"),
    [
        (10.0, None, 0.0, 10.0),
        (10.0, None, 4.0, 6.0),
        (10.0, 3.0, 1.0, 2.0),
        (10.0, 30.0, 1.0, 9.0),
        (10.0, 0.0, 0.0, 0.0),
        (10.0, 1.0, 2.0, 0.0),
        (10.0, None, 9.9985, pytest.approx(0.0015)),
        (10.0, None, 9.9995, 0.0),
    ],
)
def test_what_is_left_is_the_lesser_of_both(
    total_s: float, wish_s: float | None, spent_s: float, left_s: float
) -> None:
    clock = Clock()
    countdown = Countdown(total_s, wish_s, clock=clock)

    clock.now += spent_s

    assert countdown.left_s() == left_s


def test_it_counts_from_the_moment_in_which_the_gateway_began() -> None:
    clock = Clock()

    assert Countdown(10, 5, began=clock.now - 4, clock=clock).left_s() == 1


@pytest.mark.parametrize(
    ("wish_s", "try_timeout_s", "given_s", "is_by_wish"),
    [(None, 4, 4, False), (None, 40, 8, False), (3, 4, 1, True), (7, 4, 4, False), (10, 40, 8, False)],
)
def test_a_try_gets_the_least_of_the_three(
    wish_s: float | None, try_timeout_s: float, given_s: float, is_by_wish: bool
) -> None:
    clock = Clock()
    countdown = Countdown(10, wish_s, clock=clock)
    clock.now += 2

    with countdown.limit(try_timeout_s) as limit:
        assert limit.given_s == given_s
        assert limit.is_by_wish is is_by_wish


def test_a_try_ends_when_its_time_is_over_whatever_it_waits_for() -> None:
    def run() -> None:
        with Countdown(0.1).limit(10):
            while True:  # something comes all the time, which is no progress
                gevent.sleep(0.01)

    assert 0.09 < elapsed_s(run) < LATE_S


def test_a_try_that_is_done_in_time_is_left_alone() -> None:
    with Countdown(0.05).limit(10):
        gevent.sleep(0.01)
    gevent.sleep(0.1)


def test_a_try_without_time_does_not_begin() -> None:
    clock = Clock()
    countdown = Countdown(10, clock=clock)
    clock.now += 10

    with pytest.raises(OutOfTime), countdown.limit(10):
        pytest.fail("it has begun")


def test_somebody_elses_time_out_is_none_of_ours() -> None:
    with pytest.raises(gevent.Timeout), Countdown(10).limit(10), gevent.Timeout(0.01):
        gevent.sleep(1)


def test_each_try_ends_in_its_own_greenlet() -> None:
    countdown = Countdown(0.1)
    ended = list[str]()

    def run(name: str) -> None:
        try:
            with countdown.limit(10):
                gevent.sleep(1)
        except OutOfTime:
            ended.append(name)

    gevent.joinall([gevent.spawn(run, name) for name in ("first", "second")], timeout=10)

    assert sorted(ended) == ["first", "second"]


def inside(limit: Limit) -> BaseException | None:
    """What is thrown into a try when `limit` ends it."""
    thrown: BaseException | None = None
    try:
        with limit:
            try:
                gevent.sleep(1)
            except BaseException as error:
                thrown = error
                raise
    except OutOfTime:
        pass
    return thrown


def test_the_callers_own_time_is_told_apart_from_that_of_the_service() -> None:
    assert isinstance(inside(Countdown(10, 0.02).limit(10)), WishOver)
    assert not isinstance(inside(Countdown(0.02, 10).limit(10)), WishOver)
    assert not isinstance(inside(Countdown(10, 5).limit(0.02)), WishOver)


@pytest.mark.parametrize("method", ["read", "read1"])
def test_it_stands_still_while_the_callers_body_is_waited_for(method: str) -> None:
    clock = Clock()
    countdown = Countdown(10, 20, clock=clock)

    def wait() -> None:
        clock.now += 7

    reader = countdown.standing_still(Sleepy(b"body", wait))
    assert getattr(reader, method)(2) == b"bo"

    assert countdown.left_s() == 10
    assert getattr(reader, method)(2) == b"dy"
    assert countdown.left_s() == 6  # of the caller's own time, which has gone on


def test_a_try_stands_still_too_and_goes_on_afterwards() -> None:
    countdown = Countdown(0.1)
    reader = countdown.standing_still(Sleepy(b"body", lambda: gevent.sleep(0.2)))

    def run() -> None:
        with countdown.limit(10):
            assert reader.read(2) == b"bo"
            assert reader.read(2) == b"dy"
            gevent.sleep(1)

    assert 0.49 < elapsed_s(run) < 0.5 + LATE_S


def test_another_greenlet_may_read_the_body() -> None:
    countdown = Countdown(0.1)
    reader = countdown.standing_still(Sleepy(b"body", lambda: gevent.sleep(0.2)))
    read = list[bytes]()

    def run() -> None:
        with countdown.limit(10):
            gevent.spawn(lambda: read.append(reader.read(4)))
            gevent.sleep(1)

    assert 0.29 < elapsed_s(run) < 0.3 + LATE_S
    assert read == [b"body"]


def test_a_body_that_is_read_on_after_the_try_disturbs_nobody() -> None:
    countdown = Countdown(0.05)
    reader = countdown.standing_still(Sleepy(b"body", lambda: gevent.sleep(0.02)))

    with countdown.limit(10):
        pass
    reader.read(4)

    gevent.sleep(0.1)


def test_a_body_that_breaks_off_lets_the_time_go_on() -> None:
    countdown = Countdown(0.1)

    def broken() -> None:
        raise CallerGone

    reader = countdown.standing_still(Sleepy(b"", broken))

    def run() -> None:
        with countdown.limit(10):
            with pytest.raises(CallerGone):
                reader.read(1)
            gevent.sleep(1)

    assert elapsed_s(run) < LATE_S


def test_the_callers_own_time_strikes_when_its_piece_is_here() -> None:
    countdown = Countdown(10, 0.1)
    reader = countdown.standing_still(Sleepy(b"body", lambda: gevent.sleep(0.2)))

    def run() -> None:
        with countdown.limit(10):
            reader.read(4)
            gevent.sleep(1)

    assert 0.19 < elapsed_s(run) < 0.2 + LATE_S


@pytest.mark.parametrize(
    ("wish_s", "status", "after_s", "is_excused"),
    [
        (None, 504, 9.0, False),
        (4, 504, 0.1, True),
        (4, 503, 0.1, False),
        (4, 503, 2.0, True),
        (4, 502, 3.0, True),
        (4, 502, 1.9, False),
        (4, 500, 3.9, False),
        (20, 504, 9.0, False),
    ],
)
def test_an_answer_is_excused_where_it_may_be_owed_to_the_callers_haste(
    wish_s: float | None, status: int, after_s: float, is_excused: bool
) -> None:
    clock = Clock()

    with Countdown(10, wish_s, clock=clock).limit(10) as limit:
        clock.now += after_s
        assert limit.excuses(status) is is_excused


@pytest.mark.parametrize(
    ("total_s", "wish_s", "try_timeout_s", "words"),
    [
        (30, None, 30, "30 seconds"),
        (30, None, 2.5, "2.5 seconds"),
        (30, 0.25, 30, "the 250 ms that the caller wants to wait"),
    ],
)
def test_it_says_whose_time_was_over(total_s: float, wish_s: float | None, try_timeout_s: float, words: str) -> None:
    with Countdown(total_s, wish_s).limit(try_timeout_s) as limit:
        assert limit.words == words
