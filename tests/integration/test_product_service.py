"""product_service as it is run: gunicorn, two workers, real sockets, SQLite and PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests

from common import service_tokens
from tests.support.ports import free_port
from tests.support.postgres import EmbeddedPostgres, Unavailable, postgres_server
from tests.support.processes import ROOT, Process, clean_environment, wait_until
from tests.support.tokens import SharedSecret, claims

SECRET = SharedSecret.generate()
SERVICE_SECRET = SharedSecret.generate().value


@dataclass(frozen=True, slots=True)
class Service:
    """One of our services at `url`."""

    url: str
    process: Process

    def call(
        self, method: str, path: str, document: object = None, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        return requests.request(method, self.url + path, json=document, headers=headers, timeout=20)


def bearer(subject: str, *roles: str) -> dict[str, str]:
    token = SECRET.sign(claims(subject, roles=list(roles), iss="user_service", aud="shop"))
    return {"Authorization": f"Bearer {token}"}


def order_service_speaks() -> dict[str, str]:
    token = service_tokens.mint(SERVICE_SECRET, issuer="order_service", audience="product_service")
    return {"Authorization": f"Bearer {token}"}


ADMIN = bearer("boss", "admin")


def service(name: str, directory: Path, database_url: str, **more: str) -> Service:
    """`name` with its schema made, and found to be what the models say, not started yet."""
    port = free_port()
    kind = name.removesuffix("_service").upper()
    env = {
        f"{kind}_SERVICE_PORT": str(port),
        f"{kind}S_DATABASE_URL": database_url,
        "VAR_DIR": str(directory),
        "WEB_CONCURRENCY": "2",
        "JWT_SECRET_KEY": SECRET.value,
        "SERVICE_SECRET": SERVICE_SECRET,
        **more,
    }
    for command in ("upgrade", "check"):
        argv = [sys.executable, "-m", "flask", "--app", name, "db", command]
        subprocess.run(argv, cwd=ROOT, env=clean_environment(env), check=True, capture_output=True)
    url = f"http://127.0.0.1:{port}"
    conf = f"{name}/gunicorn.conf.py"
    process = Process.gunicorn(f"{name}.wsgi:app", conf=conf, directory=directory, env=env, ready_url=f"{url}/ready")
    return Service(url, process)


@contextmanager
def databases(kind: str, directory: Path) -> Generator[Callable[[str], str]]:
    """Gives the URLs of empty databases by their names."""
    if kind == "sqlite":
        yield lambda name: f"sqlite:///{directory}/{name}.db"
        return
    try:
        with postgres_server() as server:
            yield server.create_database
    except Unavailable as reason:
        pytest.skip(f"no PostgreSQL: {reason}")


def add_product(products: Service, stock: int) -> int:
    document = {"name": "Mug", "category": "kitchen", "price": "12.50", "stock": stock}
    return int(products.call("POST", "/products", document, ADMIN).json()["id"])


def stock_of(products: Service, product_id: int) -> int:
    return int(products.call("GET", f"/products/{product_id}").json()["stock"])


def at_once(count: int, act: Callable[[int], requests.Response]) -> list[requests.Response]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(act, range(count)))


def _statuses(answers: list[requests.Response]) -> dict[int, int]:
    codes = [answer.status_code for answer in answers]
    return {code: codes.count(code) for code in sorted(set(codes))}


def _reserve(products: Service, order_id: object, *lines: tuple[int, int]) -> requests.Response:
    document = {"lines": [{"product_id": product_id, "quantity": quantity} for product_id, quantity in lines]}
    return products.call("PUT", f"/reservations/{order_id}", document, order_service_speaks())


Start = Callable[..., Service]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a product_service on a kind of database, once for each set of settings; all stop after the module."""
    with ExitStack() as stack:

        @cache
        def database_urls(kind: str) -> Callable[[str], str]:
            return stack.enter_context(databases(kind, tmp_path_factory.mktemp(kind)))

        @cache
        def started(kind: str, **settings: str) -> Service:
            url = database_urls(kind)(f"products{len(settings)}")
            products = service("product_service", tmp_path_factory.mktemp("products"), url, **settings)
            stack.enter_context(products.process)
            return products

        yield started


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def products(kind: str, start: Start) -> Iterator[Service]:
    yield from without_faults(start(kind))


@pytest.fixture
def hasty(kind: str, start: Start) -> Iterator[Service]:
    """A product_service that holds stock for one second only."""
    yield from without_faults(start(kind, RESERVATION_TTL="1", RESERVATION_SWEEP_INTERVAL="0.1"))


def without_faults(service: Service) -> Iterator[Service]:
    """The service; what it logs as an error while it is used fails the test."""
    before = len(errors_of(service))
    yield service
    assert errors_of(service)[before:] == []


def errors_of(service: Service) -> list[dict[str, object]]:
    return [line for line in service.process.json_log() if line["level"] in ("error", "critical")]


def test_twenty_reservations_at_once_get_exactly_the_last_five(products: Service) -> None:
    product_id = add_product(products, 5)

    answers = at_once(20, lambda _number: _reserve(products, uuid4(), (product_id, 1)))

    assert _statuses(answers) == {200: 5, 409: 15}
    assert stock_of(products, product_id) == 0


def test_one_reservation_made_ten_times_at_once_takes_the_stock_once(products: Service) -> None:
    product_id, order_id = add_product(products, 5), uuid4()

    answers = at_once(10, lambda _number: _reserve(products, order_id, (product_id, 2)))

    assert _statuses(answers) == {200: 10}
    assert len({answer.text for answer in answers}) == 1
    assert stock_of(products, product_id) == 3


def test_reservations_that_name_products_in_opposite_orders_do_not_block_each_other(products: Service) -> None:
    first, second = add_product(products, 40), add_product(products, 40)

    def reserve(number: int) -> requests.Response:
        lines = ((first, 1), (second, 1))
        return _reserve(products, uuid4(), *(lines if number % 2 else reversed(lines)))

    answers = at_once(30, reserve)

    assert _statuses(answers) == {200: 30}
    assert (stock_of(products, first), stock_of(products, second)) == (10, 10)


def test_an_order_called_off_while_it_is_being_reserved_keeps_no_stock(products: Service) -> None:
    product_id = add_product(products, 5)
    orders = [uuid4() for _ in range(6)]

    def act(number: int) -> requests.Response:
        order_id = orders[number // 2]
        if number % 2:
            return products.call("DELETE", f"/reservations/{order_id}", headers=order_service_speaks())
        return _reserve(products, order_id, (product_id, 1))

    answers = at_once(12, act)

    assert {answer.status_code for answer in answers} <= {200, 204, 409}
    assert stock_of(products, product_id) == 5


def test_reservations_released_many_times_at_once_give_their_stock_back_once(products: Service) -> None:
    product_id = add_product(products, 20)
    orders = [uuid4() for _ in range(4)]
    for order_id in orders:
        _reserve(products, order_id, (product_id, 5))

    def release(number: int) -> requests.Response:
        return products.call("DELETE", f"/reservations/{orders[number // 6]}", headers=order_service_speaks())

    answers = at_once(24, release)

    assert _statuses(answers) == {204: 24}
    assert stock_of(products, product_id) == 20


def test_a_hold_expires_by_itself_and_is_given_back_once(hasty: Service) -> None:
    product_id, order_id = add_product(hasty, 5), uuid4()
    _reserve(hasty, order_id, (product_id, 4))

    wait_until(lambda: stock_of(hasty, product_id) == 5, "the stock to come back", timeout_s=10)
    time.sleep(0.5)  # both workers sweep several times

    late = hasty.call("POST", f"/reservations/{order_id}/confirm", headers=order_service_speaks())
    assert (late.status_code, late.json()["code"]) == (409, "RESERVATION_EXPIRED")
    assert stock_of(hasty, product_id) == 5


def test_a_confirmed_reservation_outlives_its_time(hasty: Service) -> None:
    product_id, order_id = add_product(hasty, 5), uuid4()
    _reserve(hasty, order_id, (product_id, 4))
    hasty.call("POST", f"/reservations/{order_id}/confirm", headers=order_service_speaks())

    time.sleep(1.5)

    assert stock_of(hasty, product_id) == 1


def test_a_database_that_goes_away_is_503_and_comes_back_by_itself(tmp_path: Path) -> None:
    try:
        server = EmbeddedPostgres()
    except Unavailable as reason:
        pytest.skip(f"no PostgreSQL: {reason}")
    try:
        products = service("product_service", tmp_path, server.create_database("products"))
        with products.process:
            product_id = add_product(products, 5)
            server.stop()
            away = products.call("GET", f"/products/{product_id}")
            ready, alive = products.call("GET", "/ready"), products.call("GET", "/health")
            server.start()
            wait_until(lambda: products.call("GET", "/ready").status_code == 200, "readiness")

            assert stock_of(products, product_id) == 5
            problem: dict[str, Any] = away.json()
            assert (away.status_code, problem["code"]) == (503, "DATABASE_UNAVAILABLE")
            assert int(away.headers["Retry-After"]) > 0
            assert "127.0.0.1" not in away.text
            assert (ready.status_code, alive.status_code) == (503, 200)
    finally:
        server.close()
