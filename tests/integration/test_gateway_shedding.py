"""Too many at once: so many go in as the service bears, few wait, the rest is told 503; and the gateway's own pages
answer meanwhile."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Generator

import pytest

from tests.integration.conftest import Gateway, GatewayFactory, assert_problem, no_fault_in, ready, together
from tests.support import wire
from tests.support.bottleneck import Bottleneck
from tests.support.processes import wait_until
from tests.support.wire import RawAnswer

CAPACITY = 4
WORK_S = 0.1
IN_FLIGHT = 5
QUEUE = 3


@pytest.fixture(scope="module")
def bottleneck() -> Generator[Bottleneck]:
    with Bottleneck(capacity=CAPACITY, work_s=WORK_S) as service:
        yield service


@pytest.fixture(scope="module")
def loaded(start_gateway: GatewayFactory, bottleneck: Bottleneck) -> Gateway:
    small = f"{{{{in_flight: {IN_FLIGHT}, queue: {QUEUE}, wait_ms: 2000}}}}"
    bound = f"{{{{in_flight: {CAPACITY}, queue: {CAPACITY}, wait_ms: 300}}}}"
    services = f"""
services:
  users: {{{{url: "{{url}}"}}}}
  orders: {{{{url: "{{url}}"}}}}
  products: {{{{url: "{{url}}"}}}}
  narrow: {{{{url: "{{url}}", public: true, path: /, load: {small}}}}}
  hasty: {{{{url: "{{url}}", public: true, path: /, load: {{{{in_flight: 1, queue: 5, wait_ms: 200}}}}}}}}
  kept: {{{{url: "{{url}}", public: true, path: /, cache: true, load: {{{{in_flight: 1, queue: 0}}}}}}}}
  free: {{{{url: "{{url}}", public: true, path: /}}}}
  shop:
    url: "{bottleneck.url}"
    public: true
    path: /
    load: {{{{in_flight: 1, queue: 20, wait_ms: 20000}}}}
    routes:
      - {{{{path: "/checkout/<n>", priority: high}}}}
      - {{{{path: "/browse/<n>", priority: low}}}}
      - {{{{path: "/<path:rest>"}}}}
  bound: {{{{url: "{bottleneck.url}", public: true, path: /, load: {bound}}}}}
"""
    return start_gateway(services=services, WEB_CONCURRENCY="1")


@pytest.fixture
def gateway(loaded: Gateway, bottleneck: Bottleneck) -> Generator[Gateway]:
    ready(loaded)
    bottleneck.clear()
    with no_fault_in(loaded):
        yield loaded


def started(gateway: Gateway, targets: list[str]) -> list[threading.Thread]:
    """Each target is asked for by a thread of its own; what comes back is of no interest."""
    threads = [threading.Thread(target=gateway.get, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    return threads


def joined(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join()


def split(answers: list[RawAnswer]) -> tuple[int, list[RawAnswer]]:
    """How many were served, and those that were not."""
    return sum(answer.status == 200 for answer in answers), [answer for answer in answers if answer.status != 200]


def assert_overloaded(answer: RawAnswer) -> None:
    assert_problem(answer, 503, "OVERLOADED")
    assert 1 <= int(answer.header("Retry-After") or 0) <= 10


def everybody_fits(gateway: Gateway) -> bool:
    """Whether so many are served at once as fit inside and in the queue: one place lost would turn one away."""
    answers = together(IN_FLIGHT + QUEUE, lambda _: gateway.get("/narrow/slow/0.2"))
    return {answer.status for answer in answers} == {200}


def test_so_many_as_fit_are_in_flight_some_wait_and_the_rest_is_turned_away(gateway: Gateway) -> None:
    first = started(gateway, ["/narrow/slow/1"] * (IN_FLIGHT + QUEUE))
    gateway.stub.wait_for_requests(IN_FLIGHT)
    gateway.wait_for_metric(f'gateway_waiting{{service="narrow"}} {QUEUE}.0')

    began = time.monotonic()
    turned_away = [gateway.get("/narrow/echo") for _ in range(4)]
    pages = [gateway.get(page) for page in ("/health", "/ready", "/", "/problems")]
    metrics, other = gateway.operations("/metrics"), gateway.get("/free/echo")
    elapsed_s = time.monotonic() - began
    seen = len(gateway.arrived) - 1  # without that of the other service
    joined(first)

    for answer in turned_away:
        assert_overloaded(answer)
    assert {page.status for page in pages} == {200}
    assert (metrics.status, other.status) == (200, 200)
    assert elapsed_s < 0.9  # nobody has waited
    assert seen == IN_FLIGHT
    gateway.wait_for_metric('gateway_waiting{service="narrow"} 0.0')
    assert 'gateway_shed_total{reason="queue full",service="narrow"}' in gateway.operations("/metrics").body.decode()
    assert len([one for one in gateway.arrived if one.path == "/slow/1"]) == IN_FLIGHT + QUEUE


def test_who_waited_is_served_and_the_access_line_tells_how_long(gateway: Gateway) -> None:
    answers = together(IN_FLIGHT + QUEUE, lambda _: gateway.get("/narrow/slow/0.3"))

    assert {answer.status for answer in answers} == {200}
    lines = [line for answer in answers for line in gateway.log_of(answer) if line["event"] == "request"]
    waited = [wait for line in lines if isinstance(wait := line.get("waited_ms"), int)]
    assert len(waited) == QUEUE
    assert all(100 < wait < 2000 for wait in waited)


def test_who_has_waited_for_long_enough_is_told_so(gateway: Gateway) -> None:
    answers = together(3, lambda _: gateway.get("/hasty/slow/0.8"))

    served, turned_away = split(answers)
    assert (served, len(turned_away)) == (1, 2)
    for answer in turned_away:
        assert_overloaded(answer)


def test_a_caller_waits_for_a_place_no_longer_than_it_wants_to(gateway: Gateway) -> None:
    crowd = started(gateway, ["/narrow/slow/1"] * IN_FLIGHT)
    gateway.stub.wait_for_requests(IN_FLIGHT)

    began = time.monotonic()
    answer = gateway.get("/narrow/echo", [("X-Request-Timeout-Ms", "200")])
    elapsed_s = time.monotonic() - began
    joined(crowd)

    assert_overloaded(answer)
    assert 0.15 < elapsed_s < 0.7


def test_a_place_is_taken_until_a_long_answer_has_ended_or_its_caller_has_left(gateway: Gateway) -> None:
    readers = [gateway.connect() for _ in range(IN_FLIGHT)]
    for reader in readers:
        reader.send(wire.request_bytes("GET", "/narrow/stream/1000/0.02"))
    gateway.stub.wait_for_requests(IN_FLIGHT)

    meanwhile = gateway.get("/narrow/echo", [("X-Request-Timeout-Ms", "100")])
    for reader in readers:
        reader.close()

    assert_overloaded(meanwhile)
    wait_until(lambda: everybody_fits(gateway), "every place to be free again")


@pytest.mark.parametrize(
    "target", ["/cut", "/reset", "/garbage", "/status/500", "/204", "/bytes/200000", "/cut-chunked", "/stale"]
)
def test_every_way_in_which_a_request_ends_gives_its_place_back(gateway: Gateway, target: str) -> None:
    for _ in range(IN_FLIGHT + QUEUE + 2):
        gateway.request("POST", f"/narrow{target}", [], b"x")
    answers = together(IN_FLIGHT, lambda _: gateway.get("/free/slow/0.1"))

    assert {answer.status for answer in answers} == {200}
    assert "OVERLOADED" not in gateway.get("/narrow/echo").body.decode()


def test_the_more_important_go_first(gateway: Gateway, bottleneck: Bottleneck) -> None:
    """One is inside; five of each class come to wait, the least important first."""
    threads = started(gateway, ["/shop/first/0"])
    wait_until(lambda: bottleneck.inside == 1, "the first one to be inside", poll_s=0.001)
    for kind in ("browse", "plain", "checkout"):
        threads += started(gateway, [f"/shop/{kind}/{n}" for n in range(5)])
    joined(threads)

    came = [path.split("/")[1] for path in bottleneck.order]
    late = came[4:]  # those who were early have gone in before all others were there
    assert len(came) == 16
    assert late == sorted(late, key=["checkout", "plain", "browse"].index)


def test_a_kept_answer_takes_no_place(gateway: Gateway) -> None:
    target = "/kept/cacheable?cc=max-age=60"
    assert gateway.get(target).status == 200
    busy = started(gateway, ["/kept/slow/1"])
    gateway.stub.wait_for_requests(2)

    kept, other = gateway.get(target), gateway.get("/kept/echo")
    joined(busy)

    assert (kept.header("Cache-Status") or "").startswith("gateway; hit")
    assert_overloaded(other)


def test_the_worker_as_a_whole_has_a_bound_too(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1", MAX_IN_FLIGHT="3")
    ready(gateway)

    threads = started(gateway, [f"/{name}/slow/1.5" for name in ("open", "kept", "small")])
    gateway.stub.wait_for_requests(3)
    refused, health = gateway.get("/brisk/echo"), gateway.get("/health")
    joined(threads)

    assert_overloaded(refused)
    assert "The gateway has more requests" in str(refused.json()["detail"])
    assert health.status == 200
    gateway.wait_for_metric('gateway_shed_total{reason="waited too long",service="gateway"} 1.0')


def asked_for(gateway: Gateway, callers: int, seconds: float) -> Counter[int]:
    """What `callers` were told who asked one request after the other for so long, with a pause when turned away."""
    statuses, changed = Counter[int](), threading.Lock()
    ends_at = time.monotonic() + seconds

    def ask() -> None:
        with gateway.connect() as connection:
            while time.monotonic() < ends_at:
                answer = connection.exchange(wire.request_bytes("GET", "/bound/x"))
                with changed:
                    statuses[answer.status] += 1
                if answer.status != 200:
                    time.sleep(WORK_S)  # who asks again at once takes the processor from everybody else

    threads = [threading.Thread(target=ask) for _ in range(callers)]
    for thread in threads:
        thread.start()
    joined(threads)
    return statuses


def test_under_twice_the_load_as_many_are_served_as_under_just_that_load(
    gateway: Gateway, bottleneck: Bottleneck
) -> None:
    at_capacity = asked_for(gateway, CAPACITY, 3)
    overloaded = asked_for(gateway, 4 * CAPACITY, 3)

    print(f"at capacity: {dict(at_capacity)}; under overload: {dict(overloaded)}")
    assert set(at_capacity) == {200}
    assert set(overloaded) == {200, 503}
    assert overloaded[200] >= 0.8 * at_capacity[200]
    assert bottleneck.most_inside == CAPACITY
