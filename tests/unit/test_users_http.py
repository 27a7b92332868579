"""What user_service answers: statuses, codes and tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient
from sqlalchemy import delete
from werkzeug.test import TestResponse

from common import migrations
from common.settings import load
from common.tokens import AUDIENCE, ISSUER
from user_service import create_app
from user_service.settings import UserSettings
from user_service.tables import User
from user_service.users import ADMIN, Users

SECRET = "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu"
ADA = {"username": "ada", "password": "password123"}
MakeApp = Callable[..., APIFlask]


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    apps: list[APIFlask] = []

    def make(**given: object) -> APIFlask:
        own: dict[str, object] = {"database_url": f"sqlite:///{tmp_path}/users.db", "var_dir": tmp_path}
        own |= {"jwt_secret_key": None, "access_token_ttl": 900}
        app = create_app(load(UserSettings, "user_service", **own | given))
        migrations.upgrade(app.extensions["database"], Path(app.root_path) / "migrations")
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.extensions["database"].dispose()


@pytest.fixture
def app(make_app: MakeApp) -> APIFlask:
    return make_app()


@pytest.fixture
def client(app: APIFlask) -> FlaskClient:
    return app.test_client(use_cookies=False)


def log_in(client: FlaskClient, **credentials: str) -> dict[str, str]:
    """The headers of a user who is registered first where nobody has the name."""
    credentials = ADA | credentials
    client.post("/users/register", json=credentials)
    token = client.post("/users/login", json=credentials).json["access_token"]  # pyright: ignore[reportOptionalSubscript]
    return {"Authorization": f"Bearer {token}"}


def log_in_as_admin(app: APIFlask) -> dict[str, str]:
    users: Users = app.extensions["users"]
    users.register("root", "password123", roles=(ADMIN,))
    return log_in(app.test_client(use_cookies=False), username="root")


def id_of(client: FlaskClient, headers: dict[str, str]) -> str:
    return str(body(client.get("/users/profile", headers=headers))["id"])


def body(answer: TestResponse) -> dict[str, Any]:
    assert isinstance(answer.json, dict)
    return answer.json


def test_registration_answers_with_the_account_and_no_password(client: FlaskClient) -> None:
    answer = client.post("/users/register", json={**ADA, "email": "ada@example.org"})

    assert (answer.status_code, answer.headers["Location"]) == (201, "/users/profile")
    assert answer.headers["Cache-Control"] == "no-store"
    assert set(body(answer)) == {"id", "username", "email", "roles", "created_at"}
    assert (body(answer)["email"], body(answer)["roles"]) == ("ada@example.org", ["customer"])


def test_a_taken_name_is_a_conflict(client: FlaskClient) -> None:
    client.post("/users/register", json=ADA)

    answer = client.post("/users/register", json=ADA | {"username": "ADA"})

    assert (answer.status_code, body(answer)["code"]) == (409, "USERNAME_TAKEN")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"roles": ["admin"]}, "roles"),
        ({"id": "1"}, "id"),
        ({"username": "a b"}, "username"),
        ({"username": "ab"}, "username"),
        ({"username": 12345}, "username"),
        ({"password": "short12"}, "password"),
        ({"password": "x" * 129}, "password"),
        ({"password": None}, "password"),
        ({"email": "nonsense"}, "email"),
        ({"email": "a@b\u0085"}, "email"),
    ],
)
def test_what_may_not_be_registered_is_refused_by_field(
    client: FlaskClient, change: dict[str, object], field: str
) -> None:
    answer = client.post("/users/register", json=ADA | change)

    assert answer.status_code == 422
    assert [error["field"] for error in body(answer)["errors"]] == [field]


def test_a_password_below_the_operators_minimum_is_refused_by_field(make_app: MakeApp) -> None:
    client = make_app(password_min_length=12).test_client(use_cookies=False)

    answer = client.post("/users/register", json=ADA)

    assert (answer.status_code, body(answer)["code"]) == (422, "PASSWORD_TOO_SHORT")
    assert body(answer)["errors"][0]["field"] == "password"


def test_log_in_answers_with_a_bearer_token(client: FlaskClient) -> None:
    client.post("/users/register", json=ADA)

    answer = client.post("/users/login", json=ADA)

    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert set(body(answer)) == {"access_token", "token_type", "expires_in", "refresh_token", "refresh_expires_in"}
    assert (body(answer)["token_type"], body(answer)["expires_in"]) == ("bearer", 900)


def test_a_token_verifies_with_the_published_keys_and_says_who(client: FlaskClient) -> None:
    token = log_in(client)["Authorization"].removeprefix("Bearer ")
    published = client.get("/.well-known/jwks.json")
    key = jwt.PyJWKSet.from_dict(body(published))[jwt.get_unverified_header(token)["kid"]]

    claims = jwt.decode(token, key, ["EdDSA"], audience=AUDIENCE, issuer=ISSUER)

    assert published.headers["Cache-Control"] == "public, max-age=60"
    assert (claims["username"], claims["roles"], claims["type"]) == ("ada", ["customer"], "access")
    assert claims["exp"] - claims["iat"] == 900
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
    assert set(claims) == {
        "sub", "username", "roles", "permissions", "sid", "gen", "amr", "auth_time",
        "iss", "aud", "exp", "iat", "nbf", "jti", "type", "fresh",
    }  # fmt: skip


def test_a_token_lives_as_long_as_is_configured(make_app: MakeApp) -> None:
    client = make_app(access_token_ttl=60).test_client(use_cookies=False)

    token = log_in(client)["Authorization"].removeprefix("Bearer ")

    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 60


def test_a_token_of_one_worker_is_good_at_another(make_app: MakeApp) -> None:
    here, there = make_app().test_client(use_cookies=False), make_app().test_client(use_cookies=False)
    assert there.get("/users/profile", headers={"Authorization": "Bearer a.b.c"}).status_code == 401

    headers = log_in(here)

    assert there.get("/users/profile", headers=headers).status_code == 200


def test_the_simple_mode_signs_with_the_secret_and_publishes_nothing(make_app: MakeApp) -> None:
    client = make_app(jwt_secret_key=SECRET).test_client(use_cookies=False)

    headers = log_in(client)

    token = headers["Authorization"].removeprefix("Bearer ")
    assert jwt.decode(token, SECRET, ["HS256"], audience=AUDIENCE, issuer=ISSUER)["username"] == "ada"
    assert body(client.get("/.well-known/jwks.json")) == {"keys": []}
    assert client.get("/users/profile", headers=headers).status_code == 200


@pytest.mark.parametrize("change", [{"password": "password124"}, {"username": "nobody"}])
def test_wrong_credentials_get_one_answer(client: FlaskClient, change: dict[str, str]) -> None:
    client.post("/users/register", json=ADA)

    answer = client.post("/users/login", json=ADA | change)

    assert (answer.status_code, body(answer)["code"]) == (401, "WRONG_CREDENTIALS")
    assert body(answer)["detail"] == "The username or the password is wrong."
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_profile_is_shown_and_changed_by_its_owner(client: FlaskClient) -> None:
    headers = log_in(client)

    changed = client.patch("/users/profile", json={"email": "ada@example.org"}, headers=headers)
    cleared = client.patch("/users/profile", json={"email": None}, headers=headers)

    assert (changed.status_code, body(changed)["email"]) == (200, "ada@example.org")
    assert (cleared.status_code, body(cleared)["email"]) == (200, None)
    assert body(client.get("/users/profile", headers=headers)) == body(cleared)


@pytest.mark.parametrize("change", [{}, {"email": None, "roles": ["admin"]}, {"email": None, "username": "root"}])
def test_nothing_but_the_address_can_be_changed(client: FlaskClient, change: dict[str, object]) -> None:
    headers = log_in(client)

    answer = client.patch("/users/profile", json=change, headers=headers)

    assert answer.status_code == 422
    assert body(client.get("/users/profile", headers=headers))["roles"] == ["customer"]


def test_a_password_is_changed_by_who_knows_it(client: FlaskClient) -> None:
    headers = log_in(client)

    wrong = {"current_password": "password124", "new_password": "password456"}
    refused = client.post("/users/password", json=wrong, headers=headers)
    changed = client.post("/users/password", json=wrong | {"current_password": "password123"}, headers=headers)

    assert (refused.status_code, body(refused)["code"]) == (403, "WRONG_PASSWORD")
    assert (changed.status_code, changed.data) == (204, b"")
    assert client.post("/users/login", json=ADA | {"password": "password456"}).status_code == 200


def test_the_token_of_a_user_who_is_gone_is_not_valid(app: APIFlask, client: FlaskClient) -> None:
    headers = log_in(client)
    with app.extensions["database"].write() as session:
        session.execute(delete(User))

    answer = client.get("/users/profile", headers=headers)

    assert (answer.status_code, body(answer)["code"]) == (401, "INVALID_TOKEN")
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_only_administrators_see_all_users(app: APIFlask, client: FlaskClient) -> None:
    customer, admin = log_in(client), log_in_as_admin(app)

    refused = client.get("/users", headers=customer)
    page = client.get("/users?per_page=1&page=2", headers=admin)

    assert (refused.status_code, body(refused)["code"]) == (403, "PERMISSION_REQUIRED")
    assert [user["username"] for user in body(page)["items"]] == ["root"]
    assert (body(page)["total"], body(page)["pages"]) == (2, 2)


def test_a_user_is_seen_by_themselves_and_by_administrators(app: APIFlask, client: FlaskClient) -> None:
    customer, admin = log_in(client), log_in_as_admin(app)
    address = f"/users/{id_of(client, customer)}"

    assert client.get(address, headers=customer).status_code == 200
    assert client.get(address, headers=admin).status_code == 200


def test_for_others_a_user_is_not_there(app: APIFlask, client: FlaskClient) -> None:
    customer, admin = log_in(client), log_in_as_admin(app)
    nobody = "/users/00000000-0000-4000-8000-000000000000"

    others = client.get(f"/users/{id_of(client, admin)}", headers=customer)
    missing = client.get(nobody, headers=customer)

    def told(answer: TestResponse) -> dict[str, Any]:
        return body(answer) | {"request_id": ""}

    assert others.status_code == 404
    assert told(others) == told(missing)
    assert client.get(nobody, headers=admin).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/users/profile"),
        ("PATCH", "/users/profile"),
        ("POST", "/users/password"),
        ("GET", "/users"),
        ("GET", "/users/00000000-0000-4000-8000-000000000000"),
    ],
)
def test_without_a_good_token_there_is_only_401(client: FlaskClient, method: str, path: str) -> None:
    missing = client.open(path, method=method)
    garbage = client.open(path, method=method, headers={"Authorization": "Bearer garbage"})

    assert (missing.status_code, body(missing)["code"]) == (401, "TOKEN_REQUIRED")
    assert (garbage.status_code, body(garbage)["code"]) == (401, "INVALID_TOKEN")


@pytest.mark.parametrize("path", ["/users/profile", "/users", "/.well-known/jwks.json"])
def test_a_trailing_slash_makes_no_difference(app: APIFlask, client: FlaskClient, path: str) -> None:
    admin = log_in_as_admin(app)

    assert client.get(f"{path}/", headers=admin).data == client.get(path, headers=admin).data


def test_each_operation_documents_its_errors_and_whether_it_needs_a_token(client: FlaskClient) -> None:
    paths = body(client.get("/openapi.json"))["paths"]

    operations = {
        f"{method.upper()} {path}": (set(operation["responses"]), "security" in operation)
        for path, item in paths.items()
        for method, operation in item.items()
        if operation["tags"][0] in ("users", "sessions")
    }

    with_body = {"400", "413", "415", "422", "503"}
    assert operations == {
        "POST /users/register": ({"201", "409"} | with_body, False),
        "POST /users/login": ({"200", "401", "429"} | with_body, False),
        "GET /users/profile": ({"200", "401", "403", "503"}, True),
        "PATCH /users/profile": ({"200", "401", "403"} | with_body, True),
        "POST /users/password": ({"204", "401", "403", "429"} | with_body, True),
        "GET /users": ({"200", "401", "403", "422", "503"}, True),
        "GET /users/{user_id}": ({"200", "401", "403", "404", "503"}, True),
        "GET /.well-known/jwks.json": ({"200", "503"}, False),
        "POST /users/refresh": ({"200", "401"} | with_body, False),
        "POST /users/logout": ({"204", "401", "403", "404", "503"}, True),
        "POST /users/logout-all": ({"204", "401", "403", "503"}, True),
        "GET /users/sessions": ({"200", "401", "403", "503"}, True),
        "DELETE /users/sessions": ({"204", "401", "403", "503"}, True),
        "DELETE /users/sessions/{session_id}": ({"204", "401", "403", "404", "503"}, True),
    }
