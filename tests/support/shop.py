"""The whole system as `make run` starts it, for end-to-end tests: on free ports, its data in a folder of the test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

from common.http import tuned_session
from tests.support.ports import free_ports
from tests.support.processes import ROOT, Process, process_tree

OPEN = "The shop is open"
START_TIMEOUT_S = 60.0
TOUR_LINES = ("  curl ", "  TOKEN=", "  ORDER=", "  KEY=")


@dataclass(frozen=True, slots=True)
class Ports:
    gateway: int
    operations: int
    users: int
    orders: int
    products: int

    @classmethod
    def free(cls) -> Self:
        return cls(*free_ports(5))

    def environment(self) -> dict[str, str]:
        return {
            "GATEWAY_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.gateway),
            "GATEWAY_OPERATIONS_PORT": str(self.operations),
            "USER_SERVICE_PORT": str(self.users),
            "ORDER_SERVICE_PORT": str(self.orders),
            "PRODUCT_SERVICE_PORT": str(self.products),
        }


class Customer:
    """What one does at a shop's gateway. Any number of threads may."""

    def __init__(self, ports: Ports) -> None:
        self.ports = ports
        self.url = f"http://127.0.0.1:{ports.gateway}"
        self.operations_url = f"http://127.0.0.1:{ports.operations}"
        self._session = tuned_session(pool_size=50)

    def call(self, method: str, path: str, *, token: str | None = None, json: object = None) -> requests.Response:
        """One request through the gateway."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self._session.request(method, f"{self.url}{path}", headers=headers, json=json, timeout=30)

    def log_in(self, username: str, password: str) -> str:
        """An access token."""
        answer = self.call("POST", "/auth/login", json={"username": username, "password": password})
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token

    def register(self, username: str) -> str:
        """A token of a new customer."""
        answer = self.call("POST", "/users/register", json={"username": username, "password": "password123"})
        assert answer.status_code == 201, answer.text
        return self.log_in(username, "password123")


class Shop(Customer):
    """`python -m deploy.local`, the body of `make run`. Started by `with`."""

    def __init__(self, directory: Path, env: Mapping[str, str], *, name: str = "shop") -> None:
        super().__init__(Ports.free())
        environment = {"VAR_DIR": str(directory / "var"), **self.ports.environment(), **env}
        self.process = Process(name, [sys.executable, "-m", "deploy.local"], directory=directory, env=environment)

    def start(self) -> Self:
        self.process.start()
        try:
            self.process.wait_for_log(OPEN, timeout_s=START_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> int | None:
        """As Ctrl-C would; the exit code."""
        return self.process.terminate(timeout_s=40)

    def tour(self) -> list[str]:
        """The curl lines as they were printed."""
        return [line.strip() for line in self.process.log().splitlines() if line.startswith(TOUR_LINES)]

    def pid_of(self, component: str) -> int:
        """The gunicorn master of `gateway`, `user_service`, ... among our children."""
        wanted = f"{component}.wsgi:app"
        found = [pid for pid in process_tree(self.process.pid) if wanted in command_line(pid)]
        return min(found)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Parts(Customer):
    """The four processes by themselves, so that a test may kill each; Redis and the databases are the test's."""

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        super().__init__(Ports.free())
        ports = self.ports
        urls = {
            "USER_SERVICE_URL": f"http://127.0.0.1:{ports.users}",
            "ORDER_SERVICE_URL": f"http://127.0.0.1:{ports.orders}",
            "PRODUCT_SERVICE_URL": f"http://127.0.0.1:{ports.products}",
        }
        given = {"VAR_DIR": str(directory / "var"), "WEB_CONCURRENCY": "2", **urls, **ports.environment(), **env}

        def process(component: str, port: int) -> Process:
            ready_url = f"http://127.0.0.1:{port}/ready"
            conf = f"{component}/gunicorn.conf.py"
            return Process.gunicorn(
                f"{component}.wsgi:app", conf=conf, directory=directory, env=given, ready_url=ready_url
            )

        self.users = process("user_service", ports.users)
        self.orders = process("order_service", ports.orders)
        self.products = process("product_service", ports.products)
        self.gateway = process("gateway", ports.gateway)
        self._commands = [
            Process(f"{service}-{command[0]}", [sys.executable, "-m", "flask", "--app", service, *command],
                    directory=directory, env=given)
            for service in ("user_service", "order_service", "product_service")
            for command in (["db", "upgrade"], *([] if service == "order_service" else [["seed-demo"]]))
        ]  # fmt: skip

    @property
    def all(self) -> tuple[Process, ...]:
        return self.users, self.products, self.orders, self.gateway

    def __enter__(self) -> Self:
        for command in self._commands:
            assert command.start().wait(timeout_s=60) == 0, command.log()
        try:
            for process in self.all:
                process.start(timeout_s=40)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        for process in reversed(self.all):
            process.terminate(timeout_s=20)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def shell(script: str, *, timeout_s: float = 60) -> str:
    """What bash writes when it runs `script`; a failing line fails the test."""
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, timeout=timeout_s, cwd=ROOT)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()
