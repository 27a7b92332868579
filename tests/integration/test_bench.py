"""The bench against the gateway, for a second or so: what it does, never how long anything took."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from bench import stages
from bench.callers import Callers, with_token
from bench.gateways import path_of, start_gateway
from bench.load import paced
from bench.measuring import Case, CaseFailed, measure, prime
from bench.redis_counting import CountingRedis
from bench.servers import Server, Service, Starter, start_service
from bench.service import JWKS_PATH, REVOCATIONS_PATH, SMALL, write_files
from bench.usage import memory_mb
from tests.support import wire
from tests.support.ports import free_port
from tests.support.processes import Process, is_alive, process_tree, wait_until

CALLERS = Callers()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bench")
    write_files(made, CALLERS.jwks)
    return made


@pytest.fixture(scope="module")
def redis(folder: Path) -> Generator[CountingRedis]:
    with CountingRedis(folder) as server:
        yield server


@pytest.fixture(scope="module")
def starter(folder: Path) -> Generator[Starter]:
    with Starter(folder) as made:
        yield made


@pytest.fixture(scope="module")
def service(starter: Starter) -> Service:
    return start_service(starter)


@pytest.fixture(scope="module")
def gateway(starter: Starter, service: Service, redis: CountingRedis) -> Server:
    return start_gateway(starter, service, redis_url=redis.database(), worker="stock", routes=20)


@pytest.fixture
def case(gateway: Server) -> Case:
    return Case("GET", gateway, headers=with_token(CALLERS.token()), connections=8, counts=True)


def test_a_run_counts_the_same_on_all_sides(case: Case, service: Service, redis: CountingRedis) -> None:
    prime(case)

    sample = measure(case, 1, service, redis)

    assert sample.faults == []
    assert 0 < sample.answers <= sample.served
    assert sample.scripts >= sample.answers
    assert sample.cpu_us > 0


@pytest.mark.parametrize(
    ("path", "status"), [("/limited/1", 429), ("/dead/1", 503), ("/items/large", 200), (path_of(19), 200)]
)
def test_cases_answer_as_they_should(case: Case, path: str, status: int) -> None:
    prime(replace(case, path=path, expects=status))


def test_a_kept_answer_is_not_asked_for_again(case: Case, service: Service, redis: CountingRedis) -> None:
    kept = replace(case, path="/kept/1", asks_service=False)
    prime(kept)

    assert measure(kept, 1, service, redis).faults == []


def test_a_forged_token_is_refused_each_time(case: Case, service: Service, redis: CountingRedis) -> None:
    token = with_token(CALLERS.forged_token())
    refused = replace(case, headers=token, expects=401, asks_service=False, counts=False)
    prime(refused)

    assert measure(refused, 1, service, redis).faults == []


def test_a_case_that_answers_something_else_is_not_measured(case: Case) -> None:
    with pytest.raises(CaseFailed, match="answers 401 instead of 200"):
        prime(replace(case, headers=()), tries=2)


def test_at_a_fixed_rate_as_many_are_answered_as_were_due(case: Case) -> None:
    prime(case)

    answered = paced(case.target, 50, 0.4)

    assert (answered.answers, answered.other, answered.failed) == (20, 0, 0)
    assert answered.p50_ms <= answered.p99_ms


def test_a_gateway_tells_its_stages(starter: Starter, service: Service, redis: CountingRedis) -> None:
    gateway = start_gateway(starter, service, redis_url=redis.database(), worker="fast", tells_stages=True)
    case = Case("GET", gateway, headers=with_token(CALLERS.token()))
    prime(case)

    told = stages.measure(gateway, case.path, case.headers, rate=50, seconds=0.2)

    assert {"route", "auth", "limits", "instance", "service", "total"} <= told.keys()
    assert told["total"] >= told["service"] > 0


def test_memory_counts_master_and_worker(gateway: Server) -> None:
    tree, greatest = memory_mb(gateway.pid)

    assert tree > greatest > 10


def test_a_listener_with_tls_is_asked_over_tls(starter: Starter, service: Service, redis: CountingRedis) -> None:
    gateway = start_gateway(starter, service, redis_url=redis.database(), worker="stock", with_tls=True)

    prime(Case("TLS", gateway, headers=with_token(CALLERS.token())))

    assert gateway.url("/").startswith("https:")


def test_our_own_service_answers_where_there_is_no_nginx(starter: Starter, folder: Path) -> None:
    port = free_port()
    program = [sys.executable, "-m", "bench.service", str(port), str(folder)]
    starter.start("ours", program, port=port, ready=JWKS_PATH)
    service = Service(port, port, "bench.service")
    before = service.served()

    assert wire.get(port, "/items/1").body == SMALL
    assert wire.request(port, "POST", "/items", [("Content-Length", "3")], b"abc").body == SMALL
    assert wire.get(port, f"{REVOCATIONS_PATH}?after=7&wait=0").json() == {"entries": [], "last": 7, "complete": True}
    assert service.served() - before == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_whatever_was_started_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    bench = Process("bench", [sys.executable, "-m", "bench", "--quick"], directory=tmp_path, env={})
    with bench:
        wait_until(lambda: len(process_tree(bench.pid)) > 4, "its children", timeout_s=30)
        started = process_tree(bench.pid)[1:]
        bench.send(number)
        assert bench.wait(timeout_s=60) == 128 + number

    assert [pid for pid in started if is_alive(pid)] == []
