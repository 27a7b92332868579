"""The standing of an instance: what keeps it away, for how long, and how it comes back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.backend.standing import (
    LONGEST_TOLD_S,
    SLOWEST_SHARE,
    ActiveRule,
    EjectionRule,
    Reason,
    Report,
    Standing,
    electable,
    may_eject,
)

NOW = 1000.0
URL = "http://10.0.0.1:80"
FAILURES, PERIOD_S, LONGEST_S = 3, 5.0, 300.0
UNHEALTHY_AFTER, HEALTHY_AFTER = 3, 2
SLOW_START_S = 10.0


@dataclass
class Instance:
    standing: Standing


def make(
    unhealthy_after: int = UNHEALTHY_AFTER,
    healthy_after: int = HEALTHY_AFTER,
    ejection: EjectionRule | None = None,
    slow_start_s: float = SLOW_START_S,
    joined_at: float | None = None,
) -> Standing:
    active = ActiveRule("/health", 10.0, 2.0, unhealthy_after, healthy_after)
    ejection = ejection or EjectionRule(FAILURES, PERIOD_S, LONGEST_S)
    return Standing(active, ejection, slow_start_s=slow_start_s, joined_at=joined_at)


def check(standing: Standing, is_ok: bool, now: float = NOW) -> None:
    """As often as it takes for a verdict."""
    for _ in range(max(UNHEALTHY_AFTER, HEALTHY_AFTER)):
        standing.checked(is_ok, now)
    assert standing.is_well is is_ok


def instances(*reasons: Reason) -> list[Instance]:
    made = [Instance(make()) for _ in reasons]
    for instance, reason in zip(made, reasons, strict=True):
        if reason == "draining":
            instance.standing.drain(NOW)
        elif reason == "unhealthy":
            check(instance.standing, False)
        elif reason == "ejected":
            instance.standing.eject(NOW)
    return made


def next_ejection_s(standing: Standing, now: float) -> float:
    return standing.eject(now) - now


def ejected_in_a_row(standing: Standing, count: int) -> float:
    """When the last of `count` ejections, one at the end of another, is over."""
    now = NOW
    for _ in range(count):
        now = standing.eject(now)
    return now


# Active checks


@pytest.mark.parametrize("needed", [1, 2, 5])
def test_an_instance_is_unhealthy_from_the_last_failed_check_that_it_takes(needed: int) -> None:
    standing = make(unhealthy_after=needed)

    before = [standing.checked(False, NOW) for _ in range(needed - 1)]
    was_well = standing.is_well
    is_changed = standing.checked(False, NOW)

    assert (before, was_well) == ([False] * (needed - 1), True)
    assert (is_changed, standing.is_well, standing.checked(False, NOW)) == (True, False, False)


@pytest.mark.parametrize("needed", [1, 2, 5])
def test_an_unhealthy_instance_is_well_from_the_last_good_check_that_it_takes(needed: int) -> None:
    standing = make(unhealthy_after=1, healthy_after=needed)
    standing.checked(False, NOW)

    before = [standing.checked(True, NOW) for _ in range(needed - 1)]
    was_well = standing.is_well
    is_changed = standing.checked(True, NOW)

    assert (before, was_well) == ([False] * (needed - 1), False)
    assert (is_changed, standing.is_well, standing.checked(True, NOW)) == (True, True, False)


def test_an_instance_that_was_never_checked_counts_as_well() -> None:
    standing = make()

    assert (standing.is_well, standing.snapshot(URL, NOW).is_well) == (True, None)


def test_the_first_good_verdict_is_told_as_a_change() -> None:
    assert [make(healthy_after=1).checked(True, NOW), make(healthy_after=2).checked(True, NOW)] == [True, False]


@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.booleans(), max_size=40))
def test_only_checks_in_a_row_make_a_verdict(unhealthy_after: int, healthy_after: int, checks: list[bool]) -> None:
    standing = make(unhealthy_after, healthy_after)

    for is_ok in checks:
        standing.checked(is_ok, NOW)

    # told from the end: the last row of equal ones that was long enough
    verdict: bool | None = None
    for end in range(len(checks), 0, -1):
        needed = healthy_after if checks[end - 1] else unhealthy_after
        if end >= needed and len(set(checks[end - needed : end])) == 1:
            verdict = checks[end - 1]
            break
    assert standing.snapshot(URL, NOW).is_well is verdict


# Ejection


@pytest.mark.parametrize("failures", [1, 3, 5])
def test_only_the_last_failure_that_it_takes_asks_for_an_ejection(failures: int) -> None:
    standing = make(ejection=EjectionRule(failures))

    wishes = [standing.failed(NOW) for _ in range(failures)]

    assert wishes == [False] * (failures - 1) + [True]


def test_a_success_between_failures_begins_the_count_anew() -> None:
    standing = make()

    wishes: list[bool] = []
    for _ in range(4):
        wishes += [standing.failed(NOW) for _ in range(FAILURES - 1)]
        standing.succeeded()

    assert not any(wishes)


def test_each_further_failure_asks_again_where_an_ejection_was_refused() -> None:
    standing = make()

    wishes = [standing.failed(NOW) for _ in range(FAILURES + 2)]

    assert wishes[-3:] == [True, True, True]


def test_failures_of_an_ejected_instance_are_no_news() -> None:
    standing = make()
    until = standing.eject(NOW)

    late = [standing.failed(until - 0.1) for _ in range(2 * FAILURES)]

    assert not any(late)
    assert [standing.failed(until) for _ in range(FAILURES)] == [False] * (FAILURES - 1) + [True]


def test_an_ejected_instance_has_to_fail_as_often_again_when_it_is_back() -> None:
    standing = make()
    for _ in range(FAILURES):
        standing.failed(NOW)

    until = standing.eject(NOW)

    assert [standing.failed(until) for _ in range(FAILURES)] == [False] * (FAILURES - 1) + [True]


def test_an_ejection_ends_when_its_time_is_up() -> None:
    standing = make()

    until = standing.eject(NOW)

    assert until == NOW + PERIOD_S
    assert [standing.is_ejected(now) for now in (NOW, until - 0.01, until)] == [True, True, False]


def test_each_ejection_lasts_twice_as_long_as_the_one_before_up_to_the_longest() -> None:
    standing, now, lasted = make(), NOW, list[float]()

    for _ in range(9):
        until = standing.eject(now)
        lasted.append(until - now)
        now = until

    assert lasted == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_to_eject_what_is_ejected_already_changes_nothing() -> None:
    standing = make()
    until = standing.eject(NOW)

    again = [standing.eject(NOW + 1) for _ in range(5)]

    assert again == [until] * 5
    assert next_ejection_s(standing, until) == 2 * PERIOD_S


@pytest.mark.parametrize(
    ("ejections", "good_s", "expected_s"),
    [
        (1, 4.9, 10),
        (1, 5, 5),
        (1, 5000, 5),
        (3, 0, 40),
        (3, 5, 20),
        (3, 9.9, 20),
        (3, 10, 10),
        (3, 15, 5),
        (20, 0, 300),
        (20, 5, 300),
        (20, 10, 160),  # what was ejected twenty times is forgiven as fast as what was seven times
    ],
)
def test_each_period_in_good_standing_takes_one_ejection_off(ejections: int, good_s: float, expected_s: float) -> None:
    standing = make()

    back_at = ejected_in_a_row(standing, ejections)

    assert next_ejection_s(standing, back_at + good_s) == expected_s


def test_time_away_is_no_time_in_good_standing() -> None:
    unhealthy, draining = make(), make()
    for standing in (unhealthy, draining):
        ejected_in_a_row(standing, 3)
    away_at, back_at = NOW + 36, NOW + 1000  # the third ejection ends at NOW + 35

    check(unhealthy, False, away_at)
    check(unhealthy, True, back_at)
    draining.drain(away_at)
    draining.undrain(back_at)

    assert [next_ejection_s(standing, back_at + 1) for standing in (unhealthy, draining)] == [40, 40]


def test_time_in_good_standing_is_not_lost_by_going_away() -> None:
    unhealthy, draining = make(), make()
    back_at = max(ejected_in_a_row(standing, 3) for standing in (unhealthy, draining))

    check(unhealthy, False, back_at + 10)
    draining.drain(back_at + 10)
    draining.undrain(back_at + 11)

    assert [next_ejection_s(standing, back_at + 12) for standing in (unhealthy, draining)] == [10, 10]


@given(st.floats(0.1, 60), st.floats(1, 100), st.lists(st.floats(0, 500), min_size=1, max_size=40))
def test_an_ejection_is_never_shorter_than_the_first_nor_longer_than_the_longest(
    period_s: float, factor: float, pauses_s: list[float]
) -> None:
    longest_s = period_s * factor
    standing, now, before_s = make(ejection=EjectionRule(FAILURES, period_s, longest_s)), 0.0, 0.0

    for pause_s in pauses_s:
        now += pause_s
        until = standing.eject(now)
        lasts_s = until - now
        assert period_s - 1e-6 <= lasts_s <= longest_s + 1e-6
        if pause_s < period_s * 0.99:
            assert lasts_s >= before_s - 1e-6
        now, before_s = until, lasts_s


# Slow start


@pytest.mark.parametrize(("elapsed_s", "share"), [(0, SLOWEST_SHARE), (5, 0.55), (9, 0.91), (10, 1.0), (99, 1.0)])
def test_the_share_of_an_instance_that_is_back_rises_in_a_line(elapsed_s: float, share: float) -> None:
    standing = make()

    back_at = standing.eject(NOW)

    assert standing.share(back_at + elapsed_s) == pytest.approx(share)


def back_from_ejection(standing: Standing) -> float:
    return standing.eject(NOW)


def back_from_bad_health(standing: Standing) -> float:
    check(standing, False, NOW)
    check(standing, True, NOW + 60)
    return NOW + 60


def back_from_a_drain(standing: Standing) -> float:
    standing.drain(NOW)
    standing.undrain(NOW + 60)
    return NOW + 60


def back_from_an_open_breaker(standing: Standing) -> float:
    standing.returned(NOW + 60)
    return NOW + 60


def back_from_all_at_once(standing: Standing) -> float:
    check(standing, False, NOW)
    standing.drain(NOW)
    standing.eject(NOW)
    standing.undrain(NOW + 1)
    standing.returned(NOW + 2)
    check(standing, True, NOW + 3)
    return NOW + PERIOD_S  # the ejection is the last to end


RETURNS = [
    back_from_ejection,
    back_from_bad_health,
    back_from_a_drain,
    back_from_an_open_breaker,
    back_from_all_at_once,
]


@pytest.mark.parametrize("come_back", RETURNS, ids=lambda come_back: come_back.__name__)
def test_slow_start_begins_when_the_instance_is_back(come_back: Callable[[Standing], float]) -> None:
    standing = make()

    back_at = come_back(standing)

    assert standing.reason(back_at) == "well"
    assert standing.share(back_at) == SLOWEST_SHARE
    assert standing.share(back_at + SLOW_START_S / 2) == pytest.approx(0.55)


@pytest.mark.parametrize("come_back", RETURNS, ids=lambda come_back: come_back.__name__)
def test_without_a_slow_start_the_whole_share_is_there_at_once(come_back: Callable[[Standing], float]) -> None:
    standing = make(slow_start_s=0)

    back_at = come_back(standing)

    assert [standing.share(now) for now in (NOW, back_at, back_at + 1)] == [1.0, 1.0, 1.0]


def test_only_an_instance_that_joins_a_running_service_starts_slowly() -> None:
    there_from_the_start, joined = make(), make(joined_at=NOW)

    shares = [there_from_the_start.share(NOW), joined.share(NOW), joined.share(NOW + SLOW_START_S)]

    assert shares == [1.0, SLOWEST_SHARE, 1.0]


def test_the_first_good_verdict_does_not_begin_a_slow_start() -> None:
    there_from_the_start, joined = make(), make(joined_at=NOW)

    for standing in (there_from_the_start, joined):
        check(standing, True, NOW + 5)

    assert there_from_the_start.share(NOW + 5) == 1.0
    assert joined.share(NOW + 5) == pytest.approx(0.55)


@given(st.sampled_from(RETURNS), st.floats(0.001, 1000), st.lists(st.floats(0, 2000), min_size=2))
def test_the_share_never_falls_while_nothing_happens(
    come_back: Callable[[Standing], float], slow_start_s: float, elapsed_s: list[float]
) -> None:
    standing = make(slow_start_s=slow_start_s)
    come_back(standing)

    shares = [standing.share(NOW + each_s) for each_s in sorted(elapsed_s)]

    assert shares == sorted(shares)
    assert all(0 < share <= 1 for share in shares)


# Election


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (["well", "well"], [0, 1]),
        (["well", "unhealthy", "ejected", "draining", "well"], [0, 4]),
        (["unhealthy", "unhealthy"], [0, 1]),
        (["unhealthy", "draining"], [0]),
        (["ejected", "ejected", "unhealthy"], [0, 1]),
        (["ejected", "draining"], [0]),
        (["draining", "draining"], []),
        ([], []),
    ],
)
def test_the_next_request_goes_to_those_who_are_well_or_else_to_the_least_doubtful(
    reasons: list[Reason], expected: list[int]
) -> None:
    candidates = instances(*reasons)

    assert electable(candidates, NOW) == [candidates[position] for position in expected]


def test_an_ejection_counts_also_where_the_checks_are_passed_over() -> None:
    first, second = candidates = instances("unhealthy", "unhealthy")

    first.standing.eject(NOW)

    assert electable(candidates, NOW) == [second]


@pytest.mark.parametrize("count", range(9))
def test_at_most_half_of_the_instances_are_ejected(count: int) -> None:
    candidates = [Instance(make()) for _ in range(count)]

    for instance in candidates:
        if may_eject(candidates, NOW):
            instance.standing.eject(NOW)

    assert sum(instance.standing.is_ejected(NOW) for instance in candidates) == count // 2


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (["well", "unhealthy"], False),
        (["well", "draining", "draining"], False),
        (["well", "well", "unhealthy", "draining"], True),
        (["well", "ejected", "unhealthy", "draining"], False),
        (["unhealthy", "unhealthy"], True),  # the checks are passed over
        (["draining", "draining"], False),
    ],
)
def test_the_last_one_that_works_is_never_ejected(reasons: list[Reason], expected: bool) -> None:
    assert may_eject(instances(*reasons), NOW) is expected


def test_half_of_all_bounds_the_ejections_also_when_the_ejected_become_unhealthy() -> None:
    candidates = instances("ejected", "ejected", "well", "well")
    for instance in candidates[:2]:
        check(instance.standing, False)

    assert not may_eject(candidates, NOW)


def test_an_ejection_that_is_over_makes_room_for_another() -> None:
    candidates = instances("ejected", "well")

    assert [may_eject(candidates, now) for now in (NOW, NOW + PERIOD_S)] == [False, True]


# Pages


def test_reason_names_what_holds_and_since_when() -> None:
    standing = make()
    seen = [(standing.reason(NOW), standing.since(NOW), standing.until(NOW))]

    until = standing.eject(NOW + 1)
    seen.append((standing.reason(NOW + 1), standing.since(NOW + 1), standing.until(NOW + 1)))
    check(standing, False, NOW + 2)
    seen.append((standing.reason(NOW + 2), standing.since(NOW + 2), standing.until(NOW + 2)))
    standing.drain(NOW + 3)
    seen.append((standing.reason(NOW + 3), standing.since(NOW + 3), standing.until(NOW + 3)))
    standing.undrain(NOW + 4)
    check(standing, True, NOW + 4)
    seen.append((standing.reason(NOW + 5), standing.since(NOW + 5), standing.until(NOW + 5)))
    seen.append((standing.reason(until), standing.since(until), standing.until(until)))

    assert seen == [
        ("well", None, None),
        ("ejected", NOW + 1, until),
        ("unhealthy", NOW + 2, None),
        ("draining", NOW + 3, None),
        ("ejected", NOW + 1, until),
        ("well", until, None),
    ]


def test_draining_twice_is_draining_once() -> None:
    standing = make()

    news = [standing.drain(NOW), standing.drain(NOW + 1)]
    since = standing.since(NOW + 2)
    news += [standing.undrain(NOW + 3), standing.undrain(NOW + 5)]

    assert (news, since) == ([True, False, True, False], NOW)
    assert standing.since(NOW + 5) == NOW + 3


# Reports

reports = st.builds(
    Report,
    st.just(URL),
    st.none() | st.booleans(),
    st.floats(0, LONGEST_TOLD_S),
    st.none() | st.booleans(),
)
nonsense = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts),
)
nearly_sound = dict.fromkeys(("is_well", "ejected_s", "is_draining"), nonsense)
NONSENSE: list[object] = [
    None,
    "well",
    [],
    {},
    {"url": ""},
    {"url": 1},
    {"url": None, "is_well": True},
    {"url": URL, "is_well": "yes"},
    {"url": URL, "is_well": 1},
    {"url": URL, "is_draining": 0},
    {"url": URL, "is_draining": []},
    {"url": URL, "ejected_s": "5"},
    {"url": URL, "ejected_s": None},
    {"url": URL, "ejected_s": True},
    {"url": URL, "ejected_s": -1},
    {"url": URL, "ejected_s": math.nan},
    {"url": URL, "ejected_s": math.inf},
    {"url": URL, "ejected_s": LONGEST_TOLD_S + 1},
    {"url": URL, "ejected_s": 10**400},
]


@given(reports)
def test_a_report_is_the_same_after_a_way_through_json(report: Report) -> None:
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report


@pytest.mark.parametrize("told", NONSENSE, ids=lambda told: str(told)[:60])
def test_nonsense_is_no_report(told: object) -> None:
    assert Report.from_dict(told) is None


@given(nonsense | st.fixed_dictionaries({"url": st.just(URL)}, optional=nearly_sound))
def test_whatever_is_told_makes_a_sound_report_or_none(told: object) -> None:
    report = Report.from_dict(told)

    assert report is None or (
        report.url
        and report.is_well in (None, True, False)
        and report.is_draining in (None, True, False)
        and 0 <= report.ejected_s <= LONGEST_TOLD_S
    )


def test_a_report_of_a_newer_release_may_say_more_and_one_of_an_older_release_less() -> None:
    assert Report.from_dict({"url": URL, "mood": "good"}) == Report(URL)


def test_a_worker_that_starts_takes_over_what_another_one_knows() -> None:
    known, fresh = make(), make()
    known.eject(NOW)
    check(known, False)
    known.drain(NOW)

    is_news = fresh.learn(known.snapshot(URL, NOW + 1), 5.0, may_eject=True)  # another host, another clock

    assert is_news
    assert fresh.snapshot(URL, 5.0) == Report(URL, is_well=False, ejected_s=PERIOD_S - 1, is_draining=True)


@pytest.mark.parametrize(
    ("report", "is_news"),
    [
        (Report(URL, is_well=True), True),  # the first verdict
        (Report(URL, is_well=False, is_draining=False), True),
        (Report(URL, is_draining=True), True),
        (Report(URL, ejected_s=5), True),
        (Report(URL, is_draining=False), False),
        (Report(URL), False),
    ],
)
def test_learning_tells_whether_anything_in_the_report_was_news(report: Report, is_news: bool) -> None:
    assert make().learn(report, NOW, may_eject=True) is is_news


def test_a_snapshot_holds_the_seconds_that_are_left_of_an_ejection() -> None:
    standing = make()
    before = standing.snapshot(URL, NOW)

    until = standing.eject(NOW)

    snapshots = [before, *(standing.snapshot(URL, now) for now in (NOW, NOW + 1, until, until + 60))]
    assert [snapshot.ejected_s for snapshot in snapshots] == [0, 5, 4, 0, 0]


@given(reports, reports, st.booleans())
def test_to_learn_a_report_twice_is_to_learn_it_once(before: Report, report: Report, may_eject: bool) -> None:
    standing = make()
    standing.learn(before, NOW, may_eject=True)
    standing.learn(report, NOW, may_eject=may_eject)
    once = (standing.snapshot(URL, NOW), standing.share(NOW), standing.since(NOW))

    is_news = standing.learn(report, NOW, may_eject=may_eject)

    assert not is_news
    assert (standing.snapshot(URL, NOW), standing.share(NOW), standing.since(NOW)) == once


@pytest.mark.parametrize("elapsed_s", [0, 2, PERIOD_S - 0.01, PERIOD_S])
def test_what_comes_back_from_the_others_is_no_news(elapsed_s: float) -> None:
    standing = make()
    until = standing.eject(NOW)
    echo = standing.snapshot(URL, NOW + elapsed_s)

    is_news = standing.learn(echo, NOW + elapsed_s + 0.2, may_eject=True)

    assert (is_news, standing.is_ejected(until)) == (False, False)
    assert next_ejection_s(standing, until) == 2 * PERIOD_S


def test_one_ejection_that_two_workers_made_at_once_is_counted_once() -> None:
    standing = make()
    standing.eject(NOW)

    standing.learn(Report(URL, ejected_s=PERIOD_S), NOW + 1, may_eject=False)  # it is one of the half already

    assert standing.until(NOW + 1) == NOW + 1 + PERIOD_S
    assert next_ejection_s(standing, NOW + 1 + PERIOD_S) == 2 * PERIOD_S


def test_an_ejection_that_was_learnt_counts_and_starts_slowly_like_an_own_one() -> None:
    standing = make()
    for _ in range(FAILURES - 1):
        standing.failed(NOW)

    standing.learn(Report(URL, ejected_s=7), NOW, may_eject=True)

    assert (standing.reason(NOW), standing.until(NOW)) == ("ejected", NOW + 7)
    assert (standing.is_ejected(NOW + 7), standing.share(NOW + 7)) == (False, SLOWEST_SHARE)
    assert not standing.failed(NOW + 7)
    assert next_ejection_s(standing, NOW + 7) == 2 * PERIOD_S


def test_an_ejection_that_is_learnt_is_not_longer_than_the_longest_of_ones_own() -> None:
    standing = make()

    standing.learn(Report(URL, ejected_s=LONGEST_TOLD_S), NOW, may_eject=True)

    assert standing.until(NOW) == NOW + LONGEST_S


def test_an_ejection_is_not_learnt_where_one_more_may_not_be() -> None:
    standing = make()

    is_news = standing.learn(Report(URL, is_well=False, ejected_s=5), NOW, may_eject=False)

    assert (is_news, standing.is_well, standing.is_ejected(NOW)) == (True, False, False)


def test_a_report_never_shortens_an_ejection() -> None:
    standing = make()
    until = standing.eject(NOW)

    for report in (Report(URL, ejected_s=1), Report(URL, is_well=True, is_draining=False)):
        standing.learn(report, NOW, may_eject=True)

    assert standing.until(NOW) == until


def test_what_a_report_does_not_say_stays_as_it_is() -> None:
    standing = make()
    check(standing, False)
    standing.drain(NOW)

    is_news = standing.learn(Report(URL), NOW, may_eject=True)

    assert (is_news, standing.is_well, standing.is_draining) == (False, False, True)


def test_checks_are_counted_anew_after_a_verdict_that_was_learnt() -> None:
    standing = make()
    for _ in range(UNHEALTHY_AFTER - 1):
        standing.checked(False, NOW)

    standing.learn(Report(URL, is_well=True), NOW, may_eject=True)

    assert [standing.checked(False, NOW) for _ in range(UNHEALTHY_AFTER)] == [False] * (UNHEALTHY_AFTER - 1) + [True]


def test_ones_own_verdict_that_comes_back_does_not_begin_the_count_anew() -> None:
    standing = make()
    check(standing, True)
    for _ in range(UNHEALTHY_AFTER - 1):
        standing.checked(False, NOW)

    standing.learn(Report(URL, is_well=True), NOW, may_eject=True)

    assert standing.checked(False, NOW)


class Service(RuleBasedStateMachine):
    """Whatever checks, requests, operators, other workers and time do to the instances of a service."""

    numbers = st.integers(0, 5)

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.instances: list[Instance] = []
        self.has_changed = True
        self.shares: list[float] = []

    @initialize(count=st.integers(1, 6))
    def start(self, count: int) -> None:
        self.instances = [Instance(make()) for _ in range(count)]

    def pick(self, number: int) -> Standing:
        self.has_changed = True
        return self.instances[number % len(self.instances)].standing

    @rule(number=numbers, is_ok=st.booleans(), times=st.integers(1, 3))
    def check(self, number: int, is_ok: bool, times: int) -> None:
        for _ in range(times):
            self.pick(number).checked(is_ok, self.now)

    @rule(number=numbers)
    def succeed(self, number: int) -> None:
        self.pick(number).succeeded()

    @rule(number=numbers, times=st.integers(1, 4))
    def fail(self, number: int, times: int) -> None:
        standing = self.pick(number)
        for _ in range(times):
            if standing.failed(self.now) and may_eject(self.instances, self.now):
                assert PERIOD_S - 1e-9 <= next_ejection_s(standing, self.now) <= LONGEST_S + 1e-9

    @rule(number=numbers, is_wanted=st.booleans())
    def drain(self, number: int, is_wanted: bool) -> None:
        standing = self.pick(number)
        standing.drain(self.now) if is_wanted else standing.undrain(self.now)

    @rule(number=numbers)
    def close_breaker(self, number: int) -> None:
        self.pick(number).returned(self.now)

    @rule(number=numbers, report=reports)
    def learn(self, number: int, report: Report) -> None:
        self.pick(number).learn(report, self.now, may_eject=may_eject(self.instances, self.now))

    @precondition(lambda self: self.instances)
    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        shares = [instance.standing.share(self.now) for instance in self.instances]
        if not self.has_changed:
            assert all(after >= before for before, after in zip(self.shares, shares, strict=True))
        self.has_changed, self.shares = False, shares

    @invariant()
    def at_most_half_are_ejected(self) -> None:
        ejected = sum(instance.standing.is_ejected(self.now) for instance in self.instances)
        assert ejected <= len(self.instances) // 2

    @invariant()
    def requests_go_somewhere_but_never_to_one_that_drains(self) -> None:
        elected = electable(self.instances, self.now)
        staying = [instance for instance in self.instances if not instance.standing.is_draining]
        well = [instance for instance in staying if instance.standing.reason(self.now) == "well"]
        assert all(instance in staying for instance in elected)
        assert bool(elected) == bool(staying)
        assert not well or elected == well

    @invariant()
    def every_share_is_sound_and_every_time_fits_its_reason(self) -> None:
        for standing in (instance.standing for instance in self.instances):
            since, until = standing.since(self.now), standing.until(self.now)
            assert SLOWEST_SHARE <= standing.share(self.now) <= 1
            assert since is None or since <= self.now
            assert (until is not None) == (standing.reason(self.now) == "ejected")
            assert until is None or self.now < until <= self.now + LONGEST_S


Service.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestService = Service.TestCase
