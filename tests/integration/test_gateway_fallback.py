"""What callers get while no instance can be had: the last kept answer, or a fixed one, and they are told."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

import pytest

from tests.integration.conftest import Gateway, GatewayFactory, assert_problem, no_fault_in, ready
from tests.support.wire import RawAnswer

FIXED = b'{"items": []}'
SERVICES = """
services:
  users: {{url: "{url}"}}
  orders: {{url: "{url}"}}
  products: {{url: "{url}"}}
  fixed:
    url: "{url}"
    public: true
    path: /
    timeout_s: 0.5
    retries: 0
    breaker: {{fallback: {{status: 200, content_type: "application/x+json", body: '{{"items": []}}'}}}}
  narrow:
    url: "{url}"
    public: true
    path: /
    load: {{in_flight: 1, queue: 0}}
    breaker: {{fallback: {{status: 200, body: "narrow"}}}}
  away:
    url: "http://127.0.0.1:{closed_port}"
    public: true
    breaker: {{failures: 2, recovery_s: 60, fallback: {{status: 203, body: "away"}}}}
  stale:
    url: "{url}"
    public: true
    path: /
    cache: true
    timeout_s: 0.5
    retries: 0
    breaker: {{failures: 1000000, fallback: {{stale: true}}}}
  both:
    url: "{url}"
    public: true
    path: /
    cache: true
    retries: 0
    breaker: {{failures: 1000000, fallback: {{stale: true, status: 200, body: "fixed"}}}}
"""


@pytest.fixture(scope="module")
def falling(start_gateway: GatewayFactory) -> Gateway:
    return start_gateway(services=SERVICES, WEB_CONCURRENCY="1")


@pytest.fixture
def gateway(falling: Gateway) -> Generator[Gateway]:
    falling.stub.start()
    ready(falling)
    with no_fault_in(falling):
        yield falling
    falling.stub.start()


_numbers = iter(range(1000))


def cacheable(said: str = "max-age=1", more: str = "") -> str:
    """A target that no other test asks for."""
    return f"/cacheable?cc={said}&n={next(_numbers)}{more}"


def kept_and_down(gateway: Gateway, target: str) -> RawAnswer:
    """The first answer to `target`, which is kept; then the service goes away and the answer grows too old."""
    answer = gateway.get(target)
    assert (answer.header("Cache-Status") or "").endswith("; stored"), answer.headers
    gateway.stub.stop()
    time.sleep(1.1)
    return answer


def test_a_fixed_answer_stands_in_and_says_so(gateway: Gateway) -> None:
    answer = gateway.get("/fixed/reset")

    assert (answer.status, answer.body) == (200, FIXED)
    assert answer.header("Content-Type") == "application/x+json"
    assert answer.header("Cache-Control") == "no-store"
    assert answer.header("Proxy-Status") == 'gateway; error=http_response_incomplete; details="BAD_ANSWER"'
    (line,) = [line for line in gateway.log_of(answer) if line["event"] == "request"]
    assert (line["fallback"], line["code"], line["status"]) == ("static", "BAD_ANSWER", 200)
    gateway.wait_for_metric('gateway_fallbacks_total{kind="static",service="fixed"}')


def test_a_head_gets_the_head_of_it(gateway: Gateway) -> None:
    answer = gateway.request("HEAD", "/fixed/reset")

    assert (answer.status, answer.body) == (200, b"")
    assert answer.header("Content-Length") == str(len(FIXED))


@pytest.mark.parametrize(("target", "code"), [("/fixed/slow/2", "SERVICE_TIMEOUT"), ("/fixed/garbage", "BAD_ANSWER")])
def test_it_stands_in_for_whatever_keeps_an_answer_away(gateway: Gateway, target: str, code: str) -> None:
    answer = gateway.get(target)

    assert (answer.status, answer.body) == (200, FIXED)
    assert f'details="{code}"' in (answer.header("Proxy-Status") or "")


def test_it_stands_in_for_a_service_without_instance_and_for_an_open_breaker(gateway: Gateway) -> None:
    answers = [gateway.get("/away/x") for _ in range(3)]

    assert {(answer.status, answer.body) for answer in answers} == {(203, b"away")}
    told = [(answer.header("Proxy-Status") or "").partition("details=")[2] for answer in answers]
    assert told[0] == '"SERVICE_UNREACHABLE"'
    assert told[-1] == '"CIRCUIT_OPEN"'


def test_it_stands_in_where_the_service_has_too_much_to_do(gateway: Gateway) -> None:
    with gateway.connect() as first:
        first.send(b"GET /narrow/stream/100/0.02 HTTP/1.1\r\nHost: h\r\n\r\n")
        gateway.stub.wait_for_requests(1)
        answer = gateway.get("/narrow/echo")

    assert (answer.status, answer.body) == (200, b"narrow")
    assert answer.header("Proxy-Status") == 'gateway; error=connection_limit_reached; details="OVERLOADED"'


def test_a_failure_that_the_service_tells_itself_passes(gateway: Gateway) -> None:
    for status in (500, 502, 503, 504):
        answer = gateway.get(f"/fixed/status/{status}")

        assert answer.status == status
        assert answer.header("Proxy-Status") is None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_stands_in_for_a_change(gateway: Gateway, method: str) -> None:
    assert_problem(gateway.request(method, "/fixed/reset", [], b"x"), 502, "BAD_ANSWER")


def test_the_last_kept_answer_stands_in_and_says_how_old_it_is(gateway: Gateway) -> None:
    target = "/stale" + cacheable()
    first = kept_and_down(gateway, target)

    answer = gateway.get(target)

    assert (answer.status, answer.body) == (200, first.body)
    assert answer.header("Cache-Status") == "gateway; hit; ttl=0; detail=SERVICE_UNREACHABLE" or (
        answer.header("Cache-Status") == "gateway; hit; ttl=-1; detail=SERVICE_UNREACHABLE"
    )
    assert answer.header("Age") in ("1", "2")
    assert answer.header("ETag") == '"1"'
    (line,) = [line for line in gateway.log_of(answer) if line["event"] == "request"]
    assert (line["fallback"], line["cache"]) == ("stale", "fallback")


def test_it_answers_head_and_conditions_as_a_fresh_one_does(gateway: Gateway) -> None:
    target = "/stale" + cacheable()
    kept_and_down(gateway, target)

    head = gateway.request("HEAD", target)
    unchanged = gateway.get(target, [("If-None-Match", '"1"')])

    assert (head.status, head.body) == (200, b"")
    assert unchanged.status == 304


@pytest.mark.parametrize(
    ("said", "is_served"),
    [
        ("max-age=1", True),
        ("public,max-age=1", True),
        ("max-age=1,stale-if-error=60", True),
        ("max-age=1,s-maxage=1,stale-if-error=60", True),
        ("max-age=1,stale-if-error=0", False),
        ("max-age=1,must-revalidate", False),
        ("max-age=1,proxy-revalidate", False),
        ("max-age=1,must-revalidate,stale-if-error=60", False),
        ("s-maxage=1", False),
    ],
)
def test_the_service_says_whether_its_answer_may_be_told_when_it_is_too_old(
    gateway: Gateway, said: str, is_served: bool
) -> None:
    target = "/stale" + cacheable(said)
    kept_and_down(gateway, target)

    assert gateway.get(target).status == (200 if is_served else 502)


@pytest.mark.parametrize("wish", ["no-cache", "no-store", "max-age=0", "min-fresh=1"])
def test_a_caller_who_wants_a_fresh_answer_gets_none_that_is_too_old(gateway: Gateway, wish: str) -> None:
    target = "/stale" + cacheable()
    kept_and_down(gateway, target)

    assert_problem(gateway.get(target, [("Cache-Control", wish)]), 502, "SERVICE_UNREACHABLE")


def test_only_if_cached_is_not_answered_with_one_that_is_too_old(gateway: Gateway) -> None:
    target = "/stale" + cacheable()
    kept_and_down(gateway, target)

    assert_problem(gateway.get(target, [("Cache-Control", "only-if-cached")]), 504, "NOT_CACHED")


def by_its_address(gateway: Gateway, target: str) -> None:
    gateway.request("DELETE", target)


def by_its_group(gateway: Gateway, target: str) -> None:
    gateway.request("POST", '/stale/cacheable?cc=no-store&Cache-Group-Invalidation="g"')


@pytest.mark.parametrize("invalidate", [by_its_address, by_its_group])
def test_what_was_invalidated_is_never_told_again(gateway: Gateway, invalidate: Callable[[Gateway, str], None]) -> None:
    target = "/stale" + cacheable(more='&Cache-Groups="g"')
    gateway.get(target)

    invalidate(gateway, target)
    gateway.stub.stop()

    assert_problem(gateway.get(target), 502, "SERVICE_UNREACHABLE")


def test_variants_stay_apart(gateway: Gateway) -> None:
    target = "/stale" + cacheable(more="&Vary=Accept")
    kept = gateway.get(target, [("Accept", "a")])
    gateway.stub.stop()
    time.sleep(1.1)

    assert gateway.get(target, [("Accept", "a")]).body == kept.body
    assert gateway.get(target, [("Accept", "b")]).status == 502


def test_it_is_asked_again_as_soon_as_it_can_be(gateway: Gateway) -> None:
    target = "/stale" + cacheable()
    kept_and_down(gateway, target)
    assert gateway.get(target).status == 200

    gateway.stub.start()
    answer = gateway.get(target)

    assert answer.status == 200
    assert answer.header("Cache-Status") == "gateway; fwd=stale; stored"


def test_a_kept_answer_goes_before_the_fixed_one(gateway: Gateway) -> None:
    target = "/both" + cacheable()
    first = kept_and_down(gateway, target)

    kept, fixed = gateway.get(target), gateway.get("/both" + cacheable())

    assert kept.body == first.body
    assert kept.header("Proxy-Status") is None
    assert (fixed.status, fixed.body) == (200, b"fixed")
    assert fixed.header("Cache-Status") is None


def test_without_a_kept_answer_the_failure_is_told(gateway: Gateway) -> None:
    gateway.stub.stop()

    assert_problem(gateway.get("/stale" + cacheable()), 502, "SERVICE_UNREACHABLE")
