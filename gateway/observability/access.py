"""The access log: one line a request, written with others of its time.

A request leaves the facts of its line here. One greenlet makes lines of them and writes them, every `FLUSH_S` or when
there are `MOST_WAITING`, in the order in which the requests ended; any other line of this worker has them written
before it. A graceful stop loses none, a crash those of the last `FLUSH_S`.
"""

from __future__ import annotations

import atexit
import logging
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

import gevent

from common import logs
from common.masking import mask, masked

FLUSH_S = 0.2
MOST_WAITING = 200
ATOMIC_BYTES = 4096
"""PIPE_BUF: what several workers write to one pipe stays whole if it is no longer."""


class Line(NamedTuple):
    """The facts of one request."""

    ended_at: float  # Unix time
    request_id: str
    method: str
    path: str
    status: int
    elapsed_s: float
    to: str
    route: str
    network: str  # of the caller
    user: str  # "" for nobody who is known
    notes: Mapping[str, str | int | float]


class AccessLog:
    """That of one worker. Shared by its greenlets: each method is one step."""

    def __init__(self, component: str, *, level: str = "INFO", log_format: str = "json") -> None:
        self._component, self._format = component, log_format
        self._is_on = logging.getLevelNamesMapping()[level] <= logging.INFO
        self._waiting: list[Line] = []
        self._most, self._piece_bytes = 1, ATOMIC_BYTES  # until there is somebody to write what waits
        self._second, self._prefix = -1, ""

    def start(self) -> None:
        """Begin to write lines together, as long as this worker lives."""
        self._most = MOST_WAITING
        if stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode):
            self._piece_bytes = sys.maxsize
        logs.write_first(self.flush)
        atexit.register(self.flush)
        gevent.spawn(self._go_on)

    def add(self, line: Line) -> None:
        """Write it soon."""
        if self._is_on:
            self._waiting.append(line)
            if len(self._waiting) >= self._most:
                self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            with suppress(OSError):  # nobody reads it, or the disk is full
                for piece in _together(map(self._text, waiting), self._piece_bytes):
                    sys.stdout.buffer.write(piece)
                    sys.stdout.buffer.flush()

    def _go_on(self) -> None:
        while True:
            gevent.sleep(FLUSH_S)
            self.flush()

    def _text(self, line: Line) -> bytes:
        event: dict[str, object] = {
            "time": self._time(line.ended_at),
            "level": "info",
            "event": "request",
            "method": line.method[:32],
            "path": masked(line.path[:512]),
            "status": line.status,
            "ms": round(line.elapsed_s * 1000, 2),
            "to": line.to,
            "route": line.route,
            "caller": line.network,
        }
        if line.user:
            event["user"] = line.user
        if line.notes:
            event |= mask(None, "", dict(line.notes))
        event["service"], event["request_id"] = self._component, line.request_id
        return logs.rendered(event, self._format)

    def _time(self, at: float) -> str:
        second = int(at)
        if second != self._second:
            self._second, self._prefix = second, time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        return f"{self._prefix}{int((at - second) * 1_000_000):06d}Z"


def _together(lines: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Whole lines in pieces of `most` bytes; a longer line is a piece of its own."""
    piece, size = list[bytes](), 0
    for line in lines:
        if piece and size + len(line) > most:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    yield b"".join(piece)
