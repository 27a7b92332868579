"""user_service as it is run: gunicorn, two workers, real sockets, SQLite and PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest
import requests

from common.tokens import AUDIENCE, ISSUER
from tests.support.ports import free_port
from tests.support.postgres import Unavailable, postgres_server
from tests.support.processes import ROOT, Process, clean_environment, wait_until

ADA = {"username": "ada", "password": "password123"}


@dataclass(frozen=True, slots=True)
class Running:
    """The service at `url`."""

    url: str
    process: Process

    def get(self, path: str, token: str = "") -> requests.Response:
        return requests.get(self.url + path, headers=_bearer(token), timeout=10)

    def post(self, path: str, document: Mapping[str, str]) -> requests.Response:
        return requests.post(self.url + path, json=document, timeout=10)

    def log_in(self, name: str) -> str:
        """The access token of a user, registered first where nobody has the name."""
        credentials = ADA | {"username": name}
        self.post("/users/register", credentials)
        return str(self.post("/users/login", credentials).json()["access_token"])


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


@contextmanager
def running(directory: Path, database_url: str, **more: str) -> Generator[Running]:
    port = free_port()
    env = {
        "USER_SERVICE_PORT": str(port),
        "USERS_DATABASE_URL": database_url,
        "VAR_DIR": str(directory),
        "WEB_CONCURRENCY": "2",
        **more,
    }
    upgrade = [sys.executable, "-m", "flask", "--app", "user_service", "db", "upgrade"]
    subprocess.run(upgrade, cwd=ROOT, env=clean_environment(env), check=True, capture_output=True)
    url = f"http://127.0.0.1:{port}"
    process = Process.gunicorn(
        "user_service.wsgi:app",
        conf="user_service/gunicorn.conf.py",
        directory=directory,
        env=env,
        ready_url=f"{url}/ready",
    )
    with process:
        yield Running(url, process)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("user_service")
    if request.param == "sqlite":
        with running(directory, f"sqlite:///{directory}/users.db") as service:
            yield service
        return
    try:
        with postgres_server() as server, running(directory, server.create_database("users")) as service:
            yield service
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_whoever_registers_can_log_in_and_see_their_profile(service: Running) -> None:
    registered = service.post("/users/register", ADA)
    again = service.post("/users/register", ADA | {"username": "ADA"})

    token = service.post("/users/login", ADA).json()["access_token"]

    assert (registered.status_code, again.status_code) == (201, 409)
    assert service.get("/users/profile", token).json() == registered.json()


def test_all_workers_publish_the_one_key_that_signs(service: Running) -> None:
    token = service.log_in("kay")

    documents = [service.get("/.well-known/jwks.json").json() for _ in range(10)]

    assert all(document == documents[0] for document in documents)
    assert len(documents[0]["keys"]) == 1
    key = jwt.PyJWKSet.from_dict(documents[0])[jwt.get_unverified_header(token)["kid"]]
    assert jwt.decode(token, key, ["EdDSA"], audience=AUDIENCE, issuer=ISSUER)["username"] == "kay"


def test_a_name_with_a_nul_is_just_a_wrong_name(service: Running) -> None:
    assert service.post("/users/login", {"username": "a\0da", "password": "password\0"}).status_code == 401


def test_a_worker_answers_others_while_it_checks_passwords(tmp_path: Path) -> None:
    with running(tmp_path, f"sqlite:///{tmp_path}/users.db", WEB_CONCURRENCY="1") as service:
        service.log_in("ada")

        with ThreadPoolExecutor(20) as pool:
            logins = [pool.submit(lambda: service.post("/users/login", ADA).status_code) for _ in range(40)]
            answers = 0
            while not all(login.done() for login in logins):
                assert service.get("/health").status_code == 200
                answers += 1

    assert {login.result() for login in logins} == {200}
    assert answers > len(logins) / 2  # a worker whose loop stands still gives a handful


def test_tokens_outlive_the_worker_that_made_them(service: Running) -> None:
    token = service.log_in("survivor")
    workers = service.process.children()
    for worker in workers:
        os.kill(worker, signal.SIGKILL)

    wait_until(lambda: len(set(service.process.children()) - set(workers)) == 2, "two new workers", timeout_s=20)
    wait_until(service.process.is_ready, "readiness", timeout_s=20)

    assert {service.get("/users/profile", token).status_code for _ in range(10)} == {200}


def test_a_worker_that_stops_is_not_ready(tmp_path: Path) -> None:
    with running(tmp_path, f"sqlite:///{tmp_path}/users.db", WEB_CONCURRENCY="1") as service:
        with requests.Session() as kept_alive:
            assert kept_alive.get(f"{service.url}/ready", timeout=10).status_code == 200
            service.process.send(signal.SIGTERM)
            service.process.wait_for_log("Handling signal: term")
            time.sleep(0.5)  # the master has told its worker

            answer = kept_alive.get(f"{service.url}/ready", timeout=10)

        assert (answer.status_code, answer.json()["status"]) == (503, "draining")


def test_a_wrong_setting_is_one_message_and_no_stack_trace(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "gunicorn", "-c", "user_service/gunicorn.conf.py", "user_service.wsgi:app"]
    env = clean_environment({"USER_SERVICE_PORT": "no", "PASSWORD_MIN_LENGTH": "3", "VAR_DIR": str(tmp_path)})

    ended = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=30)

    assert ended.returncode != 0
    assert "user_service cannot start: 2 settings are wrong" in ended.stderr
    assert "USER_SERVICE_PORT: " in ended.stderr
    assert "PASSWORD_MIN_LENGTH: " in ended.stderr
    assert "Traceback" not in ended.stderr
