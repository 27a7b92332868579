"""A small load generator: `python -m bench.generator --port 8000 --rate 200 --seconds 3`.

Open loop (`--rate`): a request is due every 1/rate seconds, whether or not earlier ones were answered, and its latency
counts from the moment in which it was due. So a server that stands still is charged for all who had to wait (what wrk,
a closed loop, can't see). Each due request takes the connection that was used last, or a new one.

Closed loop (`--rate 0`): each connection asks again as soon as it has its answer. Only for machines without wrk.

Prints one JSON object. Waits in select(), which wakes to the microsecond where epoll rounds up to a millisecond.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

PATIENCE_S = 10.0
RECEIVE_BYTES = 262_144


@dataclass(slots=True)
class Connection:
    """A keep-alive connection with at most one request on its way."""

    port: int
    request: bytes
    due: float = 0.0
    received: bytes = b""
    socket: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self._connect()

    def fileno(self) -> int:
        return self.socket.fileno()

    def ask(self, due: float) -> None:
        self.due, self.received = due, b""
        self.socket.sendall(self.request)

    def status(self) -> int | None:
        """Take what has come; the status once the answer is whole. Raises ConnectionError."""
        piece = self.socket.recv(RECEIVE_BYTES)
        if not piece:
            raise ConnectionError("closed before the answer was whole")
        self.received += piece
        if not is_whole(self.received):
            return None
        head = self.received.partition(b"\r\n\r\n")[0].lower()
        if b"\r\nconnection: close" in head:
            self.reconnect()
        return int(head[9:12])

    def reconnect(self) -> None:
        self.close()
        self._connect()

    def close(self) -> None:
        self.socket.close()

    def _connect(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@dataclass(slots=True)
class Outcome:
    """What came of it. Latencies in seconds, in the order of the answers; `late_s` is how late requests were sent."""

    latencies_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    failed: int = 0


def is_whole(answer: bytes) -> bool:
    """All of an answer to GET is here: its length's worth, or its last chunk."""
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line[15:])
    return body.endswith(b"0\r\n\r\n")


def run(port: int, request: bytes, *, rate: float, seconds: float, most: int) -> Outcome:
    """Ask for `seconds`, over at most `most` connections; then wait for the answers that are on their way."""
    outcome = Outcome()
    idle: list[Connection] = []
    in_flight: dict[int, Connection] = {}
    started = time.perf_counter()
    dues = deque(started + number / rate for number in range(int(rate * seconds))) if rate else None
    give_up_at = started + seconds + PATIENCE_S
    try:
        while (now := time.perf_counter()) < give_up_at:
            while _is_due(dues, now, started + seconds) and (idle or len(in_flight) < most):
                due = dues.popleft() if dues else now
                connection = idle.pop() if idle else Connection(port, request)
                connection.ask(due)
                in_flight[connection.fileno()] = connection
                outcome.late_s.append(time.perf_counter() - due)
            if not in_flight and not dues and (dues is not None or now >= started + seconds):
                break
            pause = max(0.0, dues[0] - time.perf_counter()) if dues else PATIENCE_S
            for number in select.select(list(in_flight), (), (), pause)[0]:
                _take(in_flight.pop(number), outcome, idle, in_flight)
        outcome.failed += len(in_flight)
        return outcome
    finally:
        for connection in (*idle, *in_flight.values()):
            connection.close()


def _is_due(dues: deque[float] | None, now: float, end: float) -> bool:
    return now < end if dues is None else bool(dues) and dues[0] <= now


def _take(connection: Connection, outcome: Outcome, idle: list[Connection], in_flight: dict[int, Connection]) -> None:
    try:
        status = connection.status()
    except OSError:
        outcome.failed += 1
        connection.reconnect()
        idle.append(connection)
        return
    if status is None:
        in_flight[connection.fileno()] = connection
        return
    outcome.latencies_s.append(time.perf_counter() - connection.due)
    outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
    idle.append(connection)


def percentile(values: Sequence[float], share: float) -> float:
    """The least of `values` that `share` of them don't exceed (nearest rank); not for none."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, math.ceil(share * len(ranked)) - 1))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.generator")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=64)
    given = parser.parse_args()
    lines = [f"GET {given.path} HTTP/1.1", f"Host: 127.0.0.1:{given.port}", *given.header, "", ""]
    gc.disable()
    outcome = run(
        given.port,
        "\r\n".join(lines).encode(),
        rate=given.rate,
        seconds=given.seconds,
        most=given.connections,
    )
    if not outcome.latencies_s:
        sys.exit("no request was answered")
    print(
        json.dumps(
            {
                "answers": len(outcome.latencies_s),
                "not_2xx": sum(count for status, count in outcome.statuses.items() if not 200 <= status < 300),
                "failed": outcome.failed,
                "per_s": len(outcome.latencies_s) / given.seconds,
                "p50_ms": percentile(outcome.latencies_s, 0.5) * 1000,
                "p99_ms": percentile(outcome.latencies_s, 0.99) * 1000,
                "late_p99_ms": percentile(outcome.late_s, 0.99) * 1000,
            }
        )
    )


if __name__ == "__main__":
    main()
