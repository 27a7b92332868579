"""One connection for many greenlets: each gets its own reply, whatever becomes of the others."""

from __future__ import annotations

import random
import selectors
import socket
import ssl
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self, cast

import gevent
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.local.valkey import Valkey
from gateway import pipe
from gateway.pipe import ALL_IN_USE, Pipe
from gateway.scripts import Script, bulk
from tests.support.certificates import Authority
from tests.support.processes import wait_until

PATIENCE_S = 10.0
SHORT_S = 0.2
ECHO_LATER = Script("for _ = 1, tonumber(ARGV[2]) do end return ARGV[1]")


def piped(url: str, patience_s: float = PATIENCE_S, *, most_waiting: int = 1000, **given: object) -> Pipe:
    pool = redis.BlockingConnectionPool.from_url(
        url, socket_timeout=patience_s, socket_connect_timeout=patience_s, retry=Retry(NoBackoff(), 0), **given
    )
    return Pipe(pool, patience_s, most_waiting=most_waiting)


def packed(*words: str | bytes) -> bytes:
    parts = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(map(bulk, parts))


def at_once(*calls: Callable[[], object]) -> list[object]:
    """What each gives, or the error that it raises, all begun in one turn of the loop."""

    def outcome(call: Callable[[], object]) -> object:
        try:
            return call()
        except redis.RedisError as error:
            return error

    greenlets = [gevent.spawn(outcome, call) for call in calls]
    for _ in range(30):  # in turns: one long timer may ring first where all stood still for its time
        gevent.joinall(greenlets, timeout=PATIENCE_S / 10, raise_error=True)
    assert all(each.dead for each in greenlets), "somebody still waits"
    return [each.value for each in greenlets]


def asking(line: Pipe, *words: str | bytes) -> Callable[[], object]:
    return lambda: line.call(packed(*words))


def test_each_greenlet_gets_the_reply_to_its_own_command(server: Valkey) -> None:
    line = piped(server.url)

    replies = at_once(*(asking(line, "ECHO", f"{number}") for number in range(500)))

    assert replies == [f"{number}".encode() for number in range(500)]


def test_what_is_asked_in_one_turn_goes_out_together(server: Valkey) -> None:
    line = piped(server.url)
    with redis.Redis.from_url(server.url) as client:
        line.call(packed("PING"))
        before = client.info("stats")["total_reads_processed"]

        at_once(*(asking(line, "ECHO", f"{number}") for number in range(100)))

        assert client.info("stats")["total_reads_processed"] - before < 10


def test_who_gives_up_never_leaves_its_reply_to_another(server: Valkey) -> None:
    line, dice, wrong = piped(server.url), random.Random(5), list[object]()
    patient = [0]

    def ask(number: int) -> None:
        for turn in range(40):
            word = f"{number}-{turn}"
            with gevent.Timeout(dice.choice([None, None, 0, 0.0005, 0.002]), cast("None", False)):  # silent
                reply = ECHO_LATER.ask(line, ["k"], [word, dice.randrange(3000)])
                patient[0] += 1
                if reply != word.encode():
                    wrong.append((word, reply))

    gevent.joinall([gevent.spawn(ask, number) for number in range(50)], timeout=30, raise_error=True)

    assert wrong == []
    assert 200 < patient[0] < 50 * 40
    assert line.call(packed("ECHO", "last")) == b"last"


def test_large_commands_and_replies_pass_whole_and_in_order(server: Valkey) -> None:
    line, sizes = piped(server.url), [1, 3_000_000, 70_000, 2, 5_000_000, 65_536]
    words = [bytes([number]) * size for number, size in enumerate(sizes)]

    replies = at_once(*(asking(line, "ECHO", word) for word in words))

    assert replies == words


def test_an_error_is_the_reply_of_one_alone(server: Valkey) -> None:
    line = piped(server.url)

    first, error, last = at_once(asking(line, "ECHO", "a"), asking(line, "HSET", "x"), asking(line, "ECHO", "b"))

    assert isinstance(error, redis.ResponseError)
    assert (first, last) == (b"a", b"b")


@pytest.mark.parametrize("is_known", [True, False])
def test_a_script_counts_once_whether_redis_knows_it_or_not(server: Valkey, is_known: bool) -> None:
    line, script = piped(server.url), Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    name = f"counter-{is_known}"
    if is_known:
        script.ask(line, [name], [0])
    else:
        line.call(packed("SCRIPT", "FLUSH"))

    replies = at_once(*(lambda: script.ask(line, [name], [2]) for _ in range(10)))

    assert sorted(reply for reply in replies if isinstance(reply, int)) == list(range(2, 21, 2))


def test_all_who_wait_are_failed_when_the_server_dies_and_who_comes_later_begins_anew(fragile: Valkey) -> None:
    line = piped(fragile.url)
    line.call(packed("SET", "x", "1"))
    gevent.spawn_later(0.1, fragile.kill)

    outcomes = at_once(*(asking(line, "BLPOP", f"nothing-{number}", "0") for number in range(20)))

    assert {type(each) for each in outcomes} == {redis.ConnectionError}
    assert isinstance(at_once(asking(line, "PING"))[0], redis.ConnectionError)
    fragile.start()
    assert line.call(packed("ECHO", "back")) == b"back"


def test_a_frozen_server_fails_all_in_one_patience_and_nothing_is_sent_again(fragile: Valkey) -> None:
    line = piped(fragile.url, SHORT_S)
    line.call(packed("SET", "x", "0"))

    fragile.freeze()
    began = time.monotonic()
    outcomes = at_once(*(asking(line, "INCR", "x") for _ in range(20)))
    elapsed_s = time.monotonic() - began
    fragile.thaw()

    assert {type(each) for each in outcomes} == {redis.TimeoutError}
    assert elapsed_s >= SHORT_S
    assert at_once(*(asking(line, "ECHO", word) for word in "abc")) == [b"a", b"b", b"c"]  # and not what INCR told
    with redis.Redis.from_url(fragile.url) as client:
        wait_until(lambda: client.get("x") in (b"0", b"20"), "all to be done, or nothing")


def test_a_worker_that_was_late_itself_finds_the_replies_that_came_meanwhile(server: Valkey) -> None:
    line = piped(server.url, SHORT_S)
    line.call(packed("PING"))
    gevent.spawn_later(0, time.sleep, 2 * SHORT_S)  # nothing is patched here: the loop stands still

    assert at_once(*(asking(line, "ECHO", "late") for _ in range(3))) == [b"late"] * 3


def test_a_full_row_takes_nobody_more_and_keeps_those_who_are_in_it(server: Valkey) -> None:
    line = piped(server.url, most_waiting=3)

    *taken, refused = at_once(*(asking(line, "ECHO", "x") for _ in range(4)))

    assert taken == [b"x"] * 3
    assert str(refused) == ALL_IN_USE
    assert line.call(packed("ECHO", "y")) == b"y"


def test_bytes_that_are_not_taken_are_bounded(server: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "MOST_UNSENT_BYTES", 1000)
    line = piped(server.url)

    *taken, refused = at_once(*(asking(line, "ECHO", "x" * 400) for _ in range(4)))

    assert taken == [b"x" * 400] * 3
    assert str(refused) == ALL_IN_USE


@pytest.mark.parametrize("said", [b"+PONG\r\n+MORE\r\n", b"+PONG\r\nnonsense\r\n"])
def test_a_connection_that_says_what_nobody_asked_for_is_given_up(said: bytes) -> None:
    with Telling(said) as there:
        line = piped(there.url.removesuffix("/0"), driver_info=None, protocol=2)

        replies = [at_once(asking(line, "PING"))[0] for _ in range(3)]

        assert replies == [b"PONG"] * 3
        assert there.connections == 3


def test_a_reply_that_is_there_before_the_command_is_not_taken_for_its_own() -> None:
    with Telling(b"+PONG\r\n+MORE\r\n") as there:
        line = piped(there.url.removesuffix("/0"), driver_info=None, protocol=2)

        def ask_twice() -> object:
            line.call(packed("PING"))
            return line.call(packed("PING"))

        assert isinstance(at_once(ask_twice)[0], redis.InvalidResponse)


SLOW_TO_CONNECT = """
from gevent import monkey
monkey.patch_all()
import sys, gevent, redis
from gateway.pipe import Pipe

line = Pipe(redis.BlockingConnectionPool.from_url(sys.argv[1], driver_info=None, protocol=2), 0.2)
try:
    line.call(b"*1\\r\\n$4\\r\\nPING\\r\\n")
except redis.TimeoutError:
    print("nobody waits so long")
with gevent.Timeout(20):
    while True:
        try:
            print(line.call(b"*1\\r\\n$4\\r\\nPING\\r\\n"))
            break
        except redis.TimeoutError:
            pass
"""


def test_a_connection_may_take_longer_than_those_wait_who_wanted_it() -> None:
    with Telling(b"+OK\r\n", after_s=0.6) as there:
        url = there.url.removesuffix("/0") + "/1"  # with which redis-py says SELECT first
        done = subprocess.run(
            [sys.executable, "-c", SLOW_TO_CONNECT, url], capture_output=True, text=True, timeout=60, check=True
        )

        assert done.stdout.splitlines() == ["nobody waits so long", "b'OK'"]
        assert there.connections == 1


class Listening(ABC):
    """Something on a port of its own that serves each connection in a thread."""

    scheme = "redis"

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.connections = 0
        self.url = f"{self.scheme}://127.0.0.1:{self._listener.getsockname()[1]}/0"

    @abstractmethod
    def serve(self, connection: socket.socket) -> None: ...

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _peer = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()


class Telling(Listening):
    """Answers whatever comes with the same bytes, the first time after so many seconds."""

    def __init__(self, said: bytes, *, after_s: float = 0) -> None:
        super().__init__()
        self._said, self._after_s = said, after_s

    def serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            pause_s = self._after_s
            while connection.recv(65536):
                time.sleep(pause_s)
                connection.sendall(self._said)
                pause_s = 0


def test_a_name_a_password_and_a_database_are_those_of_the_address(server: Valkey) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.acl_setuser("worker", enabled=True, passwords=["+secret"], commands=["+@all"], keys=["*"])
    address = server.url.removesuffix("/0")

    line = piped(address.replace("//", "//worker:secret@") + "/5")
    wrong = piped(address.replace("//", "//worker:wrong@") + "/5")

    assert line.call(packed("ACL", "WHOAMI")) == b"worker"
    assert b" db=5 " in bytes(line.call(packed("CLIENT", "INFO")))  # pyright: ignore[reportArgumentType] - text, here
    assert isinstance(at_once(asking(wrong, "PING"))[0], redis.AuthenticationError)


def test_a_unix_socket_will_do(tmp_path: Path) -> None:
    with Valkey(tmp_path, unix_socket=tmp_path / "valkey.sock") as server:
        assert at_once(*(asking(piped(server.url), "ECHO", "x") for _ in range(3))) == [b"x"] * 3


def test_over_tls_nothing_is_lost_either(server: Valkey, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, words = authority.issue(), [b"x" * size for size in (1, 2_000_000, 70_000, 3, 40_000, 1_000_000)]
    with Relay(pair.server_context(), server.port or 0) as relay:
        line = piped(relay.url, ssl_ca_certs=authority.path)
        distrusting = piped(relay.url)

        assert at_once(*(asking(line, "ECHO", word) for word in words)) == words
        assert isinstance(at_once(asking(distrusting, "PING"))[0], redis.ConnectionError)


class Relay(Listening):
    """Speaks TLS in front of a server that does not."""

    scheme = "rediss"

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        super().__init__()
        self._context, self._port = context, port

    def serve(self, connection: socket.socket) -> None:
        """One thread: a TLS connection must not be used by two at once."""
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self._port)) as far,
            self._context.wrap_socket(connection, server_side=True) as near,
            selectors.DefaultSelector() as ready,
        ):
            ready.register(near, selectors.EVENT_READ)
            ready.register(far, selectors.EVENT_READ)
            while True:
                for key, _events in ready.select():
                    source, target = (near, far) if key.fileobj is near else (far, near)
                    data = source.recv(65536)
                    while isinstance(source, ssl.SSLSocket) and source.pending():
                        data += source.recv(65536)
                    if not data:
                        return
                    target.sendall(data)
