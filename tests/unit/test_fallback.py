"""What stands in for an answer that can't be had: the last kept one for as long as it may be told, then a fixed one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator

import pytest
import redis
import time_machine

from common.problems import BadGateway, GatewayTimeout, Problem, ServiceUnavailable, TooManyRequests
from deploy.local.valkey import Valkey
from gateway.backend.fallback import stand_in
from gateway.cache.rules import LONGEST_S, STALE_S
from gateway.exchange import Answer, Exchange, HeaderList
from gateway.policies.cached import cached
from gateway.runtime import Runtime
from gateway.services import Fallback
from tests.support.ports import free_port
from tests.unit import parts

FIXED = Fallback(is_stale=False, status=200, content_type="text/plain", body=b"fixed")
STALE = Fallback(is_stale=True, status=None, content_type="", body=b"")

_names = (f"things-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as server:
        yield server


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory, valkey: Valkey) -> Runtime:
    return parts.runtime(tmp_path_factory.mktemp("gateway"), redis_url=valkey.url)


class Shop:
    """A service behind the cache, that fails with `problem` when it has one."""

    def __init__(self, runtime: Runtime, *said: str, fallback: Fallback = STALE, vary: str = "") -> None:
        self.problem: Problem | None = None
        self.meanwhile: Callable[[], object] | None = None  # what happens once while it works
        self._headers: HeaderList = [("Cache-Control", value) for value in said]
        self._headers += [("Vary", vary)] if vary else []
        self._runtime = runtime
        self._service = parts.service(next(_names), fallback=fallback)
        self._handler = cached(self._answer)

    def _answer(self, exchange: Exchange) -> Answer:
        if exchange.method == "DELETE":
            return Answer(204, [], ())
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        if self.problem is not None:
            answer = stand_in(exchange, self.problem)
            if answer is None:
                raise self.problem
            return answer
        return Answer(200, list(self._headers), (b"kept",))

    def ask(self, method: str = "GET") -> Answer:
        return self._handler(parts.exchange(self._runtime, method, "/things/1", of=self._service))

    def fail(self) -> None:
        self.problem = ServiceUnavailable("away", code="CIRCUIT_OPEN")


@pytest.mark.parametrize("problem", [BadGateway("no"), ServiceUnavailable("no"), GatewayTimeout("no")])
@pytest.mark.parametrize(("method", "body"), [("GET", (b"fixed",)), ("HEAD", ())])
def test_the_fixed_answer_stands_in(runtime: Runtime, method: str, body: tuple[bytes, ...], problem: Problem) -> None:
    exchange = parts.exchange(runtime, method, of=parts.service(fallback=FIXED))

    answer = stand_in(exchange, problem)

    assert answer is not None
    assert (answer.status, answer.body) == (200, body)
    assert answer.header("content-length") == "5"
    assert answer.stands_in_for == problem.code
    assert exchange.notes == {"fallback": "static", "code": problem.code}


@pytest.mark.parametrize(
    ("method", "fallback", "problem"),
    [
        ("GET", None, BadGateway("no")),
        ("POST", FIXED, BadGateway("no")),
        ("OPTIONS", FIXED, BadGateway("no")),
        ("GET", FIXED, TooManyRequests("no")),
        ("GET", STALE, BadGateway("no")),
    ],
)
def test_there_may_be_nothing_that_stands_in(
    runtime: Runtime, method: str, fallback: Fallback | None, problem: Problem
) -> None:
    exchange = parts.exchange(runtime, method, of=parts.service(fallback=fallback))

    assert stand_in(exchange, problem) is None
    assert exchange.notes == {}


@pytest.mark.parametrize(
    ("said", "stale_s"),
    [
        ("max-age=60", STALE_S),
        ("max-age=60, stale-if-error=120", 120),
        ("max-age=60, stale-if-error=999999", STALE_S),
        ("s-maxage=60, stale-if-error=120", 120),
        ("s-maxage=60", 0),
        ("max-age=60, must-revalidate", 0),
    ],
)
def test_a_kept_answer_stands_in_until_it_is_too_old_for_that(runtime: Runtime, said: str, stale_s: int) -> None:
    with time_machine.travel(time.time(), tick=False) as clock:
        shop = Shop(runtime, said)
        shop.ask()
        shop.fail()
        clock.shift(60 + stale_s - 1)
        last = shop.ask()
        clock.shift(1)

        assert last.header("age") == str(60 + stale_s - 1)
        with pytest.raises(ServiceUnavailable):
            shop.ask()


def test_it_is_a_hit_that_is_too_old_and_says_why(runtime: Runtime) -> None:
    with time_machine.travel(time.time(), tick=False) as clock:
        shop = Shop(runtime, "max-age=60")
        shop.ask()
        shop.fail()
        clock.shift(100)
        answer = shop.ask()

    assert answer.header("cache-status") == "gateway; hit; ttl=-40; detail=CIRCUIT_OPEN"
    assert answer.header("age") == "100"
    assert answer.stands_in_for == "CIRCUIT_OPEN"


def test_what_was_invalidated_while_the_request_failed_is_not_told(runtime: Runtime) -> None:
    shop = Shop(runtime, "max-age=60")
    with time_machine.travel(time.time(), tick=False) as clock:
        shop.ask()
        clock.shift(61)
        shop.fail()
        shop.meanwhile = lambda: shop.ask("DELETE")

        with pytest.raises(ServiceUnavailable):
            shop.ask()


def test_nothing_that_stands_in_is_kept(runtime: Runtime) -> None:
    shop = Shop(runtime, "max-age=60", fallback=FIXED)
    shop.fail()
    shop.ask()
    shop.problem = None

    assert shop.ask().header("cache-status") == "gateway; fwd=miss; stored"


def test_without_a_stale_fallback_nothing_is_kept_for_longer_than_it_is_fresh(runtime: Runtime, valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushdb()
        Shop(runtime, "max-age=60", fallback=FIXED).ask()
        (key,) = client.keys("*:entry:*")

        assert client.ttl(key) <= 60


def test_a_note_that_something_was_invalidated_outlives_all_that_it_is_about(runtime: Runtime, valkey: Valkey) -> None:
    shop = Shop(runtime, f"max-age={LONGEST_S}", vary="Accept")
    with redis.Redis.from_url(valkey.url) as client:
        client.flushdb()
        shop.ask()
        entries = [client.ttl(key) for key in client.keys("*:entry:*")]
        shop.ask("DELETE")
        notes = [client.ttl(key) for key in client.keys("*:group:*")]

    assert len(entries) == 2  # the signpost, and where it leads
    assert min(entries) >= LONGEST_S + STALE_S - 5
    assert min(notes) >= max(entries)
