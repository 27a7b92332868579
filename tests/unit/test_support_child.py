"""What every child process promises."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from deploy.local.child import Child, NotStarted
from tests.support.processes import is_alive


def test_a_child_that_ends_early_says_why(tmp_path: Path) -> None:
    child = Child("demo", [sys.executable, "-c", "raise SystemExit('no luck')"], log_path=tmp_path / "log")

    with pytest.raises(NotStarted, match="demo ended with code 1:\nno luck"):
        child.start(lambda: False, timeout_s=10)


def test_a_child_that_is_not_ready_in_time_is_ended(tmp_path: Path) -> None:
    child = Child("demo", ["sleep", "60"], log_path=tmp_path / "log")

    with pytest.raises(NotStarted, match=r"demo was not ready within 0\.1 s"):
        child.start(lambda: False, timeout_s=0.1)

    assert not child.is_running


def test_a_program_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(NotStarted, match="demo cannot be run"):
        Child("demo", ["/nonexistent"], log_path=tmp_path / "log").start(lambda: True, timeout_s=1)


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = Child("demo", ["sh", "-c", "trap '' TERM; echo ready; sleep 60 & wait; sleep 60"], log_path=log)
    child.start(lambda: "ready" in child.log(), timeout_s=5)

    assert child.stop(grace_s=0.1) == -9


@pytest.fixture
def heeding_ctrl_c() -> Generator[None]:
    """Who is started in the background is started to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeding_ctrl_c")
def test_a_child_that_ctrl_c_comes_upon_in_its_very_beginning_is_ended(tmp_path: Path) -> None:
    begun: list[int] = []

    class Interrupted(Child):
        """Ctrl-C comes when there is a process, and nobody has its number yet."""

        def _run(self) -> subprocess.Popen[bytes]:
            popen = super()._run()
            begun.append(popen.pid)
            signal.raise_signal(signal.SIGINT)
            return popen

    with pytest.raises(KeyboardInterrupt):
        Interrupted("demo", ["sleep", "60"], log_path=tmp_path / "log").start(None, timeout_s=1)

    assert [pid for pid in begun if is_alive(pid)] == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
