"""What every unit test begins with."""

from __future__ import annotations

import pytest
import structlog


@pytest.fixture(autouse=True)
def fresh_logs() -> None:
    """Whatever an app of another test configured (a command hushes its own) is forgotten."""
    structlog.reset_defaults()
