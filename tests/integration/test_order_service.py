"""order_service and product_service as they are run, two workers each, with a troublemaker on the line between them."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import pytest
import requests

from common.deadlines import HEADER as DEADLINE
from tests.integration.test_product_service import (
    Service,
    add_product,
    at_once,
    bearer,
    databases,
    errors_of,
    order_service_speaks,
    service,
    stock_of,
)
from tests.support.processes import wait_until

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 1.0, 2.0
DRIP_S = 0.05
SETTLED_WITHIN_S = 20.0
IMPATIENT = {
    "PRODUCT_CONNECT_TIMEOUT": str(CONNECT_TIMEOUT_S),
    "PRODUCT_READ_TIMEOUT": str(READ_TIMEOUT_S),
    "RECONCILE_AFTER": "3.1",
    "RECONCILE_INTERVAL": "0.2",
}
ADA, BOB = bearer("ada", "customer"), bearer("bob", "customer")

Pass = Callable[[], "Reply"]
Trouble = Callable[[Pass], "Reply | None"]


@dataclass(frozen=True, slots=True)
class Reply:
    """`drips` names the part that comes in drops, so that no single read takes long: a head, then, without an end."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    body: bytes = b""
    drips: Literal["head", "body"] | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it came by; `told_ms` is what it was said to have left."""

    method: str
    order_id: str
    told_ms: int


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # the usual 5 lets a burst of connections wait for a second


class Troublemaker:
    """Stands before product_service and passes everything, unless there is `trouble` for the next request of a method.

    A trouble is called with what passes the request on, and returns what is answered; None closes the connection.
    Every request is noted in `calls` when it comes.
    """

    def __init__(self, target: str) -> None:
        self.trouble: dict[str, Trouble] = {}
        self.calls: list[Call] = []
        self._target = target.removeprefix("http://")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_or_trouble(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = dict(self.headers.items())
                outer.calls.append(Call(self.command, self.path.split("/")[2], int(headers.get(DEADLINE, -1))))

                def passed() -> Reply:
                    return outer.passed(self.command, self.path, headers, body)

                trouble = outer.trouble.pop(self.command, None)
                reply = trouble(passed) if trouble else passed()
                self.close_connection = reply is None
                if reply is not None:
                    self.reply(reply)

            do_GET = do_PUT = do_POST = do_DELETE = pass_or_trouble

            def reply(self, reply: Reply) -> None:
                self.send_response_only(reply.status)
                for name, value in reply.headers:
                    if name.lower() not in ("connection", "content-length"):
                        self.send_header(name, value)
                if reply.status != 204:
                    self.send_header("Content-Length", str(len(reply.body)))
                if reply.drips == "head":
                    self.flush_headers()
                    self.drip(b"X-Drops: " + b"x" * 400)
                self.end_headers()
                self.drip(reply.body) if reply.drips else self.wfile.write(reply.body)

            def drip(self, what: bytes) -> None:
                for byte in what:
                    self.wfile.write(bytes([byte]))
                    time.sleep(DRIP_S)

            def handle(self) -> None:
                with suppress(OSError):  # the other side gave up waiting
                    super().handle()

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def asked_for(self) -> list[str]:
        """The ids of the orders whose stock was asked for, in order."""
        return [call.order_id for call in self.calls if call.method == "PUT"]

    def told_ms(self, method: str, order_id: str) -> list[int]:
        """What was said to be left, at each of these calls about an order."""
        return [call.told_ms for call in self.calls if (call.method, call.order_id) == (method, order_id)]

    def passed(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        connection = http.client.HTTPConnection(self._target, timeout=10)
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return Reply(answer.status, answer.getheaders(), answer.read())
        except OSError:
            return Reply(502)
        finally:
            connection.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True, slots=True)
class Shop:
    orders: Service
    products: Service
    between: Troublemaker

    def place(self, *lines: tuple[int, int], user: dict[str, str] = ADA) -> requests.Response:
        document = {"lines": [{"product_id": product_id, "quantity": quantity} for product_id, quantity in lines]}
        return self.orders.call("POST", "/orders", document, user)

    def order(self, order_id: str, user: dict[str, str] = ADA) -> dict[str, Any]:
        return self.orders.call("GET", f"/orders/{order_id}", headers=user).json()

    def wait_for_status(self, order_id: str, status: str, user: dict[str, str] = ADA) -> None:
        wait_until(lambda: self.order(order_id, user)["status"] == status, status, timeout_s=SETTLED_WITHIN_S)

    def wait_for_stock(self, product_id: int, stock: int) -> None:
        what = f"a stock of {stock}"
        wait_until(lambda: stock_of(self.products, product_id) == stock, what, timeout_s=SETTLED_WITHIN_S)

    def reservation(self, order_id: str) -> str:
        answer = self.products.call("GET", f"/reservations/{order_id}", headers=order_service_speaks())
        return str(answer.json()["status"])


@pytest.fixture(scope="module")
def open_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Shop]]:
    """Opens a shop on a kind of database, once; all close after the module."""
    with ExitStack() as stack:

        @cache
        def opened(kind: str) -> Shop:
            database_url = stack.enter_context(databases(kind, tmp_path_factory.mktemp(kind)))
            directory: Path = tmp_path_factory.mktemp("shop")
            products = service("product_service", directory, database_url("products"))
            between = Troublemaker(products.url)
            stack.callback(between.close)
            settings = IMPATIENT | {"PRODUCT_SERVICE_URL": between.url}
            orders = service("order_service", directory, database_url("orders"), **settings)
            stack.enter_context(products.process)
            stack.enter_context(orders.process)
            return Shop(orders, products, between)

        yield opened


@pytest.fixture(params=["sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, open_shop: Callable[[str], Shop]) -> Iterator[Shop]:
    """What either service logs as an error while it is used fails the test."""
    shop = open_shop(request.param)
    before = len(errors_of(shop.orders)) + len(errors_of(shop.products))
    shop.between.calls.clear()
    yield shop
    shop.between.trouble.clear()
    assert (errors_of(shop.orders) + errors_of(shop.products))[before:] == []


def test_an_order_takes_stock_and_tells_caches(shop: Shop) -> None:
    product_id = add_product(shop.products, 5)

    placed = shop.place((product_id, 2))

    order = placed.json()
    assert (placed.status_code, order["status"], order["total"]) == (201, "confirmed", "25.00")
    assert placed.headers["Location"] == f"/orders/{order['id']}"
    assert placed.headers["Cache-Group-Invalidation"] == '"products"'
    assert (shop.order(order["id"]), stock_of(shop.products, product_id)) == (order, 3)
    assert shop.reservation(order["id"]) == "confirmed"


def test_twenty_orders_at_once_get_exactly_the_last_five(shop: Shop) -> None:
    product_id = add_product(shop.products, 5)

    answers = at_once(20, lambda _number: shop.place((product_id, 1)))

    assert Counter(answer.status_code for answer in answers) == {201: 5, 409: 15}
    assert stock_of(shop.products, product_id) == 0
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"OUT_OF_STOCK"}


def test_a_refusal_is_passed_on_in_our_name(shop: Shop) -> None:
    product_id = add_product(shop.products, 1)

    short, unknown = shop.place((product_id, 2)), shop.place((product_id, 1), (2_000_000_000, 1))

    assert (short.status_code, short.json()["code"], short.json()["source"]) == (409, "OUT_OF_STOCK", "order_service")
    assert short.json()["errors"][0]["field"] == "lines.0.quantity"
    assert (unknown.status_code, unknown.json()["code"]) == (422, "UNKNOWN_PRODUCT")
    assert unknown.json()["errors"][0]["field"] == "lines.1.product_id"


def test_another_customers_order_is_not_found(shop: Shop) -> None:
    order_id = shop.place((add_product(shop.products, 1), 1)).json()["id"]

    answer = shop.orders.call("GET", f"/orders/{order_id}", headers=BOB)

    assert (answer.status_code, answer.json()["code"]) == (404, "ORDER_NOT_FOUND")


def test_one_request_id_joins_the_logs_of_both_services(shop: Shop) -> None:
    request_id = f"test-{uuid4()}"
    document = {"lines": [{"product_id": add_product(shop.products, 1), "quantity": 1}]}

    shop.orders.call("POST", "/orders", document, ADA | {"X-Request-ID": request_id})

    def paths(of: Service) -> list[object]:
        return [line.get("path") for line in of.process.json_log() if line.get("request_id") == request_id]

    wait_until(lambda: len(paths(shop.products)) == 2, "both requests in product_service's log")
    wait_until(lambda: paths(shop.orders) == ["/orders"], "the request in order_service's log")


def test_cancelling_gives_the_stock_back_at_once(shop: Shop) -> None:
    product_id = add_product(shop.products, 5)
    order_id = shop.place((product_id, 2)).json()["id"]

    cancelled = shop.orders.call("POST", f"/orders/{order_id}/cancel", headers=ADA)

    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert cancelled.headers["Cache-Group-Invalidation"] == '"products"'
    assert stock_of(shop.products, product_id) == 5


def _late(passed: Pass) -> Reply:
    time.sleep(READ_TIMEOUT_S + 0.7)
    return passed()


def _answer_lost(passed: Pass) -> None:
    passed()


def _request_lost(_passed: Pass) -> None:
    return


def _broken(_passed: Pass) -> Reply:
    return Reply(500, [("Content-Type", "text/html")], b"<h1>Oops</h1>")


def _effective_but_broken(passed: Pass) -> Reply:
    passed()
    return _broken(passed)


def _twice(trouble: Trouble, between: Troublemaker) -> Trouble:
    """A connection that was cut is tried once more: make the trouble meet that try too."""

    def first(passed: Pass) -> Reply | None:
        between.trouble["PUT"] = trouble
        return trouble(passed)

    return first


@pytest.mark.parametrize("trouble", [_late, _answer_lost, _request_lost, _broken, _effective_but_broken])
def test_an_order_whose_reservation_went_wrong_leaves_neither_row_nor_gap_in_the_stock(
    shop: Shop, trouble: Trouble
) -> None:
    product_id = add_product(shop.products, 5)
    total_before = shop.orders.call("GET", "/orders", headers=ADA).json()["total"]
    cuts = trouble in (_answer_lost, _request_lost)
    shop.between.trouble["PUT"] = _twice(trouble, shop.between) if cuts else trouble

    answer = shop.place((product_id, 2))

    assert (answer.status_code, answer.json()["code"]) == (503, "PRODUCTS_UNAVAILABLE")
    assert int(answer.headers["Retry-After"]) > 0
    time.sleep(1)  # the late one arrives only now
    shop.wait_for_stock(product_id, 5)
    assert shop.orders.call("GET", "/orders", headers=ADA).json()["total"] == total_before


def test_a_connection_that_is_cut_once_is_not_noticed(shop: Shop) -> None:
    product_id = add_product(shop.products, 5)
    shop.between.trouble["PUT"] = _answer_lost

    assert shop.place((product_id, 2)).status_code == 201
    assert stock_of(shop.products, product_id) == 3


@pytest.mark.parametrize("trouble", [_late, _broken, _effective_but_broken])
def test_an_order_whose_confirmation_went_wrong_stands_and_is_confirmed_later(shop: Shop, trouble: Trouble) -> None:
    product_id = add_product(shop.products, 5)
    shop.between.trouble["POST"] = trouble

    placed = shop.place((product_id, 2))

    assert (placed.status_code, placed.json()["status"]) == (201, "pending")
    shop.wait_for_status(placed.json()["id"], "confirmed")
    assert [entry["status"] for entry in shop.order(placed.json()["id"])["history"]] == ["pending", "confirmed"]
    assert stock_of(shop.products, product_id) == 3
    assert shop.reservation(placed.json()["id"]) == "confirmed"


def test_product_service_killed_between_reservation_and_confirmation_loses_nothing(shop: Shop) -> None:
    product_id = add_product(shop.products, 5)

    def kill(passed: Pass) -> Reply:
        shop.products.process.kill()
        return passed()

    shop.between.trouble["POST"] = kill

    placed = shop.place((product_id, 2))
    shop.products.process.start()

    assert (placed.status_code, placed.json()["status"]) == (201, "pending")
    shop.wait_for_status(placed.json()["id"], "confirmed")
    assert stock_of(shop.products, product_id) == 3


def test_an_order_cancelled_while_product_service_is_down_gives_its_stock_back_later(shop: Shop) -> None:
    product_id = add_product(shop.products, 5)
    order_id = shop.place((product_id, 2)).json()["id"]
    shop.products.process.kill()

    cancelled = shop.orders.call("POST", f"/orders/{order_id}/cancel", headers=ADA)
    again = shop.orders.call("POST", f"/orders/{order_id}/cancel", headers=ADA)
    shop.products.process.start()

    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert (again.status_code, again.json()["history"]) == (200, cancelled.json()["history"])
    shop.wait_for_stock(product_id, 5)


@pytest.mark.parametrize(("method", "stock", "orders"), [("PUT", 5, 0), ("POST", 3, 1)])
def test_order_service_killed_in_the_middle_finishes_when_it_is_back(
    shop: Shop, method: str, stock: int, orders: int
) -> None:
    product_id, user = add_product(shop.products, 5), bearer(f"user-{uuid4()}", "customer")
    has_effect, is_killed = threading.Event(), threading.Event()

    def wait_to_be_killed(passed: Pass) -> None:
        passed()
        has_effect.set()
        is_killed.wait(10)

    shop.between.trouble[method] = wait_to_be_killed

    with ThreadPoolExecutor(1) as pool:
        placing = pool.submit(shop.place, (product_id, 2), user=user)
        assert has_effect.wait(10)
        shop.orders.process.kill()
        is_killed.set()
        with pytest.raises(requests.ConnectionError):
            placing.result()
    shop.orders.process.start()

    shop.wait_for_stock(product_id, stock)
    page = shop.orders.call("GET", "/orders", headers=user).json()
    assert page["total"] == orders
    for order in page["items"]:
        shop.wait_for_status(order["id"], "confirmed", user)


def _waiting(milliseconds: int) -> dict[str, str]:
    """The headers of a customer who waits so long."""
    return ADA | {DEADLINE: str(milliseconds)}


def _effective_but_late(passed: Pass) -> Reply:
    reply = passed()
    time.sleep(READ_TIMEOUT_S + 0.7)
    return reply


def _effective_but_head_drips(passed: Pass) -> Reply:
    return replace(passed(), drips="head")


def _effective_but_body_drips(passed: Pass) -> Reply:
    return replace(passed(), drips="body")


def test_each_call_is_told_what_is_left_of_the_request(shop: Shop) -> None:
    product_id = add_product(shop.products, 5)

    placed = shop.place((product_id, 2), user=_waiting(2500))

    (reserve_ms,), (confirm_ms,) = (shop.between.told_ms(method, placed.json()["id"]) for method in ("PUT", "POST"))
    assert placed.json()["status"] == "confirmed"
    assert 2500 >= reserve_ms > confirm_ms > 0


@pytest.mark.parametrize("trouble", [_effective_but_late, _effective_but_head_drips, _effective_but_body_drips])
def test_an_order_whose_time_ends_in_its_reservation_is_answered_then_and_undone(shop: Shop, trouble: Trouble) -> None:
    product_id = add_product(shop.products, 5)
    shop.between.trouble["PUT"] = trouble
    began = time.monotonic()

    answer = shop.place((product_id, 2), user=_waiting(300))

    took_s = time.monotonic() - began
    assert (answer.status_code, answer.json()["code"]) == (503, "PRODUCTS_UNAVAILABLE")
    assert took_s < READ_TIMEOUT_S
    (order_id,) = shop.between.asked_for
    (told_ms,) = shop.between.told_ms("PUT", order_id)
    assert 0 < told_ms <= 300
    wait_until(lambda: shop.reservation(order_id) == "released", "the release", timeout_s=SETTLED_WITHIN_S)
    shop.wait_for_stock(product_id, 5)


def test_the_reconciler_has_its_own_time(shop: Shop) -> None:
    product_id = add_product(shop.products, 5)
    shop.between.trouble["PUT"] = _effective_but_late

    shop.place((product_id, 2), user=_waiting(300))

    shop.wait_for_stock(product_id, 5)
    (order_id,) = shop.between.asked_for
    (told_ms,) = shop.between.told_ms("DELETE", order_id)
    assert 1000 * READ_TIMEOUT_S < told_ms <= 1000 * (CONNECT_TIMEOUT_S + READ_TIMEOUT_S)


def test_an_order_whose_time_ends_in_its_confirmation_stands_and_is_confirmed_later(shop: Shop) -> None:
    product_id = add_product(shop.products, 5)
    shop.between.trouble["POST"] = _effective_but_late
    began = time.monotonic()

    placed = shop.place((product_id, 2), user=_waiting(1000))

    took_s = time.monotonic() - began
    assert (placed.status_code, placed.json()["status"]) == (201, "pending")
    assert took_s < READ_TIMEOUT_S
    shop.wait_for_status(placed.json()["id"], "confirmed")
    assert stock_of(shop.products, product_id) == 3


def test_an_answer_that_comes_in_drops_is_not_waited_for_without_an_end(shop: Shop) -> None:
    product_id = add_product(shop.products, 5)
    shop.between.trouble["PUT"] = _effective_but_body_drips
    began = time.monotonic()

    answer = shop.place((product_id, 2))

    assert (answer.status_code, answer.json()["code"]) == (503, "PRODUCTS_UNAVAILABLE")
    assert time.monotonic() - began < 2 * (CONNECT_TIMEOUT_S + READ_TIMEOUT_S)
    shop.wait_for_stock(product_id, 5)


def test_an_order_whose_time_was_over_before_it_came_is_refused_and_leaves_no_trace(shop: Shop) -> None:
    product_id, user = add_product(shop.products, 5), bearer(f"user-{uuid4()}", "customer")

    answer = shop.place((product_id, 2), user=user | {DEADLINE: "0"})

    assert (answer.status_code, answer.json()["code"]) == (504, "DEADLINE_EXCEEDED")
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"] != ""
    assert answer.json()["source"] == "order_service"
    assert shop.between.asked_for == []
    assert shop.orders.call("GET", "/orders", headers=user).json()["total"] == 0


def test_product_service_refuses_what_comes_too_late(shop: Shop) -> None:
    product_id = add_product(shop.products, 5)

    answer = shop.products.call("GET", f"/products/{product_id}", headers={DEADLINE: "0"})

    assert (answer.status_code, answer.json()["code"], answer.json()["source"]) == (
        504, "DEADLINE_EXCEEDED", "product_service",
    )  # fmt: skip


def test_the_next_request_of_a_connection_does_not_inherit_a_deadline(shop: Shop) -> None:
    document = {"lines": [{"product_id": add_product(shop.products, 5), "quantity": 1}]}

    with requests.Session() as connection:
        for headers in (_waiting(0), _waiting(2500), ADA):
            connection.post(f"{shop.orders.url}/orders", json=document, headers=headers, timeout=20)

    told_ms = [shop.between.told_ms("PUT", order_id)[0] for order_id in shop.between.asked_for]
    assert [milliseconds <= 2500 for milliseconds in told_ms] == [True, False]
