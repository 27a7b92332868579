"""The bench reads /proc, keeps to its time, and notices when somebody skips the work."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

import pytest

from bench import usage
from bench.figures import Spread, number, percent
from bench.load import Load
from bench.measuring import QUIET_LOOKS, Budget, Case, faults_of, settled
from bench.servers import Server, Service

STAT = "77 (a) b (c) S 1 77 77 0 -1 4194560 1203 0 0 0 250 50 7 3 20 0 1 0 8 1000 300 18446744073709551615"
CASE = Case("it", Server("it", 1, 1), counts=True)


def test_ticks_are_user_and_system_time_whatever_the_process_is_called() -> None:
    assert usage.ticks(STAT) == 250 + 50 + 7 + 3


def test_the_time_of_an_ended_child_is_not_lost() -> None:
    busy = "import time\nwhile time.process_time() < 0.4: pass"

    before = usage.cpu_s(os.getpid())
    subprocess.run([sys.executable, "-c", busy], check=True)

    assert usage.cpu_s(os.getpid()) - before >= 0.3  # ticks are coarse


def test_a_process_that_has_ended_has_used_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    assert usage.cpu_s(ended.pid) == 0


def test_memory_is_that_of_the_whole_tree_and_of_its_greatest() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        tree, greatest = usage.memory_mb(os.getpid())

        assert tree > greatest > 5
    finally:
        child.communicate(b"\n")


def test_a_spread_has_median_least_and_greatest() -> None:
    spread = Spread.of([3.0, 1.0, 2.0, 10.0])

    assert spread == Spread(statistics.median([1, 2, 3, 10]), 1.0, 10.0)
    assert str(spread) == "2.50 [1.00-10.0]"


def test_no_run_has_no_spread() -> None:
    with pytest.raises(ValueError, match="no run"):
        Spread.of([])


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "0.12"), (9.87, "9.87"), (48.06, "48.1"), (1536.4, "1,536"), (-0.2, "-0.20")]
)
def test_numbers_have_the_digits_that_mean_something(value: float, text: str) -> None:
    assert number(value) == text


def test_growth_is_told_in_percent_with_its_sign() -> None:
    assert (percent(0.034), percent(-0.01)) == ("+3.4 %", "-1.0 %")


def test_a_round_is_not_begun_when_there_is_no_time_for_it() -> None:
    begun: list[int] = []

    rounds = Budget(5, until=time.monotonic() - 1).run(begun.append)

    assert (rounds, begun) == (1, [0])


def test_all_rounds_are_run_when_there_is_time() -> None:
    begun: list[int] = []

    assert Budget(3, until=time.monotonic() + 60).run(begun.append) == 3
    assert begun == [0, 1, 2]


@pytest.mark.parametrize(
    ("case", "done", "served", "scripts", "fault"),
    [
        (CASE, Load(100, 1.0, 0, 0), 164, 164, ""),
        (CASE, Load(100, 1.0, 1, 0), 100, 100, "1 of 100 answers were not 200"),
        (CASE, Load(100, 1.0, 0, 2), 100, 100, "2 requests failed"),
        (CASE, Load(100, 1.0, 0, 0), 99, 100, "the service has seen 99"),
        (CASE, Load(100, 1.0, 0, 0), 165, 165, "the service has seen 165"),
        (CASE, Load(100, 1.0, 0, 0), 100, 99, "only 99 scripts"),
        (Case("it", CASE.server, expects=401, asks_service=False), Load(100, 1.0, 100, 0), 0, 0, ""),
        (Case("it", CASE.server, expects=401, asks_service=False), Load(100, 1.0, 98, 0), 0, 0, "2 of 100"),
        (Case("it", CASE.server, asks_service=False), Load(100, 1.0, 0, 0), 1, 0, "1 requests that were not meant"),
    ],
    ids=["good", "status", "failed", "not asked", "asked twice", "not counted", "refused", "let in", "not from cache"],
)
def test_skipped_work_is_noticed(case: Case, done: Load, served: int, scripts: int, fault: str) -> None:
    faults = faults_of(case, done, served, scripts)

    assert len(faults) == (1 if fault else 0)
    assert fault in "".join(faults)


@pytest.mark.parametrize(("program", "looks"), [("nginx", 1), ("bench.service", 0)])
@pytest.mark.parametrize(("expected", "seen"), [(10, 10), (13, 13), (20, 13)], ids=["all", "late", "some never"])
def test_what_is_on_its_way_is_waited_for_and_looking_counts_nothing(
    program: str, looks: int, expected: int, seen: int
) -> None:
    class Telling(Service):
        """Three requests come in late, after a pause."""

        def served(self) -> int:
            return next(told)

    arrived = [10, 10, 10, *[13] * QUIET_LOOKS, 13]
    told = iter([count + looks * number for number, count in enumerate(arrived)])

    assert settled(Telling(1, 2, program), expected) == seen
