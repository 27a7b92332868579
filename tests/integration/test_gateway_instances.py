"""Several instances of a service: load is spread, and callers do not notice when one of them dies or misbehaves."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, cast

import pytest

from tests.integration.conftest import Gateway, GatewayFactory, bearer
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.stub import StubService
from tests.support.wire import RawAnswer

COUNT = 3


class Cluster:
    """A gateway with one worker, so that its turns can be counted, and the three instances behind it."""

    def __init__(self, gateway: Gateway, instances: list[StubService]) -> None:
        self.gateway, self.instances = gateway, instances

    def seen(self, method: str | None = None) -> list[int]:
        """How many requests each instance got."""
        return [sum(method in (None, request.method) for request in instance.requests) for instance in self.instances]


@pytest.fixture(scope="module")
def three(start_gateway: GatewayFactory) -> Generator[Cluster]:
    with ExitStack() as stack:
        instances = [stack.enter_context(StubService(free_port())) for _ in range(COUNT)]
        addresses = ", ".join(f'"{instance.url}"' for instance in instances)
        found_at = f"instances: [{addresses}], ejection: {{{{period_s: 0.5, longest_s: 0.5}}}}"
        text = f"""
services:
  users: {{{{url: "{{url}}"}}}}
  orders: {{{{url: "{{url}}"}}}}
  products: {{{{url: "{{url}}"}}}}
  turns: {{{{{found_at}, public: true, path: /, retry_budget: 1}}}}
  thrifty: {{{{{found_at}, public: true, path: /}}}}
  sticky: {{{{{found_at}, public: true, path: /, balance: hash, hash_by: "cookie:session"}}}}
  mine: {{{{{found_at}, path: /, balance: hash}}}}
  least: {{{{{found_at}, public: true, path: /, retry_budget: 1, balance: least-requests}}}}
  quick: {{{{{found_at}, public: true, path: /, retry_budget: 1, balance: peak-ewma}}}}
  once: {{{{{found_at}, public: true, path: /, retries: 0}}}}
  brisk: {{{{{found_at}, public: true, path: /, retry_budget: 1, timeout_s: 2, try_timeout_s: 0.3}}}}
"""
        gateway = start_gateway(
            services=text,
            WEB_CONCURRENCY="1",
            RATE_LIMIT_REQUESTS="1000000",
            CIRCUIT_BREAKER_FAILURE_THRESHOLD="3",
            CIRCUIT_BREAKER_RECOVERY_TIMEOUT="1",
        )
        yield Cluster(gateway, instances)


@pytest.fixture
def cluster(three: Cluster) -> Cluster:
    for instance in three.instances:
        instance.start()
    for service in ("turns", "thrifty", "sticky", "least", "quick", "once", "brisk"):
        wait_until(lambda name=service: is_calm(three, name), f"{service} to be calm", timeout_s=15)
    for instance in three.instances:
        instance.clear()
    return three


def is_calm(cluster: Cluster, service: str) -> bool:
    """Nothing keeps an instance of `service` away; calling is what closes breakers."""
    rows = rows_of(cluster.gateway.operations("/services"), "services")
    instances = next(row["instances"] for row in rows if row["name"] == service)
    if all((instance["breaker"], instance["state"]) == ("closed", "well") for instance in instances):
        return True
    for _ in range(COUNT):
        cluster.gateway.get(f"/{service}/x")
    return False


def rows_of(answer: RawAnswer, name: str) -> list[dict[str, Any]]:
    return cast("dict[str, list[dict[str, Any]]]", answer.json())[name]


def test_300_requests_over_3_instances_are_100_each(cluster: Cluster) -> None:
    with ThreadPoolExecutor(10) as threads:
        calls = [threads.submit(cluster.gateway.get, "/turns/x") for _ in range(300)]
    seen = Counter(call.result().status for call in calls)

    assert seen == {200: 300}
    assert cluster.seen() == [100, 100, 100]


def test_the_same_cookie_leads_to_the_same_instance(cluster: Cluster) -> None:
    for number in range(60):
        cluster.gateway.get("/sticky/x", [("Cookie", f"theme=dark; session=s{number % 6}")])

    homes = [
        {request.header("Cookie") for request in instance.requests if request.header("Cookie")}
        for instance in cluster.instances
    ]
    assert sum(len(home) for home in homes) == 6
    assert len(set().union(*homes)) == 6


def test_the_same_user_leads_to_the_same_instance(cluster: Cluster) -> None:
    for _ in range(20):
        cluster.gateway.get("/mine/x", bearer("loyal"))

    assert sorted(cluster.seen()) == [0, 0, 20]


@pytest.mark.parametrize("service", ["turns", "least", "quick"])
def test_get_sees_no_error_when_an_instance_dies_and_it_is_used_again_when_it_is_back(
    cluster: Cluster, service: str
) -> None:
    victim = cluster.instances[1]
    victim.stop()

    without = Counter(cluster.gateway.get(f"/{service}/x").status for _ in range(90))
    victim.start()
    wait_until(lambda: is_calm(cluster, service), "the breaker of the dead instance to close", timeout_s=15)
    victim.clear()
    again = Counter(cluster.gateway.get(f"/{service}/x").status for _ in range(60))

    assert without == {200: 90}
    assert again == {200: 60}
    if service == "turns":
        assert len(victim.requests) == 20


def test_a_post_that_found_no_connection_goes_to_another_instance_once(cluster: Cluster) -> None:
    cluster.instances[0].stop()

    seen = Counter(cluster.gateway.request("POST", "/turns/x", [], b"once").status for _ in range(30))

    assert seen == {200: 30}
    assert sum(cluster.seen("POST")) == 30


@pytest.mark.parametrize("fault", ["reset", "nothing", "cut", "garbage", "status/503", "status/502"])
def test_get_is_tried_at_another_instance_and_post_is_not(cluster: Cluster, fault: str) -> None:
    got = cluster.gateway.get(f"/turns/{fault}")
    reached_by_get = sum(cluster.seen("GET"))
    posted = cluster.gateway.request("POST", f"/turns/{fault}", [], b"once")

    assert got.status in (502, 503)
    assert reached_by_get == 2
    assert posted.status in (502, 503)
    assert sum(cluster.seen("POST")) == 1


def test_an_instance_that_slams_every_connection_does_not_spoil_what_callers_get(cluster: Cluster) -> None:
    sick = cluster.instances[2]
    sick.stop()

    with slamming(sick.port) as slammed:
        seen = Counter(cluster.gateway.get("/turns/x").status for _ in range(60))

    assert seen == {200: 60}
    assert 1 <= len(slammed) <= 6  # then its breaker is open


def test_retries_stay_within_their_share_when_everything_fails(cluster: Cluster) -> None:
    answers = Counter(cluster.gateway.get("/thrifty/status/504").status for _ in range(200))

    assert set(answers) <= {504, 503}
    assert sum(cluster.seen()) <= 200 * 1.2 + 1


def test_retries_can_be_switched_off(cluster: Cluster) -> None:
    assert cluster.gateway.get("/once/status/503").status == 503
    assert sum(cluster.seen()) == 1


def test_a_slow_instance_is_given_up_for_another_within_the_time_of_the_whole(cluster: Cluster) -> None:
    answer = cluster.gateway.get("/brisk/slow/1")

    assert answer.status == 504
    assert sum(cluster.seen()) == 2


def test_a_short_body_is_sent_again_whole(cluster: Cluster) -> None:
    sick = cluster.instances[2]
    sick.stop()

    with slamming(sick.port) as slammed:
        answers = [cluster.gateway.request("PUT", "/turns/echo", [], b"all of it") for _ in range(12)]

    assert {answer.status for answer in answers} == {200}
    assert {answer.json()["body"] for answer in answers} == {"all of it"}
    assert slammed


def test_a_long_body_that_was_read_is_never_sent_twice(cluster: Cluster) -> None:
    body = b"x" * 300_000

    answers = {cluster.gateway.request("PUT", "/turns/reset", [], body).status for _ in range(3)}

    assert answers <= {502, 503}
    assert sum(cluster.seen("PUT")) <= 3


def test_rows_of_operators_have_every_instance(cluster: Cluster) -> None:
    rows = rows_of(cluster.gateway.operations("/health/services"), "instances")

    assert {row["url"] for row in rows if row["service"] == "turns"} == {stub.url for stub in cluster.instances}


@contextmanager
def slamming(port: int) -> Generator[list[int]]:
    """A server that accepts every connection and closes it at the first byte; the list grows by one each time."""
    slammed: list[int] = []
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(1)
                    slammed.append(len(connection.recv(1)))

    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(0.1)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield slammed
        finally:
            stop.set()
            thread.join()
