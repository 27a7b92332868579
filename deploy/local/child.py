"""One child process with a bounded life: it is ready in time, or it is gone and says why.

Errors:
    NotStarted   the child could not be run, ended early or was not ready in time; ends with its last output
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

POLL_S = 0.02
KILL_TIMEOUT_S = 5.0
TAIL_CHARACTERS = 4000
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class NotStarted(RuntimeError):
    """A child process did not become ready; the text names it and ends with its last output."""


class Child:
    """A process in its own session, its output in a file. Not thread-safe: one owner starts and stops it.

    Being in its own session it does not see the terminal's Ctrl-C: the owner stops it.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log_path: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        user: pwd.struct_passwd | None = None,
    ) -> None:
        """`env` replaces the whole environment; `user` (only for root) runs the child as somebody else."""
        self.name = name
        self.argv = list(argv)
        self.log_path = log_path
        self._cwd = cwd
        self._env = None if env is None else dict(env)
        self._user = user
        self._popen: subprocess.Popen[bytes] | None = None
        self._exit_code: int | None = None

    @property
    def is_running(self) -> bool:
        """The child was started and has not ended; a frozen child is running."""
        return self._popen is not None and not _has_ended(self._popen)

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its session and process group.

        Raises RuntimeError when the child is not running.
        """
        if self._popen is None or _has_ended(self._popen):
            raise RuntimeError(f"{self.name} is not running")
        return self._popen.pid

    def log(self) -> str:
        """Everything the child has written since the log file was made, over all its starts."""
        return self.log_path.read_text("utf-8", errors="replace") if self.log_path.exists() else ""

    def start(self, is_ready: Callable[[], bool] | None, *, timeout_s: float) -> None:
        """Run the child and return once `is_ready()`; else end it and raise NotStarted. None: do not wait."""
        if self.is_running:
            raise RuntimeError(f"{self.name} is running already")
        self.kill()  # what an earlier start may have left
        try:
            with _signals_held():
                self._popen = self._run()
            if is_ready is not None:
                self._wait_until(is_ready, timeout_s)
        except BaseException:  # also Ctrl-C, which the child does not see
            self.kill()
            raise

    def stop(self, *, grace_s: float, by: signal.Signals = signal.SIGTERM) -> int | None:
        """Ask the child to end; kill its group after `grace_s`. The exit code, None if never started."""
        if self._popen is not None and self.is_running:
            self.thaw()
            self.send(by)
            deadline = time.monotonic() + grace_s
            while self.is_running and time.monotonic() < deadline:
                time.sleep(POLL_S)
        return self.kill()

    def kill(self) -> int | None:
        """End the child and all of its group at once. The exit code, None if it was never started."""
        if self._popen is not None:
            # also when it has ended, for it may have left children
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._exit_code = self._popen.wait(timeout=KILL_TIMEOUT_S)
            self._popen = None
        return self._exit_code

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the child itself, not to its children."""
        os.kill(self.pid, number)

    def freeze(self) -> None:
        """Stop the child where it is (SIGSTOP): its sockets stay open and nobody answers."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen child go on; nothing happens to one that is not frozen."""
        os.killpg(self.pid, signal.SIGCONT)

    def _run(self) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            try:
                return subprocess.Popen(
                    self.argv,
                    cwd=self._cwd,
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    user=None if self._user is None else self._user.pw_uid,
                    group=None if self._user is None else self._user.pw_gid,
                    extra_groups=None if self._user is None else [],
                )
            except OSError as error:
                raise NotStarted(f"{self.name} cannot be run: {error}") from error

    def _wait_until(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if not self.is_running:
                break
            if time.monotonic() > deadline:
                raise NotStarted(f"{self.name} was not ready within {timeout_s:g} s:\n{self._tail()}")
            time.sleep(POLL_S)
        if not self.is_running:  # be it that `is_ready()`: then somebody else answered
            raise NotStarted(f"{self.name} ended with code {self.kill()}:\n{self._tail()}")

    def _tail(self) -> str:
        return self.log()[-TAIL_CHARACTERS:].strip() or "(it wrote nothing)"


@contextmanager
def _signals_held() -> Generator[None]:
    """What would end us comes afterwards: else a child could be running of which nobody knows its number."""
    if threading.current_thread() is not threading.main_thread():  # handlers never run in this one
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in ENDING}
    ours = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in ours:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
    for number in came:
        signal.raise_signal(number)


def _has_ended(popen: subprocess.Popen[bytes]) -> bool:
    """Whether the process has ended; it is not reaped, save on macOS before Python 3.13.

    Until it is reaped its number belongs to nobody else, so its group can be signalled without doubt.
    """
    if popen.returncode is not None or not hasattr(os, "waitid"):
        return popen.poll() is not None
    return os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
