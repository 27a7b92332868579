"""The stub does what its paths say, and the raw client sees it."""

from __future__ import annotations

import gzip
import hashlib
import socket
import time
from collections.abc import Generator

import pytest

from tests.support import http1, wire
from tests.support.behaviours import BEHAVIOURS
from tests.support.stub import StubService

UNREADABLE = {"nothing", "reset", "garbage", "cut-head", "two-lengths", "length-and-chunked"}


@pytest.fixture(scope="module")
def running() -> Generator[StubService]:
    with StubService() as service:
        yield service


@pytest.fixture
def stub(running: StubService) -> StubService:
    running.clear()
    return running


def test_echo_shows_the_request_byte_for_byte(stub: StubService) -> None:
    target = "/a/../b//c%2F%2e?x=1&x=%ff"
    headers = [("X-Twice", "1"), ("x-tWICE", " 2 "), ("Cookie", "a=b")]

    answer = wire.request(stub.port, "POST", target, headers, b"body")

    host = ["Host", f"127.0.0.1:{stub.port}"]
    assert answer.status == 200
    assert answer.json() == {
        "method": "POST",
        "target": target,
        "headers": [host, ["X-Twice", "1"], ["x-tWICE", "2"], ["Cookie", "a=b"], ["Content-Length", "4"]],
        "length": 4,
        "sha256": hashlib.sha256(b"body").hexdigest(),
        "body": "body",
        "connection": stub.requests[0].connection,
    }


def test_requests_are_kept_as_they_arrived(stub: StubService) -> None:
    wire.request(stub.port, "PUT", "/x?y=z", [("X-A", "1"), ("x-a", "2")], b"\x00\xff")

    (received,) = stub.wait_for_requests(1)

    assert (received.method, received.target, received.path) == ("PUT", "/x?y=z", "/x")
    assert received.body == b"\x00\xff"
    assert received.all("X-A") == ["1", "2"]
    assert received.header("Content-Length") == "2"


def test_a_chunked_request_body_is_decoded(stub: StubService) -> None:
    chunks = b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n"
    raw = b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks

    assert wire.exchange(stub.port, raw).json()["body"] == "abcde"


def test_requests_of_one_connection_share_its_number(stub: StubService) -> None:
    with wire.Connection(stub.port) as connection:
        for _ in range(3):
            connection.exchange(wire.request_bytes("GET", "/echo"))
    wire.get(stub.port, "/echo")

    first, second, third, fourth = (each.connection for each in stub.requests)
    assert first == second == third != fourth
    assert stub.connections == 2


@pytest.mark.parametrize(
    "path", sorted(f"/{name}/0" for name in BEHAVIOURS.keys() - UNREADABLE - {"status", "long-status"})
)
def test_head_is_answered_without_a_body(stub: StubService, path: str) -> None:
    with wire.Connection(stub.port) as connection:
        answer = connection.exchange(wire.request_bytes("HEAD", path))
        rest = connection.everything(quiet_s=0.01)

    assert answer.is_complete
    assert answer.body == rest == b""


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/status/418", 418, b'{"status": 418}'),
        ("/any/prefix/status/418", 418, b'{"status": 418}'),
        ("/health", 200, b'{"status": "ok"}'),
        ("/204", 204, b""),
        ("/304", 304, b""),
        ("/chunked", 200, b"first,second"),
        ("/chunked-empty", 200, b""),
        ("/trailers", 200, b"trailed"),
        ("/no-length", 200, b"until the end"),
        ("/bytes/0", 200, b""),
        ("/bytes/3", 200, b"\x00\x01\x02"),
        ("/stream/2/0", 200, b"id: 0\ndata: event 0\n\nid: 1\ndata: event 1\n\n"),
        ("/slow-body/0.01", 200, b"firstlater"),
        ("/leave", 200, None),
        ("/stale", 200, None),
    ],
)
def test_path_answers(stub: StubService, path: str, status: int, body: bytes | None) -> None:
    answer = wire.get(stub.port, path)

    assert (answer.status, answer.is_complete) == (status, True)
    assert body is None or answer.body == body


@pytest.mark.parametrize(("path", "body"), [("/cut", b"x" * 40), ("/cut-chunked", b"x" * 40)])
def test_cut_body_is_incomplete(stub: StubService, path: str, body: bytes) -> None:
    answer = wire.get(stub.port, path)

    assert (answer.status, answer.is_complete, answer.closed, answer.body) == (200, False, True, body)


@pytest.mark.parametrize(
    ("path", "raw", "was_reset"),
    [("/nothing", b"", False), ("/cut-head", b"HTTP/1.1 200 OK\r\nContent-Ty", False), ("/reset", b"", True)],
)
def test_no_answer_tells_how_it_ended(stub: StubService, path: str, raw: bytes, was_reset: bool) -> None:
    with pytest.raises(wire.NoAnswer) as caught:
        wire.get(stub.port, path)

    assert (caught.value.raw, caught.value.was_reset) == (raw, was_reset)


@pytest.mark.parametrize("path", ["/garbage", "/two-lengths", "/length-and-chunked"])
def test_malformed_answers_are_recognised(stub: StubService, path: str) -> None:
    with pytest.raises(http1.Malformed):
        wire.get(stub.port, path)


@pytest.mark.parametrize(("path", "interim"), [("/early-hints", [103]), ("/continue", [100])])
def test_interim_answers_come_before_the_final_one(stub: StubService, path: str, interim: list[int]) -> None:
    answer = wire.get(stub.port, path)

    assert (answer.interim, answer.status) == (interim, 200)


def test_expectation_is_met_before_the_body_is_read(stub: StubService) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    with wire.Connection(stub.port) as connection:
        connection.send(head)
        connection.everything(quiet_s=0.05)
        answer = connection.exchange(b"hi")

    assert (answer.interim, answer.json()["body"]) == ([100], "hi")


def test_slow_waits_before_it_answers(stub: StubService) -> None:
    started = time.monotonic()

    answer = wire.get(stub.port, "/slow/0.1")

    assert answer.status == 200
    assert time.monotonic() - started >= 0.1


def test_refuse_answers_without_reading_the_body(stub: StubService) -> None:
    answer = wire.request(stub.port, "POST", "/refuse", body=b"x" * 3_000_000)

    assert (answer.status, answer.closed) == (413, True)


def test_retry_after_stands_on_503_and_429_only(stub: StubService) -> None:
    values = [wire.get(stub.port, f"/status/{code}").header("Retry-After") for code in ("503", "429", "500")]

    assert values == ["1", "1", None]
    assert wire.get(stub.port, "/status/503/7").header("Retry-After") == "7"


def test_flaky_recovers(stub: StubService) -> None:
    assert [wire.get(stub.port, "/flaky/2/502").status for _ in range(4)] == [502, 502, 200, 200]


def test_stale_closes_at_the_second_request(stub: StubService) -> None:
    with wire.Connection(stub.port) as connection:
        assert not connection.exchange(wire.request_bytes("GET", "/stale")).closed
        with pytest.raises(wire.NoAnswer):
            connection.exchange(wire.request_bytes("GET", "/stale"))


def test_redirect_points_inside(stub: StubService) -> None:
    answer = wire.get(stub.port, "/redirect")

    assert (answer.status, answer.header("Location")) == (302, f"{stub.url}/echo?from=redirect")


def test_gzip_is_not_decoded_by_anybody(stub: StubService) -> None:
    answer = wire.get(stub.port, "/gzip")

    assert answer.header("Content-Encoding") == "gzip"
    assert b"packed" in gzip.decompress(answer.body)


def test_large_bodies_arrive_whole(stub: StubService) -> None:
    assert len(wire.get(stub.port, "/bytes/1000001").body) == 1_000_001


def test_repeated_and_hop_by_hop_headers_are_sent(stub: StubService) -> None:
    assert len(wire.get(stub.port, "/repeated").all("set-cookie")) == 2
    assert wire.get(stub.port, "/hop").header("X-Secret") == "for the next hop only"
    assert wire.get(stub.port, "/huge-header/9000").header("X-Huge") == "h" * 9000


def test_cacheable_carries_what_was_asked_for_and_revalidates(stub: StubService) -> None:
    target = "/cacheable?cc=max-age%3D60&Vary=Accept-Language"

    first, second = wire.get(stub.port, target), wire.get(stub.port, target)
    unchanged = wire.get(stub.port, target, [("If-None-Match", '"1"')])
    stub.etag = '"2"'
    changed = wire.get(stub.port, target, [("If-None-Match", '"1"')])

    assert (first.header("Cache-Control"), first.header("Vary")) == ("max-age=60", "Accept-Language")
    assert (first.json()["times_seen"], second.json()["times_seen"]) == (1, 2)
    assert (unchanged.status, unchanged.header("ETag"), changed.status) == (304, '"1"', 200)


def test_canned_json_stands_before_behaviour(stub: StubService) -> None:
    stub.json["/.well-known/jwks.json"] = {"keys": []}

    assert wire.get(stub.port, "/.well-known/jwks.json?x=1").json() == {"keys": []}


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /  HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX : 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: 1\n\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nraw body\r\n",
    ],
)
def test_unacceptable_requests_are_answered_400_and_kept(stub: StubService, raw: bytes) -> None:
    assert wire.exchange(stub.port, raw).status == 400
    assert stub.malformed == [raw]
    assert stub.requests == []


def test_a_stopped_stub_refuses_and_starts_again_on_its_port() -> None:
    with StubService() as stub, wire.Connection(stub.port) as idle:
        idle.exchange(wire.request_bytes("GET", "/echo"))

        stub.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", stub.port), timeout=1)
        with pytest.raises(wire.NoAnswer):
            idle.exchange(wire.request_bytes("GET", "/echo"))
        assert stub.open_connections == 0

        stub.start()
        assert wire.get(stub.port, "/health").status == 200


def test_stopping_ends_what_is_waiting() -> None:
    stub = StubService()
    with wire.Connection(stub.port) as waiting:
        waiting.send(wire.request_bytes("GET", "/slow/60"))
        stub.wait_for_requests(1)

        started = time.monotonic()
        stub.stop()

        assert time.monotonic() - started < 2
        with pytest.raises(wire.NoAnswer):
            waiting.answer()


def test_dropped_connections_are_closed_and_new_ones_accepted(stub: StubService) -> None:
    with wire.Connection(stub.port) as idle:
        idle.exchange(wire.request_bytes("GET", "/echo"))

        stub.drop_connections()

        assert idle.everything() == b""
    assert wire.get(stub.port, "/health").status == 200


def test_waiting_for_requests_is_bounded(stub: StubService) -> None:
    with pytest.raises(TimeoutError, match="0 of 1 requests"):
        stub.wait_for_requests(1, timeout_s=0.01)
