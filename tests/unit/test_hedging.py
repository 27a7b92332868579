"""Hedged requests: whose answer is given back, and that of the other try nothing is left."""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Literal

import gevent
import pytest
from gevent.event import Event
from gevent.timeout import Timeout
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.backend.hedging import LatencyQuantile, first_good

NEVER_S = 60.0
SOON_S = 0.001
Ending = Literal["good", "bad", "raises", "times out"]
ENDINGS: tuple[Ending, ...] = ("good", "bad", "raises", "times out")
LEAVES = "caller leaves"


class Failed(Exception):
    """A try got no answer."""


@dataclass
class Try:
    """A try that ends when the test says so. `connections`: one while it runs, and then the one of its answer."""

    name: str
    ending: Ending = "good"
    connections: int = 0
    is_killed: bool = False
    began: Event = field(default_factory=Event)
    may_end: Event = field(default_factory=Event)
    error: BaseException = field(init=False)

    def __post_init__(self) -> None:
        self.error = Timeout(None) if self.ending == "times out" else Failed(self.name)

    def __call__(self) -> Try:
        self.connections += 1
        self.began.set()
        try:
            self.may_end.wait()
            if self.ending in ("raises", "times out"):
                raise self.error
        except BaseException as error:
            self.connections -= 1
            self.is_killed = error is not self.error
            raise
        return self

    def discard(self) -> None:
        self.connections -= 1

    @property
    def is_good(self) -> bool:
        return self.ending == "good"


class Race:
    """A call of `first_good` in a greenlet, and how often the budget was asked."""

    def __init__(
        self, first: Callable[[], Try], second: Callable[[], Try] | None, *, after_s: float, is_allowed: bool = True
    ) -> None:
        self.budget_asked = 0
        self.answer: Try | None = None
        self.error: BaseException | None = None
        self._is_allowed = is_allowed
        self.caller = gevent.spawn(self._run, first, second, after_s)

    def _run(self, first: Callable[[], Try], second: Callable[[], Try] | None, after_s: float) -> None:
        try:
            self.answer = first_good(
                first,
                second,
                after_s=after_s,
                may_start_second=self._may_start_second,
                discard=Try.discard,
                is_good=lambda answer: answer.is_good,
            )
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    def _may_start_second(self) -> bool:
        self.budget_asked += 1
        return self._is_allowed

    def join(self) -> Race:
        self.caller.join()
        return self


@pytest.fixture(autouse=True)
def _bounded() -> Generator[None]:  # pyright: ignore[reportUnusedFunction] - pytest's
    with Timeout(30):
        yield


@pytest.fixture(autouse=True)
def _silent(capfd: pytest.CaptureFixture[str]) -> Generator[None]:  # pyright: ignore[reportUnusedFunction] - pytest's
    """gevent prints what a greenlet raises."""
    yield
    assert capfd.readouterr().err == ""


def settle() -> None:
    """Let every greenlet run that can."""
    gevent.idle()


def test_an_answer_in_time_is_given_back_and_no_second_try_is_made() -> None:
    first, second = Try("first"), Try("second")
    race = Race(first, second, after_s=NEVER_S)

    first.may_end.set()
    race.join()

    assert race.answer is first
    assert (race.budget_asked, second.began.is_set()) == (0, False)


def test_the_first_try_may_still_win_when_the_second_has_begun() -> None:
    first, second = Try("first"), Try("second")
    race = Race(first, second, after_s=SOON_S)
    second.began.wait()

    first.may_end.set()
    race.join()

    assert race.answer is first
    assert (first.connections, second.connections, second.is_killed) == (1, 0, True)


def test_the_second_try_wins_over_a_late_first_which_is_killed() -> None:
    first, second = Try("first"), Try("second")
    race = Race(first, second, after_s=SOON_S)
    second.began.wait()

    second.may_end.set()
    race.join()

    assert race.answer is second
    assert (first.connections, second.connections, first.is_killed) == (0, 1, True)


def test_without_the_budget_for_it_no_second_try_is_made() -> None:
    first, second = Try("first"), Try("second")
    race = Race(first, second, after_s=SOON_S, is_allowed=False)
    while not race.budget_asked:
        gevent.sleep(SOON_S)

    first.may_end.set()
    race.join()

    assert race.answer is first
    assert (race.budget_asked, second.began.is_set()) == (1, False)


@pytest.mark.parametrize("ending", ["bad", "raises"])
def test_a_failure_before_its_time_is_no_reason_for_a_second_try(ending: Ending) -> None:
    first, second = Try("first", ending), Try("second")
    race = Race(first, second, after_s=NEVER_S)

    first.may_end.set()
    race.join()

    assert race.answer is (first if ending == "bad" else None)
    assert race.error is (first.error if ending == "raises" else None)
    assert not second.began.is_set()


@pytest.mark.parametrize("ends_first", ["first", "second"])
@pytest.mark.parametrize("second_ending", ENDINGS)
@pytest.mark.parametrize("first_ending", ENDINGS)
def test_of_two_tries_the_first_good_answer_wins_and_a_failure_waits_for_the_other(
    first_ending: Ending, second_ending: Ending, ends_first: str
) -> None:
    first, second = Try("first", first_ending), Try("second", second_ending)
    earlier, later = (first, second) if ends_first == "first" else (second, first)
    race = Race(first, second, after_s=SOON_S)
    second.began.wait()

    earlier.may_end.set()
    settle()
    is_decided_early = race.caller.ready()
    later.may_end.set()
    race.join()

    assert is_decided_early is earlier.is_good
    told = earlier if earlier.is_good else later if later.is_good else first
    if told.ending in ("good", "bad"):
        assert race.answer is told
    else:
        assert race.error is told.error
    assert first.connections + second.connections == (0 if race.answer is None else 1)


@pytest.mark.parametrize(("second", "after_s"), [(None, SOON_S), (Try("second"), 0.0)], ids=["no other", "no quantile"])
def test_where_there_is_nothing_to_hedge_with_the_first_is_just_called(second: Try | None, after_s: float) -> None:
    greenlets: list[object] = []

    def first() -> Try:
        greenlets.append(gevent.getcurrent())
        gevent.sleep(2 * SOON_S)
        return Try("first")

    race = Race(first, second, after_s=after_s).join()

    assert greenlets == [race.caller]
    assert race.budget_asked == 0


def test_both_tries_see_the_context_variables_of_the_caller() -> None:
    request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id")
    request_id.set("abc")
    seen: list[str] = []
    second = Try("second")

    def first() -> Try:
        seen.append(request_id.get("none"))
        return Try("first")()

    def other() -> Try:
        seen.append(request_id.get("none"))
        return second

    answer = first_good(
        first,
        other,
        after_s=SOON_S,
        may_start_second=lambda: True,
        discard=Try.discard,
        is_good=lambda answer: answer.is_good,
    )

    assert answer is second
    assert seen == ["abc", "abc"]


def test_none_is_an_answer_like_any_other() -> None:
    answer = first_good(
        lambda: None,
        lambda: None,
        after_s=NEVER_S,
        may_start_second=lambda: True,
        discard=lambda _answer: None,
        is_good=lambda answer: answer is None,
    )

    assert answer is None


def test_a_killed_try_has_cleaned_up_before_the_answer_is_given_back() -> None:
    second, is_clean = Try("second"), Event()

    def first() -> Try:
        try:
            return Try("first")()
        finally:
            gevent.sleep(5 * SOON_S)
            is_clean.set()

    race = Race(first, second, after_s=SOON_S)
    second.may_end.set()
    race.join()

    assert race.answer is second
    assert is_clean.is_set()


def test_an_answer_that_comes_in_spite_of_the_kill_is_discarded() -> None:
    stubborn, second = Try("first", connections=1), Try("second")

    def first() -> Try:
        try:
            gevent.sleep(NEVER_S)
        except gevent.GreenletExit:
            gevent.sleep(SOON_S)
        return stubborn

    race = Race(first, second, after_s=SOON_S)
    second.may_end.set()
    race.join()

    assert race.answer is second
    assert stubborn.connections == 0


def test_an_answer_is_discarded_when_the_caller_is_killed_while_the_other_try_cleans_up() -> None:
    second, is_cleaning = Try("second"), Event()

    def first() -> Try:
        try:
            return Try("first")()
        finally:
            is_cleaning.set()
            gevent.sleep(20 * SOON_S)

    race = Race(first, second, after_s=SOON_S)
    second.may_end.set()
    is_cleaning.wait()
    race.caller.kill()

    assert isinstance(race.error, gevent.GreenletExit)
    assert second.connections == 0


def test_a_caller_who_is_killed_twice_leaves_nothing_behind_but_the_cleaning_up() -> None:
    first, second, is_cleaning, is_clean = Try("first"), Try("second"), Event(), Event()

    def dirty() -> Try:
        try:
            return first()
        finally:
            is_cleaning.set()
            gevent.sleep(5 * SOON_S)
            is_clean.set()

    race = Race(dirty, second, after_s=SOON_S)
    second.began.wait()
    race.caller.kill(block=False)
    is_cleaning.wait()
    race.caller.kill()
    is_clean.wait()

    assert isinstance(race.error, gevent.GreenletExit)
    assert (first.connections, second.connections) == (0, 0)


def test_a_question_that_fails_leaves_no_try_behind() -> None:
    first, second = Try("first"), Try("second")

    def ask() -> bool:
        raise Failed("the question")

    with pytest.raises(Failed, match="the question"):
        first_good(
            first, second, after_s=SOON_S, may_start_second=ask, discard=Try.discard, is_good=lambda _answer: True
        )

    assert (first.is_killed, first.connections) == (True, 0)


def test_a_judge_that_fails_leaves_no_answer_behind() -> None:
    first, second = Try("first"), Try("second")
    first.may_end.set()

    def judge(_answer: Try) -> bool:
        raise Failed("the judge")

    with pytest.raises(Failed, match="the judge"):
        first_good(first, second, after_s=NEVER_S, may_start_second=lambda: True, discard=Try.discard, is_good=judge)

    assert first.connections == 0


def test_a_caller_who_is_killed_before_the_first_try_could_begin_leaves_none_behind() -> None:
    first, second = Try("first"), Try("second")
    race = Race(first, second, after_s=NEVER_S)
    # right after the caller, before the try that it starts
    gevent.get_hub().loop.run_callback(race.caller.throw, gevent.GreenletExit)

    race.join()
    settle()

    assert isinstance(race.error, gevent.GreenletExit)
    assert not first.began.is_set()


@settings(deadline=None, max_examples=300)
@given(
    first_ending=st.sampled_from(ENDINGS),
    second_ending=st.sampled_from(ENDINGS),
    happens=st.permutations(["first ends", "second starts", "second ends", LEAVES]),
    together=st.lists(st.booleans(), min_size=4, max_size=4),
    departure=st.sampled_from([gevent.GreenletExit(), Timeout(None)]),
)
def test_in_any_order_of_events_one_answer_is_given_back_and_nothing_is_left(
    first_ending: Ending,
    second_ending: Ending,
    happens: list[str],
    together: list[bool],
    departure: BaseException,
) -> None:
    """`together`: the event comes in the same moment as the next one."""
    first, second = Try("first", first_ending), Try("second", second_ending)
    race = Race(first, second, after_s=SOON_S if "second starts" in happens[: happens.index("first ends")] else NEVER_S)
    settle()
    for event, is_with_next in zip(happens, together, strict=True):
        if event == "first ends":
            first.may_end.set()
        elif event == "second ends":
            second.may_end.set()
        elif event == LEAVES:
            race.caller.kill(departure, block=False)
        elif not first.may_end.is_set() and not race.caller.ready():
            second.began.wait(20 * SOON_S)
        if not is_with_next:
            settle()
    race.join()

    assert race.caller.ready()
    if race.answer is not None:
        assert race.answer in (first, second)
        assert race.answer.is_good or (race.answer is first and not (second.began.is_set() and second.is_good))
    else:
        assert race.error in (first.error, departure)
    for each in (first, second):
        assert each.connections == (1 if each is race.answer else 0)


@pytest.mark.parametrize(("quantile", "expected_s"), [(0.5, 50.0), (0.95, 95.0), (1.0, 100.0)])
def test_the_quantile_is_what_its_share_of_the_latencies_does_not_exceed(quantile: float, expected_s: float) -> None:
    latency = LatencyQuantile(quantile)

    for number in range(100):
        latency.observe(float(37 * number % 100 + 1))  # 1 to 100, shuffled

    assert latency.value_s == expected_s


def test_of_a_few_requests_no_quantile_is_told() -> None:
    latency = LatencyQuantile()

    told: list[float] = []
    for _ in range(20):
        told.append(latency.value_s)
        latency.observe(1.0)

    assert told == [0.0] * 20
    assert latency.value_s == 1.0


def test_the_quantile_follows_a_service_that_turns_slow_and_fast_again() -> None:
    latency = LatencyQuantile()

    told: list[float] = []
    for seconds in (0.1, 2.0, 0.1):
        for _ in range(520):
            latency.observe(seconds)
        told.append(latency.value_s)

    assert told == [0.1, 2.0, 0.1]


@given(st.lists(st.floats(0, 100), min_size=20, max_size=700), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_quantile_is_never_more_than_twenty_requests_behind(latencies: list[float], quantile: float) -> None:
    latency = LatencyQuantile(quantile)

    for count, seconds in enumerate(latencies, 1):
        latency.observe(seconds)
        told = latency.value_s

        lately = (sorted(latencies[max(0, seen - 512) : seen]) for seen in range(max(20, count - 19), count + 1))
        assert count < 20 or told in {known[math.ceil(quantile * len(known)) - 1] for known in lately}


def test_a_look_at_the_quantile_costs_less_than_going_through_all_that_is_known() -> None:
    class Latency(float):
        comparisons = 0

        def __lt__(self, other: float) -> bool:
            Latency.comparisons += 1
            return super().__lt__(other)

    latency = LatencyQuantile()

    for number in range(2000):
        latency.observe(Latency(number * 7919 % 2003))
        assert latency.value_s >= 0

    assert 0 < Latency.comparisons < 2000 * 512
