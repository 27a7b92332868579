"""Callers load the gateway while one instance after the other is killed, stopped, slowed down or made to talk nonsense.

As long as one instance is healthy no GET fails, and no POST ever reaches the service twice. The figures are printed:
`make test TESTS=tests/reliability` with `-s` shows them.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from tests.integration.conftest import Gateway, GatewayFactory
from tests.support import wire
from tests.support.fragile import FragileInstance
from tests.support.processes import wait_until

CALLERS = 8
LONGEST_S = 200.0
CALM_S = 30.0
SERVICES = """
services:
  things:
    instances: [{addresses}]
    public: true
    path: /
    timeout_s: 10
    try_timeout_s: 0.5
    retries: 2
    health_check: {{{{interval_s: 0.5, timeout_s: 0.3, unhealthy_after: 2, healthy_after: 1}}}}
    ejection: {{{{longest_s: 10}}}}
"""
"""The fourth ejection in a row would last 40 s."""


class Storm:
    """Harm and cure of instances while callers call; every figure is counted here."""

    def __init__(self, gateway: Gateway, instances: list[FragileInstance]) -> None:
        self.gateway, self.instances = gateway, instances
        self.seen: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()
        self._is_over = threading.Event()

    def run(self, weather: Callable[[], None]) -> None:
        """Load the gateway for as long as `weather` lasts."""
        with ThreadPoolExecutor(CALLERS) as threads:
            callers = [threads.submit(self._call, number) for number in range(CALLERS)]
            try:
                self._wait_for(200 * CALLERS // 4)  # a calm while, in which the retry budget grows
                weather()
            finally:
                self._is_over.set()
            for caller in callers:
                caller.result()

    def _wait_for(self, count: int) -> None:
        give_up_at = time.monotonic() + LONGEST_S
        while self.seen.total() < count and time.monotonic() < give_up_at:
            time.sleep(0.05)

    def _call(self, caller: int) -> None:
        give_up_at, number = time.monotonic() + LONGEST_S, 0
        while not self._is_over.is_set() and time.monotonic() < give_up_at:
            number += 1
            method = "POST" if number % 4 == 0 else "GET"
            answer = wire.request(self.gateway.port, method, f"/things/{caller}-{number}", timeout=15)
            with self._lock:
                self.seen[method, answer.status] += 1

    def is_calm(self) -> bool:
        """Every instance gets requests again, from the worker that tells it; the others know within a second."""
        rows = cast("dict[str, Any]", self.gateway.operations("/services").json())["services"][0]["instances"]
        return all((row["state"], row["breaker"]) == ("well", "closed") for row in rows)

    def figures(self) -> str:
        metrics = self.gateway.operations("/metrics").body.decode().splitlines()
        told = ("gateway_retries_total{", "gateway_ejections_total{", "gateway_backend_calls_total{")
        lines = [line for line in metrics if line.startswith(told)]
        return "\n".join([str(sorted(self.seen.items())), *lines])

    def assert_callers_noticed_nothing(self) -> None:
        failed_gets = {key: count for key, count in self.seen.items() if key[0] == "GET" and key[1] != 200}
        posts = Counter(line for instance in self.instances for line in instance.arrived if line.startswith("POST"))

        print(self.figures())
        assert self.seen["GET", 200] > 100, "there was hardly any load"
        assert failed_gets == {}
        assert posts, "no POST arrived"
        assert [line for line, count in posts.items() if count > 1] == []


@pytest.fixture
def storm(start_gateway: GatewayFactory, tmp_path: Path) -> Generator[Storm]:
    with ExitStack() as stack:
        instances = [FragileInstance(f"things-{number}", tmp_path) for number in range(3)]
        for instance in instances:
            stack.enter_context(instance.process)
        addresses = ", ".join(f'"{instance.url}"' for instance in instances)
        gateway = start_gateway(
            services=SERVICES.format(addresses=addresses),
            is_ready=False,
            WEB_CONCURRENCY="2",
            CIRCUIT_BREAKER_FAILURE_THRESHOLD="5",
            CIRCUIT_BREAKER_RECOVERY_TIMEOUT="1",
        )
        yield Storm(gateway, instances)


def kill(instance: FragileInstance) -> None:
    instance.process.kill()


def freeze(instance: FragileInstance) -> None:
    instance.process.freeze()


def misbehave(mode: str) -> Callable[[FragileInstance], None]:
    return lambda instance: instance.behave(mode)


def cure(instance: FragileInstance) -> None:
    if not instance.process.is_running:
        instance.process.start()
    instance.process.thaw()
    instance.behave("ok")


HARMS = {
    "killed": kill,
    "stopped": freeze,
    "slow": misbehave("slow"),
    "resetting": misbehave("reset"),
    "cutting answers short": misbehave("cut"),
    "talking nonsense": misbehave("garbage"),
    "failing": misbehave("error"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_one_instance_after_the_other_suffers_and_callers_notice_nothing(storm: Storm, harm: str) -> None:
    def weather() -> None:
        for instance in storm.instances:
            HARMS[harm](instance)
            time.sleep(1.5)
            cure(instance)
            time.sleep(0.5)

    storm.run(weather)

    storm.assert_callers_noticed_nothing()


@pytest.mark.timeout(LONGEST_S + 40)
def test_two_of_three_instances_suffer_at_a_time_from_anything(storm: Storm) -> None:
    dice = random.Random(7)  # the same storm each time

    def weather() -> None:
        for _ in range(6):
            healthy = dice.randrange(3)
            suffering = [instance for number, instance in enumerate(storm.instances) if number != healthy]
            for instance in suffering:
                HARMS[dice.choice(sorted(HARMS))](instance)
            time.sleep(1.2)
            for instance in suffering:
                cure(instance)
            wait_until(storm.is_calm, "the instances to be used again", timeout_s=CALM_S)

    storm.run(weather)

    storm.assert_callers_noticed_nothing()
