"""The audit log of the whole system, each process with two workers: what gets into it, and that it stays one chain."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests

from deploy.local.valkey import Valkey
from tests.e2e.conftest import MANY
from tests.support.ports import free_port
from tests.support.processes import Process, wait_until
from tests.support.shop import Parts

Entry = dict[str, Any]


class Audited(Parts):
    """A shop whose log can be asked."""

    def __init__(self, directory: Path, env: dict[str, str]) -> None:
        super().__init__(directory, env)
        self._directory, self._env = directory, {"VAR_DIR": str(directory / "var"), **env}

    def command(self, *words: str) -> str:
        """What `flask --app user_service audit ...` writes; it has to succeed."""
        argv = [sys.executable, "-m", "flask", "--app", "user_service", "audit", *words]
        process = Process(f"audit-{words[0]}", argv, directory=self._directory, env=self._env)
        assert process.start().wait(timeout_s=60) == 0, process.log()
        return process.log()

    def entries(self) -> list[Entry]:
        """The whole log, the oldest entry first, as an administrator reads it page by page."""
        token = self.log_in("admin", "admin")
        found: list[Entry] = []
        while True:
            page = self.call("GET", f"/users/audit?per_page=100&page={len(found) // 100 + 1}", token=token).json()
            found += page["items"]
            if page["page"] >= page["pages"]:
                return sorted({entry["seq"]: entry for entry in found}.values(), key=lambda entry: entry["seq"])

    def wait_for(self, **wanted: str) -> Entry:
        """The first entry with these fields."""

        def found() -> list[Entry]:
            return [entry for entry in self.entries() if wanted.items() <= entry.items()]

        wait_until(lambda: bool(found()), f"the entry {wanted}", timeout_s=10, poll_s=0.3)
        return found()[0]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    directory = tmp_path_factory.mktemp("audit")
    with (
        Valkey(directory / "valkey", port=free_port()) as valkey,
        Audited(directory, {**MANY, "REDIS_URL": valkey.url}) as parts,
    ):
        yield parts


def test_looking_at_somebody_elses_order_is_in_the_log_and_at_ones_own_is_not(shop: Audited) -> None:
    customer, admin = shop.register("buyer"), shop.log_in("admin", "admin")
    placed = shop.call("POST", "/orders", token=customer, json={"lines": [{"product_id": 1, "quantity": 1}]}).json()
    shop.call("GET", f"/orders/{placed['id']}", token=customer)

    shop.call("GET", f"/orders/{placed['id']}", token=admin)

    entry = shop.wait_for(event="orders.seen")
    assert (entry["source"], entry["subject"]) == ("order_service", placed["user_id"])
    assert entry["actor"] != placed["user_id"]
    assert entry["details"]["order"] == placed["id"]
    assert [entry["event"] for entry in shop.entries()].count("orders.seen") == 1


def test_who_goes_around_the_gateway_is_in_the_log_too(shop: Audited) -> None:
    requests.get(f"http://127.0.0.1:{shop.ports.products}/internal/users/x/data", timeout=10)
    requests.post(
        f"http://127.0.0.1:{shop.ports.products}/products", headers={"Authorization": "Bearer x"}, json={}, timeout=10
    )

    entry = shop.wait_for(event="access.refused", source="product_service")

    assert entry["details"] == {"route": "POST /products", "reason": "INVALID_TOKEN"}


def test_refusals_and_what_administrators_change_have_their_request_ids(shop: Audited) -> None:
    refused = shop.call("GET", "/orders", token="nonsense")
    admin = shop.log_in("admin", "admin")
    mug = {"name": "Mug", "category": "kitchen", "price": "12.50", "stock": 5}
    added = shop.call("POST", "/products", token=admin, json=mug)

    by_the_gateway = shop.wait_for(request_id=refused.headers["X-Request-ID"])
    by_the_service = shop.wait_for(request_id=added.headers["X-Request-ID"])

    assert (by_the_gateway["source"], by_the_gateway["event"]) == ("gateway", "access.refused")
    assert (by_the_service["event"], by_the_service["subject"]) == ("product.added", str(added.json()["id"]))


def test_the_log_of_many_writers_is_one_chain(shop: Audited) -> None:
    def come_and_go(number: int) -> None:
        token = shop.register(f"guest-{number}")
        shop.call("POST", "/users/login", json={"username": f"guest-{number}", "password": "wrong-password"})
        shop.call("GET", "/users/audit", token=token)
        shop.call("POST", "/auth/logout", token=token)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come_and_go, range(24)))

    entries = shop.entries()
    ended = [entry for entry in entries if entry["event"] == "session.ended"]
    assert [entry["event"] for entry in entries].count("login.failed") == 24
    # the administrator's many log-ins in this file displace older sessions
    assert [entry["details"]["reason"] for entry in ended].count("logged_out") == 24
    assert "entries are as they were written" in shop.command("verify")


def test_what_happens_while_user_service_is_away_is_in_the_log_afterwards(shop: Audited) -> None:
    token = shop.register("stubborn")
    shop.users.kill()
    try:
        ids = [
            shop.call("GET", f"/orders?{number}", token=f"bad-{number}").headers["X-Request-ID"] for number in range(3)
        ]
        wait_until(lambda: "audit_log_away" in shop.gateway.log(), "the warning", timeout_s=10)
    finally:
        shop.users.start(timeout_s=40)

    entry = shop.wait_for(request_id=ids[0])
    assert entry["source"] == "gateway"
    assert shop.call("GET", "/orders", token=token).status_code == 200
    assert "entries are as they were written" in shop.command("verify")


def test_what_came_last_before_a_stop_is_in_the_log(shop: Audited) -> None:
    refused = shop.call("GET", "/orders", token="last-words")

    for process in (shop.gateway, shop.orders, shop.products, shop.users):
        process.terminate(timeout_s=20)
    try:
        lines = [orjson.loads(line) for line in shop.command("export").splitlines() if line.startswith('{"seq"')]
    finally:
        for process in shop.all:
            process.start(timeout_s=40)

    assert refused.headers["X-Request-ID"] in [line["request_id"] for line in lines]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
