"""Active checks: which worker asks, when, and what it makes of the answers."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path

import gevent
import pytest
from gevent.event import Event
from structlog.testing import capture_logs

from gateway import shared
from gateway.backend.backend import Backend
from gateway.backend.checks import (
    DISCONNECTED_S,
    FIRST_S,
    MOST_AT_ONCE,
    ROUND_S,
    SEEK_S,
    SILENT_INTERVALS,
    Checks,
)
from gateway.backend.drains import Drains
from gateway.backend.duty import Duty
from gateway.backend.health import InstanceHealth
from gateway.backend.instance import Instance
from gateway.backend.probe import Finding, probe
from gateway.backend.sharing import STANDING, Sharing
from gateway.backend.standing import ActiveRule
from gateway.observability.metrics import Metrics
from gateway.services import Address, Service, Sources
from tests.support.ports import free_port
from tests.support.stub import StubService
from tests.unit import parts
from tests.unit.news import Board, End

NOW = 1_900_000_000.0
INTERVAL_S, TIMEOUT_S = 5.0, 1.0
CHECK = ActiveRule("/ready", INTERVAL_S, TIMEOUT_S, 2, 2)
URLS = ("http://10.0.0.1:80", "http://10.0.0.2:80")


def things(
    urls: tuple[str, ...] = URLS, *, name: str = "things", check: ActiveRule | None = CHECK, **changes: object
) -> Service:
    return parts.service(name, sources=Sources(tuple(map(Address, urls))), check=check, **changes)


class Worker:
    """One worker and its rounds. Whom it asks answers `status`, and is noted in `asked`; without jitter."""

    def __init__(self, board: Board, host: Path) -> None:
        self.now = NOW
        self.status = 200
        self.asked: list[str] = []
        self.go_on = Event()  # those who are asked wait for it
        self.go_on.set()
        self.jitter = 1.0  # at which end of its range: 0 to 1
        self.board, self.end, self.duty, self.metrics = board, End(board), Duty(str(host)), Metrics()
        self.sharing = Sharing(
            self.end,
            Drains(shared.client(shared.pool(parts.settings()))),
            self.duty,
            clock=lambda: self.now,
            spawn_later=lambda _seconds, _work: None,
        )
        self.checks = Checks(
            self.duty,
            self.sharing,
            self.metrics,
            is_connected=lambda: self.end.is_connected,
            ask=self.ask,
            clock=lambda: self.now,
            draw=lambda low, high: low + self.jitter * (high - low),
        )
        self.backends: dict[str, Backend] = {}

    def serve(self, *services: Service) -> None:
        """The table changes: these are the services now."""
        self.backends = {
            service.key: Backend(service, parts.settings(), self.metrics, before=self.backends.get(service.key))
            for service in services
        }
        self.sharing.follow(self.backends)
        self.checks.follow(self.backends)

    def ask(self, instance: Instance, path: str, timeout_s: float) -> Finding:
        self.asked.append(f"{instance.url}{path} {timeout_s:g}")
        self.go_on.wait()
        return Finding(self.status, f"status {self.status}")

    def round(self, after_s: float = 0.0) -> int:
        """How many were asked in one round, made so long after the one before."""
        self.now += after_s
        before = len(self.asked)
        self.checks.round()
        gevent.idle()
        return len(self.asked) - before

    def rounds(self, seconds: float, every_s: float = ROUND_S) -> int:
        return sum(self.round(every_s) for _ in range(round(seconds / every_s)))

    def wholes(self) -> int:
        """How often all verdicts were told."""
        return sum(bool(news.get("is_whole")) for news in self.board.of(STANDING))

    def reason(self, url: str = URLS[0]) -> str:
        (instance,) = [instance for instance in self.backends["things"].instances if instance.url == url]
        return instance.standing.reason(self.now)


@pytest.fixture
def start(tmp_path: Path) -> Generator[Callable[[], Worker]]:
    """Starts workers of one host, with one service of two instances."""
    board, started = Board(), list[Worker]()

    def start() -> Worker:
        started.append(Worker(board, tmp_path))
        started[-1].serve(things())
        return started[-1]

    yield start
    for worker in started:
        worker.go_on.set()
        worker.duty.give_back()


@pytest.fixture
def worker(start: Callable[[], Worker]) -> Worker:
    """It is on duty, and has asked everybody once."""
    worker = start()
    worker.round()
    assert worker.round(FIRST_S) == len(URLS)
    return worker


# When


@pytest.mark.parametrize(("jitter", "after_s"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_the_first_check_comes_within_a_second(start: Callable[[], Worker], jitter: float, after_s: float) -> None:
    worker = start()
    worker.jitter = jitter

    asked = [worker.round()] + [worker.round(0.25) for _ in range(4)]

    assert asked == [2 * (step == after_s) for step in (0, 0.25, 0.5, 0.75, 1.0)]


def test_the_first_check_comes_within_the_interval_if_that_is_shorter(start: Callable[[], Worker]) -> None:
    worker = start()
    worker.serve(things(check=ActiveRule("/ready", 0.2, 0.1, 1, 1)))

    assert [worker.round(), worker.round(0.2)] == [0, 2]


@pytest.mark.parametrize(("jitter", "interval_s"), [(0.0, 4.0), (0.5, 5.0), (1.0, 6.0)])
def test_the_interval_passes_between_two_checks_give_or_take_a_fifth(
    start: Callable[[], Worker], jitter: float, interval_s: float
) -> None:
    worker = start()
    worker.jitter = jitter
    worker.round()
    worker.round(FIRST_S)
    asked = len(worker.asked)

    worker.rounds(10 * interval_s - 0.05)

    assert (len(worker.asked) - asked) / len(URLS) in (9, 10)


def test_the_rule_says_what_is_asked_for_and_how_long(worker: Worker) -> None:
    assert worker.asked == [f"{url}/ready 1" for url in URLS]


def test_a_check_that_takes_longer_than_the_interval_is_waited_for(worker: Worker) -> None:
    worker.go_on.clear()
    worker.rounds(2 * INTERVAL_S)
    while_waiting = worker.rounds(5 * INTERVAL_S)
    worker.go_on.set()
    gevent.idle()

    assert while_waiting == 0
    assert worker.round() == len(URLS)


def test_not_all_are_asked_at_once(start: Callable[[], Worker]) -> None:
    worker = start()
    worker.serve(things(tuple(f"http://10.0.0.{number}:80" for number in range(MOST_AT_ONCE + 8))))
    worker.go_on.clear()
    worker.round()

    at_once = worker.round(FIRST_S)
    worker.go_on.set()
    gevent.idle()

    assert (at_once, worker.round()) == (MOST_AT_ONCE, 8)


def test_services_that_want_no_checks_are_left_alone(start: Callable[[], Worker]) -> None:
    worker = start()
    worker.serve(things(check=None))

    assert worker.rounds(3 * INTERVAL_S) == 0
    assert worker.wholes() == 0


def test_a_reload_changes_what_is_asked_for(worker: Worker) -> None:
    worker.serve(things(URLS[:1], check=ActiveRule("/alive", INTERVAL_S, 0.5, 2, 2)))
    worker.asked.clear()

    worker.rounds(2 * INTERVAL_S)

    assert set(worker.asked) == {f"{URLS[0]}/alive 0.5"}


# Verdicts


def test_failed_checks_make_an_instance_unhealthy_and_good_ones_well(worker: Worker) -> None:
    worker.status = 503
    with capture_logs() as logs:
        worker.rounds(3 * INTERVAL_S)
        failing = worker.reason()
        worker.status = 200
        worker.rounds(3 * INTERVAL_S)

    assert (failing, worker.reason()) == ("unhealthy", "well")
    assert Counter((line["event"], line.get("reason")) for line in logs) == {
        ("instance_unhealthy", "status 503"): 2,
        ("instance_healthy", None): 2,
    }


def test_all_verdicts_are_told_once_an_interval(worker: Worker) -> None:
    before = worker.wholes()

    worker.rounds(10 * INTERVAL_S)

    assert worker.wholes() - before == 10


def test_metrics_forget_who_is_gone(worker: Worker) -> None:
    worker.rounds(2 * INTERVAL_S)
    before = worker.metrics.page().decode()

    worker.serve(things(URLS[:1]))
    worker.round()
    after = worker.metrics.page().decode()

    lines = [f'{name}{{instance="{URLS[1]}",' for name in ("gateway_instance_up", "gateway_breaker_state")]
    assert [line in before for line in lines] == [True, True]
    assert [line in after for line in lines] == [False, False]
    assert f'gateway_instance_up{{instance="{URLS[0]}",service="things"}} 1.0' in after


def test_who_comes_back_is_asked_within_a_second_and_is_in_the_metrics_again(worker: Worker) -> None:
    worker.serve(things(URLS[:1]))
    worker.round()
    worker.serve(things())
    worker.asked.clear()

    worker.rounds(FIRST_S + 2 * ROUND_S)
    asked = list(worker.asked)
    worker.rounds(2 * INTERVAL_S)

    assert asked == [f"{URLS[1]}/ready 1"]
    assert f'gateway_instance_up{{instance="{URLS[1]}",service="things"}} 1.0' in worker.metrics.page().decode()


# Who


def test_of_several_workers_one_asks(start: Callable[[], Worker]) -> None:
    workers = [start() for _ in range(3)]

    for _ in range(100):
        for worker in workers:
            worker.round(ROUND_S)

    assert [len(worker.asked) > 0 for worker in workers] == [True, False, False]


def test_another_asks_when_the_one_on_duty_has_given_it_back(start: Callable[[], Worker]) -> None:
    first, second = start(), start()
    first.round()
    second.round()

    first.duty.give_back()
    second.round(SEEK_S)

    assert second.round(FIRST_S) == len(URLS)


def test_a_worker_that_hears_nobody_asks_after_a_second(start: Callable[[], Worker]) -> None:
    first, second = start(), start()
    second.jitter = 0.0  # it asks as soon as it may
    for worker in (first, second):
        worker.round()
    second.end.is_connected = False

    soon = second.rounds(DISCONNECTED_S - ROUND_S)
    then = second.rounds(3 * ROUND_S)
    second.end.is_connected = True
    first.sharing.tell_all(first.backends["things"])
    later = second.rounds(2 * INTERVAL_S)

    assert (soon, then, later) == (0, len(URLS), 0)


def test_a_worker_that_was_made_long_ago_and_has_only_begun_does_not_take_that_for_silence(
    start: Callable[[], Worker],
) -> None:
    first, second = start(), start()
    first.now += 1000
    second.now += 1000
    first.round()
    second.end.is_connected = False

    second.round()
    second.end.is_connected = True

    assert second.rounds(INTERVAL_S) == 0


def test_a_worker_asks_when_nobody_tells_the_verdicts_any_more(start: Callable[[], Worker]) -> None:
    first, second = start(), start()
    first.round()

    silent = second.rounds(SILENT_INTERVALS * INTERVAL_S)
    wholes = second.wholes()
    then = second.rounds(2 * FIRST_S + 2 * ROUND_S)

    assert (silent, then) == (0, len(URLS))
    assert second.wholes() == wholes  # else those who help would silence each other


def test_only_the_one_who_asks_makes_many_rounds(start: Callable[[], Worker]) -> None:
    first, second = start(), start()

    assert (first.checks.round(), second.checks.round()) == (ROUND_S, SEEK_S)


def test_it_gives_the_duty_back_when_it_stops(start: Callable[[], Worker]) -> None:
    first, second = start(), start()
    is_running = True

    first.checks.start(lambda: is_running)
    with gevent.Timeout(5):
        while not first.duty.is_mine:
            gevent.sleep(0.01)
        is_running = False
        while first.duty.is_mine:
            gevent.sleep(0.01)

    assert second.duty.seek()


# Duty


def test_one_has_the_duty_until_it_gives_it_back(tmp_path: Path) -> None:
    first, second = Duty(str(tmp_path)), Duty(str(tmp_path))

    taken = [first.seek(), second.seek(), first.seek(), second.is_mine]
    first.give_back()
    taken_over = [second.seek(), first.seek(), first.is_mine]
    second.give_back()

    assert (taken, taken_over) == ([True, False, True, False], [True, False, False])


def test_without_others_the_duty_is_ones_own() -> None:
    duty = Duty(None)

    assert (duty.is_mine, duty.seek(), duty.is_mine) == (True, True, True)


def test_where_the_directory_is_gone_everybody_does_it(tmp_path: Path) -> None:
    first, second = (Duty(str(tmp_path / "gone")) for _ in range(2))

    assert (first.seek(), second.seek()) == (True, True)


def test_hosts_have_names_of_their_own(tmp_path: Path) -> None:
    names = [Duty(str(tmp_path / name)).host for name in ("a", "a", "b")]

    assert names[0] == names[1] != names[2]


# The question


@pytest.fixture(scope="module")
def stub() -> Generator[StubService]:
    with StubService() as stub:
        yield stub


def instance_at(url: str, host: str = "") -> Instance:
    return Instance(parts.service(), url, parts.settings(), Metrics(), host=host)


@pytest.mark.parametrize(
    ("path", "status", "is_well"),
    [
        ("/health", 200, True),
        ("/204", 204, True),
        ("/redirect", 302, True),
        ("/early-hints", 200, True),
        ("/chunked", 200, True),
        ("/no-length", 200, True),
        ("/stream/3/0.3", 200, True),
        ("/status/404", 404, False),
        ("/status/500", 500, False),
        ("/status/503", 503, False),
        ("/slow/3", 0, False),
        ("/nothing", 0, False),
        ("/reset", 0, False),
        ("/garbage", 0, False),
        ("/cut-head", 0, False),
        ("/two-lengths", 0, False),
    ],
)
def test_an_answer_below_400_in_time_is_well(stub: StubService, path: str, status: int, is_well: bool) -> None:
    finding = probe(instance_at(stub.url), path, 0.5)

    assert (finding.status, finding.is_well) == (status, is_well)
    assert finding.reason == (f"status {status}" if status else finding.reason) != ""


def test_nobody_at_the_address_is_not_well() -> None:
    finding = probe(instance_at(f"http://127.0.0.1:{free_port()}"), "/", 0.5)

    assert (finding.status, finding.is_well, finding.reason) == (0, False, "ConnectionRefusedError")


def test_one_who_accepts_and_never_answers_is_not_well_after_its_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        finding = probe(instance_at(f"http://127.0.0.1:{silent.getsockname()[1]}"), "/", 0.3)

    assert not finding.is_well
    assert 250 <= finding.latency_ms <= 1500


def test_it_asks_by_get_with_a_name_on_a_connection_of_its_own(stub: StubService) -> None:
    stub.clear()
    instance = instance_at(stub.url, "things.internal:8000")

    for _ in range(3):
        probe(instance, "/health", 1.0)

    assert stub.connections == 3
    for request in stub.requests:
        assert (request.method, request.target) == ("GET", "/health")
        assert request.all("Host") == ["things.internal:8000"]
        assert request.all("User-Agent") == ["gateway-check"]
        assert request.all("Connection") == ["close"]
    assert stub.malformed == []


# The page


@pytest.mark.parametrize(
    ("status", "check", "wanted"),
    [
        (200, None, "up"),
        (404, None, "up"),  # it need not have the page
        (500, None, "failing"),
        (0, None, "down"),
        (404, CHECK, "failing"),
        (302, CHECK, "up"),
    ],
)
def test_the_page_says_who_answers_when_it_is_asked(status: int, check: ActiveRule | None, wanted: str) -> None:
    asked: list[str] = []

    def ask(instance: Instance, path: str, timeout_s: float) -> Finding:
        asked.append(path)
        return Finding(status, "why", 1.5)

    backend = Backend(things(URLS[:1], check=check), parts.settings(), Metrics())
    health = InstanceHealth(ask)

    (row,) = health.rows([backend])
    again = health.rows([backend])

    assert {key: row[key] for key in ("service", "url", "status", "answer", "latency_ms", "state", "breaker")} == {
        "service": "things",
        "url": URLS[0],
        "status": wanted,
        "answer": "why",
        "latency_ms": 1.5,
        "state": "well",
        "breaker": "closed",
    }
    assert again == [row]
    assert asked == [CHECK.path if check else "/health"]
