"""The bench understands wrk, and its own generator counts and ranks rightly."""

from __future__ import annotations

import time

import pytest

from bench import generator, load
from tests.support.ports import free_port
from tests.support.stub import StubService

GOOD = """\
Running 2s test @ http://127.0.0.1:24001/items/1
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.40ms  317.24us   6.11ms   83.10%
    Req/Sec    45.91k     1.80k   48.70k    70.00%
  91494 requests in 2.00s, 121.50MB read
Requests/sec:  45701.81
Transfer/sec:     60.69MB
"""
BAD = GOOD.replace(
    "Requests/sec",
    "  Socket errors: connect 0, read 3, write 1, timeout 2\n  Non-2xx or 3xx responses: 41\nRequests/sec",
)


def test_a_clean_run_of_wrk_is_read() -> None:
    assert load.parsed(GOOD) == load.Load(answers=91494, per_s=45701.81, other=0, failed=0)


def test_errors_that_wrk_tells_of_are_counted_by_kind() -> None:
    told = load.parsed(BAD)

    assert (told.other, told.failed) == (41, 6)


def test_what_is_no_result_of_wrk_is_an_error() -> None:
    with pytest.raises(load.LoadFailed, match="unable to connect"):
        load.parsed("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_a_target_knows_port_and_path() -> None:
    target = load.Target("http://127.0.0.1:24001/items/1?a=b", ())

    assert (target.port, target.path, target.needs_wrk) == (24001, "/items/1?a=b", False)
    assert load.Target("https://127.0.0.1:1/", ()).needs_wrk


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)], ids=["median", "p99", "all", "none"]
)
def test_a_percentile_is_the_nearest_rank(share: float, value: int) -> None:
    assert generator.percentile(list(range(100, 0, -1)), share) == value


@pytest.mark.parametrize(
    ("answer", "is_whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n12", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", True),
    ],
    ids=["half a head", "half a body", "body", "half the chunks", "chunks"],
)
def test_the_generator_knows_when_an_answer_is_whole(answer: bytes, is_whole: bool) -> None:
    assert generator.is_whole(answer) is is_whole


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: stub\r\n\r\n".encode()


@pytest.mark.parametrize("path", ["/status/200", "/chunked", "/bytes/100000"], ids=["length", "chunked", "long"])
def test_an_open_loop_sends_what_is_due_and_no_more(path: str) -> None:
    with StubService() as stub:
        began = time.perf_counter()
        outcome = generator.run(stub.port, request(path), rate=100, seconds=0.2, most=8)

        assert time.perf_counter() - began >= 0.19  # when the last one is due
        assert outcome.statuses == {200: 20}
        assert (len(outcome.latencies_s), outcome.failed, len(stub.requests)) == (20, 0, 20)


def test_latency_counts_from_the_moment_in_which_a_request_was_due() -> None:
    with StubService() as stub:
        outcome = generator.run(stub.port, request("/slow/0.1"), rate=100, seconds=0.05, most=1)

    assert len(outcome.latencies_s) == 5
    assert max(outcome.latencies_s) > 0.4  # four waited for the only connection


def test_requests_without_an_answer_are_counted() -> None:
    with StubService() as stub:
        outcome = generator.run(stub.port, request("/nothing"), rate=100, seconds=0.05, most=4)

    assert (outcome.failed, outcome.latencies_s) == (5, [])


def test_a_closed_loop_asks_again_until_the_time_is_over() -> None:
    with StubService() as stub:
        outcome = generator.run(stub.port, request("/status/404"), rate=0, seconds=0.1, most=2)

        assert outcome.statuses[404] == len(outcome.latencies_s) == len(stub.requests) > 2


def test_a_generator_that_can_not_connect_is_an_error() -> None:
    target = load.Target(f"http://127.0.0.1:{free_port()}/", ())

    with pytest.raises(load.LoadFailed):
        load.paced(target, rate=100, seconds=0.05)
