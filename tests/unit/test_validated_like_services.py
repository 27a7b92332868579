"""What our services refuse the edge refuses in the same way, by their own documents; what they take it lets pass."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import quote
from uuid import uuid4

import jwt
import orjson
import pytest
from apiflask import APIFlask

from common import migrations
from common.problems import Problem
from common.settings import load
from gateway.openapi.documents import Documents
from gateway.policies.validated import validated
from gateway.runtime import Runtime
from order_service import create_app as order_app
from order_service.settings import OrderSettings
from product_service import create_app as product_app
from product_service.settings import ProductSettings
from tests.support.ports import free_port
from tests.unit import parts
from user_service import create_app as user_app
from user_service.settings import UserSettings

SECRET = "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu"
MUG = {"name": "Mug", "category": "kitchen", "price": "12.50"}
JSON = "application/json"
Verdict = tuple[int, frozenset[tuple[str, str]]]
"""A status, and the fields that are wrong with where they stand."""


@dataclass(frozen=True)
class Shop:
    """The three services, and a gateway that knows their documents."""

    apps: Mapping[str, APIFlask]
    gateway: Runtime

    def service_says(self, asked: Asked) -> Verdict:
        headers = {**BEARER, **({"Content-Type": asked.kind} if asked.kind else {})}
        client = self.apps[asked.service].test_client(use_cookies=False)
        answer = client.open(f"/{asked.service}{asked.path}", method=asked.method, data=asked.body, headers=headers)
        told = answer.get_json(silent=True)
        errors = told.get("errors", []) if isinstance(told, dict) else []
        return answer.status_code, frozenset((error["field"], error["in"]) for error in errors)

    def edge_says(self, asked: Asked) -> Verdict:
        headers = {"content-type": asked.kind} if asked.kind else {}
        target = f"/api/v1/{asked.service}{asked.path}"
        exchange = parts.exchange(self.gateway, asked.method, target, headers, body=asked.body)
        self.gateway.table.router.match(exchange)
        try:
            answer = validated(parts.answering())(exchange)
        except Problem as problem:
            return problem.status, frozenset((error.field, error.location) for error in problem.errors)
        assert exchange.body.is_at_start
        exchange.body.close()
        return answer.status, frozenset()


@dataclass(frozen=True)
class Asked:
    service: str
    method: str
    path: str
    body: bytes = b""
    kind: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.service}{self.path} {self.body[:60].decode('utf-8', 'replace')}"


def sent(service: str, method: str, path: str, said: object, kind: str = JSON) -> Asked:
    return Asked(service, method, path, said if isinstance(said, bytes) else json.dumps(said).encode(), kind)


def got(service: str, path: str) -> Asked:
    return Asked(service, "GET", path)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Generator[Shop]:
    directory = tmp_path_factory.mktemp("shop")
    given = {"var_dir": directory, "jwt_secret_key": SECRET, "environment": "test"}
    nowhere = f"http://127.0.0.1:{free_port()}"
    urls = {name: f"sqlite:///{directory}/{name}.db" for name in ("users", "orders", "products")}
    apps = {
        "users": user_app(load(UserSettings, "user_service", database_url=urls["users"], **given)),
        "orders": order_app(
            load(OrderSettings, "order_service", database_url=urls["orders"], product_service_url=nowhere, **given)
        ),
        "products": product_app(load(ProductSettings, "product_service", database_url=urls["products"], **given)),
    }
    for app in apps.values():
        migrations.upgrade(app.extensions["database"], Path(app.root_path) / "migrations")
    texts = {name: orjson.dumps(app.spec) for name, app in apps.items()}
    gateway = parts.runtime(directory, {name: {"url": nowhere, "validate": "enforce"} for name in apps})
    gateway.documents = Documents(gateway.metrics, read=lambda backend: texts[backend.service.name])
    gateway.documents.round(gateway.table)
    yield Shop(apps, gateway)
    for app in apps.values():
        app.extensions["database"].dispose()


def _bearer() -> dict[str, str]:
    now = int(time.time())
    claims = {"sub": "u1", "username": "u1", "roles": ["admin"], "iss": "user_service", "aud": "shop", "type": "access"}
    claims |= {"iat": now, "exp": now + 86_400, "jti": str(uuid4()), "permissions": ALL, "sid": "s1", "gen": 0}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256', headers={'typ': 'at+jwt'})}"}


ALL = ["products:write", "orders:read", "orders:write", "orders:read:any", "orders:write:any"]
BEARER = _bearer()

BAD = [
    sent("products", "POST", "", b""),
    Asked("products", "POST", ""),
    sent("products", "POST", "", b"{"),
    sent("products", "POST", "", b'{"name": NaN}'),
    sent("products", "POST", "", b'"\\ud800"'),
    sent("products", "POST", "", b"\xff{}"),
    sent("products", "POST", "", b"[" * 2000),
    sent("products", "POST", "", b"[" * 300 + b"]" * 300),
    sent("products", "POST", "", MUG, "text/plain"),
    sent("products", "POST", "", MUG, ""),
    sent("products", "POST", "", MUG, "application/x-www-form-urlencoded"),
    sent("products", "POST", "", {}, "application/merge-patch+json"),
    sent("products", "POST", "", {}, "APPLICATION/JSON; charset=utf-8"),
    *(sent("products", "POST", "", whole) for whole in ([], 5, "x", True, {}, [MUG])),
    *(
        sent("products", "POST", "", MUG | changed)
        for changed in (
            {"name": 5},
            {"name": None},
            {"name": ""},
            {"name": " Mug"},
            {"name": "Mug\x00"},
            {"name": "x" * 201},
            {"name": ["Mug"]},
            {"category": "x" * 51},
            {"description": 5},
            {"description": "x" * 2001},
            {"price": "1.234"},
            {"price": 1.234},
            {"price": -1},
            {"price": True},
            {"price": None},
            {"price": []},
            {"price": 10_000_001},
            {"price": "abc"},
            {"stock": "5"},
            {"stock": 5.5},
            {"stock": True},
            {"stock": -1},
            {"stock": 10**30},
            {"colour": "red"},
            {"id": 1, "created_at": "now"},
            {"name": 5, "price": "abc", "stock": -1, "x": 1},
        )
    ),
    sent("products", "PATCH", "/1", {}),
    sent("products", "PATCH", "/1", {"price": "abc"}),
    sent("products", "PATCH", "/abc", {}),
    sent("products", "PUT", "/1", {"name": "Mug"}),
    *(
        got("products", f"?{query}")
        for query in (
            "page=0",
            "page=x",
            "page=",
            "page=1e1",
            "page=100001",
            "per_page=101",
            "per_page=0&page=x",
            "min_price=abc",
            "min_price=1.999",
            "min_price=-1",
            "sort=zzz",
            "sort=",
            "q=%01",
            f"q={'x' * 101}",
        )
    ),
    *(
        sent("orders", "POST", "", {"lines": lines})
        for lines in (
            [],
            {},
            None,
            [5],
            [{}],
            [{"product_id": 0, "quantity": "1"}],
            [{"product_id": 1.5, "quantity": 1}],
            [{"product_id": 1, "quantity": 1001}],
            [{"product_id": 10**20, "quantity": 1}],
            [{"product_id": 1, "quantity": True, "price": "0.01"}],
            [{"product_id": number, "quantity": 1} for number in range(1, 52)],
        )
    ),
    sent("orders", "POST", "", {"lines": [{"product_id": 1, "quantity": 1}], "user_id": "other"}),
    *(got("orders", f"?{query}") for query in ("status=x", "all=maybe", "all=", "user_id=%01", "per_page=1000")),
    *(
        sent("users", "POST", "/register", {"username": "ada", "password": "password123"} | changed)
        for changed in (
            {"username": "a"},
            {"username": "ada!"},
            {"username": 5},
            {"password": "short"},
            {"password": "x" * 129},
            {"email": "nobody"},
            {"email": 5},
            {"roles": ["admin"]},
        )
    ),
    sent("users", "POST", "/login", {"username": "ada"}),
    sent("users", "POST", "/login", {"username": "ada", "password": 5}),
    sent("users", "POST", "/login", {"username": "ada", "password": "x" * 1025}),
]

GOOD = [
    sent("products", "POST", "", MUG),
    sent("products", "POST", "", MUG, "application/vnd.shop+json"),
    *(
        sent("products", "POST", "", MUG | changed)
        for changed in (
            {"price": 12.35},
            {"price": 0.07},
            {"price": 9999999.99},
            {"price": 12},
            {"price": "0.5"},
            {"stock": 5},
            {"stock": 5.0},
            {"name": "Tassé ☕ 茶"},
            {"description": "two\nlines\tand a tab"},
        )
    ),
    sent("products", "PATCH", "/1", {"price": "13"}),
    sent("products", "PATCH", "/1", {"description": None, "stock": 4}),
    *(
        got("products", f"?{query}")
        for query in (
            "",
            "page=1&per_page=100",
            "page=%2B1",
            "page=1.0",
            "page=+1",
            "min_price=1e2",
            "min_price=0.5&max_price=12",
            "q=",
            "q=12",
            f"q={quote('caffè %_')}",
            "sort=-price",
            "utm_source=mail",
        )
    ),
    got("products", "/1"),
    *(got("orders", f"?{query}") for query in ("status=confirmed", "all=1", "all=TRUE", "all=off", "user_id=7")),
    sent("users", "POST", "/register", {"username": "ada", "password": "password123"}),
    sent("users", "POST", "/register", {"username": "bob.b-1", "password": "ünïcödé ☕", "email": None}),
    sent("users", "POST", "/register", {"username": "eve_2", "password": "password123", "email": "e@x.example"}),
]


@pytest.mark.parametrize("asked", BAD, ids=str)
def test_the_edge_refuses_as_the_service_does(shop: Shop, asked: Asked) -> None:
    said = shop.service_says(asked)

    assert said[0] in (400, 415, 422)
    assert shop.edge_says(asked) == said


@pytest.mark.parametrize("asked", GOOD, ids=str)
def test_the_edge_lets_pass_what_the_service_takes(shop: Shop, asked: Asked) -> None:
    status, fields = shop.service_says(asked)

    assert status < 400 or (status, asked.path) == (404, "/1")
    assert not fields
    assert shop.edge_says(asked) == (200, frozenset())


def test_each_operation_of_the_services_is_known(shop: Shop) -> None:
    for name, app in shop.apps.items():
        document = cast("Mapping[str, Mapping[str, Mapping[str, object]]]", app.spec)
        operations = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
        contract = shop.gateway.documents.contract(name)

        assert contract is not None
        assert {(operation.method, operation.template) for operation in contract.operations} == operations
