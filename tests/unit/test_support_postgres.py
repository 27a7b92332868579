"""The embedded PostgreSQL."""

from __future__ import annotations

import socket
import struct
from collections.abc import Generator

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.support.postgres import EmbeddedPostgres, Postgres, Unavailable, postgres_server


@pytest.fixture(scope="module")
def server() -> Generator[EmbeddedPostgres]:
    try:
        server = EmbeddedPostgres()
    except Unavailable as reason:
        pytest.skip(f"no PostgreSQL: {reason}")
    yield server
    server.close()


def select_1(url: str) -> int:
    engine = create_engine(url, connect_args={"connect_timeout": 2})
    try:
        with engine.connect() as connection:
            return connection.execute(text("SELECT 1")).scalar_one()
    finally:
        engine.dispose()


def test_databases_are_created_and_dropped(server: EmbeddedPostgres) -> None:
    url = server.create_database("orders")

    assert url.startswith("postgresql+psycopg://")
    assert select_1(url) == 1
    server.drop(url)
    with pytest.raises(OperationalError, match="does not exist"):
        select_1(url)


def test_only_own_databases_are_dropped(server: EmbeddedPostgres) -> None:
    with pytest.raises(ValueError, match="postgres"):
        server.drop(server.url("postgres"))


def test_a_database_in_use_is_dropped(server: EmbeddedPostgres) -> None:
    url = server.create_database("busy")
    engine = create_engine(url)

    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        server.drop(url)
        connection.invalidate()

    engine.dispose()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_it_starts_again_with_its_data(server: EmbeddedPostgres, end: str) -> None:
    url = server.create_database("outage")

    server.stop() if end == "stop" else server.kill()
    with pytest.raises(OperationalError, match="refused"):
        select_1(url)
    server.start()

    assert select_1(url) == 1


def test_frozen_it_answers_nobody(server: EmbeddedPostgres) -> None:
    ask_for_encryption = struct.pack("!ii", 8, 80877103)  # what every client may say first

    server.freeze()
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.1) as client:
        client.sendall(ask_for_encryption)
        with pytest.raises(TimeoutError):
            client.recv(1)

        server.thaw()
        client.settimeout(5)
        assert client.recv(1) == b"N"


def test_a_running_server_is_used(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_POSTGRES_URL", server.url("postgres"))

    with postgres_server() as given:
        assert type(given) is Postgres
        url = given.create_database("users")
        assert select_1(url) == 1

    with pytest.raises(OperationalError, match="does not exist"):
        select_1(url)


def test_a_server_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_POSTGRES_URL", "postgresql://nobody@127.0.0.1:1/postgres")

    with pytest.raises(Unavailable, match="TEST_POSTGRES_URL"), postgres_server():
        pass
