"""The cache policy: kept answers instead of calls, and only those that RFC 9111 allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import time_machine

from common.problems import GatewayTimeout
from deploy.local.valkey import Valkey
from gateway.exchange import Answer, Exchange, HeaderList
from gateway.policies.cached import cached
from gateway.runtime import Runtime
from gateway.services import Service
from tests.support.ports import free_port
from tests.unit import parts

FRESH = ("Cache-Control", "max-age=60")
ETAG = ("ETag", '"1"')


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Generator[Runtime]:
    directory = tmp_path_factory.mktemp("gateway")
    with Valkey(directory, port=free_port()) as valkey:
        yield parts.runtime(directory, redis_url=valkey.url)


_names = iter(range(10_000))


class Shop:
    """A service behind the cache: answers with `headers` and a body that counts its calls."""

    def __init__(self, runtime: Runtime) -> None:
        self.service: Service = parts.service(f"things-{next(_names)}")
        self.headers: HeaderList = [FRESH, ETAG, ("Content-Type", "text/plain")]
        self.status = 200
        self.calls = 0
        self.meanwhile: Callable[[], object] | None = None  # what happens once while it works on an answer
        self._runtime = runtime
        self._handler = cached(self._answer)

    def _answer(self, exchange: Exchange) -> Answer:
        self.calls += 1
        answer = Answer(self.status, list(self.headers), (b"%d" % self.calls,))
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        return answer

    def ask(self, method: str = "GET", target: str = "/things/1", /, **headers: str) -> Answer:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._handler(parts.exchange(self._runtime, method, target, given, of=self.service))


@pytest.fixture
def shop(runtime: Runtime) -> Shop:
    return Shop(runtime)


def body(answer: Answer) -> bytes:
    return b"".join(answer.body)


def test_the_second_answer_comes_from_the_cache_and_says_so(shop: Shop) -> None:
    first, second = shop.ask(), shop.ask()

    assert (body(first), body(second), shop.calls) == (b"1", b"1", 1)
    assert first.header("cache-status") == "gateway; fwd=miss; stored"
    assert second.header("cache-status") == "gateway; hit; ttl=60"
    assert (first.header("age"), second.header("age")) == (None, "0")
    assert (second.status, second.header("content-type"), second.header("etag")) == (200, "text/plain", '"1"')


def test_what_happened_is_noted_and_counted(shop: Shop, runtime: Runtime) -> None:
    shop.ask()
    shop.ask()

    for result in ("miss", "hit"):
        line = f'gateway_cache_total{{result="{result}",service="{shop.service.name}"}} 1.0'
        assert line in runtime.metrics.page().decode()


def test_an_answer_grows_older_and_is_asked_for_anew_when_it_is_stale(shop: Shop) -> None:
    with time_machine.travel(time.time(), tick=False) as clock:
        shop.ask()
        clock.shift(59)
        old = shop.ask()
        clock.shift(1)
        new = shop.ask()

    assert (body(old), old.header("age"), old.header("cache-status")) == (b"1", "59", "gateway; hit; ttl=1")
    assert (body(new), new.header("cache-status")) == (b"2", "gateway; fwd=stale; stored")


def test_the_age_that_an_answer_already_had_counts(shop: Shop) -> None:
    shop.headers.append(("Age", "50"))
    with time_machine.travel(time.time(), tick=False) as clock:
        shop.ask()
        assert shop.ask().header("age") == "50"
        clock.shift(10)
        assert body(shop.ask()) == b"2"


@pytest.mark.parametrize(
    "target", ["/things/2", "/things/1/", "/things/1?", "/things/1?x", "/things/%31", "/things//1"]
)
def test_another_spelling_of_an_address_is_another_address(shop: Shop, target: str) -> None:
    shop.ask()

    assert body(shop.ask("GET", target)) == b"2"


def test_another_service_has_addresses_of_its_own(runtime: Runtime) -> None:
    first, second = Shop(runtime), Shop(runtime)
    first.ask()

    assert second.ask().header("cache-status") == "gateway; fwd=miss; stored"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Cache-Control", "no-store, max-age=60")],
        [FRESH, ("Cache-Control", "no-store")],
        [("Cache-Control", "no-store"), FRESH],
        [("cache-control", "private"), FRESH],
        [FRESH, ("Set-Cookie", "a=1")],
        [FRESH, ("Vary", "Accept"), ("Vary", "*")],
        [FRESH, ("Vary", "*"), ("Vary", "Accept")],
    ],
)
def test_an_answer_that_must_not_be_kept_is_not(shop: Shop, headers: HeaderList) -> None:
    shop.headers = headers

    answers = [shop.ask(), shop.ask()]

    assert [body(answer) for answer in answers] == [b"1", b"2"]
    assert {answer.header("cache-status") for answer in answers} == {"gateway; fwd=miss"}


def test_an_answer_to_one_user_is_not_given_to_another(shop: Shop) -> None:
    answers = [shop.ask(authorization="Bearer a"), shop.ask(authorization="Bearer b"), shop.ask()]

    assert [body(answer) for answer in answers] == [b"1", b"2", b"3"]


def test_a_public_answer_to_one_user_is_given_to_all(shop: Shop) -> None:
    shop.headers = [("Cache-Control", "public, max-age=60")]

    answers = [shop.ask(authorization="Bearer a"), shop.ask(authorization="Bearer b"), shop.ask()]

    assert [body(answer) for answer in answers] == [b"1", b"1", b"1"]


@pytest.mark.parametrize(
    "vary", [[("Vary", "Accept, Accept-Language")], [("Vary", "Accept"), ("vary", "Accept-Language")]]
)
def test_variants_are_kept_apart(shop: Shop, vary: HeaderList) -> None:
    shop.headers += vary
    wishes = [("a", "en"), ("a", "de"), ("b", "de")]

    first = [body(shop.ask(accept=accept, accept_language=language)) for accept, language in wishes]
    second = [body(shop.ask(accept=accept, accept_language=language)) for accept, language in wishes]

    assert first == second == [b"1", b"2", b"3"]


def test_a_head_is_answered_from_a_kept_get(shop: Shop) -> None:
    shop.headers.append(("Content-Length", "1"))
    shop.ask()

    answer = shop.ask("HEAD")

    assert (shop.calls, body(answer), answer.header("content-length")) == (1, b"", "1")


def test_the_answer_to_a_head_is_not_kept(shop: Shop) -> None:
    assert shop.ask("HEAD").header("cache-status") == "gateway; fwd=miss"
    assert body(shop.ask()) == b"2"


@pytest.mark.parametrize(("tag", "status"), [('"1"', 304), ('W/"1"', 304), ("*", 304), ('"0", "1"', 304), ('"2"', 200)])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_has_the_kept_answer_already_is_told_so(shop: Shop, method: str, tag: str, status: int) -> None:
    shop.headers.append(("Content-Length", "1"))
    shop.ask()

    answer = shop.ask(method, if_none_match=tag)

    assert (answer.status, shop.calls) == (status, 1)
    assert answer.header("etag") == '"1"'
    if status == 304:
        assert body(answer) == b""
        assert answer.header("content-length") is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("no-cache", b"2"),
        ("no-store", b"2"),
        ("max-age=0", b"1"),
        ("max-age=29", b"2"),
        ("max-age=30", b"1"),
        ("min-fresh=29", b"1"),
        ("min-fresh=30", b"2"),
        ("only-if-cached", b"1"),
    ],
)
def test_a_request_may_want_less_of_the_cache(shop: Shop, said: str, expected: bytes) -> None:
    with time_machine.travel(time.time(), tick=False) as clock:
        shop.ask()
        clock.shift(0 if said == "max-age=0" else 30)
        assert body(shop.ask(cache_control=said)) == expected


def test_a_reload_is_kept_for_the_others(shop: Shop) -> None:
    shop.ask()

    assert (shop.ask(cache_control="no-cache").header("cache-status") or "").endswith("; stored")
    assert body(shop.ask()) == b"2"


def test_what_must_not_be_stored_leaves_what_was_kept(shop: Shop) -> None:
    shop.ask()
    shop.ask(cache_control="no-store")

    assert body(shop.ask()) == b"1"


def test_only_if_cached_without_a_kept_answer_is_a_504_and_no_call(shop: Shop) -> None:
    with pytest.raises(GatewayTimeout) as refused:
        shop.ask(cache_control="only-if-cached")

    assert (refused.value.code, shop.calls) == ("NOT_CACHED", 0)


def test_an_absurd_number_from_the_caller_is_no_error(shop: Shop) -> None:
    shop.ask()

    assert body(shop.ask(cache_control="max-age=" + "9" * 6000)) == b"1"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(("status", "expected"), [(200, b"3"), (201, b"3"), (204, b"3"), (404, b"1"), (500, b"1")])
def test_a_change_empties_its_own_address_if_it_succeeded(
    shop: Shop, method: str, status: int, expected: bytes
) -> None:
    shop.ask()

    shop.status = status
    assert shop.ask(method).header("cache-status") is None
    shop.status = 200

    assert body(shop.ask()) == expected


@pytest.mark.parametrize(
    "named", [[('"stock"')], ['"other", "stock"'], ['"other"', '"stock"'], ['"stock";x=1'], ['nonsense, "stock"']]
)
def test_a_change_elsewhere_empties_the_groups_that_it_names(shop: Shop, named: list[str]) -> None:
    shop.headers.append(("Cache-Groups", '"catalogue"'))
    shop.headers.append(("Cache-Groups", '"stock"'))
    shop.ask()

    shop.headers = [("Cache-Group-Invalidation", value) for value in named]
    answer = shop.ask("POST", "/orders")

    assert answer.header("cache-group-invalidation") is None
    assert shop.ask().header("cache-status") == "gateway; fwd=miss"


def test_an_answer_that_was_on_its_way_during_a_change_is_not_kept(shop: Shop) -> None:
    shop.meanwhile = lambda: shop.ask("POST")
    assert body(shop.ask()) == b"1"

    assert body(shop.ask()) == b"3"


def test_a_streamed_answer_is_not_kept(runtime: Runtime) -> None:
    service, calls = parts.service("streams"), [0]

    @cached
    def streaming(exchange: Exchange) -> Answer:
        calls[0] += 1
        return Answer(200, [FRESH], iter([b"a", b"b"]))

    answers = [streaming(parts.exchange(runtime, of=service)) for _ in range(2)]

    assert [body(answer) for answer in answers] == [b"ab", b"ab"]
    assert calls == [2]


def test_without_the_store_every_answer_comes_from_the_service(tmp_path: Path) -> None:
    shop = Shop(parts.runtime(tmp_path))

    answers = [shop.ask(), shop.ask(), shop.ask("DELETE"), shop.ask()]

    assert [body(answer) for answer in answers] == [b"1", b"2", b"3", b"4"]
    assert answers[0].header("cache-status") == "gateway; fwd=miss"
