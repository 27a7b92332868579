"""Deadlines of requests: how they are read, counted down, passed on, and forgotten."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import example, given
from hypothesis import strategies as st

from common import deadlines, problems
from common.deadlines import HEADER, Deadline, parse, render
from tests.support.deadlines import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ("value", "left_s"),
    [("1", 0.001), ("300", 0.3), ("2500", 2.5), ("007", 0.007), ("999999999", 999_999.999), ("0", 0.0), ("000", 0.0)],
)
def test_whole_milliseconds_are_read_as_seconds(value: str, left_s: float) -> None:
    assert parse(value) == left_s


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " ",
        "-1",
        "+1",
        "1.5",
        "1e3",
        "1_000",
        "0x10",
        " 5",
        "5 ",
        "5\n",
        "5,6",
        "5ms",
        "soon",
        "٣",
        "²",
        "1" * 10,
    ],
)
def test_what_makes_no_sense_is_no_deadline(value: str | None) -> None:
    assert parse(value) is None


@given(st.integers(0, 999_999_999))
@example(1001)  # 1.001 * 1000 is less than 1001
def test_what_is_told_is_read_as_it_was(milliseconds: int) -> None:
    left_s = parse(str(milliseconds))

    assert left_s is not None
    assert render(left_s) == str(milliseconds)


def test_a_deadline_comes_nearer_and_stays_over(clock: Clock) -> None:
    deadline, left_s = Deadline.after(2.0, clock), list[tuple[float, bool]]()

    for now in (100.0, 101.5, 101.75, 102.0, 500.0):
        clock.now = now
        left_s.append((deadline.left_s(), deadline.is_over))

    assert left_s == [(2.0, False), (0.5, False), (0.25, False), (0.0, True), (0.0, True)]


def test_less_than_a_millisecond_is_nothing(clock: Clock) -> None:
    deadline = Deadline.after(1.0, clock)
    clock.now += 0.9995

    assert (deadline.left_s(), deadline.is_over) == (0.0, True)


def test_nobody_is_told_more_than_is_left(clock: Clock) -> None:
    deadline = Deadline.after(1.0, clock)
    clock.now += 0.5001

    assert render(deadline.left_s()) == "499"


def test_a_deadline_can_not_be_put_off(clock: Clock) -> None:
    deadline = Deadline.after(1.0, clock)

    with pytest.raises(FrozenInstanceError):
        deadline.at = 1e9  # pyright: ignore[reportAttributeAccessIssue] - that is the point


def test_without_a_request_there_is_no_deadline() -> None:
    assert deadlines.current() is None
    assert 4.9 < deadlines.outgoing(5.0).left_s() <= 5.0


@pytest.fixture
def app(clock: Clock) -> Flask:
    """Tells what is left of a request's time, and what a call of 5 s would get, at first and after a second's work."""
    app = Flask("things")
    problems.init_app(app, "things")
    deadlines.init_app(app, clock=clock)

    def look() -> tuple[float | None, float]:
        current = deadlines.current()
        return current and current.left_s(), deadlines.outgoing(5.0).left_s()

    @app.get("/")
    def begin_and_go_on() -> list[tuple[float | None, float]]:
        at_first = look()
        clock.now += 1
        return [at_first, look()]

    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client(use_cookies=False)


def looks(client: FlaskClient, value: str | None) -> list[tuple[float | None, float]]:
    answer = client.get("/", headers={} if value is None else {HEADER: value})
    assert answer.status_code == 200
    return [(left_s, call_s) for left_s, call_s in json.loads(answer.data)]


def test_a_call_to_another_service_gets_what_is_left_of_the_request(client: FlaskClient) -> None:
    assert looks(client, "2500") == [(2.5, 2.5), (1.5, 1.5)]


def test_a_call_that_began_too_late_gets_nothing(client: FlaskClient) -> None:
    assert looks(client, "500") == [(0.5, 0.5), (0.0, 0.0)]


def test_a_request_with_plenty_of_time_does_not_prolong_a_call(client: FlaskClient) -> None:
    (_, at_first_s), (_, later_s) = looks(client, "60000")

    assert 4.9 < at_first_s <= 5.0
    assert 4.9 < later_s <= 5.0


@pytest.mark.parametrize("value", [None, "", "-5", "soon", "1234567890"])
def test_a_request_without_a_sensible_header_has_no_deadline(client: FlaskClient, value: str | None) -> None:
    (current, call_s), _ = looks(client, value)

    assert current is None
    assert 4.9 < call_s <= 5.0


@pytest.mark.parametrize("value", ["0", "000"])
def test_a_request_whose_time_is_over_is_refused_before_its_work_begins(
    client: FlaskClient, clock: Clock, value: str
) -> None:
    answer = client.get("/", headers={HEADER: value})

    assert (answer.status_code, answer.get_json()["code"]) == (504, "DEADLINE_EXCEEDED")
    assert clock.now == 100.0


@pytest.mark.parametrize("earlier", ["0", "2500"])
def test_a_deadline_is_forgotten_with_its_request(app: Flask, client: FlaskClient, earlier: str) -> None:
    with app.app_context():  # it is one and the same for both requests, and is there when they are served
        client.get("/", headers={HEADER: earlier})

        assert looks(client, None)[0][0] is None


def test_nothing_of_a_deadline_is_left_after_its_request(client: FlaskClient) -> None:
    looks(client, "2500")

    assert deadlines.current() is None
