"""Retries: only where they can't hurt, and never too many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.backend.retries import (
    BACKOFF_BASE_S,
    LONGEST_RETRY_AFTER_S,
    Failure,
    RetryBudget,
    Tries,
    backoff_s,
    may_retry,
    retry_after_s,
)
from tests.support.deadlines import Clock

NOW = 1_800_000_000.0  # 15 January 2027, 08:00:00 UTC


@pytest.mark.parametrize(
    ("failure", "method", "is_body_untouched", "expected"),
    [
        (Failure.NOT_CONNECTED, "POST", True, True),
        (Failure.NOT_CONNECTED, "GET", True, True),
        (Failure.NOT_CONNECTED, "POST", False, False),
        (Failure.BROKEN, "GET", True, True),
        (Failure.BROKEN, "DELETE", True, True),
        (Failure.BROKEN, "PUT", True, True),
        (Failure.BROKEN, "PUT", False, False),
        (Failure.BROKEN, "POST", True, False),
        (Failure.BROKEN, "PATCH", True, False),
        (Failure.STATUS, "GET", True, True),
        (Failure.STATUS, "POST", True, False),
        (Failure.TIMED_OUT, "HEAD", True, True),
        (Failure.TIMED_OUT, "POST", True, False),
        (Failure.BROKEN, "PROPFIND", True, False),
        (Failure.BROKEN, "get", True, False),
    ],
)
def test_a_try_is_repeated_only_where_that_cannot_do_a_thing_twice(
    failure: Failure, method: str, is_body_untouched: bool, expected: bool
) -> None:
    assert may_retry(failure, method, is_body_untouched=is_body_untouched) is expected


@given(st.floats(0, 1), st.lists(st.integers(0, 5), max_size=200))
def test_retries_never_exceed_their_share_of_the_requests_by_more_than_one(share: float, wishes: list[int]) -> None:
    budget, retries = RetryBudget(share), 0

    for wanted in wishes:  # after each request so many retries are asked for
        budget.request()
        retries += sum(budget.take() for _ in range(wanted))

    assert retries <= len(wishes) * share + 1 + 1e-6


def test_a_quiet_time_does_not_save_up_retries_without_end() -> None:
    budget = RetryBudget(0.2)
    for _ in range(100_000):
        budget.request()

    assert sum(budget.take() for _ in range(1000)) == 100


def test_without_a_share_nothing_is_retried() -> None:
    budget = RetryBudget(0.0)
    budget.request()

    assert not budget.take()


def test_backoff_doubles_up_to_its_bound_with_full_jitter() -> None:
    longest = [backoff_s(tries, base_s=0.1, longest_s=0.5, draw=lambda _low, high: high) for tries in (1, 2, 3, 4, 9)]
    shortest = backoff_s(3, base_s=0.1, longest_s=0.5, draw=lambda low, _high: low)

    assert longest == [0.1, 0.2, 0.4, 0.5, 0.5]
    assert shortest == 0.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, 0.0),
        ("", 0.0),
        ("0", 0.0),
        ("2", 2.0),
        ("120", 120.0),
        ("9" * 5000, 999_999_999.0),
        ("1.5", 0.0),
        ("-1", 0.0),
        ("soon", 0.0),
        ("\u0662", 0.0),
        ("Fri, 15 Jan 2027 08:00:03 GMT", 3.0),
        ("Fri, 15 Jan 2027 08:00:03", 3.0),
        ("Fri, 15 Jan 2027 07:59:00 GMT", 0.0),
        ("Fri, 32 Jan 2027 07:59:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nonsense(value: str | None, expected: float) -> None:
    assert retry_after_s(value, NOW) == expected


@dataclass(frozen=True)
class Instance:
    url: str


A, B, C = Instance("a"), Instance("b"), Instance("c")
PLENTY_S = 100.0


class Request:
    """The tries of a request, a clock that is moved, and the longest backoff that chance allows."""

    def __init__(self, method: str = "GET", *, retries: int = 1, share: float = 1.0, draw_least: bool = False) -> None:
        self.clock = Clock()
        self.budget = RetryBudget(share)
        self.tries = Tries(
            method,
            retries,
            self.budget,
            clock=self.clock,
            draw=lambda low, high: low if draw_least else high,
        )

    def ask(self, *instances: Instance, retry_after_s: float | None = None) -> Request:
        for instance in instances:
            self.tries.begin(instance)
            if retry_after_s is not None:
                self.tries.put_off(instance.url, retry_after_s)
        return self

    def pause_s(
        self,
        admitting: Sequence[Instance],
        failure: Failure = Failure.STATUS,
        *,
        left_s: float = PLENTY_S,
        is_body_untouched: bool = True,
    ) -> float | None:
        return self.tries.pause_s(failure, admitting, left_s=left_s, is_body_untouched=is_body_untouched)


def test_the_first_try_may_go_to_anybody() -> None:
    assert Request().tries.candidates([A, B]) == [A, B]


def test_whoever_was_not_asked_yet_goes_before_those_who_were() -> None:
    request = Request().ask(A)

    assert request.tries.candidates([A, B, C]) == [B, C]
    assert request.ask(B, C).tries.candidates([A, B, C]) == [A, B, C]


def test_of_those_who_were_asked_only_who_wants_to_be_is_asked_again() -> None:
    request = Request(retries=9).ask(A, retry_after_s=2).ask(B, retry_after_s=1)

    assert request.tries.candidates([A, B]) == []
    request.clock.now += 1.5
    assert request.tries.candidates([A, B]) == [B]
    request.clock.now += 0.5
    assert request.tries.candidates([A, B]) == [A, B]


def test_whose_breaker_refused_is_not_asked_at_all() -> None:
    request = Request().ask(A)
    request.tries.was_refused(A)

    assert request.tries.made == 0
    assert request.tries.candidates([A]) == []
    assert request.tries.candidates([A, B]) == [B]
    assert request.pause_s([A]) is None


def test_a_single_instance_is_tried_again_after_a_moment() -> None:
    assert Request().ask(A).pause_s([A]) == BACKOFF_BASE_S


@pytest.mark.parametrize("failure", [Failure.BROKEN, Failure.TIMED_OUT, Failure.STATUS])
def test_a_post_is_not_tried_again_by_anybody(failure: Failure) -> None:
    assert Request("POST").ask(A).pause_s([A, B], failure) is None


def test_a_post_that_reached_nobody_goes_to_another_one_at_once_and_to_the_same_after_a_moment() -> None:
    assert Request("POST").ask(A).pause_s([A, B], Failure.NOT_CONNECTED) == 0.0
    assert Request("POST").ask(A).pause_s([A], Failure.NOT_CONNECTED) == BACKOFF_BASE_S


def test_tries_that_reached_nobody_are_not_counted_while_there_is_somebody_else() -> None:
    request = Request(retries=0, share=0.0).ask(A, B)

    assert request.pause_s([A, B, C], Failure.NOT_CONNECTED) == 0.0
    assert request.ask(C).pause_s([A, B, C], Failure.NOT_CONNECTED) is None


def test_a_body_that_is_gone_is_not_sent_again() -> None:
    assert Request().ask(A).pause_s([A, B], Failure.NOT_CONNECTED, is_body_untouched=False) is None


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_there_are_no_more_tries_than_were_asked_for(retries: int) -> None:
    request, made = Request(retries=retries), 1
    request.budget.request()
    request.ask(A)

    while request.pause_s([A, B]) is not None:
        request.budget.request()
        request.ask(A)
        made += 1

    assert made == 1 + retries


def test_without_anybody_who_admits_there_is_no_other_try() -> None:
    assert Request().ask(A).pause_s([]) is None


def test_the_budget_is_taken_only_by_a_try_that_is_made() -> None:
    request = Request(retries=5, share=0.5)  # one token

    assert request.ask(A).pause_s([A], left_s=0.01) is None
    assert request.pause_s([A], Failure.NOT_CONNECTED) is not None
    assert request.pause_s([A]) is not None
    assert request.pause_s([A]) is None


def test_a_rest_that_would_use_up_the_time_is_not_taken() -> None:
    assert Request().ask(A).pause_s([A], left_s=BACKOFF_BASE_S) is None
    assert Request().ask(A).pause_s([A], left_s=BACKOFF_BASE_S + 0.001) == BACKOFF_BASE_S
    assert Request().ask(A).pause_s([A, B], Failure.NOT_CONNECTED, left_s=0.0) is None


def test_an_instance_that_wants_to_be_left_alone_is_and_another_one_is_asked_at_once() -> None:
    request = Request().ask(A, retry_after_s=60)

    assert request.pause_s([A, B]) == BACKOFF_BASE_S
    assert request.tries.candidates([A, B]) == [B]


@pytest.mark.parametrize(
    ("wants_s", "left_s", "expected"),
    [
        (1.0, PLENTY_S, 1.0),
        (LONGEST_RETRY_AFTER_S, PLENTY_S, LONGEST_RETRY_AFTER_S),
        (LONGEST_RETRY_AFTER_S + 0.1, PLENTY_S, None),
        (1.0, 1.0, None),
        (1.0, 1.01, 1.0),
        (math.inf, PLENTY_S, None),
    ],
)
def test_where_all_that_is_left_is_to_wait_it_is_done_if_it_does_not_take_long(
    wants_s: float, left_s: float, expected: float | None
) -> None:
    assert Request(draw_least=True).ask(A, retry_after_s=wants_s).pause_s([A], left_s=left_s) == expected


def test_who_waited_as_told_does_not_come_back_together_with_all_others() -> None:
    assert Request().ask(A, retry_after_s=1).pause_s([A]) == 1 + BACKOFF_BASE_S


def test_the_one_that_may_be_asked_first_is_waited_for() -> None:
    request = Request(retries=5, draw_least=True).ask(A, retry_after_s=1.5).ask(B, retry_after_s=0.5)
    request.clock.now += 0.25

    assert request.pause_s([A, B]) == 0.25
    assert request.tries.candidates([A, B]) == [B]


def test_nobody_is_asked_before_the_time_when_the_others_have_gone_meanwhile() -> None:
    request = Request().ask(A, retry_after_s=1)
    rest_s = request.pause_s([A, B])
    assert rest_s is not None
    request.clock.now += rest_s

    assert request.tries.candidates([A]) == []

    request.clock.now += 1
    assert request.tries.candidates([A]) == [A]


@example("GET", 1, [(Failure.STATUS, 1.0, 3), (Failure.NOT_CONNECTED, 0.0, 1)])
@given(
    st.sampled_from(["GET", "POST", "PUT", "PATCH"]),
    st.integers(0, 5),
    st.lists(st.tuples(st.sampled_from(Failure), st.floats(0, 3), st.integers(0, 7)), max_size=30),
)
def test_whatever_happens_tries_keep_within_their_bounds(
    method: str, retries: int, course: list[tuple[Failure, float, int]]
) -> None:
    """Each entry: how a try fails, what `Retry-After` it brings, who admits by then (a bit each)."""
    request = Request(method, retries=retries)
    reached, instances = 0, [A, B, C]
    resting = dict[str, float]()

    for failure, wants_s, bits in course:
        request.budget.request()
        admitting = [instance for bit, instance in enumerate(instances) if bits >> bit & 1]
        candidates = request.tries.candidates(admitting)
        if not candidates:
            break
        chosen = candidates[0]
        assert request.clock.now >= resting.get(chosen.url, 0.0) - 1e-9
        request.ask(chosen)
        reached += failure is not Failure.NOT_CONNECTED
        if failure is Failure.STATUS:
            request.tries.put_off(chosen.url, wants_s)
            resting[chosen.url] = request.clock.now + wants_s
        pause_s = request.pause_s(admitting, failure)
        if pause_s is None:
            break
        request.clock.now += pause_s

    assert reached <= 1 + retries
    assert method in ("GET", "PUT") or reached <= 1
