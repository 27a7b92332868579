"""Revisions of the services file: the texts that were in force, the one that is, and what the last look has found.

A history is a stack. A good file is pushed on it with the next number; a rollback takes the newest off and pushes the
one below again, with a number of its own. So numbers only grow, and a second rollback goes back further:

    published 1, 2, 3    [1 2 3]
    rollback             [1 4]      4 has the text of 2
    rollback             [5]        5 has the text of 1

The workers are processes, so the history stands in a directory that they share, as long as the gateway runs:

    state.json    the history. It is replaced, never changed, so whoever reads it reads one state
    lock          flock'ed by the one who looks at the services file and then writes; it is never waited for, since
                  that would stop all greenlets of a worker. A process that dies gives it back
    asked         its time of change says when somebody last asked to look at the file, changed or not (SIGHUP)

Without a directory (one process: `flask run`, tests) it is held in memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import orjson

DIRECTORY = "GATEWAY_REVISIONS_DIR"
"""The variable in which gunicorn.conf.py tells its workers where."""

KEPT = 10
STATE, LOCK, ASKED = "state.json", "lock", "asked"


class NothingBefore(Exception):
    """The first revision is in force, or the last one that is kept."""


class NotNow(Exception):
    """Somebody else is at it; a moment later it may be tried again. The text says what is going on."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Tells one state of the services file from another without reading it; zeros for a file that is not there."""

    modified_ns: int = 0
    size: int = 0
    inode: int = 0
    asked_ns: int = 0

    @classmethod
    def of(cls, path: Path, asked_ns: int) -> Signature:
        """Of the file that `path` leads to, through whatever links."""
        try:
            found = path.stat()
        except OSError:
            return cls(asked_ns=asked_ns)
        return cls(found.st_mtime_ns, found.st_size, found.st_ino, asked_ns)


@dataclass(frozen=True, slots=True)
class Revision:
    """A text that was found good, and since when (seconds of the epoch) it is or was in force."""

    number: int
    text: str
    since: float
    restores: int | None = None  # the number that this text had before

    @property
    def sha256(self) -> str:
        return sha256(self.text)


@dataclass(frozen=True, slots=True)
class Look:
    """What the last look at the services file has found. `sha256` is that of a good text, "" for a refused one."""

    signature: Signature
    at: float
    sha256: str = ""
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """All that the workers share about configurations. At least one revision, the newest last: it is in force."""

    revisions: tuple[Revision, ...]
    look: Look

    @property
    def newest(self) -> Revision:
        return self.revisions[-1]

    def published(self, text: str, look: Look) -> History:
        """With `text`, which `look` has found, in force."""
        revision = Revision(self.newest.number + 1, text, look.at)
        return History((*self.revisions, revision)[-KEPT:], look)

    def rolled_back(self, now: float) -> History:
        """With the text before the newest in force again. What was seen of the file stays seen. Raises
        `NothingBefore`."""
        if len(self.revisions) < 2:
            raise NothingBefore
        *rest, before, newest = self.revisions
        restores = before.number if before.restores is None else before.restores
        return replace(self, revisions=(*rest, Revision(newest.number + 1, before.text, now, restores)))

    def looked(self, look: Look) -> History:
        return replace(self, look=look)


class Shelf(Protocol):
    """Where a history is kept."""

    def read(self) -> History | None:
        """None when there is none (any more). The same object as long as nobody has written."""
        ...

    def write(self, history: History) -> None: ...

    def locked(self) -> AbstractContextManager[None]:
        """Held by whoever reads the services file and then writes. Raises `NotNow` at once if it is held."""
        ...

    @property
    def asked_ns(self) -> int: ...


class InMemory:
    """For one process; its threads or greenlets share it."""

    asked_ns = 0

    def __init__(self) -> None:
        self._history: History | None = None
        self._lock = threading.Lock()

    def read(self) -> History | None:
        return self._history

    def write(self, history: History) -> None:
        self._history = history

    @contextmanager
    def locked(self) -> Generator[None]:
        if not self._lock.acquire(blocking=False):
            raise NotNow("Another change of the configuration is being made just now.")
        try:
            yield
        finally:
            self._lock.release()


class InDirectory:
    """For the processes that know the directory; see on top who protects what."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._state = directory / STATE
        self._read: tuple[Signature, History] | None = None

    def read(self) -> History | None:
        signature = Signature.of(self._state, 0)
        if self._read is None or self._read[0] != signature:
            try:
                self._read = signature, from_json(self._state.read_bytes())
            except FileNotFoundError:
                return None
        return self._read[1]

    def write(self, history: History) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        new = self._directory / f"{STATE}.{os.getpid()}"
        new.write_bytes(orjson.dumps(history))
        self._read = Signature.of(new, 0), history
        new.replace(self._state)

    @contextmanager
    def locked(self) -> Generator[None]:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        with open(self._directory / LOCK, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise NotNow("Another change of the configuration is being made just now.") from None
            yield  # closing the file gives the lock back

    @property
    def asked_ns(self) -> int:
        return Signature.of(self._directory / ASKED, 0).modified_ns

    def ask(self) -> None:
        """The services file is to be looked at, whether it has changed or not."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        (self._directory / ASKED).touch()


def from_json(text: bytes) -> History:
    """A history as `orjson.dumps` wrote it."""
    read = orjson.loads(text)
    look = read["look"]
    return History(
        tuple(Revision(**revision) for revision in read["revisions"]),
        Look(Signature(**look["signature"]), look["at"], look["sha256"], tuple(look["faults"])),
    )


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
