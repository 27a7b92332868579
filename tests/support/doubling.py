"""Does a backend ever send a POST twice? `python -m tests.support.doubling RUNS SEED` tries to make it so.

In one process: servers that misbehave at random, as a greenlet for each connection, and callers that ask the one
backend that has them all for instances. Every request has a number in its path, and the servers count how often they
have seen a beginning of it. The last line of the output is a JSON object with what came of it.
"""

from __future__ import annotations

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import io
import json
import random
import re
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable

import gevent
import structlog
from gevent.pool import Pool
from gevent.server import StreamServer

from common.problems import Problem
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.backend.countdown import Countdown
from gateway.body import Body, CallerGone
from gateway.observability.metrics import Metrics
from gateway.services import Address, HedgeRule, LoadRule, Sources
from tests.unit import parts

CALLERS = 40
TRY_TIMEOUT_S = 0.05
_LINE = re.compile(rb"(\w+) /(\d+) ")
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")


class Slammed(Exception):
    """The connection is not to be used any more."""


class Servers:
    """Count and misbehave. Shared by greenlets; nothing switches within a step."""

    def __init__(self, seed: int) -> None:
        self.arrivals = Counter[tuple[str, int]]()
        self._random = random.Random(seed)
        self._faults: list[Callable[[socket.socket], None]] = [
            self._close, self._reset, self._tear_the_head, self._tear_the_body, self._talk_nonsense, self._be_late,
            self._trickle, self._refuse_for_now, self._refuse_for_good, self._answer_and_leave,
        ]  # fmt: skip

    def serve(self, connection: socket.socket, _address: object) -> None:
        try:
            connection.settimeout(1)
            while True:
                self._answer_one(connection)
        except (Slammed, OSError):
            connection.close()

    def _answer_one(self, connection: socket.socket) -> None:
        if self._draw(0.05):
            self._reset(connection)  # before anything was read
        received = b""
        while b"\r\n\r\n" not in received:
            piece = connection.recv(65536)
            if not piece:
                raise Slammed
            is_first = not received
            received += piece
            if is_first and (line := _LINE.match(received)):
                self.arrivals[line[1].decode(), int(line[2])] += 1
        if self._draw(0.1):
            self._reset(connection)  # with the body unread
        self._read_body(connection, received)
        if self._draw(0.5):
            self._random.choice(self._faults)(connection)
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def _read_body(self, connection: socket.socket, received: bytes) -> None:
        head, _, body = received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        left = int(length[1]) - len(body) if length else 0
        while left > 0:
            piece = connection.recv(65536)
            if not piece:
                raise Slammed
            left -= len(piece)

    def _draw(self, share: float) -> bool:
        return self._random.random() < share

    def _close(self, connection: socket.socket) -> None:
        raise Slammed

    def _reset(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Slammed

    def _tear_the_head(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")
        raise Slammed

    def _tear_the_body(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        raise Slammed

    def _talk_nonsense(self, connection: socket.socket) -> None:
        connection.sendall(b"\x16\x03\x01 what?\r\n\r\n")
        raise Slammed

    def _be_late(self, connection: socket.socket) -> None:
        gevent.sleep(2 * TRY_TIMEOUT_S)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    def _trickle(self, connection: socket.socket) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":
            gevent.sleep(TRY_TIMEOUT_S / 20)
            connection.sendall(bytes([byte]))

    def _refuse_for_now(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 503 Wait\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n")

    def _refuse_for_good(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n")

    def _answer_and_leave(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        raise Slammed


class Uneven(io.BytesIO):
    """The body of a caller who pauses now and then, or goes away."""

    def __init__(self, content: bytes, chance: random.Random) -> None:
        super().__init__(content)
        self._chance = chance

    def read1(self, size: int | None = -1, /) -> bytes:
        what = self._chance.random()
        if what < 0.02:
            raise CallerGone("bored")
        if what < 0.1:
            gevent.sleep(0.01)
        return super().read1(size)


class Callers:
    """Ask, and count what they are told."""

    def __init__(self, backend: Backend, seed: int) -> None:
        self.answered, self.failed = Counter[str](), Counter[str]()
        self._backend, self._random = backend, random.Random(seed)

    def ask(self, number: int) -> None:
        chance = self._random
        method = chance.choice(["POST", "POST", "POST", "PATCH", "GET", "PUT"])
        length = 0 if method == "GET" else chance.choice([0, 10, 1000, 200_000])
        body = Body(Uneven(b"x" * length, chance), length)
        wish_s = chance.choice([None, None, None, 0.01, 0.04])
        time = Countdown(1.0, wish_s)
        body.reader = time.standing_still(body.reader)
        try:
            body.bound(1 << 20)
            self._backend.send(Call(method, f"/{number}", [], body, time, TRY_TIMEOUT_S)).close()
            self.answered[method] += 1
        except (Problem, CallerGone):
            self.failed[method] += 1
        finally:
            body.close()


def main(runs: int, seed: int) -> dict[str, int]:
    servers = Servers(seed)
    listening = [StreamServer(("127.0.0.1", 0), servers.serve) for _ in range(3)]
    for server in listening:
        server.start()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        ports = [*(server.server_port for server in listening), closed.getsockname()[1]]
    service = parts.service(
        "fragile",
        sources=Sources(tuple(Address(f"http://127.0.0.1:{port}") for port in ports)),
        timeout_s=1.0,
        try_timeout_s=TRY_TIMEOUT_S,
        retries=5,
        retry_budget=1.0,
        breaker=None,
        ejection=None,
        hedge=HedgeRule(1.0, 0.01),
        load=LoadRule(CALLERS, 10, 1.0),
    )
    backend = Backend(service, parts.settings(), Metrics())
    callers = Callers(backend, seed)
    pool = Pool(CALLERS)
    for number in range(runs):
        pool.spawn(callers.ask, number)
    pool.join()
    once = {"POST", "PATCH"}
    return {
        "runs": sum(callers.answered.values()) + sum(callers.failed.values()),
        "most_arrivals_of_a_post": max(count for (method, _), count in servers.arrivals.items() if method in once),
        "most_arrivals_of_another": max(count for (method, _), count in servers.arrivals.items() if method not in once),
        "posts_answered": sum(callers.answered[method] for method in once),
        "posts_failed": sum(callers.failed[method] for method in once),
        "others_answered": callers.answered["GET"] + callers.answered["PUT"],
        "others_failed": callers.failed["GET"] + callers.failed["PUT"],
        "places_left": sum(instance.in_flight for instance in backend.instances),
    }


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
