"""The fitness of an instance: what speaks against it, and who is told when it changes."""

from __future__ import annotations

import pytest
from gevent import GreenletExit
from requests import ConnectionError as NoConnection
from requests import ReadTimeout
from structlog.testing import capture_logs
from structlog.typing import EventDict

from gateway.backend.breaker import NoVerdict
from gateway.backend.countdown import WishOver
from gateway.backend.fitness import Fitness
from gateway.backend.standing import ActiveRule, EjectionRule, Report
from gateway.body import CallerGone
from gateway.observability.metrics import Metrics
from tests.unit import parts

NOW = 1000.0
FAILURES, PERIOD_S = 3, 5.0
URLS = ("http://10.0.0.1:80", "http://10.0.0.2:80")
CHECK = ActiveRule("/health", 5.0, 1.0, 2, 2)
EJECTION = EjectionRule(FAILURES, PERIOD_S, 300.0)


class Pair:
    """Two instances of one service, in one worker. What they tell is in `told`; time stands still until it is moved."""

    def __init__(
        self, *, check: ActiveRule | None = CHECK, ejection: EjectionRule | None = EJECTION, slow_start_s: float = 0.0
    ) -> None:
        service = parts.service(check=check, ejection=ejection, slow_start_s=slow_start_s)
        self.now = NOW
        self.metrics = Metrics()
        self.told: list[Report] = []
        self.first, self.second = (Fitness(service, url, self.metrics, clock=lambda: self.now) for url in URLS)
        for fitness in (self.first, self.second):
            fitness.tell = self.told.append
            fitness.fellows = lambda: (self.first, self.second)

    def sample(self, start: str) -> str:
        """The value of the one sample that begins so, "" if there is none."""
        page = self.metrics.page().decode().splitlines()
        return next((line.rpartition(" ")[2] for line in page if line.startswith(start)), "")


@pytest.fixture
def pair() -> Pair:
    return Pair()


def fail(fitness: Fitness, times: int = FAILURES) -> None:
    for _ in range(times):
        fitness.answered(503)


def named(logs: list[EventDict], *events: str) -> list[EventDict]:
    return [line for line in logs if line["event"] in events]


# Requests


@pytest.mark.parametrize("status", [502, 503, 504])
def test_answers_of_somebody_who_cannot_work_eject_an_instance(pair: Pair, status: int) -> None:
    for _ in range(FAILURES - 1):
        pair.first.answered(status)
    before = pair.first.standing.reason(NOW)
    pair.first.answered(status)

    assert (before, pair.first.standing.reason(NOW)) == ("well", "ejected")


@pytest.mark.parametrize("status", [200, 204, 302, 400, 404, 429, 500, 501, 505])
def test_any_other_answer_begins_the_count_anew(pair: Pair, status: int) -> None:
    for _ in range(5):
        fail(pair.first, FAILURES - 1)
        pair.first.answered(status)

    assert pair.first.standing.reason(NOW) == "well"


@pytest.mark.parametrize("error", [NoConnection(), ReadTimeout(), ValueError()], ids=lambda error: type(error).__name__)
def test_tries_without_an_answer_eject_an_instance(pair: Pair, error: Exception) -> None:
    for _ in range(FAILURES):
        pair.first.failed(error)

    assert pair.first.standing.reason(NOW) == "ejected"


@pytest.mark.parametrize(
    "error",
    [CallerGone("gone"), WishOver(), NoVerdict(), GreenletExit()],
    ids=lambda error: type(error).__name__,
)
def test_what_the_caller_or_the_gateway_caused_says_nothing(pair: Pair, error: BaseException) -> None:
    for _ in range(5 * FAILURES):
        pair.first.failed(error)
    well = pair.first.standing.reason(NOW)
    for _ in range(FAILURES):  # nor does it begin the count anew
        pair.first.failed(error)
        pair.first.answered(503)

    assert (well, pair.first.standing.reason(NOW)) == ("well", "ejected")


def test_an_ejection_is_one_line_one_count_and_one_report(pair: Pair) -> None:
    with capture_logs() as logs:
        fail(pair.first, 10)

    assert pair.told == [Report(URLS[0], ejected_s=PERIOD_S)]
    assert pair.sample("gateway_ejections_total{") == "1.0"
    assert logs == [
        {
            "event": "instance_ejected",
            "log_level": "warning",
            "to": "things",
            "instance": URLS[0],
            "seconds": PERIOD_S,
            "failures": FAILURES,
        }
    ]


def test_the_second_of_two_is_not_ejected_too(pair: Pair) -> None:
    fail(pair.first)
    fail(pair.second, 10)

    assert (pair.first.standing.reason(NOW), pair.second.standing.reason(NOW)) == ("ejected", "well")
    assert len(pair.told) == 1


def test_an_only_instance_is_never_ejected(pair: Pair) -> None:
    pair.first.fellows = lambda: (pair.first,)

    fail(pair.first, 10)

    assert (pair.first.standing.reason(NOW), pair.told) == ("well", [])


def test_a_service_without_the_rule_ejects_nobody() -> None:
    pair = Pair(ejection=None)

    fail(pair.first, 100)
    pair.first.learn(Report(URLS[0], ejected_s=5.0))

    assert pair.first.standing.reason(NOW) == "well"


# Checks


def test_a_verdict_is_one_line_one_gauge_and_one_report(pair: Pair) -> None:
    with capture_logs() as logs:
        for _ in range(4):
            pair.first.checked(False, "status 503")
        down = pair.sample("gateway_instance_up{")
        for _ in range(4):
            pair.first.checked(True, "status 200")

    words = {"log_level": "warning", "to": "things", "instance": URLS[0]}
    assert logs == [
        {"event": "instance_unhealthy", "reason": "status 503", **words},
        {"event": "instance_healthy", **words},
    ]
    assert (down, pair.sample("gateway_instance_up{")) == ("0.0", "1.0")
    assert pair.told == [Report(URLS[0], is_well=False), Report(URLS[0], is_well=True)]


def test_the_first_verdict_when_it_is_good_is_told_and_not_logged(pair: Pair) -> None:
    with capture_logs() as logs:
        for _ in range(4):
            pair.first.checked(True)

    assert (logs, pair.told, pair.sample("gateway_instance_up{")) == ([], [Report(URLS[0], is_well=True)], "1.0")


# Others


def test_what_others_found_out_is_taken_over_in_silence(pair: Pair) -> None:
    with capture_logs() as logs:
        pair.first.learn(Report(URLS[0], is_well=False))
        pair.second.learn(Report(URLS[1], ejected_s=3.0))

    assert (pair.first.standing.reason(NOW), pair.second.standing.reason(NOW)) == ("unhealthy", "well")
    assert pair.told == []
    assert named(logs, "instance_unhealthy", "instance_ejected") == []


def test_an_ejection_of_others_is_taken_over_if_half_are_left(pair: Pair) -> None:
    pair.first.learn(Report(URLS[0], ejected_s=3.0))
    pair.second.learn(Report(URLS[1], ejected_s=3.0))

    assert (pair.first.standing.until(NOW), pair.second.standing.reason(NOW)) == (NOW + 3.0, "well")
    assert (pair.told, pair.sample("gateway_ejections_total{")) == ([], "")


def test_a_verdict_of_others_says_nothing_where_nobody_is_checked() -> None:
    pair = Pair(check=None)

    pair.first.learn(Report(URLS[0], is_well=False))

    assert pair.first.standing.reason(NOW) == "well"


def test_a_drain_is_one_line_that_names_who_wanted_it(pair: Pair) -> None:
    with capture_logs() as logs:
        for is_draining in (True, True, False, False):
            pair.first.set_draining(is_draining, by="user:boss")
        pair.second.set_draining(True)

    words = {"log_level": "warning", "to": "things", "instance": URLS[0], "by": "user:boss"}
    assert logs == [{"event": "instance_draining", **words}, {"event": "instance_undrained", **words}]
    assert pair.second.standing.is_draining
    assert pair.told == []


def test_a_report_says_all_but_the_drain(pair: Pair) -> None:
    fail(pair.second)
    for _ in range(2):
        pair.first.checked(False)
    pair.first.set_draining(True, by="user:boss")

    assert pair.first.report() == Report(URLS[0], is_well=False)
    assert pair.second.report() == Report(URLS[1], ejected_s=PERIOD_S)


def test_who_follows_knows_what_its_forerunner_knew() -> None:
    before, after = Pair(), Pair(slow_start_s=7)
    for _ in range(2):
        before.first.checked(False)
    fail(before.second)

    after.first.take_over(before.first)
    after.second.take_over(before.second)

    assert after.first.standing.reason(NOW) == "unhealthy"
    assert not after.second.standing.is_ejected(NOW)  # of two, one stays
    assert after.told == []


# Slow start


def test_who_returns_gets_its_share_by_and_by() -> None:
    pair = Pair(slow_start_s=10.0)
    before = pair.first.share

    pair.first.returned()
    at_once = pair.first.share
    pair.now += 5
    half_way = pair.first.share
    pair.now += 5

    assert (before, at_once, pytest.approx(half_way), pair.first.share) == (1.0, 0.1, 0.55, 1.0)
