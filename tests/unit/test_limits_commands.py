"""`flask --app gateway limits show` and `reset`: what is counted of one caller, in a real Valkey."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from limits import parse

from deploy.local.valkey import Valkey
from gateway import create_app
from gateway.limits import Bucket, Store, store_of
from tests.support.ports import free_port
from tests.unit import parts

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as valkey:
        yield valkey


def app_at(url: str, directory: Path) -> Flask:
    file = directory / "services.yaml"
    file.write_text("services: {users: {url: 'http://u'}, orders: {url: 'http://o'}, products: {url: 'http://p'}}")
    with parts.clean_environment():
        return create_app(parts.settings(gateway_services=file, redis_url=url, operations_port=free_port()))


@pytest.fixture
def run(server: Valkey, tmp_path: Path) -> Run:
    app = app_at(server.url, tmp_path)
    return lambda *words: app.test_cli_runner().invoke(args=["limits", *words])


@pytest.fixture
def store(server: Valkey) -> Generator[Store]:
    made = store_of(parts.settings(redis_url=server.url, limits_timeout_ms=1000))
    made.client.flushdb()
    yield made
    made.client.connection_pool.disconnect()


@pytest.fixture
def seven(store: Store) -> str:
    """A user of whom something is counted by two limits, beside others who are not meant."""
    name = f"u-{uuid.uuid4().hex}"
    of_shop = Bucket("user", "default", parse("100/minute"), "shop", f"user:{name}")
    burst = Bucket("burst", "burst", parse("20/hour"), "", f"user:{name}")
    other = Bucket("user", "default", parse("100/minute"), "shop", f"user:{name}-other")
    for _ in range(3):
        store.hit((of_shop, burst, other, Bucket("global", "global", parse("9/minute"))), 1)
    return name


def document(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_every_limit_of_a_user_is_shown(run: Run, seven: str) -> None:
    told = document(run("show", seven, "--json"))

    assert told["who"] == seven
    assert [
        (row["tier"], row["service"], row["limit"], row["used"], row["allowed"], row["window_s"])
        for row in told["limits"]
    ] == [("burst", None, "burst", 3, 20, 3600), ("user", "shop", "default", 3, 100, 60)]
    assert all(0 < row["resets_in_s"] <= row["window_s"] for row in told["limits"])


def test_people_get_a_table(run: Run, seven: str) -> None:
    lines = run("show", seven).stdout.splitlines()

    assert lines[0].split() == ["tier", "service", "limit", "whom", "used", "resets", "in"]
    assert lines[1].split()[:9] == ["burst", "all", "burst", f"user:{seven}", "3", "of", "20", "in", "3600"]
    assert len(lines) == 3


def test_a_reset_begins_anew_for_that_caller_alone(run: Run, seven: str) -> None:
    assert run("reset", seven).stdout == f"2 limits begin anew for {seven}\n"

    assert document(run("show", seven, "--json"))["limits"] == []
    assert run("show", seven).stdout == f"nothing is counted of {seven}\n"
    assert len(document(run("show", f"{seven}-other", "--json"))["limits"]) == 1
    assert document(run("reset", seven, "--json")) == {"who": seven, "reset": 0}


@pytest.mark.parametrize(
    ("whom", "asked", "is_meant"),
    [
        ("key:k7", "k7", True),
        ("key:k7", "key:k7", True),
        ("key:k7", "user:k7", False),
        ("user:7", "user:7", True),
        ("user:7", "address:7", False),
        ("address:192.0.2.7", "192.0.2.7", True),
        ("address:192.0.2.7", "::ffff:192.0.2.7", True),
        ("address:192.0.2.7", "192.0.2.70", False),
        ("address:2001:db8:0:1::/64", "2001:db8:0:1::99", True),
        ("address:2001:db8:0:1::/64", "address:2001:db8:0:1::99", True),
        ("address:2001:db8:0:1::/64", "2001:db8:0:2::99", False),
        ("", "global", True),
        ("user:a|b*c", "a|b*c", True),
        ("user:axc", "a*c", False),
        ("user:[ab]", "[ab]", True),
        ("user:a", "[ab]", False),
        ("user:a", "?", False),
    ],
)
def test_who_is_meant(run: Run, store: Store, whom: str, asked: str, is_meant: bool) -> None:
    store.hit((Bucket("user", "default", parse("9/minute"), "shop", whom),), 1)

    rows = document(run("show", asked, "--json"))["limits"]

    assert [row["whom"] for row in rows] == ([whom or None] if is_meant else [])


def test_what_has_left_the_window_is_not_shown(run: Run, store: Store) -> None:
    brief = Bucket("user", "default", parse("9/second"), "shop", "user:brief")
    store.add([(brief.ask(), 4, 2_000_000)])

    assert document(run("show", "brief", "--json"))["limits"] == []


@pytest.mark.parametrize("command", ["show", "reset"])
def test_without_redis_the_commands_fail_and_say_why(tmp_path: Path, command: str) -> None:
    done = app_at(parts.NOWHERE, tmp_path).test_cli_runner().invoke(args=["limits", command, "7"])

    assert done.exit_code == 1
    assert done.stderr == "Error: Redis, at REDIS_URL, could not be asked (ConnectionError)\n"


def test_a_call_without_a_caller_is_wrong(run: Run) -> None:
    assert [run("show").exit_code, run("reset").exit_code] == [2, 2]
