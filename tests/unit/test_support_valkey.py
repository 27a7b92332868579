"""The embedded Valkey."""

# redis-py leaves its keyword arguments untyped
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
import redis

from deploy.local.child import NotStarted
from deploy.local.valkey import Valkey
from tests.support.ports import free_port
from tests.support.stub import StubService


@pytest.fixture
def valkey(tmp_path: Path) -> Generator[Valkey]:
    with Valkey(tmp_path, port=free_port()) as server:
        yield server


def test_it_answers_freezes_thaws_and_stops(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url, socket_timeout=0.1) as client:
        assert client.ping()

        valkey.freeze()
        with pytest.raises(redis.TimeoutError):
            client.get("x")

        valkey.thaw()
        assert client.ping()

        valkey.stop()
        assert not valkey.is_running
        with pytest.raises(redis.ConnectionError):
            client.ping()


def test_it_starts_again_on_its_port_after_a_crash(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.set("x", "1")

        valkey.kill()
        assert not valkey.answers()
        valkey.start()

        assert client.get("x") is None


def test_a_frozen_server_stops_in_time(valkey: Valkey) -> None:
    valkey.freeze()

    valkey.stop()

    assert not valkey.is_running


def test_it_writes_nothing_but_its_log(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.set("x", "1")

    valkey.stop()

    assert [file.name for file in valkey.directory.iterdir()] == ["valkey.log"]


def test_it_can_listen_on_a_unix_socket_only(tmp_path: Path) -> None:
    with (
        Valkey(tmp_path, unix_socket=tmp_path / "v.sock") as valkey,
        redis.Redis.from_url(valkey.url) as client,
    ):
        assert client.ping()


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with (
        StubService() as other,
        pytest.raises(NotStarted, match=f"port {other.port}: Address already in use"),
    ):
        Valkey(tmp_path, port=other.port).start()


@pytest.mark.parametrize("port", [0, 65536, None])
def test_port_must_be_one(tmp_path: Path, port: int | None) -> None:
    with pytest.raises(ValueError, match="port"):
        Valkey(tmp_path, port=port)
