"""Health of instances, as all workers of a gateway see it: checks, ejections, breakers, drains, and what they share."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from deploy.local.valkey import Valkey
from gateway.bus import CHANNEL
from tests.integration.conftest import (
    ADMIN,
    Gateway,
    GatewayFactory,
    assert_problem,
    bearer,
    ready,
    statuses,
    together,
)
from tests.support import wire
from tests.support.ports import free_port
from tests.support.processes import Process, wait_until
from tests.support.stub import StubService
from tests.support.wire import Pairs, RawAnswer

WORKERS = 3
INTERVAL_S = 0.3
THRESHOLD = 2
SHARED_WITHIN_S = 1.0
RECOVERY_S = 2.0
MANY = 60  # requests on connections of their own: so many that every worker takes some
CHECK = f"interval_s: {INTERVAL_S}, timeout_s: 0.3, unhealthy_after: {THRESHOLD}, healthy_after: {THRESHOLD}"
PLAIN = "public: true, path: /, limits: off, retries: 0"
QUIET = f"{PLAIN}, ejection: off, breaker: off"


class Fleet:
    """A gateway of three workers, and the instances behind it. Each service has both instances, or only the first."""

    def __init__(self, gateway: Gateway, valkey: Valkey, instances: list[StubService]) -> None:
        self.gateway, self.valkey, self.instances = gateway, valkey, instances
        self.first, self.second = instances
        self.seen_lines = 0

    def ask(self, service: str, target: str = "x", count: int = MANY) -> list[int]:
        """The statuses of so many GETs, each on a connection of its own."""
        return statuses(together(count, lambda _: self.gateway.get(f"/{service}/{target}")))

    def seen(self, instance: StubService, path: str = "/x") -> int:
        return sum(request.path == path for request in instance.requests)

    def row(self, service: str, instance: StubService) -> dict[str, Any]:
        """What one worker, whichever, says."""
        rows = rows_of(self.gateway.operations("/services"), service)
        return next(row for row in rows if row["url"] == instance.url)

    def everywhere(self, service: str, instance: StubService, key: str = "state") -> set[object]:
        """What the workers say; many ask at once, so that each of them is asked."""
        answers = together(8 * WORKERS, lambda _: self.gateway.operations("/services"))
        return {row[key] for answer in answers for row in rows_of(answer, service) if row["url"] == instance.url}

    def wait_for(
        self, service: str, instance: StubService, value: str, *, key: str = "state", timeout_s: float = 15.0
    ) -> None:
        """Return once all workers say so."""
        what = f"{service} at {instance.url} to be {value}"
        wait_until(lambda: self.everywhere(service, instance, key) == {value}, what, timeout_s=timeout_s)

    def post(self, what: str, body: object, headers: Pairs = ADMIN) -> RawAnswer:
        fields = [*headers, ("Content-Type", "application/json")]
        return wire.request(
            self.gateway.operations_port, "POST", f"/instances/{what}", fields, json.dumps(body).encode()
        )

    def drain(self, service: str, instance: StubService) -> RawAnswer:
        return self.post("drain", {"service": service, "url": instance.url})

    def undrain(self, service: str, instance: StubService) -> RawAnswer:
        return self.post("undrain", {"service": service, "url": instance.url})

    def lines(self, service: str, *events: str) -> list[dict[str, object]]:
        """What the log says of a service since the test began."""
        log = self.gateway.process.json_log()[self.seen_lines :]
        return [line for line in log if line["event"] in events and line.get("to") == service]

    def on_duty(self) -> int:
        """The id of the worker that holds the lock."""
        workers = set(self.gateway.process.children())
        held = {int(line.split()[4]) for line in Path("/proc/locks").read_text().splitlines() if " FLOCK " in line}
        (found,) = held & workers
        return found


def services_text(first: str, second: str) -> str:
    both = f'instances: ["{first}", "{second}"]'
    one = f'url: "{first}"'
    return f"""
services:
  users: {{{{url: "{{url}}"}}}}
  orders: {{{{url: "{{url}}"}}}}
  products: {{{{url: "{{url}}"}}}}
  checked: {{{{{both}, {QUIET}, slow_start_s: 3, health_check: {{{{path: /check/checked, {CHECK}}}}}}}}}
  watched: {{{{{both}, {QUIET}, health_check: {{{{path: /check/watched, {CHECK}}}}}}}}}
  lonely: {{{{{one}, {QUIET}, health_check: {{{{path: /check/lonely, {CHECK}}}}}}}}}
  gone: {{{{{both}, {QUIET}, health_check: {{{{path: /check/gone, {CHECK}}}}}}}}}
  throwing: {{{{{both}, {PLAIN}, breaker: off, ejection: {{{{failures: 3, period_s: 4}}}}}}}}
  sick: {{{{{both}, {PLAIN}, breaker: off, ejection: {{{{failures: 3, period_s: 4}}}}}}}}
  faulty: {{{{{both}, {PLAIN}, breaker: off, ejection: {{{{failures: 3, period_s: 4}}}}}}}}
  hasty: {{{{{both}, {PLAIN}, breaker: {{{{failures: 3, recovery_s: 5}}}}}}}}
  fused: {{{{{one}, {PLAIN}, ejection: off, breaker: {{{{failures: 3, recovery_s: {RECOVERY_S}}}}}}}}}
  drained: {{{{{both}, {QUIET}}}}}
  kept: {{{{{both}, {QUIET}}}}}
  quiet: {{{{{both}, {PLAIN}, health_check: {{{{path: /check/quiet, {CHECK}}}}}}}}}
"""


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as server:
        yield server


@pytest.fixture(scope="module")
def shared(start_gateway: GatewayFactory, own_valkey: Valkey) -> Generator[Fleet]:
    with ExitStack() as stack:
        instances = [stack.enter_context(StubService(free_port())) for _ in range(2)]
        text = services_text(*(instance.url for instance in instances))
        gateway = start_gateway(services=text, redis_url=own_valkey.url, WEB_CONCURRENCY=str(WORKERS))
        yield Fleet(gateway, own_valkey, instances)


@pytest.fixture
def fleet(shared: Fleet) -> Generator[Fleet]:
    if not shared.valkey.is_running:
        shared.valkey.start()
    ready(shared.gateway)
    for instance in shared.instances:
        instance.clear()
    wait_until(lambda: listeners(shared.valkey) == WORKERS, "all workers to listen", timeout_s=15)
    for instance in shared.instances:
        shared.wait_for("watched", instance, "well")
    before, shared.seen_lines = len(shared.gateway.errors()), len(shared.gateway.process.json_log())
    yield shared
    assert [line for line in shared.gateway.errors()[before:] if "SIGKILL" not in line] == []


def test_an_instance_whose_check_fails_gets_no_request_and_comes_back_slowly(fleet: Fleet) -> None:
    fleet.wait_for("checked", fleet.first, "well")
    fleet.first.failing.add("/check/checked")
    failed_at = time.monotonic()
    fleet.wait_for("checked", fleet.first, "unhealthy")
    found_after_s = time.monotonic() - failed_at
    fleet.first.clear()
    fleet.first.failing.add("/check/checked")

    without = fleet.ask("checked")
    reached = fleet.seen(fleet.first)
    fleet.first.failing.clear()
    fleet.wait_for("checked", fleet.first, "well")
    fleet.first.clear()
    row = fleet.row("checked", fleet.first)
    again = fleet.ask("checked", count=30)

    assert found_after_s <= (THRESHOLD + 1) * INTERVAL_S * 1.2 + SHARED_WITHIN_S
    assert (Counter(without), reached) == ({200: MANY}, 0)
    assert row["weight"] < 0.7
    assert row["since"] is not None
    assert Counter(again) == {200: 30}
    assert 1 <= fleet.seen(fleet.first) <= 12  # an even share would be 15


def test_a_change_of_verdict_is_one_line_and_one_gauge(fleet: Fleet) -> None:
    gauge = f'gateway_instance_up{{instance="{fleet.second.url}",service="watched"}}'
    fleet.gateway.wait_for_metric(f"{gauge} 1.0")

    fleet.second.failing.add("/check/watched")
    fleet.wait_for("watched", fleet.second, "unhealthy")
    fleet.gateway.wait_for_metric(f"{gauge} 0.0")
    fleet.second.failing.clear()
    fleet.wait_for("watched", fleet.second, "well")
    fleet.gateway.wait_for_metric(f"{gauge} 1.0")

    lines = fleet.lines("watched", "instance_unhealthy", "instance_healthy")
    assert [(line["event"], line["level"], line["instance"], line.get("reason")) for line in lines] == [
        ("instance_unhealthy", "warning", fleet.second.url, "status 503"),
        ("instance_healthy", "warning", fleet.second.url, None),
    ]


def test_an_only_instance_goes_on_being_asked_though_its_check_fails(fleet: Fleet) -> None:
    fleet.first.failing.add("/check/lonely")
    fleet.wait_for("lonely", fleet.first, "unhealthy")

    answered = fleet.ask("lonely")

    assert Counter(answered) == {200: MANY}


def test_one_worker_checks_for_all(fleet: Fleet) -> None:
    wait_until(lambda: 8 <= checks_in(fleet, seconds=10 * INTERVAL_S) <= 13, "one worker to check", timeout_s=10)


def test_another_worker_checks_when_the_one_on_duty_is_killed(fleet: Fleet) -> None:
    before = fleet.on_duty()
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: has_successor(fleet, before), "another worker on duty", timeout_s=1.0)
    wait_until(lambda: len(fleet.gateway.process.children()) == WORKERS, "three workers")

    wait_until(lambda: 8 <= checks_in(fleet, seconds=10 * INTERVAL_S) <= 13, "one worker to check", timeout_s=10)
    fleet.first.failing.add("/check/watched")
    fleet.wait_for("watched", fleet.first, "unhealthy")


def test_a_worker_that_starts_learns_what_the_others_know(fleet: Fleet) -> None:
    fleet.first.failing.add("/check/watched")
    fleet.wait_for("watched", fleet.first, "unhealthy")
    (one, *_) = set(fleet.gateway.process.children()) - {fleet.on_duty()}

    os.kill(one, signal.SIGKILL)
    wait_until(lambda: one not in fleet.gateway.process.children(), "the end of a worker")
    wait_until(lambda: len(fleet.gateway.process.children()) == WORKERS, "three workers")

    fleet.wait_for("watched", fleet.first, "unhealthy", timeout_s=2 + INTERVAL_S)


def test_a_frozen_worker_on_duty_is_noticed(fleet: Fleet) -> None:
    frozen = fleet.on_duty()
    os.kill(frozen, signal.SIGSTOP)
    try:
        time.sleep(3 * INTERVAL_S + 1.5)
        count = checks_in(fleet, seconds=5 * INTERVAL_S)
    finally:
        os.kill(frozen, signal.SIGCONT)

    assert count >= 5


def test_checks_go_on_without_redis(fleet: Fleet) -> None:
    fleet.valkey.kill()
    wait_until(lambda: checks_in(fleet, seconds=INTERVAL_S) >= 2, "all workers to check", timeout_s=6)

    fleet.first.failing.add("/check/watched")
    fleet.wait_for("watched", fleet.first, "unhealthy")
    fleet.first.failing.clear()
    fleet.wait_for("watched", fleet.first, "well")
    fleet.valkey.start()
    wait_until(lambda: checks_in(fleet, seconds=5 * INTERVAL_S) <= 7, "one worker to check", timeout_s=15)


def test_three_failures_in_one_worker_eject_an_instance_from_all(fleet: Fleet) -> None:
    fleet.first.failing.add("/x")
    answers: list[int] = []
    with fleet.gateway.connect() as connection:  # stays with one worker
        while not fleet.lines("throwing", "instance_ejected"):
            answers.append(connection.exchange(wire.request_bytes("GET", "/throwing/x")).status)
            assert len(answers) < 20
    ejected_at = time.monotonic()
    fleet.wait_for("throwing", fleet.first, "ejected", timeout_s=SHARED_WITHIN_S)
    shared_after_s = time.monotonic() - ejected_at
    reached = fleet.seen(fleet.first)

    without = fleet.ask("throwing")

    assert answers.count(503) == reached == 3
    assert (Counter(without), fleet.seen(fleet.first)) == ({200: MANY}, reached)
    assert shared_after_s < SHARED_WITHIN_S
    (line,) = fleet.lines("throwing", "instance_ejected")
    assert (line["level"], line["instance"], line["seconds"], line["failures"]) == ("warning", fleet.first.url, 4.0, 3)
    fleet.gateway.wait_for_metric('gateway_ejections_total{service="throwing"} 1.0')
    assert fleet.everywhere("throwing", fleet.first, "until") != {None}
    fleet.wait_for("throwing", fleet.first, "well", timeout_s=6)


def test_where_both_instances_fail_one_of_them_stays(fleet: Fleet) -> None:
    for instance in fleet.instances:
        instance.failing.add("/x")

    answers = fleet.ask("sick", count=2 * MANY)

    assert set(answers) == {503}
    rows = [rows_of(answer, "sick") for answer in together(20, lambda _: fleet.gateway.operations("/services"))]
    assert all([row["state"] for row in row_list].count("ejected") <= 1 for row_list in rows)


def test_internal_errors_eject_nobody(fleet: Fleet) -> None:
    answers = fleet.ask("faulty", "status/500")

    assert set(answers) == {500}
    assert fleet.everywhere("faulty", fleet.first) | fleet.everywhere("faulty", fleet.second) == {"well"}


def test_who_wants_to_wait_for_a_moment_only_takes_no_instance_from_others(fleet: Fleet) -> None:
    haste = [("X-Request-Timeout-Ms", "30")]

    answers = together(30, lambda _: fleet.gateway.get("/hasty/slow/1", haste))

    assert set(statuses(answers)) == {504}
    for instance in fleet.instances:
        assert fleet.everywhere("hasty", instance) == {"well"}
        assert fleet.everywhere("hasty", instance, "breaker") == {"closed"}


def test_a_breaker_that_opens_in_one_worker_is_open_in_all_and_closes_in_all(fleet: Fleet) -> None:
    fleet.first.failing.add("/x")
    with fleet.gateway.connect() as connection:
        failed = [connection.exchange(wire.request_bytes("GET", "/fused/x")).status for _ in range(3)]
    opened_at = time.monotonic()
    fleet.wait_for("fused", fleet.first, "open", key="breaker", timeout_s=SHARED_WITHIN_S)
    refused = fleet.ask("fused", count=20)
    reached = fleet.seen(fleet.first)
    fleet.first.failing.clear()
    time.sleep(max(0.0, opened_at + RECOVERY_S + 0.1 - time.monotonic()))

    trial = fleet.gateway.get("/fused/x").status
    fleet.wait_for("fused", fleet.first, "closed", key="breaker", timeout_s=SHARED_WITHIN_S)

    assert (failed, set(refused), reached, trial) == ([503] * 3, {503}, 3, 200)
    assert Counter(fleet.ask("fused")) == {200: MANY}
    assert [line["state"] for line in fleet.lines("fused", "breaker")] == ["open", "half-open", "closed"]


def test_a_drained_instance_gets_no_new_request_and_finishes_those_it_has(fleet: Fleet) -> None:
    def run(number: int) -> RawAnswer:
        if number < 4:
            return fleet.gateway.get("/drained/slow/1.5")
        time.sleep(0.5)
        return fleet.drain("drained", fleet.first)

    *slow, told = together(5, run)
    fleet.wait_for("drained", fleet.first, "draining", timeout_s=SHARED_WITHIN_S)
    fleet.first.clear()
    without = fleet.ask("drained")
    reached = fleet.seen(fleet.first)
    fleet.undrain("drained", fleet.first)
    fleet.wait_for("drained", fleet.first, "well", timeout_s=SHARED_WITHIN_S)
    again = fleet.ask("drained")

    assert told.status == 200
    assert cast("dict[str, Any]", told.json()["instance"])["state"] == "draining"
    assert statuses(slow) == [200] * 4
    assert (Counter(without), reached) == ({200: MANY}, 0)
    assert (Counter(again), fleet.seen(fleet.first) > 0) == ({200: MANY}, True)
    lines = fleet.lines("drained", "instance_draining", "instance_undrained")
    assert [(line["event"], line["by"]) for line in lines] == [
        ("instance_draining", "user:boss"),
        ("instance_undrained", "user:boss"),
    ]


def test_a_service_whose_instances_are_all_drained_is_told_unavailable(fleet: Fleet) -> None:
    for instance in fleet.instances:
        fleet.drain("drained", instance)
    for instance in fleet.instances:
        fleet.wait_for("drained", instance, "draining")

    answer = fleet.gateway.get("/drained/x")
    for instance in fleet.instances:
        fleet.undrain("drained", instance)

    assert_problem(answer, 503, "NO_INSTANCE")
    for instance in fleet.instances:
        fleet.wait_for("drained", instance, "well")


def test_a_drain_outlives_reload_and_worker(fleet: Fleet) -> None:
    fleet.drain("kept", fleet.second)
    fleet.wait_for("kept", fleet.second, "draining")
    text = fleet.gateway.services_file.read_text()

    fleet.gateway.services_file.write_text(text.replace("kept: {", "kept: {connect_timeout_s: 1.5, "))
    reloaded = wire.request(fleet.gateway.operations_port, "POST", "/config/reload", ADMIN)
    after_reload = fleet.everywhere("kept", fleet.second)
    workers = fleet.gateway.process.children()
    fleet.gateway.process.hup()
    wait_until(lambda: not set(workers) & set(fleet.gateway.process.children()), "new workers", timeout_s=40)

    assert reloaded.json()["changed"] is True
    assert after_reload == {"draining"}
    fleet.wait_for("kept", fleet.second, "draining", timeout_s=2)
    fleet.undrain("kept", fleet.second)


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        ({"service": "drained", "url": "http://127.0.0.1:1"}, [], 401, "TOKEN_REQUIRED"),
        ({"service": "drained", "url": "http://127.0.0.1:1"}, bearer(), 403, "PERMISSION_REQUIRED"),
        ({"service": "drained", "url": "http://127.0.0.1:1"}, ADMIN, 404, "NOT_FOUND"),
        ({"service": "nobody", "url": "http://127.0.0.1:1"}, ADMIN, 404, "NOT_FOUND"),
        ({"service": "drained"}, ADMIN, 422, "VALIDATION_ERROR"),
    ],
    ids=["without token", "not an administrator", "no such instance", "no such service", "no url"],
)
def test_a_drain_that_cannot_be_is_refused(fleet: Fleet, body: object, headers: Pairs, status: int, code: str) -> None:
    assert_problem(fleet.post("drain", body, headers), status, code)


def test_the_public_listener_drains_nobody(fleet: Fleet) -> None:
    fleet.wait_for("drained", fleet.first, "well")
    fields = [*ADMIN, ("Content-Type", "application/json")]
    body = json.dumps({"service": "drained", "url": fleet.first.url}).encode()

    answer = fleet.gateway.request("POST", "/instances/drain", fields, body)

    assert_problem(answer, 404, "SERVICE_NOT_FOUND")
    assert fleet.everywhere("drained", fleet.first) == {"well"}


def test_without_redis_a_drain_changes_nothing(fleet: Fleet) -> None:
    fleet.wait_for("drained", fleet.first, "well")
    fleet.valkey.kill()

    answer = fleet.drain("drained", fleet.first)

    assert answer.status == 503
    assert fleet.everywhere("drained", fleet.first) == {"well"}


def test_metrics_forget_an_instance_that_is_none_any_more(fleet: Fleet) -> None:
    gauge = f'gateway_instance_up{{instance="{fleet.second.url}",service="gone"}}'
    fleet.gateway.wait_for_metric(gauge)
    text = fleet.gateway.services_file.read_text()

    (line,) = [line for line in text.splitlines() if line.startswith("  gone:")]
    fleet.gateway.services_file.write_text(text.replace(line, line.replace(f', "{fleet.second.url}"', "")))
    wire.request(fleet.gateway.operations_port, "POST", "/config/reload", ADMIN)

    wait_until(lambda: gauge not in fleet.gateway.operations("/metrics").body.decode(), "the gauge to go")
    fleet.gateway.wait_for_metric(f'gateway_instance_up{{instance="{fleet.first.url}",service="gone"}} 1.0')


def test_no_request_asks_redis_about_instances(fleet: Fleet) -> None:
    fleet.wait_for("quiet", fleet.first, "well")
    fleet.wait_for("quiet", fleet.second, "well")

    before = commands_of(fleet.valkey)
    answers = fleet.ask("quiet", count=200) + fleet.ask("quiet", count=200)
    time.sleep(0.2)
    during = commands_of(fleet.valkey) - before

    assert Counter(answers) == {200: 400}
    assert sum(during.values()) < 100, during  # news of checks, and signs of life of the connections that listen


def test_a_frozen_instance_is_left_out_and_is_back_when_it_goes_on(
    start_gateway: GatewayFactory, tmp_path: Path
) -> None:
    port = free_port()
    server = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path), str(port)]
    with (
        StubService(free_port()) as other,
        Process("server", server, directory=tmp_path, env={}, ready_url=f"http://127.0.0.1:{port}/") as frozen,
    ):
        text = f"""
services:
  users: {{{{url: "{{url}}"}}}}
  orders: {{{{url: "{{url}}"}}}}
  products: {{{{url: "{{url}}"}}}}
  mixed: {{{{instances: ["http://127.0.0.1:{port}", "{other.url}"], public: true, path: /, limits: off,
           try_timeout_s: 0.5, health_check: {{{{path: /, {CHECK}}}}}}}}}
"""
        gateway = start_gateway(services=text, WEB_CONCURRENCY="2")
        up = f'gateway_instance_up{{instance="http://127.0.0.1:{port}",service="mixed"}}'
        gateway.wait_for_metric(f"{up} 1.0")

        frozen.freeze()
        gateway.wait_for_metric(f"{up} 0.0")
        began = time.monotonic()
        later = [gateway.get("/mixed/").status for _ in range(30)]
        took_s = time.monotonic() - began
        frozen.thaw()
        gateway.wait_for_metric(f"{up} 1.0")

    assert set(later) == {200}
    assert took_s < 3  # nobody waited for it any more


def checks_in(fleet: Fleet, *, seconds: float) -> int:
    """How many checks of `watched` reach the first instance in that time."""
    before = fleet.seen(fleet.first, "/check/watched")
    time.sleep(seconds)
    return fleet.seen(fleet.first, "/check/watched") - before


def has_successor(fleet: Fleet, before: int) -> bool:
    try:
        return fleet.on_duty() != before
    except ValueError:  # nobody is, just now
        return False


def rows_of(answer: RawAnswer, service: str) -> list[dict[str, Any]]:
    rows = cast("list[dict[str, Any]]", answer.json()["services"])
    return next(row["instances"] for row in rows if row["name"] == service)


def listeners(valkey: Valkey) -> int:
    with redis.Redis.from_url(valkey.url) as client:
        ((_, count),) = cast("list[tuple[bytes, int]]", client.pubsub_numsub(CHANNEL))
    return count


def commands_of(valkey: Valkey) -> Counter[str]:
    with redis.Redis.from_url(valkey.url) as client:
        stats = cast("dict[str, dict[str, int]]", client.info("commandstats"))
    return Counter({name: row["calls"] for name, row in stats.items()})
