"""What product_service answers: statuses, codes, headers and documents."""

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

from common import migrations, service_tokens
from common.settings import SettingsError, load
from product_service import create_app
from product_service.settings import ProductSettings

SECRET = "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu"
SERVICE_SECRET = "bT5nWq8ZsX1cV4mKj7hG2fD9pL6oI3uY"
MIGRATIONS = Path(__file__).resolve().parents[2] / "product_service" / "migrations"
MUG = {"name": "Mug", "category": "kitchen", "price": "12.50", "stock": 5}
Headers = dict[str, str]


def _settings(tmp_path: Path, **given: object) -> ProductSettings:
    own: dict[str, object] = {"database_url": f"sqlite:///{tmp_path}/products.db", "var_dir": tmp_path}
    own |= {"jwt_secret_key": SECRET, "service_secret": SERVICE_SECRET, "environment": "test"}
    return load(ProductSettings, "product_service", **own | given)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[APIFlask]:
    app = create_app(_settings(tmp_path))
    migrations.upgrade(app.extensions["database"], MIGRATIONS)
    yield app
    app.extensions["database"].dispose()


@pytest.fixture
def client(app: APIFlask) -> FlaskClient:
    return app.test_client(use_cookies=False)


def _bearer(*roles: str) -> Headers:
    now = int(time.time())
    claims = {"sub": "u1", "roles": list(roles), "iss": "user_service", "aud": "shop", "type": "access"}
    token = jwt.encode(
        claims | {"iat": now, "exp": now + 86_400, "jti": str(uuid4())}, SECRET, "HS256", headers={"typ": "at+jwt"}
    )
    return {"Authorization": f"Bearer {token}"}


ADMIN = _bearer("admin")
ORDERS = {
    "Authorization": "Bearer "
    + service_tokens.mint(SERVICE_SECRET, issuer="order_service", audience="product_service", lifetime_s=86_400)
}


def _add(client: FlaskClient, **fields: object) -> int:
    answer = client.post("/products", json=MUG | fields, headers=ADMIN)
    assert answer.status_code == 201, answer.json
    return int(answer.get_json()["id"])


def test_everybody_may_browse_and_gets_prices_as_text(client: FlaskClient) -> None:
    _add(client)

    page = client.get("/products").get_json()

    assert {name: page[name] for name in ("page", "per_page", "total", "pages")} == {
        "page": 1, "per_page": 20, "total": 1, "pages": 1,
    }  # fmt: skip
    assert page["items"][0] | {"created_at": "", "updated_at": ""} == {
        "id": 1, "name": "Mug", "description": "", "category": "kitchen", "price": "12.50", "stock": 5,
        "created_at": "", "updated_at": "",
    }  # fmt: skip


def test_a_new_product_names_its_address_and_the_caches_to_empty(client: FlaskClient) -> None:
    answer = client.post("/products", json=MUG, headers=ADMIN)

    assert answer.status_code == 201
    assert answer.headers["Location"] == "/products/1"
    assert answer.headers["Cache-Group-Invalidation"] == '"products"'
    assert client.get(answer.headers["Location"]).get_json() == answer.get_json()


@pytest.mark.parametrize("path", ["/products", "/products/1", "/products/", "/products/1/"])
def test_what_is_read_may_be_kept_by_shared_caches_and_revalidated(client: FlaskClient, path: str) -> None:
    _add(client)

    first = client.get(path)
    again = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    head = client.head(path)

    assert first.headers["Cache-Control"] == "public, max-age=0, s-maxage=10"
    assert first.headers["Cache-Groups"] == '"products"'
    assert not first.headers["ETag"].startswith("W/")
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert again.headers["Cache-Groups"] == '"products"'
    assert (head.status_code, head.data, head.headers["ETag"]) == (200, b"", first.headers["ETag"])


def test_the_entity_tag_changes_with_the_product(client: FlaskClient) -> None:
    _add(client)
    tag = client.get("/products/1").headers["ETag"]

    client.patch("/products/1", json={"stock": 4}, headers=ADMIN)

    assert client.get("/products/1", headers={"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize(
    "product_id", ["2", "0", "-1", "1.5", "abc", "1e3", "²", "2147483648", "9" * 5000, "%00", "%ff", "1%20"]
)
def test_an_id_that_no_product_has_is_404_whatever_it_looks_like(client: FlaskClient, product_id: str) -> None:
    _add(client)

    answer = client.get(f"/products/{product_id}")

    assert (answer.status_code, answer.get_json()["code"]) == (404, "PRODUCT_NOT_FOUND")
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/products"), ("PUT", "/products/1"), ("PATCH", "/products/1"), ("DELETE", "/products/1")],
)
def test_only_administrators_change_the_catalogue(client: FlaskClient, method: str, path: str) -> None:
    _add(client)

    nobody = client.open(path, method=method, json=MUG)
    customer = client.open(path, method=method, json=MUG, headers=_bearer("customer"))

    assert (nobody.status_code, nobody.get_json()["code"]) == (401, "TOKEN_REQUIRED")
    assert (customer.status_code, customer.get_json()["code"]) == (403, "PERMISSION_REQUIRED")


@pytest.mark.parametrize(
    ("method", "document", "status"),
    [("PUT", MUG | {"price": "13.00"}, 200), ("PATCH", {"price": "13.00"}, 200), ("DELETE", None, 204)],
)
def test_every_change_empties_the_caches_of_the_group(
    client: FlaskClient, method: str, document: dict[str, object] | None, status: int
) -> None:
    _add(client)

    answer = client.open("/products/1", method=method, json=document, headers=ADMIN)

    assert (answer.status_code, answer.headers["Cache-Group-Invalidation"]) == (status, '"products"')
    assert client.get("/products/1").status_code == (404 if method == "DELETE" else 200)


BAD_FIELDS = [
    ("name", ""),
    ("name", "   "),
    ("name", "n" * 201),
    ("name", "a\x00b"),
    ("name", None),
    ("name", 5),
    ("description", "d" * 2001),
    ("description", "a\x00b"),
    ("category", ""),
    ("category", "c" * 51),
    ("price", "-0.01"),
    ("price", "10000000.01"),
    ("price", "1.234"),
    ("price", "abc"),
    ("price", "1e999999999999999999"),
    ("price", True),
    ("price", None),
    ("stock", -1),
    ("stock", 1_000_001),
    ("stock", "5"),
    ("stock", True),
    ("stock", 1.5),
    ("stock", 10**30),
    ("colour", "blue"),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_a_field_out_of_bounds_is_named(client: FlaskClient, field: str, value: object) -> None:
    answer = client.post("/products", json=MUG | {field: value}, headers=ADMIN)

    assert answer.status_code == 422
    assert [error["field"] for error in answer.get_json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b'{"name":"\\ud800"}', 400),
        (b"[" * 100_000, 400),
        (b'{"price": NaN}', 400),
        (b'{"price":' + b"1" * 5000 + b"}", 400),
        (b"[]", 422),
        (b"null", 422),
        (b'"x"', 422),
        (b"{}", 422),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_body_that_is_no_product_is_the_callers_fault(
    client: FlaskClient, method: str, body: bytes, status: int
) -> None:
    _add(client)
    path = "/products" if method == "POST" else "/products/1"

    answer = client.open(path, method=method, data=body, content_type="application/json", headers=ADMIN)

    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")


@pytest.mark.parametrize(
    "query",
    [
        "page=0",
        "page=x",
        "per_page=101",
        "sort=colour",
        "min_price=x",
        "max_price=-1",
        "min_price=2&max_price=1",
        "min_price=1e999999999999999999",
        "q=%00",
        f"q={'a' * 101}",
    ],
)
def test_a_query_that_makes_no_sense_is_422(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/products?{query}")

    assert (answer.status_code, answer.get_json()["code"]) == (422, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/confirm")],
)
def test_reservations_are_for_our_own_services_only(client: FlaskClient, method: str, path: str) -> None:
    address = f"/reservations/{uuid4()}{path}"

    answers = [client.open(address, method=method, json={}, headers=headers) for headers in ({}, ADMIN)]

    assert [answer.status_code for answer in answers] == [401, 401]


def test_a_reservation_is_taken_confirmed_and_given_back(client: FlaskClient) -> None:
    _add(client)
    address = f"/reservations/{uuid4()}"
    wanted = {"lines": [{"product_id": 1, "quantity": 2}]}

    held = client.put(address, json=wanted, headers=ORDERS)
    confirmed = client.post(f"{address}/confirm", headers=ORDERS)
    stock = client.get("/products/1").get_json()["stock"]
    released = client.delete(address, headers=ORDERS)

    assert held.get_json()["lines"] == [{"product_id": 1, "name": "Mug", "quantity": 2, "unit_price": "12.50"}]
    assert [held.get_json()["status"], confirmed.get_json()["status"], stock] == ["held", "confirmed", 3]
    assert (released.status_code, client.get("/products/1").get_json()["stock"]) == (204, 5)
    assert client.get(address, headers=ORDERS).get_json()["status"] == "released"
    for answer in (held, confirmed, released):
        assert answer.headers["Cache-Group-Invalidation"] == '"products"'


def test_a_refused_reservation_points_to_the_lines_at_fault(client: FlaskClient) -> None:
    _add(client)
    _add(client, stock=1)

    short = client.put(f"/reservations/{uuid4()}", headers=ORDERS, json={
        "lines": [{"product_id": 1, "quantity": 1}, {"product_id": 2, "quantity": 3}]
    })  # fmt: skip
    unknown = client.put(f"/reservations/{uuid4()}", headers=ORDERS, json={
        "lines": [{"product_id": 9, "quantity": 1}, {"product_id": 2, "quantity": 3}]
    })  # fmt: skip

    assert (short.status_code, short.get_json()["code"]) == (409, "OUT_OF_STOCK")
    assert short.get_json()["errors"] == [
        {"field": "lines.1.quantity", "message": "Only 1 left of product 2.", "in": "body"}
    ]
    assert (unknown.status_code, unknown.get_json()["code"]) == (422, "UNKNOWN_PRODUCT")
    assert unknown.get_json()["errors"][0]["field"] == "lines.0.product_id"


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"product_id": 1, "quantity": 0}],
        [{"product_id": 1, "quantity": 1001}],
        [{"product_id": 2**31, "quantity": 1}],
        [{"product_id": 1, "quantity": 1}, {"product_id": 1, "quantity": 2}],
        [{"product_id": number, "quantity": 1} for number in range(1, 52)],
    ],
)
def test_reservations_out_of_bounds_are_refused(client: FlaskClient, lines: list[dict[str, int]]) -> None:
    answer = client.put(f"/reservations/{uuid4()}", json={"lines": lines}, headers=ORDERS)

    assert (answer.status_code, answer.get_json()["code"]) == (422, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    ("act", "status", "code"),
    [("confirm unknown", 404, "RESERVATION_NOT_FOUND"), ("other lines", 409, "RESERVATION_CONFLICT")],
)
def test_each_broken_rule_of_reservations_has_its_code(client: FlaskClient, act: str, status: int, code: str) -> None:
    _add(client)
    address = f"/reservations/{uuid4()}"
    if act == "confirm unknown":
        answer = client.post(f"{address}/confirm", headers=ORDERS)
    else:
        client.put(address, json={"lines": [{"product_id": 1, "quantity": 2}]}, headers=ORDERS)
        answer = client.put(address, json={"lines": [{"product_id": 1, "quantity": 1}]}, headers=ORDERS)

    assert (answer.status_code, answer.get_json()["code"]) == (status, code)


def test_the_document_is_valid_and_says_who_may_do_what(client: FlaskClient) -> None:
    document = client.get("/openapi.json").get_json()

    validate(document)
    open_to_all = {
        f"{method.upper()} {path}"
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if "security" not in operation
    }
    assert open_to_all == {"GET /products", "GET /products/{product_id}"}
    assert document["components"]["schemas"]["NewProduct"]["properties"]["stock"]["maximum"] == 1_000_000


def test_demo_products_are_added_once(app: APIFlask, client: FlaskClient) -> None:
    runner = app.test_cli_runner()

    first = runner.invoke(args=["seed-demo"])
    again = runner.invoke(args=["seed-demo"])

    assert (first.exit_code, again.exit_code) == (0, 0)
    items = client.get("/products?per_page=100").get_json()["items"]
    assert (len(items), again.output) == (32, "0 demo products were added, 32 were there already.\n")
    assert len({item["category"] for item in items}) >= 5
    assert all(item["stock"] > 0 and item["description"] for item in items)


def test_demo_products_are_refused_in_production(tmp_path: Path) -> None:
    app = create_app(_settings(tmp_path, environment="production"))

    refused = app.test_cli_runner().invoke(args=["seed-demo"])

    assert (refused.exit_code, "production" in refused.output) == (1, True)


def test_models_and_migrations_agree_on_the_way_up_and_down(app: APIFlask) -> None:
    database = app.extensions["database"]

    migrations.downgrade(database, MIGRATIONS, "base")
    migrations.upgrade(database, MIGRATIONS)

    migrations.check(database, MIGRATIONS)


def test_settings_that_make_no_sense_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        _settings(tmp_path, reservation_ttl=0)

    assert [problem.partition(":")[0] for problem in error.value.problems] == ["RESERVATION_TTL"]
