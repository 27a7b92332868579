"""Sessions with real processes: what one worker of user_service ends is over everywhere, at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import pytest
import requests

from common import service_tokens
from tests.integration.test_user_service import ADA, Running, running
from tests.support.processes import ROOT, clean_environment, wait_until
from tests.support.shop import Parts

SECRET = "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu"
LIMITS = {"RATE_LIMIT_REQUESTS": "1000000", "USER_RATE_LIMIT_REQUESTS": "1000000"}
SERVICES = """
services:
  users: {url: "http://users", aliases: [user, auth], limits: {login: 100000/minute, refresh: 100000/minute}}
  orders: {url: "http://orders", aliases: [order]}
  products: {url: "http://products", aliases: [product]}
"""


class Shop(Parts):
    """With limits that are out of the way, and keys that are fetched often and sign soon after they are made."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        services = directory / "services.yaml"
        services.write_text(SERVICES)
        keys = {"KEY_PUBLISH_LEAD": "8", "JWKS_REFRESH_S": "1"}
        self._own = {"VAR_DIR": str(directory / "var"), "SERVICE_SECRET": SECRET, **keys}
        super().__init__(directory, {"REDIS_URL": redis_url, "GATEWAY_SERVICES": str(services), **LIMITS, **self._own})

    def keys(self, *words: str) -> str:
        """What `flask --app user_service keys ...` writes."""
        command = [sys.executable, "-m", "flask", "--app", "user_service", "keys", *words]
        done = subprocess.run(command, cwd=ROOT, env=clean_environment(self._own), check=True, capture_output=True)
        return done.stdout.decode()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, database: Callable[[], str]) -> Iterator[Shop]:
    with Shop(tmp_path_factory.mktemp("shop"), database()) as shop:
        yield shop


def pair(shop: Shop, face: str = "/auth") -> dict[str, str]:
    """The tokens of alice, of a new session."""
    answer = shop.call("POST", f"{face}/login", json={"username": "alice", "password": "password123"})
    assert answer.status_code == 200, answer.text
    tokens: dict[str, str] = answer.json()
    return tokens


def status(url: str, token: str) -> int:
    """On a connection of its own, so that any worker may get it."""
    return requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=10).status_code


@pytest.mark.parametrize("face", ["/auth", "/users", "/api/v1/auth"])
def test_a_session_lives_through_the_gateway_on_every_face(shop: Shop, face: str) -> None:
    first = pair(shop, face)

    refreshed = shop.call("POST", f"{face}/refresh", json={"refresh_token": first["refresh_token"]})
    second = refreshed.json()
    listed = shop.call("GET", f"{face}/sessions", token=second["access_token"])
    ended = shop.call("POST", f"{face}/logout", token=second["access_token"])
    after = shop.call("POST", f"{face}/refresh", json={"refresh_token": second["refresh_token"]})

    assert (refreshed.status_code, listed.status_code, ended.status_code, after.status_code) == (200, 200, 204, 401)
    assert after.json()["code"] == "INVALID_REFRESH_TOKEN"
    assert {answer.headers["Cache-Control"] for answer in (refreshed, listed, ended, after)} == {"no-store"}


def test_the_address_of_a_session_is_the_callers_and_can_not_be_invented(shop: Shop) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.9", "User-Agent": "Forger/1.0"}
    answer = requests.post(
        f"{shop.url}/auth/login", json={"username": "alice", "password": "password123"}, headers=forged, timeout=10
    )

    sessions = shop.call("GET", "/auth/sessions", token=answer.json()["access_token"]).json()["items"]

    assert [(one["device"], one["address"]) for one in sessions if one["current"]] == [("Forger/1.0", "127.0.0.1")]


@pytest.mark.parametrize("path", ["/auth/logout", "/auth/logout-all"])
def test_logging_out_reaches_every_worker_of_gateway_and_services_within_a_second(shop: Shop, path: str) -> None:
    token = pair(shop)["access_token"]
    other = shop.log_in("bob", "password123")
    orders = f"http://127.0.0.1:{shop.ports.orders}/orders"
    places = [f"{shop.url}/users/profile", f"{shop.url}/orders", orders]
    for place in places * 8:  # every worker has the token in its cache
        assert status(place, token) == 200

    assert shop.call("POST", path, token=token).status_code == 204
    time.sleep(1)

    assert {status(place, token) for place in places * 8} == {401}
    assert {status(place, other) for place in places} == {200}


def test_ending_one_session_leaves_the_others_of_the_user(shop: Shop) -> None:
    kept, ended = pair(shop)["access_token"], pair(shop)["access_token"]
    sid = jwt.decode(ended, options={"verify_signature": False})["sid"]

    answer = shop.call("DELETE", f"/users/sessions/{sid}", token=kept)

    assert answer.status_code == 204
    wait_until(lambda: status(f"{shop.url}/users/profile", ended) == 401, "the end of the session", timeout_s=5)
    assert status(f"{shop.url}/users/profile", kept) == 200


def test_nobody_ends_the_sessions_of_others(shop: Shop) -> None:
    alice = pair(shop)["access_token"]
    sid = jwt.decode(alice, options={"verify_signature": False})["sid"]

    answer = shop.call("DELETE", f"/users/sessions/{sid}", token=shop.log_in("bob", "password123"))

    assert (answer.status_code, answer.json()["code"]) == (404, "SESSION_NOT_FOUND")
    assert status(f"{shop.url}/users/profile", alice) == 200


def test_the_log_of_revocations_can_not_be_asked_for_through_the_gateway(shop: Shop) -> None:
    token = service_tokens.mint(SECRET, issuer="gateway", audience="user_service")
    spellings = ["/internal/revocations", "/users/internal/revocations", "/auth/%2e%2e/internal/revocations"]

    answers = [status(f"{shop.url}{spelling}", token) for spelling in spellings]

    assert set(answers) <= {400, 401, 404}


def is_known(shop: Shop, token: str) -> bool:
    """The key of `token` is known to the gateway and to the services."""
    urls = [f"{shop.url}/users/profile", f"{shop.url}/orders"]
    return {status(url, token) for url in urls for _ in range(6)} == {200}


def test_keys_change_under_load_and_no_token_is_refused(shop: Shop) -> None:
    refused: list[str] = []
    kids: set[str] = set()
    is_over = threading.Event()

    def customer() -> None:
        tokens = pair(shop)
        while not is_over.is_set():
            answer = shop.call("POST", "/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
            if answer.status_code != 200:
                refused.append(answer.text)
                return
            tokens = answer.json()
            kids.add(jwt.get_unverified_header(tokens["access_token"])["kid"])
            for path in ("/users/profile", "/orders"):
                answer = shop.call("GET", path, token=tokens["access_token"])
                if answer.status_code != 200:
                    refused.append(answer.text)

    wait_until(lambda: is_known(shop, pair(shop)["access_token"]), "the key in use", timeout_s=20)
    with ThreadPoolExecutor(6) as pool:
        customers = [pool.submit(customer) for _ in range(6)]
        try:
            for number in (1, 2):
                shop.keys("rotate")
                wait_until(lambda: len(kids) > number, "tokens of the new key", timeout_s=30)  # noqa: B023
            time.sleep(1)
        finally:
            is_over.set()
        for one in customers:
            one.result()

    assert refused == []
    assert len(kids) == 3


def test_a_stolen_key_is_of_no_use_once_it_is_retired(shop: Shop) -> None:
    old = pair(shop)["access_token"]
    kid = jwt.get_unverified_header(old)["kid"]
    assert status(f"{shop.url}/users/profile", old) == 200

    said = shop.keys("retire", kid)
    profile = f"{shop.url}/users/profile"

    assert "signs from now on" in said
    wait_until(lambda: all(is_known(shop, pair(shop)["access_token"]) for _ in range(8)), "the new key", timeout_s=20)
    wait_until(lambda: {status(profile, old) for _ in range(8)} == {401}, "the end of the old key", timeout_s=20)


def poll(service: Running, wait_s: float) -> requests.Response:
    token = service_tokens.mint(SECRET, issuer="gateway", audience="user_service")
    return requests.get(
        f"{service.url}/internal/revocations?wait={wait_s}", headers={"Authorization": f"Bearer {token}"}, timeout=40
    )


def test_a_worker_that_stops_ends_the_polls_that_wait(tmp_path: Path) -> None:
    with running(tmp_path, f"sqlite:///{tmp_path}/users.db", WEB_CONCURRENCY="1", SERVICE_SECRET=SECRET) as service:
        with ThreadPoolExecutor(5) as pool:
            polls = [pool.submit(poll, service, 30) for _ in range(5)]
            time.sleep(0.5)
            began = time.monotonic()
            service.process.send(signal.SIGTERM)

            answers = [one.result() for one in polls]

        assert time.monotonic() - began < 5
        assert [answer.json() for answer in answers] == [{"entries": [], "last": 0, "complete": True}] * 5


def test_polls_that_wait_hold_no_connections_to_the_database(tmp_path: Path) -> None:
    env = {"WEB_CONCURRENCY": "1", "DATABASE_POOL_SIZE": "1", "SERVICE_SECRET": SECRET}
    with running(tmp_path, f"sqlite:///{tmp_path}/users.db", **env) as service, ThreadPoolExecutor(40) as pool:
        polls = [pool.submit(poll, service, 4) for _ in range(40)]
        time.sleep(0.5)
        began = time.monotonic()

        service.log_in("ada")

        assert time.monotonic() - began < 3
        assert {one.result().status_code for one in polls} == {200}


def test_of_many_refreshes_at_once_one_succeeds(tmp_path: Path) -> None:
    with running(tmp_path, f"sqlite:///{tmp_path}/users.db") as service:
        service.log_in("ada")
        token = service.post("/users/login", ADA).json()["refresh_token"]
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(service.post, ["/users/refresh"] * 20, [{"refresh_token": token}] * 20))

    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 19
