"""One time for a request and all of its tries: it is kept whatever a service does, told to it, and shortened by
callers, who can do no harm to others by it."""

from __future__ import annotations

import socket
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from common.deadlines import HEADER
from tests.integration.conftest import Gateway, GatewayFactory, assert_problem, no_fault_in, ready, together
from tests.support import wire
from tests.support.fragile import FragileInstance
from tests.support.processes import wait_until
from tests.support.received import Received
from tests.support.wire import Pairs, RawAnswer

TOTAL_S = 1.0
LATE_S = 0.5
"""How much later an answer may be here, where many processes share few cores. What is promised is 50 ms."""
PLACES = 3


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Generator[FragileInstance]:
    """A process that tests may stop where it is."""
    instance = FragileInstance("frozen", tmp_path_factory.mktemp("frozen"))
    with instance.process:
        yield instance


@pytest.fixture(scope="module")
def full_port() -> Generator[int]:
    """A port whose queue of connections is full, so that connecting takes for ever."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port


@pytest.fixture(scope="module")
def timed(start_gateway: GatewayFactory, frozen: FragileInstance, full_port: int) -> Gateway:
    brisk = "public: true, path: /, timeout_s: 1, retries: 0, breaker: off, ejection: off"
    services = f"""
services:
  users: {{{{url: "{{url}}"}}}}
  orders: {{{{url: "{{url}}"}}}}
  products: {{{{url: "{{url}}"}}}}
  open: {{{{url: "{{url}}", public: true, path: /, timeout_s: 10, retry_budget: 1}}}}
  brisk: {{{{url: "{{url}}", {brisk}}}}}
  full: {{{{url: "http://127.0.0.1:{full_port}", {brisk}, connect_timeout_s: 5}}}}
  frozen: {{{{url: "{frozen.url}", {brisk}}}}}
  tries: {{{{url: "{{url}}", public: true, path: /, timeout_s: 1, try_timeout_s: 0.4, retries: 5, retry_budget: 1}}}}
  touchy: {{{{url: "{{url}}", public: true, path: /, breaker: {{{{failures: 2, recovery_s: 60}}}}}}}}
  shut: {{{{url: "http://127.0.0.1:{full_port}", public: true, path: /, breaker: {{{{failures: 2}}}}}}}}
  proxied: {{{{url: "{{url}}", public: true, path: /, verbatim: true}}}}
  routed:
    url: "{{url}}"
    public: true
    path: /
    timeout_s: 5
    retries: 0
    routes: [{{{{path: "/slow/<x>", timeout_s: 0.3}}}}, {{{{path: "/<path:rest>"}}}}]
"""
    return start_gateway(services=services, WEB_CONCURRENCY="1", BACKEND_POOL_SIZE=str(PLACES))


@pytest.fixture
def gateway(timed: Gateway) -> Generator[Gateway]:
    ready(timed)
    with no_fault_in(timed):
        yield timed


def wishing(milliseconds: object) -> list[tuple[str, str]]:
    return [(HEADER, str(milliseconds))]


def told_ms(received: Received) -> int:
    """For how long the service was told that somebody waits."""
    return int(received.header(HEADER) or -1)


def given_up(gateway: Gateway, target: str, total_s: float, headers: Pairs = ()) -> RawAnswer:
    """The answer to a GET, which is a 504 after `total_s` and not much later."""
    began = time.monotonic()
    answer = gateway.get(target, headers)
    late_s = time.monotonic() - began - total_s
    print(f"{target}: 504 {late_s * 1000:+.1f} ms after its {total_s:g} s")

    assert_problem(answer, 504, "SERVICE_TIMEOUT")
    assert -0.05 < late_s < LATE_S
    return answer


def send_slowly(gateway: Gateway, target: str, pieces: list[bytes], pause_s: float) -> RawAnswer:
    """The answer to a POST whose body comes in pieces, with a pause before each."""
    with gateway.connect() as connection:
        length = sum(len(piece) for piece in pieces)
        connection.send(wire.request_bytes("POST", target, [("Content-Length", str(length))]))
        for piece in pieces:
            time.sleep(pause_s)
            connection.send(piece)
        return connection.answer(to="POST")


@pytest.mark.parametrize("target", ["/slow/5", "/slow-body/5", "/trickle-head/0.05", "/trickle/0.05"])
def test_a_service_that_takes_too_long_is_a_504_when_the_time_is_over(gateway: Gateway, target: str) -> None:
    given_up(gateway, f"/brisk{target}", TOTAL_S)


def test_a_service_that_takes_no_connection_is_a_504_when_the_time_is_over(gateway: Gateway) -> None:
    given_up(gateway, "/full/x", TOTAL_S)


def test_a_process_that_was_stopped_is_a_504_in_time_and_answers_again(
    gateway: Gateway, frozen: FragileInstance
) -> None:
    assert gateway.get("/frozen/x").status == 200

    frozen.process.freeze()
    try:
        given_up(gateway, "/frozen/x", TOTAL_S)  # on the connection that there was
        given_up(gateway, "/frozen/x", TOTAL_S)  # on a new one, which the kernel accepts
    finally:
        frozen.process.thaw()

    wait_until(lambda: gateway.get("/frozen/x").status == 200, "the process to answer again")


def test_all_tries_share_the_time(gateway: Gateway) -> None:
    given_up(gateway, "/tries/slow/5", TOTAL_S)

    assert len(gateway.arrived) == 3
    assert told_ms(gateway.arrived[0]) == 400
    assert told_ms(gateway.arrived[-1]) < 250  # what the tries before it have left of the whole


def test_a_route_may_have_a_time_of_its_own(gateway: Gateway) -> None:
    given_up(gateway, "/routed/slow/2", 0.3)

    assert gateway.get("/routed/trickle/0.005").status == 200


def test_a_long_answer_may_take_longer_once_its_head_is_there(gateway: Gateway) -> None:
    answer = gateway.get("/brisk/stream/30/0.05")

    assert (answer.status, answer.is_complete) == (200, True)
    assert b"event 29" in answer.body


def test_a_long_answer_that_stops_in_the_middle_is_cut_off(gateway: Gateway) -> None:
    answer = gateway.get("/brisk/stream/2/30")  # far less than 30 s, or the exchange times out

    assert (answer.status, answer.is_complete) == (200, False)
    assert "answer_cut_short" in [line["event"] for line in gateway.log_of(answer)]


def test_each_try_says_how_much_is_left(gateway: Gateway) -> None:
    answer = gateway.get("/open/status/503/1")  # it wants to be left alone for a second, and gets that

    assert answer.status == 503
    first, second = (told_ms(received) for received in gateway.arrived)
    assert 9500 < first <= 10_000
    assert second < first - 900


@pytest.mark.parametrize("nonsense", ["", "soon", "-1", "1.5", "1e3", "0x10", "9999999999", "100, 200"])
def test_a_wish_that_makes_no_sense_is_no_wish(gateway: Gateway, nonsense: str) -> None:
    assert gateway.get("/open/echo", wishing(nonsense)).status == 200

    (received,) = gateway.arrived
    assert 9500 < told_ms(received) <= 10_000


def test_a_wish_can_only_shorten(gateway: Gateway) -> None:
    gateway.get("/open/echo", wishing(3_600_000))
    gateway.get("/open/echo", wishing(2000))

    longer, shorter = (told_ms(received) for received in gateway.arrived)
    assert 9500 < longer <= 10_000
    assert 1500 < shorter <= 2000


@pytest.mark.parametrize("target", ["/slow/5", "/trickle-head/0.05", "/slow-body/5"])
def test_a_wish_is_kept(gateway: Gateway, target: str) -> None:
    answer = given_up(gateway, f"/open{target}", 0.4, wishing(400))

    assert "400 ms that the caller wants to wait" in str(answer.json()["detail"])
    assert len(gateway.arrived) == 1


def test_who_has_no_time_left_is_told_so_and_nobody_is_asked(gateway: Gateway) -> None:
    assert_problem(gateway.get("/open/echo", wishing(0)), 504, "DEADLINE_EXCEEDED")

    assert gateway.arrived == []


def test_a_verbatim_service_gets_what_the_caller_wrote_and_nothing_else(gateway: Gateway) -> None:
    assert gateway.get("/proxied/slow/0.3", wishing(100)).status == 200
    gateway.get("/proxied/echo")

    wished, silent = gateway.arrived
    assert wished.header(HEADER) == "100"
    assert silent.header(HEADER) is None


@pytest.mark.parametrize("target", ["/slow/1", "/status/504", "/trickle-head/0.01"])
def test_tiny_wishes_open_no_breaker_and_cause_no_retry(gateway: Gateway, target: str) -> None:
    hasty = [gateway.get(f"/touchy{target}", wishing(50)).status for _ in range(6)]

    assert hasty == [504] * 6
    assert len(gateway.arrived) <= 6  # fewer where the time was over on a busy machine before the request went out
    assert gateway.get("/touchy/echo").status == 200
    assert [line for line in gateway.events("breaker") if line["to"] == "touchy"] == []


def test_tiny_wishes_open_no_breaker_where_nobody_takes_the_connection(gateway: Gateway) -> None:
    for _ in range(4):
        assert_problem(gateway.get("/shut/x", wishing(100)), 504, "SERVICE_TIMEOUT")

    assert [line for line in gateway.events("breaker") if line["to"] == "shut"] == []


def test_a_late_503_to_a_tiny_wish_opens_no_breaker(gateway: Gateway) -> None:
    for _ in range(4):  # the service has run out of the time that it was told, and says so just before
        assert gateway.get("/touchy/late/0.07/503", wishing(100)).status in (503, 504)

    assert [line for line in gateway.events("breaker") if line["to"] == "touchy"] == []


def test_a_quick_503_counts_whatever_the_caller_wishes(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1", CIRCUIT_BREAKER_FAILURE_THRESHOLD="2")

    for _ in range(2):
        gateway.request("POST", "/open/status/503", wishing(5000))

    assert_problem(gateway.get("/open/echo"), 503, "CIRCUIT_OPEN")


@pytest.mark.parametrize("size", [90, 300_000])
def test_a_caller_who_sends_slowly_does_not_use_up_the_time_of_the_service(gateway: Gateway, size: int) -> None:
    answer = send_slowly(gateway, "/brisk/echo", [b"x" * (size // 3)] * 3, 0.5)

    assert answer.json()["length"] == size


def test_the_time_goes_on_when_a_slow_caller_has_sent_all(gateway: Gateway) -> None:
    began = time.monotonic()
    answer = send_slowly(gateway, "/brisk/slow/5", [b"x" * 100_000] * 2, 0.4)
    elapsed_s = time.monotonic() - began

    assert_problem(answer, 504, "SERVICE_TIMEOUT")
    assert 0.8 + TOTAL_S - 0.05 < elapsed_s < 0.8 + TOTAL_S + LATE_S


def test_what_was_broken_off_gives_its_place_back_and_its_connection_is_not_used_again(gateway: Gateway) -> None:
    targets = ["/slow/3", "/slow-body/3", "/trickle-head/0.05", "/trickle/0.05"]
    before = gateway.stub.connections

    def broken_off(number: int) -> RawAnswer:
        return gateway.get(f"/open{targets[number % 4]}", wishing(60))

    with ThreadPoolExecutor(PLACES) as threads:
        broken = list(threads.map(broken_off, range(4 * PLACES)))
    after = together(PLACES, lambda n: gateway.get(f"/open/echo?{n}"))

    assert {answer.status for answer in broken} == {504}
    assert [answer.json()["target"] for answer in after] == [f"/echo?{n}" for n in range(PLACES)]
    assert gateway.stub.connections - before >= 4 * PLACES
    wait_until(lambda: gateway.stub.open_connections <= 3 * PLACES, "the broken connections to be closed")
