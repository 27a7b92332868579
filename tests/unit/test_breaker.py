"""The breaker of an instance: when it opens, whom it lets through, and when it closes again."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress

import gevent
import pytest
import time_machine
from gevent import GreenletExit
from gevent.event import Event
from gevent.timeout import Timeout
from structlog.testing import capture_logs

from gateway.backend.breaker import Breaker, BreakerOpen, NoVerdict
from gateway.backend.countdown import WishOver
from gateway.body import CallerGone
from gateway.observability.metrics import Metrics

NOW = 1_900_000_000
FAILURES = 3
RECOVERY_S = 10.0
SAYS_NOTHING = [CallerGone("gone"), WishOver(), NoVerdict(), GreenletExit()]


class Failed(Exception):
    """The instance did not do what was asked."""


@pytest.fixture
def clock() -> Generator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as clock:
        yield clock


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def breaker(clock: time_machine.Traveller, metrics: Metrics) -> Breaker:
    return Breaker("things", "http://10.0.0.1:80", metrics, failures=FAILURES, recovery_s=RECOVERY_S)


def succeed(breaker: Breaker) -> None:
    with breaker.calling():
        pass


def fail(breaker: Breaker, error: BaseException | None = None) -> None:
    """Make a call that ends in `error`, which must come out unchanged."""
    wanted = error or Failed("no")
    with pytest.raises(type(wanted)) as raised, breaker.calling():
        raise wanted
    assert raised.value is wanted


def opened(breaker: Breaker) -> Breaker:
    for _ in range(FAILURES):
        fail(breaker)
    assert breaker.state == "open"
    return breaker


def gauge(metrics: Metrics) -> float:
    """What the metrics say: 0 closed, 1 half-open, 2 open."""
    (line,) = [line for line in metrics.page().decode().splitlines() if line.startswith("gateway_breaker_state{")]
    assert 'service="things"' in line
    assert 'instance="http://10.0.0.1:80"' in line
    return float(line.rpartition(" ")[2])


def test_a_new_breaker_is_closed_and_lets_calls_through(breaker: Breaker, metrics: Metrics) -> None:
    succeed(breaker)

    assert (breaker.state, gauge(metrics)) == ("closed", 0)


def test_failures_in_a_row_open_it(breaker: Breaker, metrics: Metrics) -> None:
    for _ in range(FAILURES - 1):
        fail(breaker)
    assert breaker.state == "closed"

    fail(breaker)

    assert (breaker.state, gauge(metrics)) == ("open", 2)


def test_a_success_between_failures_begins_the_count_anew(breaker: Breaker) -> None:
    for _ in range(4):
        fail(breaker)
        fail(breaker)
        succeed(breaker)

    assert breaker.state == "closed"


def test_an_open_breaker_lets_nobody_through_until_it_has_recovered(
    breaker: Breaker, clock: time_machine.Traveller
) -> None:
    opened(breaker)
    calls: list[int] = []

    for elapsed_s in (0, 5, 9.9):
        clock.move_to(NOW + elapsed_s)
        with pytest.raises(BreakerOpen), breaker.calling():
            calls.append(1)

    assert calls == []
    assert breaker.state == "open"


@pytest.mark.parametrize(("elapsed_s", "retry_after_s"), [(0, 10), (0.5, 10), (1, 9), (9.5, 1), (9.99, 1)])
def test_a_refused_caller_is_told_how_long_to_wait(
    breaker: Breaker, clock: time_machine.Traveller, elapsed_s: float, retry_after_s: int
) -> None:
    opened(breaker)
    clock.move_to(NOW + elapsed_s)

    with pytest.raises(BreakerOpen) as refused, breaker.calling():
        pass

    assert refused.value.retry_after_s == retry_after_s


def test_a_trial_that_succeeds_closes_it(breaker: Breaker, clock: time_machine.Traveller, metrics: Metrics) -> None:
    opened(breaker)
    clock.shift(RECOVERY_S)

    with breaker.calling():
        assert (breaker.state, gauge(metrics)) == ("half-open", 1)

    assert (breaker.state, gauge(metrics)) == ("closed", 0)
    for _ in range(FAILURES - 1):
        fail(breaker)
    assert breaker.state == "closed"  # and the count began anew


def test_a_trial_that_fails_opens_it_for_another_recovery_time(
    breaker: Breaker, clock: time_machine.Traveller, metrics: Metrics
) -> None:
    opened(breaker)
    clock.shift(RECOVERY_S)

    fail(breaker)

    assert (breaker.state, gauge(metrics)) == ("open", 2)
    clock.shift(RECOVERY_S - 1)
    with pytest.raises(BreakerOpen):
        succeed(breaker)
    clock.shift(1)
    succeed(breaker)
    assert breaker.state == "closed"


def test_a_slow_trial_keeps_all_others_out_and_does_not_make_them_wait(
    breaker: Breaker, clock: time_machine.Traveller
) -> None:
    opened(breaker)
    clock.shift(RECOVERY_S)
    finish, passed, refused = Event(), [0], [0]

    def call() -> None:
        try:
            with breaker.calling():
                passed[0] += 1
                finish.wait()
        except BreakerOpen as error:
            refused[0] += error.retry_after_s

    with Timeout(5):
        greenlets = [gevent.spawn(call) for _ in range(10)]
        gevent.idle()
        assert (passed, refused) == ([1], [9])
        finish.set()
        gevent.joinall(greenlets, raise_error=True)

    assert breaker.state == "closed"


def test_calls_of_a_closed_breaker_run_side_by_side(breaker: Breaker) -> None:
    finish, running = Event(), [0]

    def call() -> None:
        with breaker.calling():
            running[0] += 1
            finish.wait()

    with Timeout(5):
        greenlets = [gevent.spawn(call) for _ in range(10)]
        gevent.idle()
        assert running == [10]
        finish.set()
        gevent.joinall(greenlets, raise_error=True)


@pytest.mark.parametrize("error", SAYS_NOTHING, ids=lambda error: type(error).__name__)
def test_an_error_that_says_nothing_about_the_instance_is_no_failure(breaker: Breaker, error: BaseException) -> None:
    for _ in range(5 * FAILURES):
        fail(breaker, error)

    assert breaker.state == "closed"


@pytest.mark.parametrize("error", SAYS_NOTHING, ids=lambda error: type(error).__name__)
def test_an_error_that_says_nothing_about_the_instance_is_no_success_either(
    breaker: Breaker, error: BaseException
) -> None:
    # else callers who go away would keep the breaker of a dead instance closed for ever
    for _ in range(FAILURES):
        fail(breaker)
        fail(breaker, error) if breaker.state == "closed" else None

    assert breaker.state == "open"


@pytest.mark.parametrize("error", SAYS_NOTHING, ids=lambda error: type(error).__name__)
def test_a_trial_that_says_nothing_about_the_instance_leaves_the_next_caller_to_try(
    breaker: Breaker, clock: time_machine.Traveller, error: BaseException
) -> None:
    opened(breaker)
    clock.shift(RECOVERY_S)

    fail(breaker, error)

    assert breaker.state == "half-open"
    succeed(breaker)
    assert breaker.state == "closed"


def many_failing_at_once(breaker: Breaker, count: int, fails: Event) -> list[gevent.Greenlet[..., object]]:
    def call() -> None:
        with suppress(Failed), breaker.calling():
            fails.wait()
            raise Failed

    greenlets = [gevent.spawn(call) for _ in range(count)]
    gevent.idle()
    return greenlets


def test_calls_that_fail_late_open_it_once_and_do_not_keep_it_open_for_longer(
    breaker: Breaker, clock: time_machine.Traveller
) -> None:
    early, late = Event(), Event()
    with capture_logs() as logs, Timeout(5):
        first = many_failing_at_once(breaker, FAILURES, early)
        second = many_failing_at_once(breaker, 20, late)
        early.set()
        gevent.joinall(first, raise_error=True)
        clock.shift(RECOVERY_S - 1)
        late.set()
        gevent.joinall(second, raise_error=True)

    assert [line["state"] for line in logs] == ["open"]
    clock.shift(1)
    succeed(breaker)
    assert breaker.state == "closed"


def test_a_call_that_ends_after_the_breaker_opened_does_not_close_it(breaker: Breaker) -> None:
    with breaker.calling():
        opened(breaker)

    assert breaker.state == "open"


def test_each_change_of_state_is_one_warning(breaker: Breaker, clock: time_machine.Traveller) -> None:
    with capture_logs() as logs:
        succeed(breaker)
        opened(breaker)
        for _ in range(3):
            with pytest.raises(BreakerOpen):
                succeed(breaker)
        clock.shift(RECOVERY_S)
        succeed(breaker)
        succeed(breaker)

    said = {"event": "breaker", "log_level": "warning", "to": "things", "instance": "http://10.0.0.1:80"}
    assert logs == [
        {**said, "state": "open", "before": "closed"},
        {**said, "state": "half-open", "before": "open"},
        {**said, "state": "closed", "before": "half-open"},
    ]


def test_breakers_of_two_instances_know_nothing_of_each_other(breaker: Breaker, metrics: Metrics) -> None:
    other = Breaker("things", "http://10.0.0.2:80", metrics, failures=FAILURES, recovery_s=RECOVERY_S)

    opened(breaker)

    assert other.state == "closed"
    succeed(other)


# What workers tell each other


@pytest.fixture
def told(breaker: Breaker) -> list[tuple[str, float]]:
    """What the breaker would have the other workers know."""
    told: list[tuple[str, float]] = []
    breaker.tell = lambda state, left_s: told.append((state, left_s))
    return told


def test_others_are_told_that_it_opens_and_closes_but_not_of_a_trial(
    breaker: Breaker, clock: time_machine.Traveller, told: list[tuple[str, float]]
) -> None:
    opened(breaker)
    clock.shift(RECOVERY_S)
    fail(breaker)
    clock.shift(RECOVERY_S)
    succeed(breaker)

    assert told == [("open", RECOVERY_S), ("open", RECOVERY_S), ("closed", 0.0)]


def test_what_was_learnt_is_not_told_again_and_has_no_line_but_a_metric(
    breaker: Breaker, metrics: Metrics, told: list[tuple[str, float]]
) -> None:
    with capture_logs() as logs:
        breaker.learn("open", 5.0)
        as_open = gauge(metrics)
        breaker.learn("closed", 0.0)

    assert (as_open, gauge(metrics)) == (2, 0)
    assert told == []
    assert [line for line in logs if line["log_level"] != "debug"] == []


def test_one_that_learns_to_be_open_stays_so_for_the_rest_of_the_time(
    breaker: Breaker, clock: time_machine.Traveller, told: list[tuple[str, float]]
) -> None:
    breaker.learn("open", 4.0)
    left_s = breaker.left_s
    clock.shift(3.9)
    with pytest.raises(BreakerOpen):
        succeed(breaker)
    clock.shift(0.2)
    succeed(breaker)

    assert (left_s, breaker.state, told) == (4.0, "closed", [("closed", 0.0)])


@pytest.mark.parametrize(("own_s", "learnt_s", "left_s"), [(3, 9, 9), (9, 3, 9), (5, 5.2, 5), (2, 1e9, RECOVERY_S)])
def test_of_two_open_times_the_later_end_holds(breaker: Breaker, own_s: float, learnt_s: float, left_s: float) -> None:
    breaker.learn("open", own_s)
    breaker.learn("open", learnt_s)

    assert breaker.left_s == left_s


def test_one_that_waits_for_its_trial_learns_that_anothers_has_failed(
    breaker: Breaker, clock: time_machine.Traveller
) -> None:
    opened(breaker)
    clock.shift(RECOVERY_S)

    breaker.learn("open", RECOVERY_S)

    assert not breaker.admits
    clock.shift(RECOVERY_S)
    assert breaker.admits


def test_a_trial_under_way_has_the_last_word(breaker: Breaker, clock: time_machine.Traveller) -> None:
    opened(breaker)
    clock.shift(RECOVERY_S)

    with breaker.calling():
        breaker.learn("open", RECOVERY_S)

    assert breaker.state == "closed"


def test_one_that_learns_to_be_closed_lets_calls_through_and_counts_anew(breaker: Breaker) -> None:
    opened(breaker)

    breaker.learn("closed", 0.0)

    for _ in range(FAILURES - 1):
        fail(breaker)
    assert breaker.state == "closed"


def test_one_that_is_closed_goes_on_counting_when_it_learns_to_be(breaker: Breaker) -> None:
    for _ in range(FAILURES):
        breaker.learn("closed", 0.0)
        fail(breaker)

    assert breaker.state == "open"


@pytest.mark.parametrize("state", ["half-open", "ajar", ""])
def test_any_other_state_is_nothing_to_learn(breaker: Breaker, state: str) -> None:
    breaker.learn(state, 5.0)

    assert breaker.state == "closed"


def test_calls_that_fail_after_it_learnt_to_be_open_change_nothing(
    breaker: Breaker, told: list[tuple[str, float]]
) -> None:
    fails = Event()
    with Timeout(5):
        late = many_failing_at_once(breaker, 20, fails)
        breaker.learn("open", 4.0)
        fails.set()
        gevent.joinall(late, raise_error=True)

    assert (breaker.state, breaker.left_s, told) == ("open", 4.0, [])


@pytest.mark.parametrize("is_learnt", [True, False])
def test_its_closing_is_told_here_however_it_came_about(
    breaker: Breaker, clock: time_machine.Traveller, is_learnt: bool
) -> None:
    closings: list[float] = []
    breaker.on_closed = lambda: closings.append(1)
    opened(breaker)
    clock.shift(RECOVERY_S)

    if is_learnt:
        breaker.learn("closed", 0.0)
    else:
        succeed(breaker)

    assert closings == [1]
