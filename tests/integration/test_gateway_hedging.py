"""A second try at another instance when the first is late: it helps, it is rare, and it does no harm."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import ExitStack

import pytest

from tests.integration.conftest import Gateway, GatewayFactory, no_fault_in, ready
from tests.support.bottleneck import Bottleneck
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.stub import StubService

SLOW = "/slow/2"


class Pair:
    """A gateway with one worker, and two instances; what is slow at the first is quick at the second."""

    def __init__(self, gateway: Gateway, slow: StubService, quick: StubService) -> None:
        self.gateway, self.slow, self.quick = gateway, slow, quick

    @property
    def seen(self) -> int:
        return len(self.slow.requests) + len(self.quick.requests)

    def counted(self, service: str, outcome: str) -> float:
        sample = f'gateway_hedges_total{{outcome="{outcome}",service="{service}"}} '
        lines = self.gateway.operations("/metrics").body.decode().splitlines()
        return next((float(line.removeprefix(sample)) for line in lines if line.startswith(sample)), 0.0)


@pytest.fixture(scope="module")
def hedging(start_gateway: GatewayFactory) -> Generator[Pair]:
    with ExitStack() as stack:
        slow, quick = (stack.enter_context(StubService(free_port())) for _ in range(2))
        steady = stack.enter_context(Bottleneck(capacity=10, work_s=0.4))
        both = f'instances: ["{slow.url}", "{quick.url}"], public: true, path: /, retries: 0, ejection: off'
        services = f"""
services:
  users: {{{{url: "{{url}}"}}}}
  orders: {{{{url: "{{url}}"}}}}
  products: {{{{url: "{{url}}"}}}}
  hedged: {{{{{both}, hedge: {{{{after_ms: 100, budget: 1}}}}, breaker: {{{{failures: 1}}}}}}}}
  thrifty: {{{{{both}, hedge: {{{{after_ms: 50, budget: 0.1}}}}}}}}
  learning: {{{{{both}, hedge: {{{{budget: 1}}}}}}}}
  halved:
    instances: ["{slow.url}", "http://127.0.0.1:{{closed_port}}"]
    public: true
    path: /
    breaker: off
    ejection: off
    hedge: {{{{after_ms: 100, budget: 1}}}}
  failing:
    instances: ["{slow.url}", "{steady.url}"]
    public: true
    path: /
    retries: 0
    ejection: off
    breaker: off
    hedge: {{{{after_ms: 50, budget: 1}}}}
  learned: {{{{{both}, balance: peak-ewma, hedge: {{{{after_ms: 100, budget: 1}}}}}}}}
  plain: {{{{{both}}}}}
  lonely: {{{{url: "{slow.url}", public: true, path: /, hedge: {{{{after_ms: 50, budget: 1}}}}}}}}
  brief: {{{{{both}, timeout_s: 0.6, hedge: {{{{after_ms: 100, budget: 1}}}}}}}}
"""
        gateway = start_gateway(services=services, WEB_CONCURRENCY="1", BACKEND_POOL_SIZE="4")
        yield Pair(gateway, slow, quick)


@pytest.fixture
def pair(hedging: Pair) -> Generator[Pair]:
    ready(hedging.gateway)
    for stub in (hedging.slow, hedging.quick):
        stub.clear()
    hedging.quick.json[SLOW] = {"quick": True}
    with no_fault_in(hedging.gateway):
        yield hedging


def test_nobody_has_to_wait_for_a_slow_instance(pair: Pair) -> None:
    began = time.monotonic()
    answers = [pair.gateway.get(f"/hedged{SLOW}") for _ in range(10)]
    elapsed_s = time.monotonic() - began

    assert [answer.json() for answer in answers] == [{"quick": True}] * 10
    assert elapsed_s < 2
    assert (len(pair.slow.requests), len(pair.quick.requests)) == (5, 10)
    assert pair.counted("hedged", "won") >= 5
    (line,) = [line for line in pair.gateway.log_of(answers[0]) if line["event"] == "request"]
    other = next(line for line in pair.gateway.log_of(answers[1]) if line["event"] == "request")
    told = sorted((line, other), key=lambda line: "hedged" in line)
    assert [(line.get("hedged"), line.get("tries")) for line in told] == [(None, None), ("won", 2)]
    assert {line["instance"] for line in told} == {pair.quick.url}


def test_what_was_called_off_counts_for_no_breaker_and_leaves_no_connection(pair: Pair) -> None:
    for _ in range(10):
        assert pair.gateway.get(f"/hedged{SLOW}").status == 200

    assert [line for line in pair.gateway.events("breaker") if line["to"] == "hedged"] == []
    wait_until(lambda: pair.gateway.get("/hedged/echo").status == 200, "a place at the slow instance")
    answers = [pair.gateway.get(f"/hedged/echo?{n}").json()["target"] for n in range(10)]
    assert answers == [f"/echo?{n}" for n in range(10)]
    assert len(pair.slow.requests) >= 10


def test_nothing_that_may_change_something_is_sent_twice(pair: Pair) -> None:
    for method, body in (("POST", b""), ("PUT", b"x"), ("DELETE", b""), ("GET", b"x")):
        pair.slow.clear()
        pair.quick.clear()
        for _ in range(2):
            pair.gateway.request(method, "/hedged/slow/0.3", [], body)

        assert (len(pair.slow.requests), len(pair.quick.requests)) == (1, 1)
        assert pair.slow.malformed == pair.quick.malformed == []  # nor the half of it


def test_second_tries_stay_within_their_budget(pair: Pair) -> None:
    for _ in range(50):
        assert pair.gateway.get("/thrifty/slow/0.08").status == 200

    assert 50 < pair.seen <= 50 * 1.1 + 1
    assert pair.counted("thrifty", "refused") >= 40


def test_a_service_with_one_instance_is_not_asked_twice(pair: Pair) -> None:
    assert pair.gateway.get("/lonely/slow/0.2").status == 200

    assert pair.seen == 1


def test_a_balancer_that_goes_by_latency_learns_from_what_was_called_off(pair: Pair) -> None:
    for _ in range(12):
        assert pair.gateway.get(f"/learned{SLOW}").status == 200

    assert len(pair.slow.requests) <= 4


def test_only_first_tries_are_hedged(pair: Pair) -> None:
    for _ in range(4):  # two of them begin with the instance that is not there
        assert pair.gateway.get("/halved/slow/0.3").status == 200

    assert pair.counted("halved", "lost") == 2
    assert pair.seen == 4


def test_without_a_wish_for_it_nothing_is_hedged(pair: Pair) -> None:
    for _ in range(2):
        pair.gateway.get("/plain/slow/0.3")

    assert pair.seen == 2


def test_how_late_is_late_is_learnt(pair: Pair) -> None:
    before = [pair.gateway.get(f"/learning{SLOW}").status for _ in range(2)]  # nothing is known yet: no second try
    alone = pair.seen
    for _ in range(200):
        pair.gateway.get("/learning/echo")
    pair.slow.clear()
    pair.quick.clear()
    pair.quick.json[SLOW] = {"quick": True}

    began = time.monotonic()
    after = [pair.gateway.get(f"/learning{SLOW}").status for _ in range(2)]

    assert (before, alone) == ([200, 200], 2)
    assert after == [200, 200]
    assert time.monotonic() - began < 1.5


def test_both_tries_end_with_the_time_of_the_request(pair: Pair) -> None:
    pair.quick.json.clear()

    began = time.monotonic()
    answer = pair.gateway.get("/brief/slow/5")
    elapsed_s = time.monotonic() - began

    assert answer.status == 504
    assert 0.55 < elapsed_s < 1.1
    assert pair.seen == 2


def test_a_failure_waits_for_the_other_try(pair: Pair) -> None:
    """One instance fails after 0.2 s, the other one has a good answer after 0.4 s."""
    answers = [pair.gateway.get("/failing/late/0.2/500") for _ in range(4)]

    assert {answer.status for answer in answers} == {200}
    assert len(pair.slow.requests) == 4
