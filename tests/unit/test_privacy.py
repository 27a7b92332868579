"""Export and erasure: user_service in-process, the two others behind sockets so that they can be away."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient
from sqlalchemy import MetaData, text
from structlog.testing import capture_logs
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

import order_service
import order_service.tables
import product_service
import product_service.tables
import user_service
import user_service.tables
from common import migrations
from common.db import Database
from common.models import utc_now
from common.settings import load
from order_service.orders import Orders
from order_service.product_client import Offer
from order_service.settings import OrderSettings
from product_service.products import Products
from product_service.reservations import Reservations
from product_service.schemas import NewProduct
from product_service.settings import ProductSettings
from tests.support.ports import free_ports
from user_service.erasure import Erasures
from user_service.export import EXPORTED
from user_service.settings import UserSettings
from user_service.users import ADMIN, CUSTOMER, UnknownUser, UserError, Users

SECRET = "bT5nWq8ZsX1cV4mKj7hG2fD9pL6oI3uY"
PASSWORD = "password123"
EMAIL = "ada@example.org"


@dataclass(frozen=True, slots=True)
class Shop:
    users: APIFlask
    orders: APIFlask
    products: APIFlask
    order_port: int
    product_port: int

    @property
    def client(self) -> FlaskClient:
        return self.users.test_client(use_cookies=False)

    def log_in(self, username: str = "ada") -> dict[str, str]:
        """The headers of a user, who is registered first where nobody has the name."""
        credentials = {"username": username, "password": PASSWORD}
        self.client.post("/users/register", json={**credentials, "email": EMAIL})
        answer = self.client.post("/users/login", json=credentials, headers={"User-Agent": "Ada's phone"})
        return {"Authorization": f"Bearer {body(answer)['access_token']}"}

    def id_of(self, headers: Mapping[str, str]) -> str:
        return str(body(self.client.get("/users/profile", headers=headers))["id"])

    def erase(self, headers: Mapping[str, str], password: str = PASSWORD) -> TestResponse:
        return self.client.delete("/users/me", json={"password": password}, headers=headers)

    def place_order(self, user_id: str) -> str:
        """The id of an order that is confirmed, and then cancelled."""
        products: Products = self.products.extensions["products"]
        reservations: Reservations = self.products.extensions["reservations"]
        orders: Orders = self.orders.extensions["orders"]
        now = utc_now()
        mug = products.add(NewProduct.model_validate({"name": "Mug", "category": "k", "price": "12.50", "stock": 5}))
        order = orders.draft(user_id, {mug.id: 2}, now=now)
        reservations.reserve(order.id, {mug.id: 2}, now=now)
        orders.agree(order.id, {mug.id: Offer("Mug", 1250)}, now=now)
        orders.cancel(order.id, note="Changed my mind", now=now)
        return order.id

    @property
    def erasures(self) -> Erasures:
        erasures: Erasures = self.users.extensions["erasures"]
        return erasures

    @contextmanager
    def open(self) -> Generator[None]:
        """Within the block order_service and product_service can be reached."""
        with served(self.orders, self.order_port), served(self.products, self.product_port):
            yield


@contextmanager
def served(app: APIFlask, port: int) -> Generator[None]:
    server = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    order_port, product_port = free_ports(2)
    common: dict[str, object] = {"var_dir": tmp_path, "service_secret": SECRET, "environment": "test"}

    def url(name: str) -> dict[str, object]:
        return {"database_url": f"sqlite:///{tmp_path}/{name}.db"}

    places: dict[str, object] = {
        "order_service_url": f"http://127.0.0.1:{order_port}",
        "product_service_url": f"http://127.0.0.1:{product_port}",
    }
    apps = (
        user_service.create_app(load(UserSettings, "user_service", **common, **url("users"), **places)),
        order_service.create_app(load(OrderSettings, "order_service", **common, **url("orders"))),
        product_service.create_app(load(ProductSettings, "product_service", **common, **url("products"))),
    )
    for app in apps:
        migrations.upgrade(app.extensions["database"], Path(app.root_path) / "migrations")
    yield Shop(*apps, order_port, product_port)
    for app in apps:
        app.extensions["database"].dispose()


def body(answer: TestResponse) -> dict[str, Any]:
    assert isinstance(answer.json, dict), answer.text
    return answer.json


def everything_in(app: APIFlask) -> str:
    """The text of all rows of all tables."""
    database: Database = app.extensions["database"]
    tables = MetaData()
    tables.reflect(database.engine)
    with database.read() as session:
        rows = [session.execute(text(f"SELECT * FROM {name}")).all() for name in tables.tables]
    return str(rows)


def events_of(shop: Shop) -> list[str]:
    return [row.event for row in shop.users.extensions["audit"].all()]


# export


def test_export_has_all_that_the_services_hold_about_me(shop: Shop) -> None:
    ada = shop.log_in()
    user_id = shop.id_of(ada)
    order_id = shop.place_order(user_id)

    with shop.open():
        answer = shop.client.get("/users/me/export", headers=ada)

    document = body(answer)
    assert answer.status_code == 200
    assert "attachment" in answer.headers["Content-Disposition"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert (document["user"]["id"], document["user"]["email"]) == (user_id, EMAIL)
    assert [session["device"] for session in document["sessions"]] == ["Ada's phone"]
    assert "login.succeeded" in [entry["event"] for entry in document["audit_entries"]]
    (order,) = document["orders"]
    assert (order["id"], order["total"], order["status"]) == (order_id, "25.00", "cancelled")
    assert [entry["note"] for entry in order["history"]] == ["", "Changed my mind"]
    assert [(line["name"], line["quantity"]) for line in order["lines"]] == [("Mug", 2)]
    assert [reservation["id"] for reservation in document["reservations"]] == [order_id]
    assert "export.taken" in events_of(shop)


def test_export_has_nothing_about_others_and_no_secret(shop: Shop) -> None:
    ada, bob = shop.log_in(), shop.log_in("bob")
    bobs_id, bobs_order = shop.id_of(bob), shop.place_order(shop.id_of(bob))
    boss = shop.users.extensions["users"].register("root", "a-long-password-1", roles=(CUSTOMER, ADMIN))
    database: Database = shop.users.extensions["database"]
    audit = shop.users.extensions["audit"]
    with database.write() as session:
        audit.append(session, "user.roles_changed", actor=boss.id, subject=shop.id_of(ada))

    with shop.open():
        export = shop.client.get("/users/me/export", headers=ada).text

    assert bobs_id not in export
    assert bobs_order not in export
    assert boss.id not in export
    assert "somebody else" in export
    with database.read() as session:
        password_hash = session.execute(text("SELECT password_hash FROM users WHERE username = 'ada'")).scalar_one()
        digests = session.execute(text("SELECT digest FROM refresh_tokens")).scalars().all()
    assert digests
    assert not any(secret in export for secret in (password_hash, *digests))


@pytest.mark.parametrize("missing", ["order_service", "product_service"])
def test_export_is_not_given_in_part(shop: Shop, missing: str) -> None:
    ada = shop.log_in()
    shop.place_order(shop.id_of(ada))
    here = (shop.orders, shop.order_port) if missing == "product_service" else (shop.products, shop.product_port)

    with served(*here):
        answer = shop.client.get("/users/me/export", headers=ada)

    assert (answer.status_code, body(answer)["code"]) == (503, "EXPORT_UNAVAILABLE")
    assert missing in body(answer)["detail"]
    assert "export.taken" not in events_of(shop)


def test_export_needs_a_token(shop: Shop) -> None:
    assert shop.client.get("/users/me/export").status_code == 401


PERSONAL, SECRET_KIND, NOT_PERSONAL = "exported", "secret", "not personal"
CLASSES: Mapping[str, Mapping[str, str]] = {
    "users": {
        "password_hash": SECRET_KIND, "totp_secret": SECRET_KIND,
        "username_key": NOT_PERSONAL,  # the username once more, in small letters
        "generation": NOT_PERSONAL, "totp_last_step": NOT_PERSONAL,
        "erased_at": NOT_PERSONAL,  # always null in an account that can ask
    },
    "sessions": {"user_id": NOT_PERSONAL},  # the id of whom the document is about
    "refresh_tokens": dict.fromkeys(("digest", "session_id", "issued_at", "used_at", "seed"), SECRET_KIND),
    "api_keys": {"user_id": NOT_PERSONAL, "digest": SECRET_KIND},
    "recovery_codes": {"user_id": NOT_PERSONAL, "digest": SECRET_KIND},
    "audit_entries": {"id": NOT_PERSONAL, "previous_hash": NOT_PERSONAL, "hash": NOT_PERSONAL},
    "revocations": dict.fromkeys(
        ("seq", "kind", "subject", "generation", "made_at", "until"), NOT_PERSONAL
    ),  # ids for some minutes
    "counters": dict.fromkeys(("name", "value"), NOT_PERSONAL),
    "login_failures": dict.fromkeys(
        ("subject", "count", "as_of", "expires_at", "blocked_until"), SECRET_KIND
    ),  # keyed digests
    "roles": dict.fromkeys(("name", "permissions", "description", "created_at", "updated_at"), NOT_PERSONAL),
    "erasures": dict.fromkeys(("user_id", "asked_at", "done", "finished_at", "tried_at"), NOT_PERSONAL),  # nobody's
    "signing_keys": dict.fromkeys(
        ("number", "kid", "private_pem", "created_at", "signs_from", "withdrawn_at"), SECRET_KIND
    ),
    "orders": {
        **dict.fromkeys(("id", "user_id", "status", "total", "currency", "created_at", "updated_at"), PERSONAL),
        **dict.fromkeys(("settlement", "due_at", "attempts"), NOT_PERSONAL),  # the reconciler's work
    },
    "order_lines": {
        **dict.fromkeys(("position", "product_id", "quantity", "name", "unit_price"), PERSONAL),
        "order_id": NOT_PERSONAL,
    },
    "order_events": {**dict.fromkeys(("status", "at", "note"), PERSONAL), "id": NOT_PERSONAL, "order_id": NOT_PERSONAL},
    "products": dict.fromkeys(
        ("id", "name", "description", "category", "price", "stock", "is_active", "search_text", "created_at",
         "updated_at"), NOT_PERSONAL,
    ),
    "reservations": dict.fromkeys(("id", "status", "expires_at", "created_at", "updated_at"), PERSONAL),
    "reservation_lines": {
        **dict.fromkeys(("product_id", "name", "quantity", "unit_price"), PERSONAL), "reservation_id": NOT_PERSONAL,
    },
}  # fmt: skip
"""What each column is that user_service does not list as exported itself. Whoever adds one has to say it here."""


@pytest.mark.parametrize(
    "tables",
    [user_service.tables.Base.metadata, order_service.tables.Base.metadata, product_service.tables.Base.metadata],
    ids=["user_service", "order_service", "product_service"],
)
def test_every_column_is_exported_or_said_to_be_secret_or_not_personal(tables: MetaData) -> None:
    found = {(table.name, column.name) for table in tables.tables.values() for column in table.columns}

    said = [(name, column) for name in tables.tables for column in (*EXPORTED.get(name, ()), *CLASSES.get(name, {}))]

    assert found == set(said)
    assert len(said) == len(set(said))


def test_what_is_said_to_be_exported_of_orders_and_reservations_is(shop: Shop) -> None:
    ada = shop.log_in()
    shop.place_order(shop.id_of(ada))

    with shop.open():
        document = body(shop.client.get("/users/me/export", headers=ada))

    parts: dict[str, dict[str, Any]] = {
        "orders": document["orders"][0],
        "order_lines": document["orders"][0]["lines"][0],
        "order_events": document["orders"][0]["history"][0],
        "reservations": document["reservations"][0],
        "reservation_lines": document["reservations"][0]["lines"][0],
    }
    for name, part in parts.items():
        assert {column for column, kind in CLASSES[name].items() if kind == PERSONAL} <= part.keys(), name
    for name in ("users", "sessions", "api_keys", "recovery_codes", "audit_entries"):
        assert ("user" if name == "users" else name) in document


# erasure


def test_erasure_leaves_nothing_personal_in_any_service(shop: Shop) -> None:
    ada = shop.log_in()
    user_id = shop.id_of(ada)
    order_id = shop.place_order(user_id)

    with shop.open():
        answer = shop.erase(ada)

    assert answer.status_code == 204
    for app in (shop.users, shop.orders, shop.products):
        content = everything_in(app)
        for personal in (EMAIL, "'ada'", "Ada's phone", "$argon2", "Changed my mind"):
            assert personal not in content, (app.name, personal)
    orders: Orders = shop.orders.extensions["orders"]
    assert orders.get(order_id).total == 2500  # as the law wants
    assert f"erased-{user_id[:8]}" in everything_in(shop.users)
    assert events_of(shop)[-2:] == ["erasure.asked", "erasure.finished"]
    assert shop.erasures.all()[0].finished_at is not None


def test_whoever_is_erased_is_out_at_once_and_for_good(shop: Shop) -> None:
    ada = shop.log_in()
    user_id = shop.id_of(ada)

    with shop.open():
        shop.erase(ada)

    credentials = {"username": "ada", "password": PASSWORD}
    assert shop.client.post("/users/login", json=credentials).status_code == 401
    by_the_new_name = {"username": f"erased-{user_id[:8]}", "password": PASSWORD}
    assert shop.client.post("/users/login", json=by_the_new_name).status_code == 401
    with shop.users.extensions["database"].read() as session:
        kinds = session.execute(text("SELECT kind, subject, generation FROM revocations WHERE kind = 'user'")).all()
    assert kinds == [("user", user_id, 1)]


def test_a_request_that_was_late_writes_nothing_into_an_erased_account(shop: Shop) -> None:
    user_id = shop.id_of(ada := shop.log_in())
    users: Users = shop.users.extensions["users"]
    as_it_was = users.get(user_id)

    with shop.open():
        shop.erase(ada)

    with pytest.raises(UnknownUser):
        users.change_email(as_it_was, "late@example.org")
    with pytest.raises(UserError):
        users.change_password(as_it_was, "late-password-1")
    assert users.page(0, 10) == ([], 0)
    assert "late" not in everything_in(shop.users)


def test_a_name_is_free_again(shop: Shop) -> None:
    ada = shop.log_in()
    before = shop.id_of(ada)

    with shop.open():
        shop.erase(ada)

    assert shop.id_of(shop.log_in()) != before


@pytest.mark.parametrize("password", ["wrong-password", ""])
def test_erasure_needs_the_password(shop: Shop, password: str) -> None:
    ada = shop.log_in()

    answer = shop.erase(ada, password)

    assert (answer.status_code, body(answer)["code"]) == (403, "WRONG_PASSWORD")
    assert shop.id_of(ada)
    assert shop.erasures.all() == []


def test_erasure_needs_a_password_at_all(shop: Shop) -> None:
    ada = shop.log_in()

    assert shop.client.delete("/users/me", headers=ada).status_code in (400, 415, 422)
    assert shop.client.delete("/users/me", json={}, headers=ada).status_code == 422


def test_the_last_administrator_can_not_leave_but_the_one_before_can(shop: Shop) -> None:
    users: Users = shop.users.extensions["users"]
    for name in ("root", "boss"):
        users.register(name, PASSWORD, roles=(CUSTOMER, ADMIN))
    root, boss = shop.log_in("root"), shop.log_in("boss")

    with shop.open():
        first, second = shop.erase(root), shop.erase(boss)

    assert first.status_code == 204
    assert (second.status_code, body(second)["code"]) == (409, "LAST_ADMINISTRATOR")
    assert shop.id_of(boss)


def test_a_service_that_is_away_is_told_later_and_nobody_says_it_was_done(
    shop: Shop,
) -> None:
    ada = shop.log_in()
    user_id = shop.id_of(ada)
    shop.place_order(user_id)

    with capture_logs() as lines:
        answer = shop.erase(ada)
        still = shop.erasures.resume()

    assert answer.status_code == 202
    assert body(answer)["waiting_for"] == ["order_service"]
    assert EMAIL not in everything_in(shop.users)  # what is here is gone at once
    assert still == 1
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["erasure_unfinished"] * 2
    assert "erasure.finished" not in events_of(shop)

    with shop.open():
        assert shop.erasures.resume() == 0

    assert "Changed my mind" not in everything_in(shop.orders)
    assert shop.erasures.all()[0].finished_at is not None
    assert events_of(shop).count("erasure.finished") == 1


def test_a_round_leaves_alone_what_another_worker_has_just_tried(shop: Shop) -> None:
    shop.erase(shop.log_in())

    with shop.open():
        shop.erasures.resume(older_than_s=60)

    assert shop.erasures.all()[0].finished_at is None


def test_erasure_may_be_told_twice(shop: Shop) -> None:
    ada = shop.log_in()
    user_id = shop.id_of(ada)

    with shop.open():
        shop.erase(ada)
        erasure = shop.erasures.finish(user_id)

    assert erasure.finished_at is not None
    assert events_of(shop).count("erasure.finished") == 1


def test_commands_tell_and_finish_what_is_unfinished(shop: Shop) -> None:
    user_id = shop.id_of(ada := shop.log_in())
    shop.erase(ada)
    run = shop.users.test_cli_runner().invoke

    listed, in_vain = run(args=["erasures", "list"]), run(args=["erasures", "resume"])
    with shop.open():
        done = run(args=["erasures", "resume"])

    assert f"{user_id}" in listed.output
    assert "waits for order_service" in listed.output
    assert (in_vain.exit_code, done.exit_code) == (1, 0)
    assert run(args=["erasures", "list", "--unfinished"]).output == ""


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/internal/users/{id}/data"),
        ("POST", "/internal/users/{id}/erasure"),
    ],
)
def test_a_users_token_opens_no_internal_page(shop: Shop, method: str, path: str) -> None:
    ada = shop.log_in()
    target = path.format(id=shop.id_of(ada))

    for app in (shop.orders, shop.products):
        answer = app.test_client(use_cookies=False).open(target, method=method, headers=ada, json={"orders": []})
        assert answer.status_code in (401, 404, 405)
