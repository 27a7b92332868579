"""What workers tell each other of instances: who learns what, who does not, and how those who were away catch up."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs

from deploy.local.valkey import Valkey
from gateway import shared
from gateway.backend.backend import Backend
from gateway.backend.breaker import Breaker
from gateway.backend.drains import KEY, Drains
from gateway.backend.duty import Duty
from gateway.backend.instance import Instance
from gateway.backend.sharing import BREAKER, DRAIN, MOST_TOLD, OLD_S, RETRY_S, STANDING, Sharing, UnknownInstance
from gateway.backend.standing import ActiveRule, EjectionRule
from gateway.bus import Message
from gateway.notation import REGISTRY
from gateway.observability.metrics import Metrics
from gateway.services import Address, BreakerRule, Service, Sources
from tests.support.ports import free_port
from tests.unit import parts
from tests.unit.news import Board, End

NOW = 1_900_000_000.0
URLS = ("http://10.0.0.1:80", "http://10.0.0.2:80")
FIRST, SECOND = URLS
CHECK = ActiveRule("/health", 5.0, 1.0, 2, 2)
FAILURES, RECOVERY_S, PERIOD_S = 3, 10.0, 5.0


def things(urls: tuple[str, ...] = URLS, *, name: str = "things", **changes: object) -> Service:
    rules: dict[str, object] = {
        "sources": Sources(tuple(map(Address, urls))),
        "check": CHECK,
        "ejection": EjectionRule(FAILURES, PERIOD_S),
        "breaker": BreakerRule(FAILURES, RECOVERY_S),
    }
    return parts.service(name, **{**rules, **changes})


class Worker:
    """One worker with a service of two instances. What is to be done later is in `later`; clocks stand still."""

    def __init__(self, board: Board, host: Path, redis_url: str) -> None:
        self.now = NOW
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.end, self.duty, self.metrics = End(board), Duty(str(host)), Metrics()
        self.client = shared.client(shared.pool(parts.settings(redis_url=redis_url)))
        self.sharing = Sharing(
            self.end,
            Drains(self.client),
            self.duty,
            clock=lambda: self.now,
            spawn_later=lambda seconds, work: self.later.append((seconds, work)),
        )
        self.serve(things())

    def serve(self, service: Service) -> None:
        """The table changes: this is the only service now."""
        before = getattr(self, "backend", None)
        self.backend = Backend(service, parts.settings(), self.metrics, before=before)
        self.sharing.follow({service.key: self.backend})

    def instance(self, url: str = FIRST) -> Instance:
        return next(instance for instance in self.backend.instances if instance.url == url)

    def breaker(self, url: str = FIRST) -> Breaker:
        breaker = self.instance(url).breaker
        assert breaker is not None
        return breaker

    def state(self, url: str = FIRST) -> str:
        """Its standing, and its breaker if that is not closed."""
        instance = self.instance(url)
        reason = instance.standing.reason(time.monotonic())
        return reason if self.breaker(url).state == "closed" else f"{reason}, {self.breaker(url).state}"

    def find_failing(self, url: str = FIRST) -> None:
        """Its requests fail, as often as it takes for an ejection."""
        for _ in range(FAILURES):
            self.instance(url).fitness.answered(503)

    def find_unhealthy(self, url: str = FIRST) -> None:
        for _ in range(CHECK.unhealthy_after):
            self.instance(url).fitness.checked(False)

    def find_broken(self, url: str = FIRST) -> None:
        for _ in range(FAILURES):
            with pytest.raises(OSError, match="broken"), self.breaker(url).calling():
                raise OSError("broken")

    def do_later(self) -> list[float]:
        """Do what was put off. The seconds for which it was."""
        works, self.later = self.later, []
        for _, work in works:
            work()
        return [seconds for seconds, _ in works]


Start = Callable[..., Worker]


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def start(board: Board, tmp_path: Path) -> Generator[Start]:
    """Starts workers, of the host `a` unless another is named; Redis is away unless its URL is given."""
    started: list[Worker] = []

    def start(host: str = "a", redis_url: str = parts.NOWHERE) -> Worker:
        directory = tmp_path / host
        directory.mkdir(exist_ok=True)
        started.append(Worker(board, directory, redis_url))
        return started[-1]

    yield start
    for worker in started:
        worker.duty.give_back()
        worker.client.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as server:
        yield server


@pytest.fixture
def redis_url(server: Valkey) -> str:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    return server.url


# Findings

FINDINGS: dict[str, tuple[Callable[[Worker], None], str]] = {
    "an ejection": (Worker.find_failing, "ejected"),
    "a verdict": (Worker.find_unhealthy, "unhealthy"),
    "a breaker": (Worker.find_broken, "well, open"),
}


@pytest.mark.parametrize("finding", FINDINGS)
def test_what_one_worker_finds_out_all_of_its_host_know(board: Board, start: Start, finding: str) -> None:
    finder, other, third = start(), start(), start()
    find, state = FINDINGS[finding]

    find(finder)

    assert [worker.state() for worker in (finder, other, third)] == [state] * 3
    assert len(board.told) == 1  # nobody says it again


@pytest.mark.parametrize("finding", FINDINGS)
def test_another_host_finds_out_for_itself(start: Start, finding: str) -> None:
    finder, far = start("a"), start("b")

    FINDINGS[finding][0](finder)

    assert far.state() == "well"


@pytest.mark.parametrize("finding", FINDINGS)
def test_news_that_lay_about_are_passed_over(start: Start, finding: str) -> None:
    finder, other = start(), start()
    other.now += OLD_S + 0.1

    FINDINGS[finding][0](finder)

    assert other.state() == "well"


@pytest.mark.parametrize("finding", FINDINGS)
def test_instances_of_other_services_are_not_meant(start: Start, finding: str) -> None:
    finder, other = start(), start()
    finder.serve(things(name="others"))

    FINDINGS[finding][0](finder)

    assert other.state() == "well"


def test_a_breaker_that_closes_is_closed_in_all(start: Start) -> None:
    finder, other = start(), start()
    finder.find_broken()

    finder.breaker().learn("closed", 0.0)  # as a trial would, but in silence
    finder.breaker().tell("closed", 0.0)

    assert other.state() == "well"


def test_an_instance_whose_breaker_has_closed_gets_its_share_by_and_by(start: Start) -> None:
    worker = start()
    worker.serve(things(slow_start_s=60.0))
    worker.find_broken()
    before = worker.instance().weight

    worker.breaker().learn("closed", 0.0)

    assert (before, worker.instance().weight) == (1.0, pytest.approx(0.1, abs=0.05))


def test_an_ejection_that_others_found_leaves_half_of_the_instances(start: Start) -> None:
    finder, other = start(), start()
    other.end.is_connected = finder.end.is_connected = False
    finder.find_failing(FIRST)
    other.end.is_connected = finder.end.is_connected = True

    other.find_failing(SECOND)

    assert (finder.state(FIRST), finder.state(SECOND)) == ("ejected", "well")


NONSENSE: list[dict[str, object]] = [
    {},
    {"asks": "yes"},
    {"service": "things"},
    {"service": "things", "is_whole": True, "reports": "all"},
    {"service": "things", "is_whole": True, "reports": [1, None, {"url": FIRST, "is_well": 0}, {"url": ""}]},
    {"service": ["things"], "is_whole": True, "reports": [{"url": FIRST, "is_well": False}]},
    {"service": "things", "url": FIRST, "state": "open"},
    {"service": "things", "url": FIRST, "state": "open", "left_s": "5"},
    {"service": "things", "url": FIRST, "state": "open", "left_s": -5},
    {"service": "things", "url": FIRST, "state": "open", "left_s": float("nan")},
    {"service": "things", "url": FIRST, "state": "open", "left_s": 1e99},
    {"service": "things", "url": FIRST, "is_draining": "yes", "said_at": NOW},
    {"service": "things", "url": FIRST, "is_draining": True},
    {"service": "things", "url": FIRST, "is_draining": True, "said_at": "now"},
    {"service": 1, "url": FIRST, "is_draining": True, "said_at": NOW},
]


@pytest.mark.parametrize("news", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_changes_nothing(start: Start, news: dict[str, object]) -> None:
    worker = start()

    for topic in (STANDING, BREAKER, DRAIN):
        worker.end.hear(topic, {**news, "host": worker.duty.host, "at": NOW})

    assert (worker.state(FIRST), worker.state(SECOND)) == ("well", "well")


@pytest.mark.parametrize("stamp", [{}, {"host": "a"}, {"host": None, "at": NOW}, {"at": NOW}, {"at": "now"}], ids=str)
def test_news_of_nobody_change_nothing(start: Start, stamp: dict[str, object]) -> None:
    worker = start()

    worker.end.hear(
        STANDING, {"service": "things", "is_whole": True, "reports": [{"url": FIRST, "is_well": False}]} | stamp
    )
    worker.end.hear(BREAKER, {"service": "things", "url": FIRST, "state": "open", "left_s": 5.0} | stamp)

    assert worker.state() == "well"


# Who was not there


def test_one_who_begins_to_listen_is_told_everything_by_the_one_on_duty(board: Board, start: Start) -> None:
    on_duty, other = start(), start()
    assert on_duty.duty.seek()
    on_duty.find_unhealthy(FIRST)
    on_duty.find_broken(SECOND)
    late = start()
    board.told.clear()

    late.end.reconnect()
    put_off_s = on_duty.do_later()

    assert (late.state(FIRST), late.state(SECOND)) == ("unhealthy", "well, open")
    assert late.breaker(SECOND).left_s == pytest.approx(RECOVERY_S, abs=0.5)
    assert (len(put_off_s), other.later) == (1, [])
    assert len(board.of(STANDING)) == 2  # the question and the answer


def test_many_who_ask_at_once_get_one_answer(board: Board, start: Start) -> None:
    on_duty, *others = [start() for _ in range(4)]
    assert on_duty.duty.seek()

    for other in others:
        other.end.reconnect()
    on_duty.do_later()
    on_duty.do_later()

    assert len(board.of(STANDING)) == 3 + 1


def test_one_on_duty_answers_again_when_it_is_asked_again(board: Board, start: Start) -> None:
    on_duty, other = start(), start()
    assert on_duty.duty.seek()

    for _ in range(2):
        other.end.reconnect()
        on_duty.do_later()

    assert len(board.of(STANDING)) == 2 + 2


def test_the_one_on_duty_of_another_host_does_not_answer(start: Start) -> None:
    far, late = start("b"), start("a")
    assert far.duty.seek()

    late.end.reconnect()

    assert far.later == []


def test_a_word_about_all_instances_ends_the_silence(start: Start) -> None:
    on_duty, other = start(), start()
    first_s = other.sharing.silent_s("things")
    other.now = on_duty.now = NOW + 7
    silent_s = other.sharing.silent_s("things")

    on_duty.find_unhealthy()  # that is only about one
    still_s = other.sharing.silent_s("things")
    on_duty.sharing.tell_all(on_duty.backend)

    assert (first_s, silent_s, still_s, other.sharing.silent_s("things")) == (0, 7, 7, 0)


def test_many_instances_are_told_of_in_several_messages(board: Board, start: Start) -> None:
    urls = tuple(f"http://10.0.{number // 250}.{number % 250}:80" for number in range(2 * MOST_TOLD + 1))
    on_duty, other = start(), start()
    for worker in (on_duty, other):
        worker.serve(things(urls))
    other.end.is_connected = False
    on_duty.find_unhealthy(urls[-1])
    other.end.is_connected = True
    board.told.clear()

    on_duty.sharing.tell_all(on_duty.backend)

    assert [len(list_of_reports(news)) for news in board.of(STANDING)] == [MOST_TOLD, MOST_TOLD, 1]
    assert other.state(urls[-1]) == "unhealthy"


def list_of_reports(news: Message) -> list[object]:
    reports = news["reports"]
    assert isinstance(reports, list)
    return reports


def test_an_instance_speaks_for_itself_also_after_a_reload(board: Board, start: Start) -> None:
    finder, other = start(), start()
    for worker in (finder, other):
        worker.serve(things(retries=3))
        worker.serve(things(slow_start_s=1.0))

    finder.find_unhealthy()

    assert other.state() == "unhealthy"
    assert len(board.told) == 1


def test_what_is_known_of_an_instance_outlives_a_reload_that_changes_its_rules(start: Start) -> None:
    worker = start()
    worker.find_unhealthy()
    before = worker.instance()

    worker.serve(things(connect_timeout_s=0.5))

    assert worker.instance() is not before
    assert worker.state() == "unhealthy"


def test_an_instance_that_joins_later_speaks_for_itself(start: Start) -> None:
    finder, other = start(), start()
    for worker in (finder, other):
        worker.serve(things(sources=Sources((Address(FIRST),), registered=1.0)))
        worker.backend.take(REGISTRY, [Address(SECOND)])

    finder.find_unhealthy(SECOND)

    assert other.state(SECOND) == "unhealthy"


# Drains


def test_a_drain_holds_in_all_workers_of_all_hosts(start: Start, redis_url: str) -> None:
    workers = [start(host, redis_url) for host in ("a", "a", "b")]

    with capture_logs() as logs:
        drained = workers[0].sharing.drain("things", FIRST, True, by="user:boss")
    states = [(worker.state(), worker.instance().admits) for worker in workers]
    workers[1].sharing.drain("things", FIRST, False, by="user:boss")

    assert drained is workers[0].instance()
    assert states == [("draining", False)] * 3
    assert [(worker.state(), worker.instance().admits) for worker in workers] == [("well", True)] * 3
    assert [(line["event"], line["by"]) for line in logs] == [("instance_draining", "user:boss")]


def test_one_who_begins_to_listen_reads_who_is_drained(start: Start, redis_url: str) -> None:
    start("a", redis_url).sharing.drain("things", FIRST, True, by="user:boss")
    late = start("b", redis_url)

    late.end.reconnect()
    late.do_later()

    assert (late.state(FIRST), late.state(SECOND)) == ("draining", "well")


def test_one_who_was_away_reads_who_is_not_drained_any_more(start: Start, redis_url: str) -> None:
    one, other = start("a", redis_url), start("a", redis_url)
    one.sharing.drain("things", FIRST, True, by="user:boss")
    other.end.is_connected = False
    one.sharing.drain("things", FIRST, False, by="user:boss")
    before = other.state()

    other.end.reconnect()
    other.do_later()

    assert (before, other.state()) == ("draining", "well")


def test_a_redis_that_comes_back_empty_takes_no_drain_back_and_is_told_again(start: Start, redis_url: str) -> None:
    worker = start("a", redis_url)
    worker.sharing.drain("things", FIRST, True, by="user:boss")
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()

    late = start("b", redis_url)
    for one in (worker, late):
        one.end.reconnect()
        one.do_later()

    assert (worker.state(), late.state()) == ("draining", "draining")


def test_of_two_words_the_later_holds_in_whichever_order_they_come(start: Start, redis_url: str) -> None:
    worker = start("a", redis_url)
    news = {"service": "things", "url": FIRST}

    worker.end.hear(DRAIN, {**news, "is_draining": False, "said_at": NOW + 2})
    worker.end.hear(DRAIN, {**news, "is_draining": True, "said_at": NOW + 1})
    after_an_older_one = worker.state()
    worker.end.hear(DRAIN, {**news, "is_draining": True, "said_at": NOW + 3})

    assert (after_an_older_one, worker.state()) == ("well", "draining")


def test_an_older_word_in_redis_is_written_over(start: Start, redis_url: str) -> None:
    worker, late = start("a", redis_url), start("b", redis_url)
    late.end.is_connected = False
    worker.now += 1
    worker.sharing.drain("things", FIRST, True, by="user:boss")
    with redis.Redis.from_url(redis_url) as client:
        client.hset(KEY, f"things {FIRST}", f"0 {NOW}")

    worker.end.reconnect()
    worker.do_later()
    late.end.reconnect()
    late.do_later()

    assert (worker.state(), late.state()) == ("draining", "draining")


def test_the_last_word_holds_though_the_clock_of_the_one_before_was_fast(start: Start, redis_url: str) -> None:
    fast, other = start("a", redis_url), start("b", redis_url)
    fast.now += 3600

    fast.sharing.drain("things", FIRST, True, by="user:boss")
    other.sharing.drain("things", FIRST, False, by="user:boss")

    assert (fast.state(), other.state()) == ("well", "well")


@pytest.mark.parametrize("value", ["0", "0 ", "yes 2e9", "0 soon", "0 nan", "0 inf", "2 2e9", ""])
def test_a_word_in_redis_that_makes_no_sense_is_passed_over(start: Start, redis_url: str, value: str) -> None:
    worker = start("a", redis_url)
    worker.sharing.drain("things", FIRST, True, by="user:boss")
    with redis.Redis.from_url(redis_url) as client:
        client.hset(KEY, mapping={f"things {FIRST}": value, "things": "1 1", f"things {SECOND}": f"1 {NOW}"})
        client.hset(KEY, b"\xff \xff", "1 1")

    worker.end.reconnect()
    worker.do_later()

    assert (worker.state(FIRST), worker.state(SECOND)) == ("draining", "draining")


def test_a_drain_outlives_a_reload_and_the_instance(start: Start, redis_url: str) -> None:
    worker = start("a", redis_url)
    worker.sharing.drain("things", FIRST, True, by="user:boss")

    worker.serve(things(connect_timeout_s=0.5))
    after_reload = worker.state()
    worker.serve(things((SECOND,)))
    worker.serve(things())

    assert (after_reload, worker.state()) == ("draining", "draining")


def test_an_instance_that_comes_back_to_the_registry_is_drained_still(start: Start, redis_url: str) -> None:
    worker = start("a", redis_url)
    worker.serve(things(sources=Sources((Address(FIRST),), registered=1.0)))
    worker.backend.take(REGISTRY, [Address(SECOND)])
    worker.sharing.drain("things", SECOND, True, by="user:boss")

    worker.backend.take(REGISTRY, [])
    worker.backend.take(REGISTRY, [Address(SECOND)])

    assert worker.state(SECOND) == "draining"


@pytest.mark.parametrize(("service", "url"), [("things", "http://10.0.0.9:80"), ("others", FIRST)])
def test_a_drain_of_nobody_is_refused(board: Board, start: Start, redis_url: str, service: str, url: str) -> None:
    worker = start("a", redis_url)

    with pytest.raises(UnknownInstance):
        worker.sharing.drain(service, url, True, by="user:boss")

    with closing(redis.Redis.from_url(redis_url)) as client:
        assert (board.told, client.exists(KEY)) == ([], 0)


def test_a_drain_that_the_others_cannot_be_told_changes_nothing(board: Board, start: Start) -> None:
    worker = start()

    with pytest.raises(redis.RedisError):
        worker.sharing.drain("things", FIRST, True, by="user:boss")

    assert (worker.state(), board.told) == ("well", [])


def test_drains_that_cannot_be_read_are_read_a_little_later(start: Start) -> None:
    worker = start()

    worker.end.reconnect()
    with capture_logs() as logs:
        at_once = worker.do_later()
    again = [seconds for seconds, _ in worker.later]
    worker.end.is_connected = False  # then it will reconnect, and read them
    worker.do_later()

    assert (at_once, again, worker.later) == ([0], [RETRY_S], [])
    assert [line["event"] for line in logs] == ["drains_unread"]
