"""`Server-Timing` by a clock that is set by hand."""

from __future__ import annotations

import pytest

from gateway.observability.stages import Stages


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def goes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_stage_is_what_was_done_since_the_one_before(clock: Clock) -> None:
    stages = Stages(clock)

    clock.goes(0.001)
    stages.ended("route")
    clock.goes(0.25)
    stages.ended("service")
    clock.goes(0.002)

    assert stages.field() == ("Server-Timing", "route;dur=1.000, service;dur=250.000, total;dur=253.000")


def test_a_stage_in_the_middle_of_another_does_not_count_twice(clock: Clock) -> None:
    stages = Stages(clock)

    clock.goes(0.001)
    stages.apart("auth", lambda: clock.goes(0.01))
    clock.goes(0.002)
    stages.ended("limits")

    assert stages.field()[1] == "auth;dur=10.000, limits;dur=3.000, total;dur=13.000"


def test_a_stage_that_fails_counts_too(clock: Clock) -> None:
    stages = Stages(clock)

    def fail() -> None:
        clock.goes(0.01)
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - it is ours
        stages.apart("auth", fail)
    stages.ended("limits")

    assert stages.field()[1] == "auth;dur=10.000, limits;dur=0.000, total;dur=10.000"


def test_what_comes_again_is_added_up(clock: Clock) -> None:
    stages = Stages(clock)

    for _ in range(3):
        clock.goes(0.001)
        stages.ended("instance")
        clock.goes(0.1)
        stages.ended("service")

    assert stages.field()[1] == "instance;dur=3.000, service;dur=300.000, total;dur=303.000"
