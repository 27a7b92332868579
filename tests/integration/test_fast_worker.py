"""The fast worker's own loop, over real sockets: who comes next, what has come already, and when a connection ends."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import hostile, wire
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.reflected import Reflecting
from tests.support.sound import SOUND, for_path

Start = Callable[..., Reflecting]
WAY = for_path("way")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Generator[Start]:
    with ExitStack() as stack:

        def begin(worker: str = "fast", **env: str) -> Reflecting:
            return stack.enter_context(Reflecting(tmp_path_factory.mktemp(worker), worker, **env))

        yield begin


@pytest.fixture(scope="module")
def fast(start: Start) -> Reflecting:
    return start()


@pytest.fixture(scope="module", params=["fast", "stock"])
def either(request: pytest.FixtureRequest, start: Start) -> Reflecting:
    return start(request.param)


def way(answer: wire.RawAnswer) -> str:
    return answer.body.decode().partition(" ")[0]


def test_plain_requests_go_the_fast_way_and_others_the_stock_way_on_one_connection(fast: Reflecting) -> None:
    odd = WAY.replace(b"Host", b"X_Odd: 1\r\nHost")

    with fast.connect() as connection:
        ways = [way(connection.exchange(raw)) for raw in (WAY, odd, WAY, odd + WAY, WAY)]
        ways.append(way(connection.answer()))

    assert ways == ["fast", "stock", "fast", "stock", "fast", "fast"]


def test_head_that_comes_in_pieces_is_served_and_the_next_goes_the_fast_way(fast: Reflecting) -> None:
    with fast.connect() as connection:
        connection.send(WAY[:20])
        time.sleep(0.1)  # so that it comes alone
        answers = [connection.exchange(WAY[20:]), connection.exchange(WAY)]

    assert [way(answer) for answer in answers] == ["stock", "fast"]


def test_ports_are_those_of_the_connection(fast: Reflecting) -> None:
    with fast.connect() as connection:
        _, remote, server = connection.exchange(WAY).body.split()

    assert (int(server), 1024 < int(remote) < 65536) == (fast.port, True)


@pytest.mark.parametrize("name", ["fast", "stock"])
def test_setting_says_which_way(start: Start, name: str) -> None:
    with start(name).connect() as connection:
        assert way(connection.exchange(WAY)) == name


@pytest.mark.parametrize("setting", ["PROXY_PROTOCOL", "CASEFOLD_HTTP_METHOD"])
def test_under_other_settings_of_gunicorn_all_go_the_stock_way_and_the_log_says_why(start: Start, setting: str) -> None:
    changed = start(GUNICORN=setting.lower())

    with changed.connect() as connection:
        answer = connection.exchange(WAY)

    (line,) = (line for line in changed.process.json_log() if line["event"] == "fast_worker_not_used")
    assert (way(answer), line["level"]) == ("stock", "warning")
    assert setting.lower() in str(line["reason"])


def test_pipelined_requests_are_answered_in_order(either: Reflecting) -> None:
    bodies = [b"%d" % number * 100 for number in range(50)]
    raw = b"".join(hostile.post(b"Content-Length: %d\r\n" % len(body), body) for body in bodies)

    with either.connect() as connection:
        connection.send(raw)
        told = [connection.answer(to="POST").json()["body"] for _ in bodies]

    assert told == [body.decode() for body in bodies]


def test_busy_connection_does_not_keep_others_waiting(fast: Reflecting) -> None:
    """All have sent before the worker looks, one before the flood and one behind it: neither waits for its end."""
    number = for_path("number")

    with fast.connect() as before, fast.connect() as busy, fast.connect() as behind:
        for connection in (before, busy, behind):
            connection.exchange(WAY)
        fast.process.freeze()
        try:
            for connection, raw in ((before, number), (busy, number * 1000), (behind, number)):
                connection.send(raw)
        finally:
            fast.process.thaw()
        others = [int(connection.answer().body) for connection in (before, behind)]
        places = [int(busy.answer().body) for _ in range(1000)]

    assert max(others) < places[100]


def test_body_that_comes_after_its_head_is_read(either: Reflecting) -> None:
    with either.connect() as connection:
        connection.send(hostile.post(b"Content-Length: 8\r\n", b"one "))
        time.sleep(0.1)  # so that it comes alone
        first = connection.exchange(b"more")
        second = connection.exchange(WAY)

    assert first.json()["body"] == "one more"
    assert second.status == 200


def test_body_that_nobody_reads_is_not_taken_for_a_request(either: Reflecting) -> None:
    smuggled = for_path("smuggled")
    head = hostile.post(b"Content-Length: %d\r\n" % (2 * len(smuggled))).replace(b"/open/x", b"/unread")

    with either.connect() as connection:
        connection.send(head + smuggled)
        first = connection.answer(to="POST")
        second = connection.exchange(smuggled + WAY)

    assert first.body == b"unread"
    assert way(second) in ("fast", "stock")


def test_answer_that_is_taken_slowly_arrives_whole_and_is_closed_then(either: Reflecting) -> None:
    before = either.process.log().count("closed")

    with either.connect() as connection:
        connection.send(for_path("closes"))
        time.sleep(0.3)  # the buffers are full
        while_sending = either.process.log().count("closed")
        answer = connection.answer()

    assert len(answer.body) == 16 << 20
    wait_until(lambda: either.process.log().count("closed") == before + 1, "the end of the answer")
    assert while_sending == before


@pytest.mark.parametrize("worker", ["fast", "stock"])
def test_caller_that_takes_nothing_is_cut_off_and_the_answer_is_closed(start: Start, worker: str) -> None:
    hasty = start(worker, CALLER_TIMEOUT="0.5")

    with hasty.connect() as connection:
        connection.send(for_path("closes"))
        wait_until(lambda: "closed" in hasty.process.log(), "the end of the answer")
        with hasty.connect() as other:
            assert other.exchange(WAY).status == 200


@pytest.mark.parametrize("worker", ["fast", "stock"])
@pytest.mark.parametrize("first", [b"", WAY], ids=["new", "used"])
def test_connection_that_idles_ends_without_a_word(start: Start, worker: str, first: bytes) -> None:
    idle = start(worker, KEEPALIVE="1")

    with idle.connect() as connection:
        if first:
            connection.exchange(first)
        rest = connection.everything()

    assert rest == b""


@pytest.mark.parametrize("worker", ["fast", "stock"])
def test_worker_ends_after_so_many_requests_and_another_comes(start: Start, worker: str) -> None:
    renewed = start(worker, MAX_REQUESTS="3")
    before = renewed.process.children()

    for _ in range(3):
        with renewed.connect() as connection:
            assert connection.exchange(WAY).status == 200

    wait_until(lambda: renewed.process.children() not in ([], before), "another worker", timeout_s=15)
    with renewed.connect() as connection:
        assert connection.exchange(WAY).status == 200


@pytest.mark.parametrize("worker", ["fast", "stock"])
def test_connection_ends_with_its_last_request(start: Start, worker: str) -> None:
    brief = start(worker, KEEPALIVE_REQUESTS="3")

    with brief.connect() as connection:
        connection.send(WAY + SOUND["underscore"] + WAY + WAY)
        answers = [connection.answer() for _ in range(3)]
        rest = connection.everything()

    assert [answer.header("Connection") for answer in answers] == ["keep-alive", "keep-alive", "close"]
    assert rest == b""


def test_each_answer_has_the_time_at_which_it_was_made(fast: Reflecting) -> None:
    with fast.connect() as connection:
        dates = {connection.exchange(WAY).header("Date")}
        wait_until(lambda: dates != {connection.exchange(WAY).header("Date")}, "another second")

    assert all(re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", date or "") for date in dates)


@pytest.fixture
def secured(start: Start, tmp_path: Path) -> Generator[ssl.SSLSocket]:
    """A connection that speaks TLS."""
    authority, port = Authority(tmp_path), free_port()
    pair = authority.issue()
    start(TLS_PORT=str(port), TLS_CERTIFICATE=pair.certificate, TLS_KEY=pair.key)
    context = ssl.create_default_context(cafile=authority.path)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        yield connection


LAST = WAY.replace(b"Host", b"Connection: close\r\nHost")


def ways_of(connection: ssl.SSLSocket) -> list[bytes]:
    heard = b"".join(iter(lambda: connection.recv(65536), b""))
    return re.findall(rb"\r\n\r\n([a-z]+) ", heard)


def test_requests_through_tls_go_the_fast_way(secured: ssl.SSLSocket) -> None:
    for raw in (WAY, LAST):
        secured.sendall(raw)

    assert ways_of(secured) == [b"fast", b"fast"]


def test_request_that_was_decrypted_with_the_one_before_it_is_served(secured: ssl.SSLSocket) -> None:
    """gunicorn's parser takes 8 KB of a record, exactly its own request; nothing of the rest shows on the socket."""
    rest = b"\r\nX_Odd: 1\r\nHost: a\r\n\r\n"
    rest = b"X-A: " + b"x" * (8192 - len(rest) - 5) + rest

    secured.sendall(b"GET /way HTTP/1.1\r\n")
    time.sleep(0.1)  # so that it comes alone
    secured.sendall(rest + LAST)

    assert ways_of(secured) == [b"stock", b"fast"]
