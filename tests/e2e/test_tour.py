"""What a newcomer does first: the printed tour, line by line, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json

from tests.support.processes import wait_until
from tests.support.shop import Shop, shell


def test_every_printed_line_works_as_it_stands(shop: Shop) -> None:
    lines = shop.tour()

    output = shell("\n".join(f"{line}; echo" for line in lines) + '\necho "token=$TOKEN key=$KEY order=$ORDER"')

    assert len(lines) == 12
    assert '"error"' not in output
    assert '"total":0' not in output
    assert "token=eyJ" in output
    assert "key=gk_" in output
    order_id = output.rsplit("order=", 1)[1].strip()
    read_back = next(json.loads(row) for row in output.splitlines() if row.startswith(f'{{"id":"{order_id}"'))
    assert read_back["status"] == "confirmed"
    assert [(line["product_id"], line["quantity"]) for line in read_back["lines"]] == [(1, 2)]


def test_an_order_takes_its_pieces_from_the_stock_and_a_cancelled_one_gives_them_back(shop: Shop) -> None:
    token = shop.register("stock-watcher")
    before = stock_of(shop, 2)

    placed = shop.call("POST", "/orders", token=token, json={"lines": [{"product_id": 2, "quantity": 3}]})
    after = stock_of(shop, 2)
    cancelled = shop.call("POST", f"/orders/{placed.json()['id']}/cancel", token=token)

    assert placed.status_code == 201
    assert after == before - 3
    assert cancelled.json()["status"] == "cancelled"
    assert stock_of(shop, 2) == before


def test_the_catalogue_comes_from_the_cache_until_an_order_changes_it(shop: Shop) -> None:
    token = shop.register("cache-watcher")
    shop.call("GET", "/products?per_page=5&page=2")

    kept = shop.call("GET", "/products?per_page=5&page=2")
    shop.call("POST", "/orders", token=token, json={"lines": [{"product_id": 3, "quantity": 1}]})
    fresh = shop.call("GET", "/products?per_page=5&page=2")

    assert kept.headers["Cache-Status"].startswith("gateway; hit")
    assert "Age" in kept.headers
    assert "fwd=miss" in fresh.headers["Cache-Status"]


def test_all_three_faces_and_the_trailing_slash_lead_to_the_same(shop: Shop) -> None:
    paths = ["/products/1", "/products/1/", "/api/products/1", "/api/v1/products/1", "/api/v1/products/1/"]

    answers = [shop.call("GET", path) for path in paths]

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1


def test_nobody_sees_the_orders_of_others_but_administrators(shop: Shop) -> None:
    mine, other, admin = shop.register("owner"), shop.register("stranger"), shop.log_in("admin", "admin")
    order = shop.call("POST", "/orders", token=mine, json={"lines": [{"product_id": 4, "quantity": 1}]}).json()

    seen = {who: shop.call("GET", f"/orders/{order['id']}", token=token).status_code for who, token in
            {"owner": mine, "stranger": other, "admin": admin}.items()}  # fmt: skip

    assert seen == {"owner": 200, "stranger": 404, "admin": 200}
    assert shop.call("GET", "/orders", token=other).json()["total"] == 0


def test_only_administrators_change_the_catalogue(shop: Shop) -> None:
    customer, admin = shop.register("would-be-merchant"), shop.log_in("admin", "admin")
    product = {"name": "Paper kite", "category": "toys", "price": "9.90", "stock": 5}

    statuses = [shop.call("POST", "/products", token=token, json=product).status_code for token in (None, customer)]
    made = shop.call("POST", "/products", token=admin, json=product)

    assert statuses == [401, 403]
    assert made.status_code == 201
    assert made.json()["price"] == "9.90"


def test_one_request_id_joins_the_log_lines_of_all_processes(shop: Shop) -> None:
    token = shop.register("traced")

    answer = shop.call("POST", "/orders", token=token, json={"lines": [{"product_id": 5, "quantity": 1}]})

    request_id = answer.headers["X-Request-ID"]
    wait_until(lambda: len(lines_of(shop, request_id)) >= 4, "the lines of all processes", timeout_s=5)
    writers = {line.split("|")[0].strip() for line in lines_of(shop, request_id)}
    assert writers >= {"gateway", "order", "product"}


def stock_of(shop: Shop, product_id: int) -> int:
    stock: int = shop.call("GET", f"/products/{product_id}").json()["stock"]
    return stock


def lines_of(shop: Shop, request_id: str) -> list[str]:
    return [line for line in shop.process.log().splitlines() if request_id in line]
