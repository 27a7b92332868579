"""Who may what: every route, asked by everybody, through a real gateway and the real services.

The routes are those that the services document and those that the gateway has; one that is not listed here fails. What
a route does is not the matter: those who may come in are told 2xx, or that the body or the id that they sent won't do,
and so nothing is changed. Then the ids of others, and fields that nobody may set.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import pytest
import requests

from common.http import tuned_session
from common.permissions import BUILT_IN, CUSTOMER, MEANINGS
from deploy.local.valkey import Valkey
from gateway import create_app
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.shop import Parts
from tests.unit import parts

Headers = Mapping[str, str]
PASSWORD = "password123"
OF_CUSTOMERS, EVERYTHING = BUILT_IN[CUSTOMER], frozenset(MEANINGS)
UNRELATED = "tests:nothing"
NOBODY = "00000000-0000-4000-8000-000000000000"
"""An id that nothing has."""


@dataclass(frozen=True, slots=True)
class Route:
    """What it takes: nothing, any token, any of some permissions, or a person who logged in."""

    needs: Literal["nothing", "token", "person"] | frozenset[str]
    ends_session: bool = False


def one_of(*permissions: str) -> Route:
    return Route(frozenset(permissions))


PUBLIC, PERSON = Route("nothing"), Route("person")
SERVICES: Mapping[str, Route] = {
    "POST /users/register": PUBLIC,
    "POST /users/login": PUBLIC,
    "POST /users/refresh": PUBLIC,
    "POST /users/logout": Route("person", ends_session=True),
    "POST /users/logout-all": Route("person", ends_session=True),
    "GET /users/sessions": PERSON,
    "DELETE /users/sessions": Route("person", ends_session=True),
    "DELETE /users/sessions/{session_id}": PERSON,
    "GET /users/profile": one_of("profile:read"),
    "PATCH /users/profile": one_of("profile:write"),
    "POST /users/password": PERSON,
    "GET /users/second-factor": PERSON,
    "POST /users/second-factor": PERSON,
    "POST /users/second-factor/confirm": PERSON,
    "POST /users/second-factor/recovery-codes": PERSON,
    "DELETE /users/second-factor": PERSON,
    "GET /users/api-keys": PERSON,
    "POST /users/api-keys": PERSON,
    "PATCH /users/api-keys/{key_id}": PERSON,
    "POST /users/api-keys/{key_id}/rotate": PERSON,
    "DELETE /users/api-keys/{key_id}": PERSON,
    "GET /users/me/export": PERSON,
    "DELETE /users/me": PERSON,
    "GET /users": one_of("users:read"),
    "GET /users/{user_id}": one_of("profile:read", "users:read"),
    "GET /users/{user_id}/api-keys": one_of("users:read"),
    "PATCH /users/{user_id}/api-keys/{key_id}": one_of("users:write"),
    "DELETE /users/{user_id}/api-keys/{key_id}": one_of("users:write"),
    "PUT /users/{user_id}/roles": one_of("users:write"),
    "GET /users/roles": one_of("roles:write", "users:write"),
    "PUT /users/roles/{name}": one_of("roles:write"),
    "DELETE /users/roles/{name}": one_of("roles:write"),
    "GET /users/audit": one_of("audit:read"),
    "POST /orders": one_of("orders:write"),
    "GET /orders": one_of("orders:read", "orders:read:any"),
    "GET /orders/{order_id}": one_of("orders:read", "orders:read:any"),
    "GET /orders/{order_id}/history": one_of("orders:read", "orders:read:any"),
    "POST /orders/{order_id}/cancel": one_of("orders:write", "orders:write:any"),
    "GET /products": PUBLIC,
    "GET /products/{product_id}": PUBLIC,
    "POST /products": one_of("products:write"),
    "PUT /products/{product_id}": one_of("products:write"),
    "PATCH /products/{product_id}": one_of("products:write"),
    "DELETE /products/{product_id}": one_of("products:write"),
}
"""By method and path, as the services document them. Those below `/users` are below `/auth` too."""

NOT_REACHABLE = (
    "GET /.well-known/jwks.json",
    "GET /users/../internal/revocations",
    "POST /internal/api-keys/exchange",
    "GET /internal/revocations",
    "GET /reservations/1",
    "GET /orders/../internal/users/1/data",
)
"""What services have for each other, and what goes out of a service's prefix."""

OPERATOR = one_of("operations")
PAGES: Mapping[str, Route] = {
    "GET /": PUBLIC,
    "GET /openapi/{name}.json": PUBLIC,
    "GET /problems": PUBLIC,
    "GET /problems/{slug}": PUBLIC,
    "GET /health": PUBLIC,
    "GET /health/startup": PUBLIC,
    "GET /ready": PUBLIC,
    "GET /metrics": OPERATOR,
    "GET /services": OPERATOR,
    "GET /health/services": OPERATOR,
}
"""The gateway's own, on the public listener."""

OPERATIONS: Mapping[str, Route] = {
    "GET /config": PUBLIC,
    "GET /config/routes": PUBLIC,
    "POST /config/diff": PUBLIC,
    "POST /config/reload": OPERATOR,
    "POST /config/rollback": OPERATOR,
    "POST /explain": PUBLIC,
    "GET /explain/{request_id}": PUBLIC,
    "GET /registrations": PUBLIC,
    "POST /registrations": OPERATOR,
    "DELETE /registrations": OPERATOR,
    "POST /instances/drain": OPERATOR,
    "POST /instances/undrain": OPERATOR,
}
"""Pages that the operations listener alone has, and whoever reaches it may read."""


@dataclass
class Caller:
    """Somebody with a credential. `may` is None for one that is no longer good."""

    headers: Headers
    may: frozenset[str] | None
    is_person: bool = False
    guest: str = ""  # a user like this one, whose sessions may end

    def passes(self, route: Route) -> bool:
        if route.needs == "nothing":
            return True
        if self.may is None:
            return False
        if isinstance(route.needs, frozenset):
            return not self.may.isdisjoint(route.needs)
        return self.is_person or route.needs == "token"


@dataclass
class World:
    """The running shop and those who call it."""

    shop: Parts
    callers: dict[str, Caller] = field(default_factory=dict[str, Caller])
    ids: dict[str, str] = field(default_factory=dict[str, str])
    session: requests.Session = field(default_factory=lambda: tuned_session(pool_size=4))

    def ask(
        self, method: str, path: str, headers: Headers | None = None, json: object = None, *, operations: bool = False
    ) -> requests.Response:
        url = self.shop.operations_url if operations else self.shop.url
        return self.session.request(method, url + path, headers=dict(headers or {}), json=json, timeout=30)

    def told(self, method: str, path: str, caller: str, json: object = None) -> dict[str, Any]:
        answer = self.ask(method, path, self.callers[caller].headers, json)
        assert answer.ok, answer.text
        return dict(answer.json()) if answer.content else {}

    def make_key(self, caller: str, *scopes: str) -> tuple[str, str]:
        made = self.told("POST", "/users/api-keys", caller, {"name": "k", "scopes": list(scopes)})
        return made["id"], made["key"]

    def log_in(self, name: str) -> Headers:
        return {"Authorization": f"Bearer {self.shop.log_in(name, PASSWORD)}"}

    def register(self, name: str) -> str:
        answer = self.ask("POST", "/users/register", json={"username": name, "password": PASSWORD})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[World]:
    directory = tmp_path_factory.mktemp("matrix")
    environment = {
        "WEB_CONCURRENCY": "1",
        "RATE_LIMIT_REQUESTS": "100000",
        "GATEWAY_SERVICES": "tests/e2e/services.yaml",
        "USERS_DATABASE_URL": f"sqlite:///{directory}/users.db",
    }
    with ExitStack() as stack:
        valkey = stack.enter_context(Valkey(directory / "valkey", port=free_port()))
        world = World(stack.enter_context(Parts(directory, {**environment, "REDIS_URL": valkey.url})))
        _people(world)
        _keys(world, directory)
        yield world


def _people(world: World) -> None:
    for name in ("owner", "other", "boss", "former", "guest", "guest-boss"):
        world.ids[name] = world.register(name)
    world.callers["root"] = Caller({"Authorization": f"Bearer {world.shop.log_in('admin', 'admin')}"}, EVERYTHING)
    world.told("PUT", "/users/roles/unrelated", "root", {"permissions": [UNRELATED]})
    for name in ("boss", "former", "guest-boss"):
        roles = ["customer", "admin", "unrelated"] if name == "boss" else ["customer", "admin"]
        world.told("PUT", f"/users/{world.ids[name]}/roles", "root", {"roles": roles})
    world.callers = {
        "anonymous": Caller({}, None),
        "customer": Caller(world.log_in("owner"), OF_CUSTOMERS, is_person=True, guest="guest"),
        "other customer": Caller(world.log_in("other"), OF_CUSTOMERS, is_person=True, guest="guest"),
        "admin": Caller(world.log_in("boss"), EVERYTHING, is_person=True, guest="guest-boss"),
        "former admin": Caller(world.log_in("former"), EVERYTHING, is_person=True),
    }


def _keys(world: World, directory: Path) -> None:
    of_owner, _ = world.make_key("customer", "orders:read")
    _, all_scopes = world.make_key("admin", *sorted(EVERYTHING))
    _, unrelated = world.make_key("admin", UNRELATED)
    _, of_former = world.make_key("former admin", *sorted(EVERYTHING))
    expired_id, expired = world.make_key("customer", *sorted(OF_CUSTOMERS))
    revoked_id, revoked = world.make_key("customer", *sorted(OF_CUSTOMERS))
    world.told("DELETE", f"/users/api-keys/{revoked_id}", "customer")
    world.told("PUT", f"/users/{world.ids['former']}/roles", "admin", {"roles": ["customer"]})
    del world.callers["former admin"]
    database = sqlite3.connect(directory / "users.db", timeout=10)
    with database:
        database.execute("UPDATE api_keys SET expires_at = '2020-01-01 00:00:00' WHERE id = ?", (expired_id,))
    database.close()
    world.ids["key"] = of_owner
    world.callers |= {
        "key with all scopes": Caller({"X-API-Key": all_scopes}, EVERYTHING),
        "key without the scope": Caller({"Authorization": f"ApiKey {unrelated}"}, frozenset()),
        "key whose owner may no longer": Caller({"X-API-Key": of_former}, OF_CUSTOMERS),
        "expired key": Caller({"X-API-Key": expired}, None),
        "revoked key": Caller({"X-API-Key": revoked}, None),
    }


CALLERS = (
    "anonymous",
    "customer",
    "other customer",
    "admin",
    "key with all scopes",
    "key without the scope",
    "key whose owner may no longer",
    "expired key",
    "revoked key",
)


def test_every_documented_route_has_an_expectation(world: World) -> None:
    ports = world.shop.ports
    documented: set[str] = set()
    for port in (ports.users, ports.orders, ports.products):
        document = requests.get(f"http://127.0.0.1:{port}/openapi.json", timeout=10).json()
        documented |= {
            f"{method.upper()} {path}"
            for path, operations in document["paths"].items()
            for method in operations
            if path.split("/")[1] in ("users", "orders", "products")
        }

    assert documented == set(SERVICES)


def test_every_route_of_the_gateway_is_asked(world: World) -> None:
    """A route of the table that no request of the matrix goes through has no expectation."""
    rows = world.ask("GET", "/config/routes", operations=True).json()["routes"]
    asked: set[str] = set()
    for method, path, _ in _requests(SERVICES):
        question = {"method": method, "url": path, "look": False}
        asked.add(world.ask("POST", "/explain", json=question, operations=True).json()["route"])

    assert {row["name"] for row in rows} <= asked


def test_every_page_of_the_gateway_has_an_expectation(tmp_path: Path) -> None:
    with parts.clean_environment(VAR_DIR=str(tmp_path)):
        app = create_app(parts.settings(var_dir=tmp_path))
    pages = {
        f"{method} {rule.rule.replace('<', '{').replace('>', '}').replace('{path:', '{')}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not rule.rule.startswith("/api/")
    }

    assert pages == {*PAGES, *OPERATIONS}


@pytest.mark.parametrize("who", CALLERS)
@pytest.mark.parametrize("prefix", ["/users", "/auth", "/api/v1/users"])
def test_a_service_lets_in_whom_it_should_and_nobody_else(world: World, who: str, prefix: str) -> None:
    caller, wrong = world.callers[who], list[str]()

    for method, path, route in _requests(SERVICES):
        if prefix != "/users" and not path.startswith("/users"):
            continue
        headers = caller.headers
        if route.ends_session and caller.passes(route):
            headers = world.log_in(caller.guest)
        answer = world.ask(method, path.replace("/users", prefix, 1), headers, _useless_body(method))
        wrong += _wrong(f"{method} {path}", caller, route, answer)

    assert wrong == []


@pytest.mark.parametrize("who", CALLERS)
def test_a_page_of_the_gateway_lets_in_whom_it_should_and_nobody_else(world: World, who: str) -> None:
    caller, wrong = world.callers[who], list[str]()

    for method, path, route in _requests(PAGES):
        answer = world.ask(method, path, caller.headers, _useless_body(method))
        wrong += _wrong(f"{method} {path}", caller, route, answer)
    for method, path, route in _requests(OPERATIONS):
        body = None if "/config/r" in path else _useless_body(method)
        answer = world.ask(method, path, caller.headers, body, operations=True)
        wrong += _wrong(f"{method} {path} (operations)", caller, route, answer)
        hidden = world.ask(method, path, caller.headers, body)
        wrong += [] if hidden.status_code == 404 else [f"{method} {path} is there for the public"]

    assert wrong == []


@pytest.mark.parametrize("who", CALLERS)
@pytest.mark.parametrize("request_line", NOT_REACHABLE)
def test_what_services_have_for_each_other_is_not_there(world: World, who: str, request_line: str) -> None:
    method, path = request_line.split()
    prepared = requests.Request(method, world.shop.url, headers=world.callers[who].headers).prepare()
    prepared.url = world.shop.url + path  # requests would resolve the dots

    assert world.session.send(prepared, timeout=30).status_code in (400, 404)


def _requests(routes: Mapping[str, Route]) -> list[tuple[str, str, Route]]:
    """With ids and names that nothing has."""
    found: list[tuple[str, str, Route]] = []
    for line, route in routes.items():
        method, path = line.split()
        for name in ("session_id", "key_id", "user_id", "order_id", "request_id"):
            path = path.replace(f"{{{name}}}", NOBODY)
        path = path.replace("{product_id}", "999999").replace("{name}", "nobodys").replace("{slug}", "nobodys")
        found.append((method, path, route))
    return found


def _useless_body(method: str) -> object:
    """A body that no route can make use of."""
    return {"nonsense": True} if method not in ("GET", "HEAD") else None


def _wrong(what: str, caller: Caller, route: Route, answer: requests.Response) -> list[str]:
    status = answer.status_code
    if caller.passes(route):
        is_right = status < 500 and status not in (401, 403)
    else:
        is_right = status == (401 if caller.may is None else 403)
    return [] if is_right else [f"{what}: {status} {answer.text[:200]}"]


@pytest.fixture(scope="module")
def belongings(world: World) -> dict[str, str]:
    """Ids of what belongs to the customer."""
    product = world.told(
        "POST", "/products", "admin", {"name": "Mug", "category": "kitchen", "price": "1.00", "stock": 50}
    )
    line = {"product_id": product["id"], "quantity": 1}
    order = world.told("POST", "/orders", "customer", {"lines": [line]})
    session = world.told("GET", "/users/sessions", "customer")["items"][0]
    return {
        "product": str(product["id"]),
        "order": order["id"],
        "session": session["id"],
        "key": world.ids["key"],
        "user": world.ids["owner"],
    }


OF_OTHERS = [
    ("GET", "/users/{user}", None),
    ("GET", "/users/{user}/api-keys", None),
    ("PATCH", "/users/{user}/api-keys/{key}", {"name": "mine"}),
    ("DELETE", "/users/{user}/api-keys/{key}", None),
    ("PUT", "/users/{user}/roles", {"roles": []}),
    ("PATCH", "/users/api-keys/{key}", {"name": "mine"}),
    ("POST", "/users/api-keys/{key}/rotate", None),
    ("DELETE", "/users/api-keys/{key}", None),
    ("DELETE", "/users/sessions/{session}", None),
    ("GET", "/orders/{order}", None),
    ("GET", "/orders/{order}/history", None),
    ("POST", "/orders/{order}/cancel", None),
    ("GET", "/orders?user_id={user}", None),
    ("GET", "/orders?all=true", None),
]


@pytest.mark.parametrize(("method", "path", "body"), OF_OTHERS)
@pytest.mark.parametrize("who", ["other customer", "key whose owner may no longer"])
def test_nobody_gets_at_what_belongs_to_others_by_its_id(
    world: World, belongings: dict[str, str], who: str, method: str, path: str, body: object
) -> None:
    answer = world.ask(method, path.format(**belongings), world.callers[who].headers, body)

    assert answer.status_code in (403, 404)
    assert not any(secret in answer.text for secret in ("owner", "gk_", "kitchen", '"items"'))
    assert answer.json()["code"]


def test_an_administrator_gets_at_them_but_not_at_what_is_for_the_owner_alone(
    world: World, belongings: dict[str, str]
) -> None:
    def ask(method: str, path: str) -> int:
        return world.ask(method, path.format(**belongings), world.callers["admin"].headers).status_code

    assert [ask("GET", path) for path in ("/users/{user}", "/users/{user}/api-keys", "/orders/{order}")] == [200] * 3
    assert [ask("DELETE", path) for path in ("/users/sessions/{session}", "/users/api-keys/{key}")] == [404] * 2


TOO_MUCH = [
    ("POST", "/users/register", {"username": "eve", "password": PASSWORD}),
    ("PATCH", "/users/profile", {"email": "eve@example.org"}),
    ("POST", "/users/api-keys", {"name": "k", "scopes": ["orders:read"]}),
    ("PATCH", "/users/api-keys/{key}", {"name": "k"}),
    ("POST", "/orders", {"lines": [{"product_id": 1, "quantity": 1}]}),
]
FIELDS: Mapping[str, object] = {
    "roles": ["admin"],
    "permissions": ["users:write"],
    "is_admin": True,
    "id": NOBODY,
    "user_id": NOBODY,
    "owner": NOBODY,
    "generation": 99,
    "amr": ["otp"],
    "uses": 0,
    "digest": "0" * 64,
    "revoked_at": None,
    "erased_at": None,
    "password_hash": "x",
    "totp_secret": "x",
    "total": "0.00",
    "status": "confirmed",
    "__class__": {"roles": ["admin"]},
}


@pytest.mark.parametrize(("method", "path", "body"), TOO_MUCH)
def test_a_field_that_nobody_may_set_is_refused(
    world: World, belongings: dict[str, str], method: str, path: str, body: dict[str, object]
) -> None:
    headers = {} if path == "/users/register" else world.callers["customer"].headers
    taken = [
        name
        for name, value in FIELDS.items()
        if world.ask(method, path.format(**belongings), headers, {**body, name: value}).status_code != 422
    ]

    assert taken == []
    assert world.told("GET", "/users/profile", "customer")["roles"] == ["customer"]


def test_only_administrators_set_the_price_of_a_product_or_the_plan_of_a_key(
    world: World, belongings: dict[str, str]
) -> None:
    wish = {"name": "k", "scopes": ["orders:read"], "plan": "gold"}

    refused = world.ask("POST", "/users/api-keys", world.callers["customer"].headers, wish)
    theirs = world.told("PATCH", f"/users/{belongings['user']}/api-keys/{belongings['key']}", "admin", {"plan": "gold"})

    assert (refused.status_code, refused.json()["code"]) == (403, "PERMISSION_REQUIRED")
    assert theirs["plan"] == "gold"


def test_nobody_becomes_an_administrator_by_themselves(world: World) -> None:
    myself = f"/users/{world.ids['owner']}/roles"

    answers = [
        world.ask("PUT", myself, world.callers["customer"].headers, {"roles": ["admin"]}),
        world.ask("PUT", "/users/roles/customer", world.callers["customer"].headers, {"permissions": ["users:write"]}),
    ]

    assert [answer.status_code for answer in answers] == [403, 403]


def test_a_revoked_key_is_refused_soon_though_its_token_was_used_a_moment_ago(world: World) -> None:
    key_id, key = world.make_key("other customer", "orders:read")
    before = world.ask("GET", "/orders", {"X-API-Key": key}).status_code

    world.told("DELETE", f"/users/api-keys/{key_id}", "other customer")
    wait_until(lambda: world.ask("GET", "/orders", {"X-API-Key": key}).status_code == 401, "401", timeout_s=2)

    assert before == 200
    assert world.ask("GET", "/orders", {"X-API-Key": key}).json()["code"] == "INVALID_API_KEY"


def test_taking_a_role_away_takes_its_permissions_from_tokens_and_keys_at_once(world: World) -> None:
    path, headers = f"/users/{world.register('short-lived')}/roles", list[Headers]()
    world.told("PUT", path, "admin", {"roles": ["customer", "admin"]})
    headers.append(world.log_in("short-lived"))
    made = world.ask("POST", "/users/api-keys", headers[0], {"name": "k", "scopes": ["users:read"]})
    headers.append({"X-API-Key": made.json()["key"]})

    def statuses() -> list[int]:
        return [world.ask("GET", "/users", each).status_code for each in headers]

    before = statuses()
    world.told("PUT", path, "admin", {"roles": ["customer"]})
    wait_until(lambda: statuses() == [401, 403], "a void token and a key that may no longer", timeout_s=2)

    assert before == [200, 200]


def test_a_random_id_is_as_good_as_none(world: World) -> None:
    assert world.ask("GET", f"/orders/{uuid4()}", world.callers["customer"].headers).status_code == 404
