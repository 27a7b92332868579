"""The shop on each of its two foundations: SQLite with the embedded Valkey, PostgreSQL with a Redis over TCP."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.local.valkey import Valkey
from tests.support.ports import free_port
from tests.support.postgres import Unavailable, postgres_server
from tests.support.processes import Process
from tests.support.shop import Shop

MANY = {
    "RATE_LIMIT_REQUESTS": "100000",
    "LIMITS_TIMEOUT_MS": "2000",
    "GATEWAY_SERVICES": "tests/e2e/services.yaml",
    "LOGIN_FAILURES_FREE": "100000",
    "LOGIN_FAILURES_ADDRESS": "100000",
}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Shop]:
    """A running shop with demo data and limits that are out of the way."""
    directory = tmp_path_factory.mktemp("shop")
    with ExitStack() as stack:
        foundation = {} if request.param == "sqlite" else on_postgresql(stack, directory)
        yield stack.enter_context(Shop(directory, {**MANY, **foundation}))


def on_postgresql(stack: ExitStack, directory: Path) -> dict[str, str]:
    """Three databases on one server, and Redis over TCP: the real one where it is installed, else Valkey."""
    try:
        server = stack.enter_context(postgres_server())
    except Unavailable as error:
        pytest.skip(f"no PostgreSQL here: {error}")
    names = ("users", "orders", "products")
    urls = {f"{name.upper()}_DATABASE_URL": server.create_database(f"shop_{name}") for name in names}
    port = free_port()
    if redis_server := shutil.which("redis-server"):
        argv = [redis_server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
        stack.enter_context(Process("redis", argv, directory=directory, env={}))
    else:
        stack.enter_context(Valkey(directory / "valkey", port=port))
    return {**urls, "REDIS_URL": f"redis://127.0.0.1:{port}/0"}
