"""A wrong setting stops the start: one message with all that is wrong, no stack trace, a code that is not nought."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.ports import free_ports
from tests.support.processes import ROOT, clean_environment

MINIMAL = """
services:
  users: {url: "http://127.0.0.1:1"}
  orders: {url: "http://127.0.0.1:1"}
  products: {url: "http://127.0.0.1:1"}
"""


def start(tmp_path: Path, env: Mapping[str, str], services: str = MINIMAL) -> tuple[int, str]:
    """The exit code of a gateway that cannot start, and all it has said."""
    file = tmp_path / "services.yaml"
    file.write_text(services)
    port, operations_port = free_ports(2)
    ports = {"GATEWAY_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "GATEWAY_OPERATIONS_PORT": str(operations_port)}
    ended = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", "gateway/gunicorn.conf.py", "gateway.wsgi:app"],
        cwd=ROOT,
        env=clean_environment(
            {**ports, "GATEWAY_SERVICES": str(file), "WEB_CONCURRENCY": "1", "TMPDIR": str(tmp_path), **env}
        ),
        capture_output=True,
        timeout=25,
        check=False,
    )
    return ended.returncode, (ended.stdout + ended.stderr).decode()


def test_all_wrong_settings_are_told_at_once(tmp_path: Path) -> None:
    wrong = {
        "GATEWAY_PORT": "none",
        "REQUEST_TIMEOUT": "-1",
        "MAX_REQUEST_SIZE": "10 bananas",
        "TRUSTED_PROXIES": "10.0.0.0/8, here",
        "JWT_SECRET_KEY": "hunter2",
        "LOG_LEVEL": "LOUD",
        "RATE_LIMIT_REQUESTS": "0",
        "CIRCUIT_BREAKER_FAILURE_THRESHOLD": "many",
        "ENVIRONMENT": "prod",
    }

    code, said = start(tmp_path, wrong)

    assert code != 0
    assert "gateway cannot start: 9 settings are wrong" in said
    assert [name for name in wrong if name not in said] == []
    assert "Traceback" not in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"ENVIRONMENT": "production"}, ["REDIS_URL", "USER_SERVICE_URL"]),
        ({"ENVIRONMENT": "production", "DEBUG": "true"}, ["DEBUG"]),
        ({"JWT_SECRET_KEY": "changeme"}, ["JWT_SECRET_KEY"]),
        ({"SECRET_KEY": "x" * 31}, ["SECRET_KEY"]),
        ({"SECRET_KEY": "ab" * 40}, ["SECRET_KEY"]),
        ({"STUDENT_SERVICE_URL": "students:5005"}, ["STUDENT_SERVICE_URL"]),
        ({"STUDENT_SERVICE_URL": "http://me:hunter2@students"}, ["STUDENT_SERVICE_URL"]),
        ({"STUDENT_SERVICE_URL": "http://students/path"}, ["STUDENT_SERVICE_URL"]),
        ({"METRICS_SERVICE_URL": "http://a"}, ["METRICS_SERVICE_URL"]),
        ({"AUTH_SERVICE_URL": "http://a"}, ["AUTH_SERVICE_URL"]),
        ({"GATEWAY_SERVICES": "/nowhere/services.yaml"}, ["/nowhere/services.yaml"]),
        ({"REDIS_URL": "nonsense://x:hunter2@y"}, ["REDIS_URL"]),
    ],
)
def test_wrong_setting_is_told_by_its_name(tmp_path: Path, env: dict[str, str], words: list[str]) -> None:
    code, said = start(tmp_path, env)

    assert code != 0
    assert [word for word in words if word not in said] == []
    assert "Traceback" not in said
    assert "hunter2" not in said


def test_equal_ports_are_refused(tmp_path: Path) -> None:
    code, said = start(tmp_path, {"GATEWAY_PORT": "20001", "GATEWAY_OPERATIONS_PORT": "20001"})

    assert code != 0
    assert "GATEWAY_OPERATIONS_PORT: must differ from GATEWAY_PORT" in said


BROKEN_FILES = {
    "not YAML": ("services: [", ["services.yaml:1:"]),
    "not a mapping": ("- users", ["services.yaml:1:1"]),
    "unknown key": (MINIMAL + "  x:\n    url: http://a\n    ulr: http://b\n", ["services.yaml:8:5", "ulr"]),
    "no address": (MINIMAL + "  x: {public: true}\n", ["services.yaml:6:3", "url"]),
    "bad address": (MINIMAL + "  x: {url: ftp://a}\n", ["services.yaml:6:7", "http://127.0.0.1:8000"]),
    "bad name": (MINIMAL + "  X!: {url: http://a}\n", ["services.yaml:6:3"]),
    "bad rate": (MINIMAL + "  x: {url: http://a, limits: {default: often}}\n", ["100/minute"]),
    "bad size": (MINIMAL + "  x: {url: http://a, max_body: lots}\n", ["10MB"]),
    "the same key twice": (MINIMAL + "  users: {url: http://a}\n", ["services.yaml:6:3", "twice"]),
    "two faults": (
        MINIMAL + "  x: {url: ftp://a, max_body: lots}\n  y: {url: 1, roles: admin}\n",
        ["x.url", "x.max_body", "y.url", "y.roles"],
    ),
    "empty": ("", ["services.yaml"]),
    "a page's name": (MINIMAL + "  health: {url: http://a}\n", ["health"]),
    "a face's name": (MINIMAL + "  api: {url: http://a}\n", ["api"]),
    "a blueprint's name": (MINIMAL + "  auth: {url: http://a}\n", ["auth"]),
    "the pages' own name": (MINIMAL + "  pages: {url: http://a}\n", ["services.yaml:6:3", "pages"]),
}


@pytest.mark.parametrize(("text", "words"), BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_broken_services_file_is_told_by_line_and_column(tmp_path: Path, text: str, words: list[str]) -> None:
    code, said = start(tmp_path, {}, text)

    assert code != 0
    assert "cannot start" in said
    assert [word for word in words if word not in said] == []
    assert "Traceback" not in said


@pytest.mark.parametrize("name", ["GATEWAY_PORT", "GATEWAY_OPERATIONS_PORT"])
def test_busy_port_is_told_and_ends_the_start(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = owner.getsockname()[1]

        code, said = start(tmp_path, {name: str(port)})

    assert code != 0
    assert str(port) in said
    assert "Traceback" not in said


def test_failed_start_leaves_no_folder_behind(tmp_path: Path) -> None:
    start(tmp_path, {"GATEWAY_PORT": "none"})

    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
