"""What order_service answers: statuses, codes and documents. Nobody listens where product_service should be."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import jwt
import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient
from openapi_spec_validator import validate

from common import migrations
from common.models import utc_now
from common.settings import SettingsError, load
from order_service import create_app
from order_service.orders import Orders
from order_service.product_client import Offer
from order_service.settings import OrderSettings
from tests.support.ports import free_port

SECRET = "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu"
MIGRATIONS = Path(__file__).resolve().parents[2] / "order_service" / "migrations"
LINE = {"product_id": 1, "quantity": 2}
Headers = dict[str, str]


def _settings(tmp_path: Path, **given: object) -> OrderSettings:
    own: dict[str, object] = {"database_url": f"sqlite:///{tmp_path}/orders.db", "var_dir": tmp_path}
    own |= {"jwt_secret_key": SECRET, "product_service_url": f"http://127.0.0.1:{free_port()}"}
    return load(OrderSettings, "order_service", **own | given)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[APIFlask]:
    app = create_app(_settings(tmp_path))
    migrations.upgrade(app.extensions["database"], MIGRATIONS)
    yield app
    app.extensions["database"].dispose()


@pytest.fixture
def client(app: APIFlask) -> FlaskClient:
    return app.test_client(use_cookies=False)


def _bearer(subject: str, *roles: str, **more: object) -> Headers:
    now = int(time.time())
    claims: dict[str, object] = {"sub": subject, "roles": list(roles), "iss": "user_service", "aud": "shop"}
    claims |= {"type": "access", **more}
    token = jwt.encode(
        claims | {"iat": now, "exp": now + 86_400, "jti": str(uuid4())}, SECRET, "HS256", headers={"typ": "at+jwt"}
    )
    return {"Authorization": f"Bearer {token}"}


ADA, BOB, ADMIN = _bearer("ada", "customer"), _bearer("bob", "customer"), _bearer("boss", "admin")


def _placed(app: APIFlask, user_id: str = "ada") -> str:
    """The id of an order that stands."""
    orders: Orders = app.extensions["orders"]
    order = orders.draft(user_id, {1: 2}, now=utc_now())
    orders.agree(order.id, {1: Offer("Mug", 1250)}, now=utc_now())
    orders.confirm(order.id, now=utc_now())
    return order.id


def test_an_order_shows_lines_totals_and_history(app: APIFlask, client: FlaskClient) -> None:
    order_id = _placed(app)

    order = client.get(f"/orders/{order_id}", headers=ADA).get_json()

    assert (order["id"], order["status"], order["total"], order["currency"]) == (order_id, "confirmed", "25.00", "EUR")
    assert order["lines"] == [
        {"product_id": 1, "name": "Mug", "quantity": 2, "unit_price": "12.50", "line_total": "25.00"}
    ]
    assert [entry["status"] for entry in order["history"]] == ["pending", "confirmed"]
    history = client.get(f"/orders/{order_id}/history", headers=ADA).get_json()
    assert history == {"id": order_id, "status": "confirmed", "history": order["history"]}


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/history"), ("POST", "/cancel")])
def test_somebody_elses_order_does_not_exist_but_for_administrators(
    app: APIFlask, client: FlaskClient, method: str, path: str
) -> None:
    address = f"/orders/{_placed(app)}{path}"

    nobody, bob, admin = (client.open(address, method=method, headers=headers) for headers in ({}, BOB, ADMIN))

    assert (nobody.status_code, bob.status_code, admin.status_code) == (401, 404, 200)
    assert bob.get_json()["code"] == "ORDER_NOT_FOUND"


NOTHING, READER = _bearer("ada", permissions=[]), _bearer("ada", permissions=["orders:read"])
AUDITOR, CLERK = _bearer("x", permissions=["orders:read:any"]), _bearer("x", permissions=["orders:write:any"])


@pytest.mark.parametrize(
    ("headers", "statuses"),
    [
        (NOTHING, [403, 403, 403, 403, 403]),
        (READER, [200, 403, 200, 403, 403]),
        (AUDITOR, [200, 200, 200, 403, 403]),
        (CLERK, [403, 403, 403, 200, 403]),
        (_bearer("x", permissions=["orders:read:any", "orders:write"]), [200, 200, 200, 404, 422]),
    ],
)
def test_a_token_does_what_its_permissions_say_and_no_more(
    app: APIFlask, client: FlaskClient, headers: Headers, statuses: list[int]
) -> None:
    order = f"/orders/{_placed(app)}"
    requests = [("GET", "/orders"), ("GET", "/orders?all=true"), ("GET", order), ("POST", f"{order}/cancel")]

    answers = [client.open(path, method=method, headers=headers) for method, path in requests]
    answers.append(client.post("/orders", json={"lines": []}, headers=headers))

    assert [answer.status_code for answer in answers] == statuses


@pytest.mark.parametrize("order_id", ["1", "abc", "%00", "x" * 5000, "6f9619ff-8b86-4d01-b42d-00c04fc964ff0"])
def test_an_id_that_is_none_is_404(client: FlaskClient, order_id: str) -> None:
    assert client.get(f"/orders/{order_id}", headers=ADA).status_code == 404


@pytest.mark.parametrize(
    ("headers", "query", "total"),
    [
        (ADA, "", 2),
        (BOB, "", 1),
        (ADA, "?status=confirmed", 2),
        (ADA, "?status=cancelled", 0),
        (ADA, "?user_id=ada", 2),
        (ADMIN, "", 0),
        (ADMIN, "?all=true", 3),
        (ADMIN, "?user_id=bob", 1),
        (ADMIN, "?user_id=nobody", 0),
    ],
)
def test_everybody_sees_their_own_orders_and_administrators_all(
    app: APIFlask, client: FlaskClient, headers: Headers, query: str, total: int
) -> None:
    for user_id in ("ada", "ada", "bob"):
        _placed(app, user_id)

    page = client.get(f"/orders{query}", headers=headers).get_json()

    assert (page["total"], len(page["items"])) == (total, total)


@pytest.mark.parametrize("query", ["all=true", "user_id=bob"])
def test_only_administrators_ask_for_the_orders_of_others(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/orders?{query}", headers=ADA)

    assert (answer.status_code, answer.get_json()["code"]) == (403, "PERMISSION_REQUIRED")


@pytest.mark.parametrize("query", ["status=lost", "page=0", "per_page=101", "all=perhaps", "user_id=%00"])
def test_a_query_that_makes_no_sense_is_422(client: FlaskClient, query: str) -> None:
    assert client.get(f"/orders?{query}", headers=ADMIN).status_code == 422


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"lines": []},
        {"lines": [LINE | {"quantity": 0}]},
        {"lines": [LINE | {"quantity": -5}]},
        {"lines": [LINE | {"quantity": 1001}]},
        {"lines": [LINE | {"quantity": "2"}]},
        {"lines": [LINE | {"quantity": True}]},
        {"lines": [LINE | {"quantity": 10**30}]},
        {"lines": [LINE | {"product_id": 0}]},
        {"lines": [LINE | {"product_id": 2**31}]},
        {"lines": [LINE | {"price": "0.01"}]},
        {"lines": [LINE, LINE]},
        {"lines": [LINE | {"product_id": number} for number in range(1, 52)]},
        {"lines": [LINE], "user_id": "bob"},
        {"lines": {"product_id": 1}},
    ],
)
def test_an_order_out_of_bounds_is_refused(client: FlaskClient, document: dict[str, object]) -> None:
    answer = client.post("/orders", json=document, headers=ADA)

    assert (answer.status_code, answer.get_json()["code"]) == (422, "VALIDATION_ERROR")


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff", b"{'lines': []}"])
def test_a_body_that_is_no_json_is_400(client: FlaskClient, body: bytes) -> None:
    answer = client.post("/orders", data=body, content_type="application/json", headers=ADA)

    assert (answer.status_code, answer.content_type) == (400, "application/problem+json")


def test_without_product_service_nothing_is_ordered_and_the_caller_may_try_again(client: FlaskClient) -> None:
    answer = client.post("/orders", json={"lines": [LINE]}, headers=ADA)

    assert (answer.status_code, answer.get_json()["code"]) == (503, "PRODUCTS_UNAVAILABLE")
    assert answer.get_json()["source"] == "order_service"
    assert int(answer.headers["Retry-After"]) > 0
    assert "127.0.0.1" not in answer.text
    assert client.get("/orders", headers=ADA).get_json()["total"] == 0


def test_without_product_service_an_order_can_be_cancelled_twice(app: APIFlask, client: FlaskClient) -> None:
    address = f"/orders/{_placed(app)}/cancel"

    first = client.post(address, headers=ADA)
    again = client.post(address, headers=ADMIN)

    assert (first.status_code, first.get_json()["status"]) == (200, "cancelled")
    assert (again.status_code, again.get_json()) == (200, first.get_json())
    assert first.get_json()["history"][-1]["note"] == "Cancelled by the customer."


def test_the_document_is_valid_and_wants_a_token_for_everything(client: FlaskClient) -> None:
    document = client.get("/openapi.json").get_json()

    validate(document)
    assert all("security" in operation for item in document["paths"].values() for operation in item.values())


def test_models_and_migrations_agree_on_the_way_up_and_down(app: APIFlask) -> None:
    database = app.extensions["database"]

    migrations.downgrade(database, MIGRATIONS, "base")
    migrations.upgrade(database, MIGRATIONS)

    migrations.check(database, MIGRATIONS)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"reconcile_after": 3.0}, "RECONCILE_AFTER"),
        ({"product_service_url": "products:5004"}, "PRODUCT_SERVICE_URL"),
        ({"product_service_url": "http://products:5004/api"}, "PRODUCT_SERVICE_URL"),
        ({"product_read_timeout": 0}, "PRODUCT_READ_TIMEOUT"),
    ],
)
def test_settings_that_make_no_sense_are_named(tmp_path: Path, given: dict[str, object], name: str) -> None:
    with pytest.raises(SettingsError) as error:
        _settings(tmp_path, **given)

    assert [problem.partition(":")[0] for problem in error.value.problems] == [name]
