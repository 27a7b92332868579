"""Programs under test as real processes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.support import wire
from tests.support.ports import free_port
from tests.support.processes import NotStarted, Process, clean_environment, is_alive, wait_until

APP = """
import json, os
def app(environ, start_response):
    print(json.dumps({"path": environ["PATH_INFO"]}), flush=True)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(dict(os.environ)).encode()]
"""


@pytest.fixture
def process(tmp_path: Path) -> Process:
    port = free_port()
    (tmp_path / "small_app.py").write_text(APP)
    settings = f"bind = '127.0.0.1:{port}'\nworkers = 2\ncontrol_socket_disable = True\n"
    (tmp_path / "conf.py").write_text(settings)
    env = {"PYTHONPATH": str(tmp_path), "PORT": str(port)}
    url = f"http://127.0.0.1:{port}/health"
    conf = tmp_path / "conf.py"
    return Process.gunicorn("small_app:app", conf=conf, directory=tmp_path, env=env, ready_url=url)


def test_gunicorn_runs_reloads_and_ends(process: Process) -> None:
    with process:
        wait_until(lambda: len(process.children()) == 2, "two workers")
        before = process.children()
        assert process.pss_bytes() > 5_000_000
        assert {"path": "/health"} in process.json_log()

        process.hup()
        wait_until(lambda: set(before).isdisjoint(process.children()), "new workers")

        assert process.terminate() == 0
        assert not process.is_running
        assert "Shutting down: Master" in process.log()


def test_the_environment_is_clean(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://production")

    with process:
        port = int(process.ready_url.rpartition(":")[2].partition("/")[0]) if process.ready_url else 0
        environment = wire.get(port, "/").json()

    assert "REDIS_URL" not in environment
    assert environment["PORT"] == str(port)
    assert environment["PATH"]


def test_kill_ends_the_workers_too(process: Process) -> None:
    with process:
        wait_until(lambda: len(process.children()) == 2, "two workers")
        workers = process.children()

        assert process.kill() == -signal.SIGKILL

        wait_until(lambda: not any(is_alive(pid) for pid in workers), "the workers' end")


def test_a_program_that_fails_to_start_shows_its_log(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "1/0"]
    broken = Process("broken", argv, directory=tmp_path, env={}, ready_url="http://127.0.0.1:1/")

    with pytest.raises(NotStarted, match="ZeroDivisionError"):
        broken.start()


def test_a_program_that_ends_by_itself_is_waited_for(tmp_path: Path) -> None:
    process = Process("short", [sys.executable, "-c", "raise SystemExit(3)"], directory=tmp_path, env={})
    process.start()

    assert process.wait() == 3


def test_given_variables_win() -> None:
    assert clean_environment({"PATH": "/x"})["PATH"] == "/x"
