"""What is not HTTP/1.1 is refused before anything else sees it, in the one error shape and never as HTML."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Gateway, assert_problem
from tests.support import wire
from tests.support.hostile import MALFORMED, OTHERWISE, get


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_malformed_request_is_a_problem_and_ends_the_connection(gateway: Gateway, raw: bytes) -> None:
    answer = wire.exchange(gateway.port, raw)

    assert_problem(answer, 400, "MALFORMED_REQUEST")
    assert answer.header("Connection") == "close"
    assert answer.closed
    assert gateway.arrived == gateway.stub.malformed == []


@pytest.mark.parametrize(("raw", "status", "code"), OTHERWISE.values(), ids=OTHERWISE)
def test_request_beyond_what_is_offered_is_a_problem(gateway: Gateway, raw: bytes, status: int, code: str) -> None:
    answer = wire.exchange(gateway.port, raw)

    assert_problem(answer, status, code)
    assert answer.closed
    assert gateway.arrived == []


def test_refusal_repeats_nothing_of_what_was_sent(gateway: Gateway) -> None:
    answer = wire.exchange(gateway.port, get(b"X-A<script>: Bearer hunter2\r\n"))

    assert b"hunter2" not in answer.raw
    assert b"script" not in answer.raw
    assert "hunter2" not in gateway.process.log()


def test_refusal_is_found_in_the_log_by_its_id(gateway: Gateway) -> None:
    answer = wire.exchange(gateway.port, MALFORMED["two lengths"])

    (line,) = gateway.log_of(answer)
    assert line["code"] == "MALFORMED_REQUEST"
    assert line["level"] == "info"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(b"X-A:1\r\n", id="no space after the colon"),
        pytest.param(b"X-A: \t 1 \t \r\n", id="white space around the value"),
        pytest.param(b"X-A: 1\xe9\xff\r\n", id="obs-text"),
        pytest.param(b"X-A:\r\n", id="empty value"),
        pytest.param(b"".join(b"X-%d: 1\r\n" % number for number in range(98)), id="99 fields"),
        pytest.param(b"X-A: " + b"x" * 16_000 + b"\r\n", id="16 KB in a field"),
    ],
)
def test_unusual_but_well_formed_request_is_served(gateway: Gateway, fields: bytes) -> None:
    answer = wire.exchange(gateway.port, get(fields))

    assert answer.status == 200
    assert len(gateway.arrived) == 1


def test_one_empty_line_before_a_request_is_forgiven(gateway: Gateway) -> None:
    answer = wire.exchange(gateway.port, b"\r\n" + get())

    assert answer.status == 200


def test_request_line_of_8000_bytes_is_served(gateway: Gateway) -> None:
    target = "/open/" + "x" * 8000

    answer = gateway.get(target)

    assert answer.status == 200
    assert gateway.arrived[0].target == "/" + "x" * 8000


def test_nothing_behind_a_refused_request_is_taken_for_another(gateway: Gateway) -> None:
    raw = wire.send_and_read_all(gateway.port, MALFORMED["length and chunks"] + get())

    assert raw.count(b"HTTP/1.1 ") == 1
    assert gateway.arrived == []


def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    first, second = wire.request_bytes("POST", "/open/1", [], b"one"), wire.request_bytes("GET", "/open/2")

    with gateway.connect() as connection:
        connection.send(first + second)
        answers = [connection.answer(), connection.answer()]

    assert [answer.json()["target"] for answer in answers] == ["/1", "/2"]
    assert answers[0].json()["body"] == "one"
