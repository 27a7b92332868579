"""Erasure, and what gets into logs, with real processes: some of them away, others killed."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import redis
import requests

from deploy.local.valkey import Valkey
from tests.e2e.conftest import MANY
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.shop import Parts
from tests.support.stub import StubService

PASSWORD = "password123"
FAST = {"ERASURE_INTERVAL": "0.4", "RECONCILE_INTERVAL": "0.3"}


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as server:
        yield server


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("privacy")


@pytest.fixture(scope="module")
def shop(directory: Path, valkey: Valkey) -> Iterator[Parts]:
    with Parts(directory, {**MANY, **FAST, "REDIS_URL": valkey.url}) as parts:
        yield parts


def order_of(shop: Parts, token: str) -> str:
    answer = shop.call("POST", "/orders", token=token, json={"lines": [{"product_id": 1, "quantity": 1}]})
    assert answer.status_code == 201, answer.text
    order_id: str = answer.json()["id"]
    assert shop.call("POST", f"/orders/{order_id}/cancel", token=token).status_code == 200
    return order_id


def erase(shop: Parts, token: str) -> requests.Response:
    return shop.call("DELETE", "/users/me", token=token, json={"password": PASSWORD})


def finished(directory: Path) -> int:
    with sqlite3.connect(directory / "var" / "users.db") as database:
        count: int = database.execute("SELECT count(*) FROM erasures WHERE finished_at IS NOT NULL").fetchone()[0]
        return count


def notes_of(directory: Path, order_id: str) -> list[str]:
    with sqlite3.connect(directory / "var" / "orders.db") as database:
        rows = database.execute("SELECT note FROM order_events WHERE order_id = ?", [order_id])
        return [note for (note,) in rows if note]


def test_one_document_through_the_gateway_has_what_three_services_hold(shop: Parts) -> None:
    token = shop.register("exported")
    order_id = order_of(shop, token)

    answer = shop.call("GET", "/api/v1/users/me/export", token=token)

    document: dict[str, Any] = answer.json()
    assert answer.status_code == 200
    assert document["user"]["username"] == "exported"
    assert [order["id"] for order in document["orders"]] == [order_id]
    assert [reservation["id"] for reservation in document["reservations"]] == [order_id]


def test_erasure_is_finished_at_once_where_all_are_there(shop: Parts, directory: Path) -> None:
    token = shop.register("forgotten")
    order_id, before = order_of(shop, token), finished(directory)
    assert notes_of(directory, order_id)

    answer = erase(shop, token)

    assert answer.status_code == 204
    assert (finished(directory), notes_of(directory, order_id)) == (before + 1, [])
    wait_until(lambda: shop.call("GET", "/orders", token=token).status_code == 401, "the token to be void", timeout_s=2)
    assert shop.register("forgotten")  # the name is free


def test_erasure_goes_on_by_itself_when_a_service_is_back(shop: Parts, directory: Path) -> None:
    token = shop.register("patient")
    order_id, before = order_of(shop, token), finished(directory)
    shop.orders.terminate(timeout_s=20)
    try:
        answer = erase(shop, token)
        wait_until(lambda: warned(shop) >= 3, "a warning each round", timeout_s=10)
        assert finished(directory) == before
    finally:
        shop.orders.start(timeout_s=40)

    assert (answer.status_code, answer.json()["waiting_for"]) == (202, ["order_service"])
    wait_until(lambda: finished(directory) == before + 1, "the erasure to be finished", timeout_s=20)
    assert notes_of(directory, order_id) == []


def test_erasure_outlives_the_process_that_was_at_it(shop: Parts, directory: Path) -> None:
    token = shop.register("tenacious")
    order_id, before = order_of(shop, token), finished(directory)
    shop.orders.kill()
    assert erase(shop, token).status_code == 202

    shop.users.kill()
    shop.orders.start(timeout_s=40)
    shop.users.start(timeout_s=40)

    wait_until(lambda: finished(directory) == before + 1, "the erasure to be finished", timeout_s=20)
    assert notes_of(directory, order_id) == []


def warned(shop: Parts) -> int:
    return len([line for line in shop.users.json_log() if line["event"] == "erasure_unfinished"])


# markers

MARKED = "Marker"
"""All that a caller must find in no log is spelt with it."""
SERVICES = """
services:
  users: {{url: http://127.0.0.1:5002, aliases: [user, auth], limits: {{login: 10000/minute, register: 10000/minute}}}}
  orders: {{url: "http://127.0.0.1:5003", aliases: [order]}}
  products: {{url: "http://127.0.0.1:5004", aliases: [product], cache: true}}
  stub: {{url: "{url}", public: true, path: /, timeout_s: 0.5}}
"""
PRODUCT, VARIABLE = re.compile(r"[<{]product_id[>}]"), re.compile(r"<[^>]+>|{[^}]+}")
TROUBLE = ("status/500", "status/503/1", "garbage", "reset", "nothing", "cut", "slow/1", "huge-header/20000")


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory, valkey: Valkey) -> Iterator[tuple[Parts, Path]]:
    """A shop that logs all it can, and its database of users; with a service behind it that is nothing but trouble."""
    directory = tmp_path_factory.mktemp("marked")
    with StubService() as stub:
        (directory / "services.yaml").write_text(SERVICES.format(url=stub.url))
        env = {**MANY, **FAST, "GATEWAY_SERVICES": str(directory / "services.yaml"), "LOG_LEVEL": "DEBUG"}
        env |= {"REDIS_URL": f"{valkey.url.rpartition('/')[0]}/7", "CIRCUIT_BREAKER_FAILURE_THRESHOLD": "100000"}
        with Parts(directory, env) as parts:
            yield parts, directory / "var" / "users.db"


def routes_of(shop: Parts) -> list[tuple[str, str]]:
    """Each method and path of the gateway's own table, and of what stands behind its open ends."""
    page = requests.get(f"{shop.operations_url}/services", timeout=10).json()
    rows = [route.partition(" ")[::2] for service in page["services"] for route in service["routes"]]
    found = {(method, path) for methods, path in rows for method in methods.split(",")}
    for name in ("users", "orders", "products"):
        document = requests.get(f"{shop.url}/openapi/{name}.json", timeout=10).json()
        found |= {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    return sorted(found)


def test_no_secret_of_a_caller_gets_into_any_log_or_the_audit_log(marked: tuple[Parts, Path], valkey: Valkey) -> None:
    shop, users_db = marked
    secrets = walk_through(shop, users_db)
    for process in shop.all:
        process.terminate(timeout_s=20)  # all that is buffered is written now

    outputs = {process.name: process.log() for process in shop.all}
    with redis.Redis.from_url(f"{valkey.url.rpartition('/')[0]}/7") as client:
        outputs["redis"] = str([(key, value_of(client, key)) for key in cast("Iterator[bytes]", client.scan_iter())])
    with sqlite3.connect(users_db) as database:
        outputs["audit log"] = str(database.execute("SELECT * FROM audit_entries").fetchall())
    for place, output in outputs.items():
        assert len(output) > 100, place
        for name, secret in secrets.items():
            assert secret not in output, f"{name} in {place}: {around(output, secret)}"
        if place not in ("redis", "audit log"):
            assert '"caller":"127.0.0.1"' not in output


def walk_through(shop: Parts, users_db: Path) -> Mapping[str, str]:
    """Show each route secrets in all places where a request has any; what they are."""
    password, email = f"{MARKED}-Passw0rd-77aa", f"{MARKED}.person@example.org"
    account = {"username": "marked", "password": password, "email": email}
    user_id = shop.call("POST", "/users/register", json=account).json()["id"]
    granted = shop.call("POST", "/users/login", json={"username": "marked", "password": password}).json()
    token, refresh = granted["access_token"], granted["refresh_token"]
    new_key = {"name": "program", "scopes": ["orders:read"]}
    key = shop.call("POST", "/users/api-keys", token=token, json=new_key).json()["key"]
    body = {
        "password": f"{MARKED}-wrong-password", "otp": f"{MARKED}otp1", "note": f"{MARKED}-in-a-body", "email": email,
        "refresh_token": refresh, "username": f"{MARKED}-typed-as-name",
    }  # fmt: skip
    fields = {
        "X-Marked": f"{MARKED}-in-a-header", "Cookie": f"marked={MARKED}-in-a-cookie", "User-Agent": f"{MARKED}-agent",
        "Referer": f"http://x/{MARKED}-referer",
    }  # fmt: skip
    query = f"?q={MARKED}-in-a-query&token={token}"
    shown: list[dict[str, str]] = [
        {},
        {"Authorization": f"Bearer {token}"},
        {"Authorization": f"Bearer {token[:-4]}abcd"},
        {"Authorization": f"Basic {MARKED}-basic"},
        {"X-API-Key": key},
        {"Authorization": f"ApiKey {key[:-3]}abc"},
    ]
    paths = [(method, path) for method, path in routes_of(shop) if not path.endswith(("/me", "/logout", "/logout-all"))]
    paths += [("POST", f"/stub/{trouble}") for trouble in TROUBLE]
    paths += [("GET", f"/orders/{token}"), ("GET", f"/nowhere/{email}"), ("GET", f"/users/{key}"), ("GET", "/%zz")]
    for method, template in paths:
        path = PRODUCT.sub("1", template.replace("<path:rest>", "profile"))
        path = VARIABLE.sub(user_id, path)
        for credentials in shown:
            headers = {**fields, **credentials}
            requests.request(method, f"{shop.url}{path}{query}", json=body, headers=headers, timeout=20)
    broken(shop, users_db, token, account)
    return {
        "password": password, "email": email, "e-mail in a path": "example.org", "token": token,
        "signature": token.rpartition(".")[2], "refresh token": refresh, "API key": key, "API key's end": key[-16:],
        "wrong password": body["password"], "otp": body["otp"], "body": body["note"], "name": body["username"],
        "header": fields["X-Marked"], "cookie": fields["Cookie"], "agent": fields["User-Agent"],
        "query": f"{MARKED}-in-a-query", "referer": fields["Referer"], "basic": f"{MARKED}-basic",
        "any of them": MARKED,
    }  # fmt: skip


def broken(shop: Parts, users_db: Path, token: str, account: Mapping[str, str]) -> None:
    """The same when the database fails in the middle: stack traces and all."""
    with sqlite3.connect(users_db) as database:
        database.execute("ALTER TABLE users RENAME COLUMN email TO elsewhere")
    try:
        shop.call("POST", "/users/register", json={**account, "username": "another"})
        shop.call("POST", "/users/login", json=account)
        shop.call("PATCH", "/users/profile", token=token, json={"email": account["email"]})
        shop.call("GET", "/users/me/export", token=token)
    finally:
        with sqlite3.connect(users_db) as database:
            database.execute("ALTER TABLE users RENAME COLUMN elsewhere TO email")


def value_of(client: redis.Redis, key: bytes) -> object:
    match client.type(key):
        case b"string":
            return client.get(key)
        case b"hash":
            return client.hgetall(key)
        case b"zset":
            return client.zrange(key, 0, -1)
        case b"list":
            return client.lrange(key, 0, -1)
        case b"set":
            return client.smembers(key)
        case other:
            return other


def around(output: str, secret: str) -> str:
    at = output.index(secret)
    return output[max(0, at - 300) : at + 200]
