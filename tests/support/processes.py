"""Gunicorn, or any other program of this repository, as a real process with an environment of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit

from deploy.local.child import Child, NotStarted

ROOT = Path(__file__).resolve().parents[2]
POLL_TIMEOUT_S = 1.0
# what any program needs, and what measures its coverage; never the developer's REDIS_URL or JWT_SECRET_KEY
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")

__all__ = ["NotStarted", "Process", "clean_environment", "is_alive", "process_tree", "pss_bytes", "wait_until"]


class Process:
    """A program started from the repository's root, in its own session, its output in `directory`/`name`.log.

    Its environment is PATH, HOME, LANG, TMPDIR and what `env` gives. Every wait is bounded. Not thread-safe.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        directory: Path,
        env: Mapping[str, str],
        ready_url: str | None = None,
    ) -> None:
        """The program is ready when `ready_url` answers 200; without one, as soon as it runs."""
        self.name = name
        self.ready_url = ready_url
        log_path = directory / f"{name}.log"
        self._child = Child(name, argv, log_path=log_path, cwd=ROOT, env=clean_environment(env))

    @classmethod
    def gunicorn(
        cls,
        app: str,
        *,
        conf: Path | str,
        directory: Path,
        env: Mapping[str, str],
        ready_url: str | None = None,
        name: str | None = None,
    ) -> Self:
        """A gunicorn serving `app` ("gateway.wsgi:app") with the settings file `conf`, seen from the root."""
        argv = [sys.executable, "-m", "gunicorn", "-c", str(conf), app]
        return cls(name or app.partition(":")[0], argv, directory=directory, env=env, ready_url=ready_url)

    @property
    def pid(self) -> int:
        """The id of the process itself, for gunicorn the master. Raises RuntimeError when it has ended."""
        return self._child.pid

    @property
    def is_running(self) -> bool:
        """The process was started and has not ended."""
        return self._child.is_running

    def start(self, *, timeout_s: float = 20.0) -> Self:
        """Start and return once ready. Raises NotStarted with the end of the log."""
        self._child.start(self.is_ready if self.ready_url else None, timeout_s=timeout_s)
        return self

    def is_ready(self) -> bool:
        """`ready_url` answers 200."""
        return self.ready_url is None or _answers_200(self.ready_url)

    def log(self) -> str:
        """All it has written, stdout and stderr together."""
        return self._child.log()

    def json_log(self) -> list[dict[str, object]]:
        """Those lines of the log that are JSON objects."""
        found: list[dict[str, object]] = []
        for line in self.log().splitlines():
            try:
                entry: object = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                found.append(cast("dict[str, object]", entry))
        return found

    def wait_for_log(self, text: str, *, timeout_s: float = 15.0) -> str:
        """The log, once it contains `text`. Raises TimeoutError."""
        wait_until(lambda: text in self.log(), f"{text!r} in the log of {self.name}", timeout_s=timeout_s)
        return self.log()

    def terminate(self, *, timeout_s: float = 10.0) -> int | None:
        """SIGTERM, and SIGKILL to the whole group after `timeout_s`. The exit code, None if never started."""
        return self._child.stop(grace_s=timeout_s)

    def kill(self) -> int | None:
        """SIGKILL to the whole group, as a power cut would. The exit code."""
        return self._child.kill()

    def hup(self) -> None:
        """Ask it to reload."""
        self._child.send(signal.SIGHUP)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process that was started."""
        self._child.send(number)

    def freeze(self) -> None:
        """Stop the whole group where it is: connections are accepted by the kernel and nobody answers."""
        self._child.freeze()

    def thaw(self) -> None:
        """Let a frozen group go on."""
        self._child.thaw()

    def wait(self, *, timeout_s: float = 10.0) -> int | None:
        """The exit code of a process that ends by itself. Raises TimeoutError."""
        wait_until(lambda: not self.is_running, f"the end of {self.name}", timeout_s=timeout_s)
        return self._child.kill()

    def children(self) -> list[int]:
        """The ids of its direct children, for gunicorn its workers (Linux)."""
        return _children_of(self.pid)

    def pss_bytes(self) -> int:
        """Memory of the process and all below it, shared pages counted once (PSS; Linux)."""
        return sum(pss_bytes(pid) for pid in process_tree(self.pid))

    def __enter__(self) -> Self:
        return self if self.is_running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()


def clean_environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program under test: nothing of the developer's but what any program needs."""
    return {name: os.environ[name] for name in KEPT if name in os.environ} | dict(given)


def wait_until(is_true: Callable[[], bool], what: str, *, timeout_s: float = 15.0, poll_s: float = 0.02) -> None:
    """Return once `is_true()`. Raises TimeoutError, which names `what` was waited for."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(poll_s)


def process_tree(root: int) -> list[int]:
    """The ids of a process and of all below it, itself first (Linux; elsewhere only itself)."""
    found = [root]
    for pid in found:
        found.extend(_children_of(pid))
    return found


def is_alive(pid: int) -> bool:
    """The process has not ended (Linux)."""
    return _parent_of(pid) is not None


def pss_bytes(pid: int) -> int:
    """Memory of one process, its part of what it shares (PSS; Linux); 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("latin-1").splitlines()
    except (FileNotFoundError, ProcessLookupError):  # it has ended since
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _answers_200(url: str) -> bool:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=POLL_TIMEOUT_S)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _children_of(parent: int) -> list[int]:
    pids = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
    return sorted(pid for pid in pids if _parent_of(pid) == parent)


def _parent_of(pid: int) -> int | None:
    """None when the process has ended, be it that nobody has reaped it yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("latin-1")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, *_ = stat.rpartition(")")[2].split()  # the name before it may contain anything
    return None if state in "ZX" else int(parent)
