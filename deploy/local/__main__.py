"""`make run`: the whole system on this machine, without Docker.

1. Read all settings; a wrong one, or a busy port, is said in one message before anything starts.
2. Migrate the databases under `var/` and load demo data (kept from run to run; RESET=1 starts over).
3. Start Valkey (unless REDIS_URL is set), the services and the gateway; merge their logs.
4. Wait until all are ready, then print the tour.
5. On Ctrl-C, or when one of them ends, stop them all.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import honcho.manager
import requests
from honcho.printer import Printer

from common.settings import Settings, SettingsError, load
from deploy.local import ports, tour
from deploy.local.child import NotStarted
from deploy.local.valkey import Valkey
from gateway.settings import GatewaySettings
from order_service.settings import OrderSettings
from product_service.settings import ProductSettings
from user_service.settings import UserSettings

ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 60.0
S = TypeVar("S", bound=Settings)

honcho.manager.KILL_WAIT = 35  # above gunicorn's graceful timeout, or requests in flight are cut


class CannotRun(Exception):
    """Told in one message; nothing was started."""


@dataclass(frozen=True, slots=True)
class Shop:
    """The settings of all four processes."""

    gateway: GatewaySettings
    users: UserSettings
    orders: OrderSettings
    products: ProductSettings

    @property
    def services(self) -> tuple[UserSettings, OrderSettings, ProductSettings]:
        return self.users, self.orders, self.products

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.gateway_port}"

    @property
    def operations_url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.operations_port}"


def main() -> int:
    os.chdir(ROOT)
    signal.signal(signal.SIGHUP, on_hangup)
    try:
        with tempfile.TemporaryDirectory(prefix="shop-") as scratch:
            return run(read_settings(), Path(scratch))
    except CannotRun as error:
        print(error, file=sys.stderr)
        return 2


def on_hangup(_number: int, _frame: object) -> None:
    """The terminal was closed: as if told to stop."""
    os.kill(os.getpid(), signal.SIGTERM)


def run(shop: Shop, scratch: Path) -> int:
    """Run everything until it is told to stop; the exit code."""
    check_ports(shop)
    environment = environment_for(shop, scratch)
    prepare_data(shop, environment)
    manager = Supervisor(shop)
    if "REDIS_URL" not in os.environ:
        manager.add_process("valkey", "exec " + shlex.join(valkey_command(scratch)), env=environment)
    for name in (*(service.name for service in shop.services), "gateway"):
        server = [sys.executable, "-m", "gunicorn", "-c", f"{name}/gunicorn.conf.py", f"{name}.wsgi:app"]
        manager.add_process(name.removesuffix("_service"), "exec " + shlex.join(server), env=environment)
    manager.loop()
    return 0 if manager.returncode in (130, 143) else manager.returncode or 0


def read_settings() -> Shop:
    """The settings of all four. Raises `CannotRun` with everything that is wrong with any of them."""
    problems: list[str] = []

    def read(kind: type[S], component: str) -> S | None:
        try:
            return load(kind, component)
        except SettingsError as error:
            problems.append(str(error))
            return None

    gateway, users = read(GatewaySettings, "gateway"), read(UserSettings, "user_service")
    orders, products = read(OrderSettings, "order_service"), read(ProductSettings, "product_service")
    if gateway is None or users is None or orders is None or products is None:
        raise CannotRun("\n".join(problems))
    if gateway.is_production:
        raise CannotRun("make run is for development: ENVIRONMENT must not be production")
    return Shop(gateway, users, orders, products)


def check_ports(shop: Shop) -> None:
    """Raises `CannotRun` naming every port that is taken, by whom, and the variable that moves it."""
    wanted = [
        ("GATEWAY_PORT", shop.gateway.gateway_host, shop.gateway.gateway_port),
        ("GATEWAY_OPERATIONS_PORT", shop.gateway.operations_host, shop.gateway.operations_port),
        ("USER_SERVICE_PORT", shop.users.service_host, shop.users.port),
        ("ORDER_SERVICE_PORT", shop.orders.service_host, shop.orders.port),
        ("PRODUCT_SERVICE_PORT", shop.products.service_host, shop.products.port),
    ]
    lines = [
        f"port {port} is taken by {ports.holder(port)}; stop it, or choose another: make run {variable}=..."
        for variable, host, port in wanted
        if not ports.is_free(host, port)
    ]
    if len({port for _, _, port in wanted}) < len(wanted):
        lines.append("two of our processes would have the same port: " + ", ".join(name for name, _, _ in wanted))
    if lines:
        raise CannotRun("\n".join(lines))


def environment_for(shop: Shop, scratch: Path) -> dict[str, str]:
    """What the processes get: the caller's environment wins over what is filled in here."""
    filled = {
        "LOG_FORMAT": "console",
        "WEB_CONCURRENCY": "1",  # SQLite is happiest so; production says how many it wants
        "REDIS_URL": f"unix://{scratch / 'valkey.sock'}",
        "USER_SERVICE_URL": f"http://127.0.0.1:{shop.users.port}",
        "ORDER_SERVICE_URL": f"http://127.0.0.1:{shop.orders.port}",
        "PRODUCT_SERVICE_URL": f"http://127.0.0.1:{shop.products.port}",
        "PYTHONUNBUFFERED": "1",
        "MALLOC_MMAP_THRESHOLD_": "131072",  # argon2 takes 19 MB at a time; glibc shall give them back
    }
    return {**filled, **os.environ}


def valkey_command(scratch: Path) -> list[str]:
    """An embedded Valkey on a socket of its own: no port, nothing on disk. Raises `CannotRun`."""
    try:
        return Valkey(scratch, unix_socket=scratch / "valkey.sock").command()
    except NotStarted as error:
        raise CannotRun(str(error)) from None


def prepare_data(shop: Shop, environment: dict[str, str]) -> None:
    """Migrate and seed the three databases, side by side. Raises `CannotRun` with what a failing one said."""
    if os.environ.get("RESET") == "1":
        for service in shop.services:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{service.var_dir / service.plural}.db{suffix}").unlink(missing_ok=True)
    flask = f"{shlex.quote(sys.executable)} -m flask --app"
    seeded = {"user_service", "product_service"}
    jobs = {
        service.name: f"{flask} {service.name} db upgrade"
        + (f" && {flask} {service.name} seed-demo" if service.name in seeded else "")
        for service in shop.services
    }
    running = {
        name: subprocess.Popen(job, shell=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # noqa: S602 - our own line
        for name, job in jobs.items()
    }
    outputs = {name: process.communicate()[0].decode(errors="replace") for name, process in running.items()}
    failed = [f"{name}: {outputs[name].strip()}" for name, process in running.items() if process.returncode]
    if failed:
        raise CannotRun("the databases could not be prepared\n" + "\n".join(failed))


class Supervisor(honcho.manager.Manager):
    """honcho's manager, with a watcher that prints the tour once everything is ready."""

    def __init__(self, shop: Shop) -> None:
        super().__init__(Printer(sys.stdout, time_format=""))  # the lines carry their own time
        self._shop = shop

    def _start(self) -> None:
        super()._start()
        threading.Thread(target=self._watch, daemon=True).start()  # after honcho has forked

    def _watch(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        urls = {service.name: f"http://127.0.0.1:{service.port}/ready" for service in self._shop.services}
        urls["gateway"] = f"{self._shop.gateway_url}/ready"
        while waiting := {name for name, url in urls.items() if not answers(url)}:
            if time.monotonic() > deadline:
                print(f"not ready after {READY_TIMEOUT_S:g} s: {', '.join(sorted(waiting))}; stopping", flush=True)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(0.1)
        print(tour.text(self._shop.gateway_url, self._shop.operations_url, tour.guest_name()), flush=True)


def answers(url: str) -> bool:
    """Whether `url` gives 200 within a second."""
    try:
        return requests.get(url, timeout=1).status_code == 200
    except requests.RequestException:
        return False


if __name__ == "__main__":
    sys.exit(main())
