"""What every unit test begins with."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
import structlog

from deploy.local.valkey import Valkey
from tests.support.ports import free_port


@pytest.fixture(autouse=True)
def fresh_logs() -> None:
    """Whatever an app of another test configured (a command hushes its own) is forgotten."""
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    """A server that the tests of a module share."""
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as server:
        yield server


@pytest.fixture
def fragile(tmp_path: Path) -> Generator[Valkey]:
    """A server that a test may kill and freeze."""
    with Valkey(tmp_path, port=free_port()) as server:
        yield server
