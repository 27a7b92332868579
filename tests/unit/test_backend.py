"""A backend and its instances, over real sockets: whom it asks, how often, and what it tells of it."""

from __future__ import annotations

import gc
import io
import json
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest

from common.deadlines import HEADER
from common.problems import BadGateway, GatewayTimeout, ServiceUnavailable
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.backend.countdown import Countdown
from gateway.backend.hedges import Hedges
from gateway.body import Body
from gateway.exchange import Answer
from gateway.observability.metrics import Metrics
from gateway.services import Address, BreakerRule, LoadRule, Sources
from tests.support.ports import free_port
from tests.support.processes import ROOT
from tests.support.stub import StubService
from tests.unit import parts


@pytest.fixture(scope="module")
def running() -> Generator[list[StubService]]:
    with ExitStack() as stack:
        yield [stack.enter_context(StubService(free_port())) for _ in range(2)]


@pytest.fixture
def stubs(running: list[StubService]) -> list[StubService]:
    for stub in running:
        stub.start().clear()
    return running


def backend(*urls: str, pool: int = 10, **rules: object) -> Backend:
    """Of a service with these instances. Nothing limits it but its `rules`: budget for all, no breaker."""
    given = {"retry_budget": 1.0, "breaker": None, "ejection": None, "timeout_s": 5.0, "try_timeout_s": 5.0, **rules}
    service = parts.service("things", sources=Sources(tuple(Address(url) for url in urls)), **given)
    return Backend(service, parts.settings(backend_pool_size=pool), Metrics())


def call(method: str = "GET", target: str = "/echo", body: bytes = b"", *, total_s: float = 5.0) -> Call:
    sent = Body(io.BytesIO(body), len(body), is_bounded=True, is_taken_in=True)
    return Call(method, target, [], sent, Countdown(total_s), total_s)


def seen(stubs: list[StubService]) -> list[int]:
    return [len(stub.requests) for stub in stubs]


def nowhere() -> str:
    """An address at which nobody listens."""
    return f"http://127.0.0.1:{free_port()}"


def answered(answer: Answer) -> dict[str, object]:
    return json.loads(b"".join(answer.body))


@pytest.mark.parametrize(
    ("method", "tries"), [("GET", 3), ("HEAD", 3), ("PUT", 3), ("DELETE", 3), ("POST", 1), ("PATCH", 1)]
)
def test_a_single_instance_is_tried_again_where_that_cannot_hurt(
    stubs: list[StubService], method: str, tries: int
) -> None:
    asked = call(method, "/status/502")

    answer = backend(stubs[0].url, retries=2).send(asked)

    assert answer.status == 502
    assert seen(stubs) == [tries, 0]
    assert asked.notes == {"instance": stubs[0].url, **({"tries": tries} if tries > 1 else {})}


def test_a_single_instance_that_recovers_saves_the_request(stubs: list[StubService]) -> None:
    assert backend(stubs[0].url).send(call(target="/flaky/1/503")).status == 200

    assert seen(stubs) == [2, 0]


def test_another_instance_goes_before_the_same_one(stubs: list[StubService]) -> None:
    asked = call(target="/status/502")

    backend(*(stub.url for stub in stubs), retries=1).send(asked)

    assert seen(stubs) == [1, 1]


def test_when_all_were_asked_they_are_asked_again(stubs: list[StubService]) -> None:
    made = backend(*(stub.url for stub in stubs), retries=3)
    for _ in range(2):
        made.send(call())  # earns the budget

    made.send(call(target="/status/502"))

    assert seen(stubs) == [3, 3]


def test_a_status_that_nobody_wants_retried_is_the_answer(stubs: list[StubService]) -> None:
    assert backend(stubs[0].url, retries=5, retry_on=frozenset({502})).send(call(target="/status/503")).status == 503

    assert seen(stubs) == [1, 0]


def test_without_retries_there_is_one_try(stubs: list[StubService]) -> None:
    with pytest.raises(BadGateway):
        backend(stubs[0].url, retries=0).send(call(target="/reset"))

    assert seen(stubs) == [1, 0]


def test_a_post_that_reached_nobody_goes_to_somebody_else(stubs: list[StubService]) -> None:
    made = backend(nowhere(), nowhere(), stubs[0].url, retries=0, retry_budget=0.0)

    answers = [made.send(call("POST", "/echo", b"once")) for _ in range(6)]

    assert [answered(answer)["body"] for answer in answers] == ["once"] * 6
    assert seen(stubs) == [6, 0]


def test_where_nobody_is_there_each_is_looked_for_once_and_one_again(stubs: list[StubService]) -> None:
    asked = call("POST")

    with pytest.raises(BadGateway) as told:
        backend(nowhere(), nowhere(), retries=2).send(asked)

    assert told.value.code == "SERVICE_UNREACHABLE"
    assert asked.notes["tries"] == 3


def test_a_body_is_sent_again_whole(stubs: list[StubService]) -> None:
    answer = backend(stubs[0].url).send(call("PUT", "/flaky/1/503", b"all of it"))

    assert answer.status == 200
    assert [received.body for received in stubs[0].requests] == [b"all of it"] * 2


def test_an_instance_that_wants_to_be_left_alone_is_and_the_other_one_is_asked_at_once(
    stubs: list[StubService],
) -> None:
    stubs[1].json["/status/503/60"] = {"fine": True}
    made = backend(*(stub.url for stub in stubs), retries=3)
    began = time.monotonic()

    answers = [made.send(call(target="/status/503/60")) for _ in range(4)]

    assert {answer.status for answer in answers} == {200}
    assert time.monotonic() - began < 0.5
    assert seen(stubs) == [2, 4]


def test_one_that_wants_to_be_left_alone_for_a_moment_is_waited_for(stubs: list[StubService]) -> None:
    began = time.monotonic()

    backend(stubs[0].url, retries=1).send(call(target="/status/503/1"))

    assert 1.0 <= time.monotonic() - began < 1.5
    assert seen(stubs) == [2, 0]


@pytest.mark.parametrize(("target", "total_s"), [("/status/503/3", 60.0), ("/status/503/1", 0.9)])
def test_one_that_wants_to_be_left_alone_for_too_long_is_not_waited_for(
    stubs: list[StubService], target: str, total_s: float
) -> None:
    began = time.monotonic()

    answer = backend(stubs[0].url, retries=1).send(call(target=target, total_s=total_s))

    assert answer.status == 503
    assert answer.header("retry-after") == target[-1]
    assert time.monotonic() - began < 0.5
    assert seen(stubs) == [1, 0]


def test_a_service_that_always_fails_sees_a_fifth_more_than_the_requests(stubs: list[StubService]) -> None:
    made = backend(*(stub.url for stub in stubs), retries=3, retry_budget=0.2)

    for _ in range(500):
        made.send(call(target="/status/502"))

    print(f"500 requests, {sum(seen(stubs))} tries")
    assert 590 <= sum(seen(stubs)) <= 601  # one more: the very first request may be saved, too


def test_an_answer_that_nobody_gets_gives_its_connection_back(stubs: list[StubService]) -> None:
    made = backend(stubs[0].url, retries=1, pool=1)

    answer = made.send(call(target="/long-status/502"))

    assert (answer.status, seen(stubs)) == (502, [2, 0])
    answer.close()
    assert made.send(call()).status == 200


def test_an_open_breaker_ends_the_tries(stubs: list[StubService]) -> None:
    made = backend(stubs[0].url, retries=5, breaker=BreakerRule(2, 60))

    first = made.send(call(target="/status/502"))
    with pytest.raises(ServiceUnavailable) as told:
        made.send(call(target="/status/502"))

    assert first.status == 502
    assert told.value.code == "CIRCUIT_OPEN"
    assert seen(stubs) == [2, 0]


def test_without_any_instance_it_says_so() -> None:
    with pytest.raises(ServiceUnavailable) as told:
        backend().send(call())

    assert told.value.code == "NO_INSTANCE"


def test_whoever_has_no_time_left_is_told_so_and_nobody_is_asked(stubs: list[StubService]) -> None:
    with pytest.raises(GatewayTimeout) as told:
        backend(stubs[0].url).send(call(total_s=0.0))

    assert told.value.code == "DEADLINE_EXCEEDED"
    assert seen(stubs) == [0, 0]


def test_each_try_is_told_what_it_has(stubs: list[StubService]) -> None:
    asked = replace(call(target="/status/502", total_s=4.0), try_timeout_s=3.0)

    backend(stubs[0].url, retries=1).send(asked)
    backend(stubs[0].url).send(replace(call(), tells_time=False))

    first, second, silent = (received.header(HEADER) for received in stubs[0].requests)
    assert first == second == "3000"
    assert silent is None


def test_a_copy_is_sent_once_whatever_happens_and_earns_nobody_a_retry(stubs: list[StubService]) -> None:
    made = backend(*(stub.url for stub in stubs), nowhere(), retries=3, retry_budget=0.2)
    for number in range(9):
        copy = replace(call(target=f"/status/502?{number}"), is_copy=True)
        with suppress(BadGateway):  # when it is the turn of the one that is not there
            made.send(copy)
        assert "tries" not in copy.notes
    assert seen(stubs) == [3, 3]

    made.send(call(target="/status/502"))  # there is the one token of the beginning
    made.send(call(target="/status/502"))
    assert sum(seen(stubs)) <= 6 + 3


def test_neither_a_copy_nor_what_may_change_something_is_hedged() -> None:
    assert Hedges.wants(call())
    assert Hedges.wants(call("HEAD"))
    assert not Hedges.wants(call("DELETE"))
    assert not Hedges.wants(call("GET", body=b"x"))
    assert not Hedges.wants(replace(call(), is_copy=True))


def test_an_instance_whose_connections_are_all_in_use_is_passed_over(stubs: list[StubService]) -> None:
    made = backend(*(stub.url for stub in stubs), pool=1)
    held = made.send(call(target="/bytes/200000"))
    began = time.monotonic()

    answers = [made.send(call()) for _ in range(4)]
    held.close()

    assert {answer.status for answer in answers} == {200}
    assert time.monotonic() - began < 1
    assert sorted(seen(stubs)) == [1, 4]


def test_a_connection_is_waited_for_no_longer_than_there_is_time(stubs: list[StubService]) -> None:
    made = backend(stubs[0].url, pool=1)
    held = made.send(call(target="/bytes/200000"))
    began = time.monotonic()

    with pytest.raises(ServiceUnavailable) as told:
        made.send(call(total_s=0.2))
    held.close()

    assert told.value.code == "SERVICE_BUSY"
    assert 0.15 < time.monotonic() - began < 1


def narrow(stub: StubService) -> Backend:
    return backend(stub.url, retries=0, load=LoadRule(in_flight=1, queue=0, wait_s=0.1))


@pytest.mark.parametrize("target", ["/echo", "/status/500", "/reset", "/cut", "/204", "/garbage"])
def test_a_request_that_has_ended_gives_its_place_back(stubs: list[StubService], target: str) -> None:
    made = narrow(stubs[0])

    for _ in range(3):
        with suppress(BadGateway):
            made.send(call(target=target))

    assert made.send(call()).status == 200


def test_a_long_answer_keeps_its_place_until_it_is_closed(stubs: list[StubService]) -> None:
    made = narrow(stubs[0])
    answer = made.send(call(target="/bytes/200000"))

    with pytest.raises(ServiceUnavailable) as told:
        made.send(call())
    answer.close()

    assert told.value.code == "OVERLOADED"
    assert made.send(call()).status == 200


def test_a_place_is_given_back_once_however_often_an_answer_is_closed(stubs: list[StubService]) -> None:
    made = narrow(stubs[0])
    first = made.send(call(target="/bytes/200000"))
    first.close()
    first.close()
    second = made.send(call(target="/bytes/200000"))

    with pytest.raises(ServiceUnavailable):
        made.send(call())
    second.close()


def test_a_long_answer_that_was_forgotten_gives_its_place_back(stubs: list[StubService]) -> None:
    made = narrow(stubs[0])
    made.send(call(target="/bytes/200000"))
    gc.collect()

    assert made.send(call()).status == 200


def test_a_post_reaches_its_service_at_most_once_over_10_000_runs_with_faults() -> None:
    """In a process of its own, for there gevent has to patch the sockets."""
    argv = [sys.executable, "-m", "tests.support.doubling", "10000", "1"]

    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)

    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    print(result)
    assert result["runs"] == 10_000
    assert result["most_arrivals_of_a_post"] == 1
    assert result["most_arrivals_of_another"] > 1  # the faults did provoke retries
    assert result["posts_answered"] > 1000
    assert result["posts_failed"] > 1000
    assert result["places_left"] == 0
