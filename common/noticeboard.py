"""One document that the worker processes of a master share, and whose turn it is to fetch it anew.

Made before the workers are forked, it lives in an unnamed file that they all have open. A lock on that file, which the
kernel takes back from whoever dies, is held for microseconds only. Times are of the monotonic clock, which is the
machine's.
"""

from __future__ import annotations

import fcntl
import os
import struct
import tempfile
import time
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NamedTuple

_STATE = struct.Struct("<dddQQ")
_NEVER = -1e18


class _State(NamedTuple):
    began_at: float  # the last fetch
    ended_at: float
    urged_at: float  # the last one that could not wait for its turn
    version: int  # of the document
    length: int


class Notice(NamedTuple):
    version: int  # grows with each document
    document: bytes


class Noticeboard:
    """Shared by processes. Greenlets may share it too: no method waits for anything but the file's lock."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._file, path = tempfile.mkstemp(prefix="notice-")
        os.unlink(path)
        weakref.finalize(self, os.close, self._file)
        self._write(_State(_NEVER, _NEVER, _NEVER, 0, 0))

    def may_fetch(self, pause_s: float, longest_s: float, *, is_urgent: bool = False) -> bool:
        """Whether the caller is to fetch now, and to say `fetched` after it: not if somebody began in the last
        `pause_s`, nor while somebody is at it, unless for more than `longest_s`: that one has died.

        If it `is_urgent`, only those fetches count that were: nothing is missed because of one just before.
        """
        with self._locked():
            state, now = self._read(), self._clock()
            last = state.urged_at if is_urgent else state.began_at
            if now - last < pause_s or _is_busy(state, now, longest_s):
                return False
            self._write(state._replace(began_at=now, urged_at=now if is_urgent else state.urged_at))
            return True

    def fetched(self, document: bytes | None) -> None:
        """The fetch is over; None: it failed, and the document that is there stays."""
        with self._locked():
            state = self._read()._replace(ended_at=self._clock())
            if document is not None:
                os.pwrite(self._file, document, _STATE.size)
                state = state._replace(version=state.version + 1, length=len(document))
            self._write(state)

    def is_busy(self, longest_s: float) -> bool:
        """Somebody is fetching."""
        return _is_busy(self._read(), self._clock(), longest_s)

    def news(self, version: int) -> Notice | None:
        """The document, if it is newer than `version`."""
        if self._read().version <= version:
            return None
        with self._locked():
            state = self._read()
            return Notice(state.version, os.pread(self._file, state.length, _STATE.size))

    def _read(self) -> _State:
        return _State(*_STATE.unpack(os.pread(self._file, _STATE.size, 0)))

    def _write(self, state: _State) -> None:
        os.pwrite(self._file, _STATE.pack(*state), 0)

    @contextmanager
    def _locked(self) -> Generator[None]:
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)


def _is_busy(state: _State, now: float, longest_s: float) -> bool:
    return state.began_at > state.ended_at and now - state.began_at < longest_s
