"""Our services in the registry, as they are run: they come, stay while they serve, and go."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import cast

import pytest

from common.registration import client
from common.registry import key_of
from deploy.local.valkey import Valkey
from gateway.backend.registry import Member, Registry
from tests.integration.test_product_service import Service, service
from tests.support import wire
from tests.support.ports import free_port
from tests.support.processes import wait_until

WORKERS = 2
AT_ONCE_S = 1.0
LONG_S = 600
EVENTS = ("registered", "registry_away", "registry_back", "deregistered")


@pytest.fixture
def valkey(tmp_path: Path) -> Generator[Valkey]:
    with Valkey(tmp_path / "valkey", port=free_port()) as server:
        yield server


class Seen:
    """What the gateway sees in the registry, and the leases that run."""

    def __init__(self, url: str, name: str) -> None:
        self.client, self.name = client(url), name
        self.registry = Registry(self.client)

    @property
    def members(self) -> tuple[Member, ...]:
        return self.registry.members(self.name)

    @property
    def leases(self) -> list[bytes]:
        return cast("list[bytes]", self.client.zrangebyscore(key_of(self.name), time.time(), "+inf"))

    @property
    def pids(self) -> set[int]:
        """The workers whose leases these are."""
        return {int(lease.rpartition(b"-")[2]) for lease in self.leases}

    def wait_for(self, count: int, *, timeout_s: float = 15.0) -> None:
        """Return once so many leases run."""
        wait_until(lambda: len(self.leases) == count, f"{count} leases", timeout_s=timeout_s)


Start = Callable[..., tuple[Service, Seen]]


@pytest.fixture
def start(tmp_path: Path, valkey: Valkey) -> Generator[Start]:
    """Starts a service of two workers that says where it is; it ends with the test."""
    started: list[Service] = []

    def start_one(name: str = "product_service", *, lease_s: float = LONG_S, **more: str) -> tuple[Service, Seen]:
        plural = name.replace("_service", "s")
        settings = {"REGISTRY_URL": valkey.url, "REGISTRY_LEASE_S": str(lease_s), **more}
        made = service(name, tmp_path, f"sqlite:///{tmp_path}/{plural}.db", **settings)
        made.process.start(timeout_s=40)
        started.append(made)
        return made, Seen(valkey.url, plural)

    yield start_one
    for each in started:
        each.process.terminate()


def events(of: Service, *names: str) -> list[object]:
    return [line["event"] for line in of.process.json_log() if line["event"] in names]


@pytest.mark.parametrize("name", ["user_service", "order_service", "product_service"])
def test_a_service_is_in_the_registry_once_with_a_lease_of_each_worker_and_leaves_it_at_once(
    start: Start, name: str
) -> None:
    running, seen = start(name, REGISTRY_WEIGHT="3")
    seen.wait_for(WORKERS)
    members = seen.members
    pids = seen.pids

    began = time.monotonic()
    running.process.terminate()
    took_s = time.monotonic() - began

    assert members == (Member(running.url, 3.0),)
    assert len(pids) == WORKERS
    assert seen.leases == []  # though the leases are long
    assert took_s < 5
    assert events(running, "registry_away") == []


def test_a_service_leaves_the_registry_before_it_has_finished_what_it_has_begun(start: Start) -> None:
    running, seen = start("user_service")
    seen.wait_for(WORKERS)
    head = b"POST /users/login HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"

    with wire.Connection(int(running.url.rpartition(":")[2])) as connection:
        connection.send(head + b"{")
        time.sleep(0.3)  # a worker takes it up
        running.process.send(signal.SIGTERM)
        seen.wait_for(0, timeout_s=AT_ONCE_S)
        time.sleep(1.5)  # an idle worker would have ended
        was_running = running.process.is_running
        connection.send(b"}")
        answer = connection.answer(to="POST")

    assert was_running
    assert 400 <= answer.status < 500


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_an_idle_service_leaves_however_it_is_told_to_stop(start: Start, number: signal.Signals) -> None:
    running, seen = start()
    seen.wait_for(WORKERS)

    running.process.send(number)
    running.process.wait(timeout_s=10)

    assert seen.leases == []


def test_workers_whose_master_was_killed_leave_when_they_notice(start: Start) -> None:
    running, seen = start()
    seen.wait_for(WORKERS)

    os.kill(running.process.pid, signal.SIGKILL)

    seen.wait_for(0, timeout_s=5)


def test_a_service_that_is_killed_is_gone_when_its_lease_has_run_out(start: Start) -> None:
    running, seen = start(lease_s=2)
    seen.wait_for(WORKERS)
    time.sleep(3)  # longer than a lease: it is renewed
    while_running = seen.members

    running.process.kill()
    after_kill = seen.members
    wait_until(lambda: seen.members == (), "the lease to run out", timeout_s=4)

    assert while_running == after_kill == (Member(running.url, 1.0),)


def test_a_service_is_there_without_a_gap_while_a_worker_dies_and_is_replaced(start: Start) -> None:
    running, seen = start(lease_s=2)
    seen.wait_for(WORKERS)
    victim = running.process.children()[0]

    os.kill(victim, signal.SIGKILL)
    deadline, gaps = time.monotonic() + 4, 0
    while time.monotonic() < deadline:
        gaps += seen.members == ()
        time.sleep(0.05)

    assert gaps == 0
    assert len(seen.pids) == WORKERS
    assert victim not in seen.pids


def test_redis_away_at_the_start_is_one_warning_of_each_worker_and_made_up_for(start: Start, valkey: Valkey) -> None:
    valkey.kill()
    running, seen = start()
    time.sleep(2.5)  # in which it is tried several times
    while_away = running.call("GET", "/products").status_code

    valkey.start()
    seen.wait_for(WORKERS)
    wait_until(lambda: len(events(running, "registered")) == WORKERS, "each worker's line")

    assert while_away == 200
    assert sorted(map(str, events(running, *EVENTS))) == ["registered"] * WORKERS + ["registry_away"] * WORKERS


def test_a_redis_that_forgot_everything_is_told_again(start: Start, valkey: Valkey) -> None:
    running, seen = start(lease_s=3)
    seen.wait_for(WORKERS)

    valkey.kill()
    valkey.start()

    seen.wait_for(WORKERS)
    assert seen.members == (Member(running.url, 1.0),)


def test_a_frozen_redis_holds_up_no_request(start: Start, valkey: Valkey) -> None:
    running, seen = start(lease_s=1)
    seen.wait_for(WORKERS)

    valkey.freeze()
    began = time.monotonic()
    slowest_s = 0.0
    while time.monotonic() - began < 3:
        asked = time.monotonic()
        assert running.call("GET", "/health").status_code == 200
        slowest_s = max(slowest_s, time.monotonic() - asked)
    valkey.thaw()

    assert slowest_s < 0.4
    wait_until(lambda: seen.members == (Member(running.url, 1.0),), "the service to be back", timeout_s=5)
    wait_until(lambda: len(events(running, "registry_back")) == WORKERS, "each worker's line")
    assert len(events(running, "registry_away")) == WORKERS


def test_a_service_that_listens_everywhere_gives_an_address_at_which_it_answers(start: Start) -> None:
    running, seen = start(SERVICE_HOST="0.0.0.0")
    seen.wait_for(WORKERS)

    (member,) = seen.members

    assert member.url == running.url


def test_a_service_without_a_registry_is_in_none(start: Start) -> None:
    running, seen = start(REGISTRY_URL="")

    assert seen.leases == []
    assert events(running, *EVENTS) == []
