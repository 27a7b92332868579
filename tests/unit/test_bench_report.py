"""What the bench says of its figures: nothing is hidden, and the page keeps what people wrote."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bench import report
from bench.__main__ import PAGE
from bench.bars import EXPRESS, FAST, FASTAPI, STOCK, TWO, bars
from bench.figures import Spread
from bench.load import Paced
from bench.measuring import Measured, Sample
from bench.phases import Plan
from bench.results import Added, Results

HERE = report.Circumstances(datetime(2026, 11, 22, 9, 30, tzinfo=UTC), "two cores", {"nginx": "1.22"}, "nginx", "wrk")


def measured(*cpu_us: float, per_s: float = 1000.0, fault: str = "") -> Measured:
    faults = (fault,) if fault else ()
    return Measured([Sample(cost, per_s, 10, 11, 12, faults) for cost in cpu_us])


def added(p50: float, p99: float) -> Added:
    return Added(Spread(p50, p50, p50), Spread(p99, p99, p99))


def good() -> Results:
    """Every bar holds, and what was to be reached for is reached."""
    cost = {
        "nginx": measured(10),
        FAST: measured(30, 35, 40),
        STOCK: measured(90),
        TWO: measured(40, per_s=20_000.0),
        FASTAPI: measured(2_000),
        f"{FASTAPI}, 8 connections": measured(1_000),
        EXPRESS: measured(150),
    }
    kinds = {
        "nginx": measured(10),
        "one user": measured(40),
        "10,000 users, 1,000 addresses": measured(40),
        "cached answer": measured(14),
        "401, a bad token": measured(19),
        "429, over the limit": measured(20),
        "10 routes": measured(40),
        "1,000 routes": measured(39),
        "10,000 routes": measured(38),
    }
    return Results(
        memory={FAST: (120.0, 80.0), TWO: (88.0, 45.0)},
        cost=cost,
        latency={FAST: added(0.3, 1.2)},
        straight=added(0.2, 0.4),
        kinds={"fast": kinds},
        stages={"route": 0.04, "auth": 0.02, "limits": 0.5, "instance": 0.01},
    )


def test_good_figures_hold_and_reach() -> None:
    *most, memory_of_three = bars(good())

    assert {(bar.holds, bar.reaches) for bar in most} == {(True, True)}
    assert (memory_of_three.holds, memory_of_three.reaches) == (None, True)  # nothing but a wish


def test_the_cheaper_of_two_ways_to_measure_a_peer_is_the_one_that_counts() -> None:
    (bar,) = (bar for bar in bars(good()) if FASTAPI in bar.figure)

    assert bar.value == f"{1_000 / 35:.1f}"


def test_a_bar_that_does_not_hold_is_said() -> None:
    results = good()
    results.cost = {**results.cost, FAST: measured(46)}

    (bar,) = (bar for bar in bars(results) if bar.figure.startswith("CPU per request / nginx"))

    assert (bar.value, bar.holds, bar.reaches) == ("4.60", False, False)
    assert "| 4.60 | **no** | **no** |" in "\n".join(report.bar_table(results))


def test_growth_of_a_tenth_does_not_hold() -> None:
    results = good()
    results.kinds["fast"] = {**results.kinds["fast"], "10,000 routes": measured(44)}

    (bar,) = (bar for bar in bars(results) if "10,000 routes" in bar.figure)

    assert (bar.value, bar.holds) == ("+10.0 %", False)


def test_what_was_not_measured_is_said_to_be_so() -> None:
    assert {(bar.value, bar.holds, bar.reaches) for bar in bars(Results())} == {("not measured", None, None)}


def test_subjects_stand_in_the_order_of_their_cost_with_ratio_and_spread() -> None:
    lines = report.cost_table(good())

    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| nginx", f"| {FAST}", f"| {TWO}"]
    assert lines[3] == (
        f"| {FAST} | 35.0 [30.0-40.0] | 3.50 | 1,000 [1,000-1,000] | 0.30 [0.30-0.30] | 1.20 [1.20-1.20] | 120 |"
    )


def test_growth_is_told_as_a_ratio() -> None:
    assert list(report.growth(good().kinds["fast"])) == [
        "- 1,000 routes instead of 10 routes: x 0.975 (-2.5 %)",
        "- 10,000 routes instead of 10 routes: x 0.950 (-5.0 %)",
        "- 10,000 users, 1,000 addresses instead of one user: x 1.000 (+0.0 %)",
    ]


@pytest.mark.parametrize("where", ["cost", "kinds", "latency"])
def test_every_fault_is_told(where: str) -> None:
    results = good()
    if where == "cost":
        results.cost = {**results.cost, "nginx": measured(10, fault="it did nothing")}
    elif where == "kinds":
        results.kinds["stock"] = {"TLS": measured(10, fault="it did nothing")}
    else:
        results.slow_faults = ["it did nothing"]

    told = "\n".join(report.checks(results))

    assert "**It was not always so:**" in told
    assert "- it did nothing" in told


def test_without_faults_it_says_that_all_was_checked() -> None:
    told = "\n".join(report.checks(good()))

    assert "It was so in all of them." in told
    assert f"| {FAST} | 30 | 33 | 36 |" in told


def test_the_page_says_where_when_and_what_was_left_out() -> None:
    results = good()
    results.skipped["Caddy"] = "caddy is not installed"

    text = report.text(results, Plan.quick(0.0), HERE)

    assert text.startswith("Measured on 2026-11-22 09:30 UTC: two cores.\nLoad: wrk; service: nginx. nginx 1.22.")
    assert "### Not measured\n\n- Caddy: caddy is not installed\n" in text
    assert "performance.png" not in text


def test_the_plot_is_shown_when_it_was_drawn() -> None:
    assert "](img/performance.png)" in report.text(good(), Plan.quick(0.0), HERE, with_plot=True)


def test_latency_is_compared_with_going_straight_in_the_same_round() -> None:
    def runs(*pairs: tuple[float, float]) -> list[Paced]:
        return [Paced(1, 0, 0, p50, p99, 0.0) for p50, p99 in pairs]

    compared = Added.of(runs((1.0, 3.0), (5.0, 9.0)), runs((0.5, 1.0), (4.0, 8.0)))

    assert compared == Added(Spread(0.75, 0.5, 1.0), Spread(1.5, 1.0, 2.0))


def test_only_what_stands_between_the_marks_is_written_anew() -> None:
    begin, end = report.MARKS
    page = f"# Title\n\n{begin}\nold\n{end}\n\nby hand\n"

    assert report.placed(page, "new\n") == f"# Title\n\n{begin}\nnew\n{end}\n\nby hand\n"


def test_a_page_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="no marks"):
        report.placed("# Title\n", "new\n")


def test_the_page_of_this_repository_has_the_marks() -> None:
    assert report.placed(PAGE.read_text(), "") != ""
