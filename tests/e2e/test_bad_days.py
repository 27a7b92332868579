"""Bad days: dependencies that are away, and what the callers see of it. PostgreSQL, so that it too can be away."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import requests

from deploy.local.valkey import Valkey
from tests.e2e.conftest import MANY
from tests.support.ports import free_port
from tests.support.postgres import EmbeddedPostgres, Unavailable
from tests.support.processes import Process, wait_until
from tests.support.shop import Parts

PROBLEM = {"type", "title", "status", "detail", "error", "message", "code", "request_id", "source"}


class World:
    """The shop and what it stands on."""

    def __init__(self, shop: Parts, postgres: EmbeddedPostgres, redis: Valkey) -> None:
        self.shop, self.postgres, self.redis = shop, postgres, redis


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[World]:
    directory = tmp_path_factory.mktemp("bad-days")
    try:
        postgres = EmbeddedPostgres()
    except Unavailable as error:
        pytest.skip(f"no PostgreSQL here: {error}")
    try:
        with Valkey(directory / "valkey", port=free_port()) as redis:
            names = ("users", "orders", "products")
            env = {
                **MANY,
                **{f"{name.upper()}_DATABASE_URL": postgres.create_database(name) for name in names},
                "REDIS_URL": redis.url,
                "CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "1",
                "PRODUCT_CONNECT_TIMEOUT": "0.5",
                "PRODUCT_READ_TIMEOUT": "2",
                "RECONCILE_AFTER": "3",
                "RECONCILE_INTERVAL": "0.5",
            }
            with Parts(directory, env) as shop:
                yield World(shop, postgres, redis)
    finally:
        postgres.close()


@contextmanager
def killed(process: Process) -> Generator[None]:
    """`process` is dead inside the block and back after it."""
    process.kill()
    try:
        yield
    finally:
        process.start(timeout_s=40)


def assert_problem(answer: requests.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json().keys() >= PROBLEM


def test_a_dead_service_is_502_then_503_others_go_on_and_it_recovers_by_itself(world: World) -> None:
    shop, token = world.shop, world.shop.register("sees-a-death")

    with killed(shop.orders):
        answers = [shop.call("GET", "/orders", token=token) for _ in range(20)]
        browsing = shop.call("GET", "/products/1")

    assert_problem(answers[0], 502)
    assert_problem(answers[-1], 503)
    assert answers[-1].json()["code"] == "CIRCUIT_OPEN"
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert browsing.status_code == 200
    wait_until(lambda: shop.call("GET", "/orders", token=token).status_code == 200, "orders again", timeout_s=10)


def test_an_order_while_the_catalogue_is_dead_is_503_and_costs_no_stock(world: World) -> None:
    shop, token = world.shop, world.shop.register("orders-in-vain")
    before = stock_of(shop, 6)

    with killed(shop.products):
        refused = shop.call("POST", "/orders", token=token, json={"lines": [{"product_id": 6, "quantity": 1}]})

    assert_problem(refused, 503)
    wait_until(lambda: shop.call("GET", "/products/6").status_code == 200, "the catalogue again", timeout_s=10)
    assert stock_of(shop, 6) == before
    again = shop.call("POST", "/orders", token=token, json={"lines": [{"product_id": 6, "quantity": 1}]})
    assert again.status_code == 201


def test_a_cancelled_order_gives_its_stock_back_even_if_the_catalogue_was_dead(world: World) -> None:
    shop, token = world.shop, world.shop.register("cancels")
    before = stock_of(shop, 7)
    order = shop.call("POST", "/orders", token=token, json={"lines": [{"product_id": 7, "quantity": 2}]}).json()

    with killed(shop.products):
        cancelled = shop.call("POST", f"/orders/{order['id']}/cancel", token=token)

    assert cancelled.status_code == 200
    assert cancelled.json()["status"] == "cancelled"
    wait_until(lambda: stock_of(shop, 7) == before, "the stock to come back", timeout_s=15)


def test_tokens_go_on_being_good_while_the_service_that_signed_them_is_dead(world: World) -> None:
    shop, token = world.shop, world.shop.register("outlives")
    shop.call("GET", "/orders", token=token)

    with killed(shop.users):
        answers = {shop.call("GET", "/orders", token=token).status_code for _ in range(10)}

    assert answers == {200}


def test_with_redis_dead_everything_goes_on_and_limits_are_shared_again_when_it_is_back(world: World) -> None:
    shop, token = world.shop, world.shop.register("redisless")

    world.redis.kill()
    try:
        statuses = Counter(shop.call("GET", "/products", token=token).status_code for _ in range(30))
        placed = shop.call("POST", "/orders", token=token, json={"lines": [{"product_id": 8, "quantity": 1}]})
    finally:
        world.redis.start()

    assert statuses == {200: 30}
    assert placed.status_code == 201
    assert shop.gateway.log().count("limits_local") <= 2  # one line a worker

    def counted_again() -> bool:
        shop.call("GET", "/products")
        return "limits_shared_again" in shop.gateway.log()

    wait_until(counted_again, "limits to be shared again", timeout_s=10)


def test_with_the_database_dead_answers_are_503_problems_and_it_recovers_by_itself(world: World) -> None:
    shop, token = world.shop, world.shop.register("baseless")

    world.postgres.stop()
    try:
        answers = [
            shop.call("GET", "/orders", token=token),
            shop.call("GET", "/products/9"),
            shop.call("POST", "/users/login", json={"username": "baseless", "password": "password123"}),
        ]
        ready = requests.get(f"http://127.0.0.1:{shop.ports.orders}/ready", timeout=10)
    finally:
        world.postgres.start()

    for answer in answers:
        assert_problem(answer, 503)
        assert answer.json()["code"] == "DATABASE_UNAVAILABLE"
        assert "postgres" not in answer.text.lower()
    assert ready.status_code == 503

    def everything_answers() -> bool:
        paths = ("/orders", "/products/9", "/users/profile")
        return all(shop.call("GET", path, token=token).status_code == 200 for path in paths)

    wait_until(everything_answers, "recovery from the database's absence", timeout_s=15)


def test_twenty_who_want_the_last_three_get_three_between_them(world: World) -> None:
    shop, admin = world.shop, world.shop.log_in("admin", "admin")
    product = {"name": "Last chance", "category": "rare", "price": "1.00", "stock": 3}
    wanted = shop.call("POST", "/products", token=admin, json=product).json()["id"]
    tokens = [shop.register(f"racer-{number}") for number in range(20)]

    def order(token: str) -> int:
        lines = {"lines": [{"product_id": wanted, "quantity": 1}]}
        return shop.call("POST", "/orders", token=token, json=lines).status_code

    with ThreadPoolExecutor(20) as pool:
        statuses = Counter(pool.map(order, tokens))

    assert statuses == {201: 3, 409: 17}
    assert stock_of(shop, wanted) == 0


def test_hup_of_every_process_under_load_loses_nothing(world: World) -> None:
    shop, token = world.shop, world.shop.register("steady")
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            statuses[shop.call("GET", "/orders", token=token).status_code] += 1
            statuses[shop.call("GET", "/products/1").status_code] += 1

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(load) for _ in range(4)]
        for process in shop.all:
            process.hup()
            time.sleep(1.0)  # the load has to meet both the old workers and the new
        stop.set()
        for worker in workers:
            worker.result()

    assert set(statuses) == {200}
    assert statuses[200] > 100


def stock_of(shop: Parts, product_id: int) -> int:
    answer = shop.call("GET", f"/products/{product_id}?now={time.monotonic_ns()}")
    return int(answer.json().get("stock", -1))
