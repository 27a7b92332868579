"""Logging in where two workers answer: what one has counted or taken, the other knows. On SQLite and PostgreSQL."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import requests
from pyotp.totp import TOTP

from tests.integration.test_user_service import Running, running
from tests.support.postgres import Unavailable, postgres_server

PASSWORD = "nine tall giraffes"
FAST = {"ARGON2_MEMORY_KIB": "1024", "ARGON2_PASSES": "1"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("user_service")
    if request.param == "sqlite":
        with running(directory, f"sqlite:///{directory}/users.db", **FAST) as service:
            yield service
        return
    try:
        with postgres_server() as server, running(directory, server.create_database("users"), **FAST) as service:
            yield service
    except Unavailable as reason:
        pytest.skip(str(reason))


def post(service: Running, path: str, token: str = "", address: str = "192.0.2.1", **fields: str) -> requests.Response:
    headers = {"X-Forwarded-For": address, **({"Authorization": f"Bearer {token}"} if token else {})}
    return requests.post(service.url + path, json=fields, headers=headers, timeout=20)


def test_guesses_at_once_learn_little_more_than_those_one_after_another(service: Running) -> None:
    def guess(number: int) -> int:
        address = f"198.51.100.{number}"
        return post(
            service, "/users/login", address=address, username="guessed", password=f"wrong {number}"
        ).status_code

    began = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        answers = Counter(pool.map(guess, range(40)))
    waits = int(time.monotonic() - began + 1).bit_length()  # that were over meanwhile: 1 s, 2, 4 ...

    assert set(answers) == {401, 429}
    assert 5 <= answers[401] <= 5 + waits


def test_of_many_log_ins_with_one_code_at_once_one_gets_in(service: Running) -> None:
    credentials = {"username": "coded", "password": PASSWORD}
    post(service, "/users/register", **credentials)
    token = post(service, "/users/login", **credentials).json()["access_token"]
    secret = TOTP(post(service, "/users/second-factor", token, password=PASSWORD).json()["secret"])
    confirmed = post(service, "/users/second-factor/confirm", token, otp=code(secret))
    one = code(secret, 1)

    def log_in(_: int) -> int:
        return post(service, "/users/login", **credentials, otp=one).status_code

    with ThreadPoolExecutor(4) as pool:
        answers = Counter(pool.map(log_in, range(4)))

    assert confirmed.status_code == 200
    assert answers == {200: 1, 401: 3}


def code(secret: TOTP, steps: int = 0) -> str:
    """What a device shows whose clock is so many steps ahead."""
    return secret.at(datetime.now(UTC), counter_offset=steps)
