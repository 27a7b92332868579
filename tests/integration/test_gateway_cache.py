"""The shared cache by RFC 9111: what it keeps, for whom, how long, and what empties it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import quote

import pytest

from deploy.local.valkey import Valkey
from tests.integration.conftest import ADMIN, Gateway, GatewayFactory, assert_problem, bearer, no_fault_in, ready
from tests.support.behaviours import Call, Wait
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.received import Received
from tests.support.stub import StubService
from tests.support.wire import RawAnswer

KEEP = "public, s-maxage=60"


def fresh(cache_control: str = KEEP, *, service: str = "kept", **fields: str) -> str:
    """A target that nobody has asked for before; the stub answers it with this Cache-Control and these fields."""
    more = "".join(f"&{name.replace('_', '-')}={quote(value, safe='')}" for name, value in fields.items())
    return f"/{service}/cacheable?cc={quote(cache_control, safe='')}&X-Nonce={uuid.uuid4()}{more}"


def state(answer: RawAnswer) -> str:
    """hit, miss, request, stale or bypass, as Cache-Status has it (RFC 9211)."""
    said = (answer.header("Cache-Status") or "").removeprefix("gateway; ")
    return said.partition(";")[0].removeprefix("fwd=")


def states(gateway: Gateway, target: str, *headers: list[tuple[str, str]]) -> list[str]:
    return [state(gateway.get(target, each)) for each in headers]


NOTHING: list[tuple[str, str]] = []


def test_kept_answer_is_the_same_and_says_its_age(gateway: Gateway) -> None:
    target = fresh(X_Odd="\xe9")

    first, second = gateway.get(target), gateway.get(target)

    assert (state(first), state(second)) == ("miss", "hit")
    assert first.header("Cache-Status") == "gateway; fwd=miss; stored"
    assert first.all("Age") == []
    assert int(second.header("Age") or -1) in (0, 1)
    assert (second.body, second.header("ETag")) == (first.body, first.header("ETag"))
    assert second.header("X-Odd") == first.header("X-Odd")
    assert second.header("X-Request-ID") != first.header("X-Request-ID")
    assert len(gateway.arrived) == 1


def test_both_workers_share_what_is_kept(gateway: Gateway) -> None:
    target = fresh()

    answers = [gateway.get(target) for _ in range(20)]

    assert {answer.json()["times_seen"] for answer in answers} == {1}
    assert len(gateway.arrived) == 1


def test_all_faces_share_what_is_kept_and_services_do_not(gateway: Gateway) -> None:
    target = fresh()

    seen = [state(gateway.get(f"{face}{target}")) for face in ("", "/api", "/api/v1")]
    other = state(gateway.get(target.replace("/kept/", "/products/")))

    assert seen == ["miss", "hit", "hit"]
    assert other == "miss"


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(lambda: fresh("no-store"), id="no-store"),
        pytest.param(lambda: fresh("private, max-age=60"), id="private"),
        pytest.param(lambda: fresh("no-cache, max-age=60"), id="no-cache"),
        pytest.param(lambda: fresh("public"), id="no lifetime"),
        pytest.param(lambda: fresh("max-age=0"), id="lifetime 0"),
        pytest.param(lambda: fresh("max-age=60, s-maxage=0"), id="s-maxage 0"),
        pytest.param(lambda: fresh('max-age="x"'), id="lifetime in words"),
        pytest.param(lambda: fresh(Set_Cookie="a=b"), id="Set-Cookie"),
        pytest.param(lambda: fresh(Vary="*"), id="Vary: *"),
        pytest.param(lambda: fresh("", Expires="0"), id="Expires: 0"),
    ],
)
def test_answer_that_may_not_be_kept_is_not(gateway: Gateway, target: Callable[[], str]) -> None:
    asked = target()

    assert states(gateway, asked, NOTHING, NOTHING) == ["miss", "miss"]
    assert len(gateway.arrived) == 2


def test_expires_is_a_lifetime(gateway: Gateway) -> None:
    target = fresh("", Expires=format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True))

    assert states(gateway, target, NOTHING, NOTHING) == ["miss", "hit"]


def test_kept_answer_ends_with_its_lifetime(gateway: Gateway) -> None:
    target = fresh("s-maxage=2")
    assert states(gateway, target, NOTHING, NOTHING) == ["miss", "hit"]

    wait_until(lambda: state(gateway.get(target)) == "miss", "the end of the lifetime", timeout_s=6, poll_s=0.1)


def test_age_of_an_answer_that_was_kept_before_us_counts(gateway: Gateway) -> None:
    assert states(gateway, fresh("s-maxage=60", Age="61"), NOTHING, NOTHING)[1] != "hit"


@pytest.mark.parametrize(
    ("wish", "second"),
    [
        ([("Cache-Control", "no-cache")], "request"),
        ([("Cache-Control", "no-store")], "bypass"),
        ([("Cache-Control", "min-fresh=61")], "request"),
        ([("Pragma", "no-cache")], "request"),
        ([("Range", "bytes=0-1")], "bypass"),
        ([("Cache-Control", "max-age=60")], "hit"),
    ],
)
def test_caller_may_ask_to_go_past_the_cache(gateway: Gateway, wish: list[tuple[str, str]], second: str) -> None:
    target = fresh()

    assert states(gateway, target, NOTHING, wish) == ["miss", second]
    assert len(gateway.arrived) == (1 if second == "hit" else 2)


def test_only_if_cached_never_reaches_the_service(gateway: Gateway) -> None:
    target = fresh()

    assert_problem(gateway.get(target, [("Cache-Control", "only-if-cached")]), 504, "NOT_CACHED")
    assert gateway.arrived == []
    gateway.get(target)
    assert state(gateway.get(target, [("Cache-Control", "only-if-cached")])) == "hit"


def test_variants_are_kept_apart(gateway: Gateway) -> None:
    target = fresh(Vary="Accept-Language, Accept")
    german, english = [("Accept-Language", "de")], [("Accept-Language", "en")]

    seen = states(gateway, target, german, english, german, english, NOTHING, [*german, ("Accept", "text/html")])

    assert seen == ["miss", "miss", "hit", "hit", "miss", "miss"]


@pytest.mark.parametrize(
    ("cache_control", "is_kept"),
    [("max-age=60", False), ("public, max-age=60", True), ("s-maxage=60", True), ("max-age=60, must-revalidate", True)],
)
def test_answer_to_a_request_with_a_token_is_kept_only_where_it_says_so(
    gateway: Gateway, cache_control: str, *, is_kept: bool
) -> None:
    target = fresh(cache_control)

    assert states(gateway, target, bearer("a"), bearer("b")) == ["miss", "hit" if is_kept else "miss"]


def test_guard_stands_before_the_cache(gateway: Gateway) -> None:
    target = fresh(service="students")
    assert states(gateway, target, bearer(), bearer()) == ["miss", "hit"]

    assert_problem(gateway.get(target), 401, "TOKEN_REQUIRED")


def test_head_and_conditional_requests_are_served_from_what_get_left(gateway: Gateway) -> None:
    target = fresh()
    first = gateway.get(target)

    head = gateway.request("HEAD", target)
    unchanged = gateway.get(target, [("If-None-Match", 'W/"1"')])
    changed = gateway.get(target, [("If-None-Match", '"2"')])

    assert (state(head), head.body, head.header("Content-Length")) == ("hit", b"", first.header("Content-Length"))
    assert (state(unchanged), unchanged.status, unchanged.header("ETag")) == ("hit", 304, '"1"')
    assert (state(changed), changed.status) == ("hit", 200)
    assert len(gateway.arrived) == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_change_of_an_address_empties_it(gateway: Gateway, method: str) -> None:
    target = fresh()
    assert states(gateway, target, NOTHING, NOTHING) == ["miss", "hit"]

    gateway.request(method, target)

    assert states(gateway, target, NOTHING, NOTHING) == ["miss", "hit"]


def test_safe_methods_empty_nothing(gateway: Gateway) -> None:
    target = fresh()
    gateway.get(target)

    gateway.request("HEAD", target)
    gateway.request("OPTIONS", target)

    assert state(gateway.get(target)) == "hit"


def test_service_empties_groups_over_service_borders_and_callers_learn_nothing_of_it(gateway: Gateway) -> None:
    group = f'"stock-{uuid.uuid4()}"'
    member, other = fresh(service="products", Cache_Groups=f'{group}, "x"'), fresh(service="products")
    gateway.get(member)
    gateway.get(other)

    change = gateway.request("POST", fresh("no-store", service="orders", Cache_Group_Invalidation=group), bearer())

    assert change.status == 200
    assert change.all("Cache-Group-Invalidation") == []
    assert state(gateway.get(member)) == "miss"
    assert state(gateway.get(other)) == "hit"


def test_administrators_change_empties_the_catalogues_page(gateway: Gateway) -> None:
    page = fresh(service="products")
    gateway.get(page)

    gateway.request("PUT", page, ADMIN, b"{}")

    assert state(gateway.get(page)) == "miss"


def test_get_with_a_body_goes_past_the_cache(gateway: Gateway) -> None:
    target = fresh()
    gateway.get(target)

    assert state(gateway.request("GET", target, [], b"filter")) == "bypass"


def test_stream_is_not_kept(gateway: Gateway) -> None:
    answers = [gateway.get("/kept/chunked") for _ in range(2)]

    assert [answer.body for answer in answers] == [b"first,second"] * 2
    assert len(gateway.arrived) == 2


def test_what_the_cache_did_is_counted(gateway: Gateway) -> None:
    target = fresh()
    gateway.get(target)
    gateway.get(target)

    page = gateway.operations("/metrics").body.decode()

    assert 'gateway_cache_total{result="hit",service="kept"}' in page
    assert 'gateway_cache_total{result="miss",service="kept"}' in page


def test_answers_that_say_nothing_are_kept_only_if_the_operator_says_for_how_long(
    gateway: Gateway, start_gateway: GatewayFactory
) -> None:
    guessing = start_gateway(WEB_CONCURRENCY="1", CACHE_DEFAULT_TTL="60")
    ready(guessing)

    assert states(gateway, "/kept/echo?silent", NOTHING, NOTHING) == ["miss", "miss"]
    assert states(guessing, "/kept/echo?silent", NOTHING, NOTHING) == ["miss", "hit"]


@pytest.fixture
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("own-valkey"), port=free_port()) as server:
        yield server


def test_without_redis_requests_go_past_the_cache_and_it_comes_back_by_itself(
    start_gateway: GatewayFactory, own_valkey: Valkey
) -> None:
    gateway = start_gateway(redis_url=own_valkey.url, WEB_CONCURRENCY="1")
    ready(gateway)
    target = fresh()

    with no_fault_in(gateway):
        assert states(gateway, target, NOTHING, NOTHING) == ["miss", "hit"]
        own_valkey.kill()
        away = [gateway.get(target) for _ in range(5)]
        change = gateway.request("POST", target)

    assert [answer.status for answer in away] == [200] * 5
    assert {state(answer) for answer in away} == {"miss"}
    assert change.status == 200

    own_valkey.start()
    wait_until(lambda: state(gateway.get(target)) == "hit", "the cache to be used again", timeout_s=6)


class LateStub(StubService):
    """What has /belated in its path is answered as it stood when it was asked, but half a second later."""

    def _call_for(self, received: Received, wait: Wait, is_first: bool) -> list[bytes] | Call:
        call = super()._call_for(received, wait, is_first)
        if received.path.startswith("/belated"):
            wait(0.5)
        return call


def test_answer_on_its_way_during_a_change_is_not_served_afterwards(
    tmp_path: Path, database: Callable[[], str]
) -> None:
    group = f'"stock-{uuid.uuid4()}"'
    target = fresh(Cache_Groups=group).replace("/kept/", "/kept/belated/")
    change = fresh("no-store", Cache_Group_Invalidation=group)

    with (
        LateStub() as stub,
        Gateway(tmp_path, stub=stub, redis_url=database()) as gateway,
        ThreadPoolExecutor(1) as threads,
    ):
        late = threads.submit(gateway.get, target)
        wait_until(lambda: any(r.path.startswith("/belated") for r in stub.requests), "the request to be on its way")
        assert gateway.request("POST", change).status == 200
        assert not late.done()
        assert state(late.result()) == "miss"

        assert states(gateway, target, NOTHING, NOTHING) == ["miss", "hit"]
