"""Retries: only where they can't hurt, and never too many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backend.retries import Failure, RetryBudget, backoff_s, may_retry


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
