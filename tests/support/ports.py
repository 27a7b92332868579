"""Free ports on 127.0.0.1 that stay free until the server under test takes them.

They come from below the range that the kernel gives to outgoing connections (32768 and up on Linux, 49152 on
macOS), in blocks of a hundred. A process owns a block by holding the block's first port bound, until it ends:
so pytest-xdist workers, and other test runs on the same machine, never hand out the same port.
"""

from __future__ import annotations

import os
import random
import socket
import threading

FIRST = 20_000
LAST = 32_000
BLOCK = 100

_lock = threading.Lock()
_left: list[int] = []  # what this process owns and has not handed out
_claims: list[socket.socket] = []
_owner = os.getpid()


class NoFreePort(RuntimeError):
    """Every block of ports is taken by other processes."""


def free_port() -> int:
    """A port that nobody listens on and that this process has not handed out before."""
    with _lock:
        _forget_after_fork()
        while True:
            if not _left:
                _left.extend(_claim_block())
            port = _left.pop(0)
            if (probe := _bound(port)) is not None:
                probe.close()
                return port


def free_ports(count: int) -> list[int]:
    """`count` distinct ports, each like `free_port()`."""
    return [free_port() for _ in range(count)]


def _claim_block() -> range:
    starts = list(range(FIRST, LAST, BLOCK))
    random.SystemRandom().shuffle(starts)  # not the seeded generator, which is the same in every xdist worker
    for start in starts:
        if (claim := _bound(start)) is not None:
            _claims.append(claim)
            return range(start + 1, start + BLOCK)
    raise NoFreePort(f"no block of {BLOCK} ports is free between {FIRST} and {LAST}")


def _bound(port: int) -> socket.socket | None:
    # without SO_REUSEADDR: a port that still has connections in TIME_WAIT is passed over
    probe = socket.socket()
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        probe.close()
        return None
    return probe


def _forget_after_fork() -> None:
    global _owner
    if _owner != os.getpid():
        _owner = os.getpid()
        _left.clear()
        for claim in _claims:
            claim.close()
        _claims.clear()
