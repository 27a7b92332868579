"""Traps of the libraries we stand on that no test of behaviour would catch in time: versions, patching, defaults."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import redis
from limits import parse

from common.settings import load
from gateway import create_app, shared
from gateway.settings import GatewaySettings

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATIONS = sorted(ROOT.glob("*/gunicorn.conf.py"))
LOCKS = ("requirements.txt", "requirements-embedded.txt", "requirements-test.txt")


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.parent.name)
def test_gunicorn_patches_before_it_imports_anything_else(path: Path) -> None:
    statements = [line for line in path.read_text().splitlines() if re.match(r"(from|import|monkey)\b", line)]

    assert statements[:2] == ["from gevent import monkey", "monkey.patch_all()"]


def test_all_four_processes_have_a_configuration() -> None:
    assert len(CONFIGURATIONS) == 4


def test_no_extra_is_asked_for_that_makes_the_resolver_go_back_to_older_versions() -> None:
    wanted = " ".join(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])

    assert "gunicorn[fast]" not in wanted
    assert "flask-limiter[redis]" not in wanted


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_files_pin_what_was_proven_together_with_hashes(lock: str) -> None:
    text = (ROOT / lock).read_text()

    for pin in ("gunicorn==27.0.1", "flask-limiter==4.1.1", "limits==5.8.0", "redis==8.1.0", "pybreaker==1.4.1"):
        assert re.search(rf"^{re.escape(pin)}\b.*\\$", text, re.MULTILINE), pin
    assert text.count("--hash=sha256:") > 100
    assert "://" not in text


def test_redis_calls_fail_at_once_instead_of_being_retried_for_seconds() -> None:
    pool = shared.pool(load(GatewaySettings, "gateway", redis_url="redis://127.0.0.1:1/0"))

    assert isinstance(pool, redis.BlockingConnectionPool)
    assert pool.connection_kwargs["retry"].get_retries() == 0
    assert pool.connection_kwargs["socket_connect_timeout"] <= 0.5
    assert pool.connection_kwargs["socket_timeout"] <= 0.5


def test_two_apps_of_one_process_have_limits_of_their_own() -> None:
    first = create_app(load(GatewaySettings, "gateway", rate_limit_requests=6))
    second = create_app(load(GatewaySettings, "gateway", rate_limit_requests=3))

    limits = [app.extensions["gateway"].table.services["products"].limit("default") for app in (first, second)]

    assert limits == [parse("6 per 60 second"), parse("3 per 60 second")]
