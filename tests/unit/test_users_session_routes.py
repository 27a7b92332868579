"""Sessions over HTTP: pairs of tokens, logging out, where one is logged in; and the log of revocations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from common import migrations, service_tokens
from common.settings import load
from user_service import create_app
from user_service.settings import UserSettings
from user_service.tables import LoginSession

SECRET = "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu"
ADA = {"username": "ada", "password": "password123"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"
MakeApp = Callable[..., APIFlask]


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """One log-in: its client, and the tokens it got."""

    client: FlaskClient
    tokens: dict[str, Any]

    def call(self, method: str, path: str) -> TestResponse:
        return self.client.open(path, method=method, headers={"Authorization": f"Bearer {self.tokens['access_token']}"})

    def refresh(self) -> TestResponse:
        return self.client.post("/users/refresh", json={"refresh_token": self.tokens["refresh_token"]})

    def sessions(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = body(self.call("GET", "/users/sessions"))["items"]
        return items

    @property
    def id(self) -> str:
        return str(next(session["id"] for session in self.sessions() if session["current"]))


@pytest.fixture(params=["keys", "shared secret"])
def make_app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeApp]:
    apps: list[APIFlask] = []

    def make(**given: object) -> APIFlask:
        own: dict[str, object] = {"database_url": f"sqlite:///{tmp_path}/users.db", "var_dir": tmp_path}
        own |= {"argon2_memory_kib": 8, "argon2_passes": 1}  # quick, not safe
        own["jwt_secret_key"] = SECRET if request.param == "shared secret" else None
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


def log_in(app: APIFlask, name: str = "ada", **headers: str) -> LoggedIn:
    client, credentials = app.test_client(use_cookies=False), ADA | {"username": name}
    client.post("/users/register", json=credentials)
    answer = client.post("/users/login", json=credentials, headers=headers)
    assert answer.status_code == 200, answer.text
    return LoggedIn(client, body(answer))


def body(answer: TestResponse) -> dict[str, Any]:
    assert isinstance(answer.json, dict)
    return answer.json


def void(app: APIFlask) -> list[str]:
    return [entry.subject for entry in app.extensions["revocations"].entries_after(0)[0]]


def test_a_refresh_answers_with_a_new_pair_that_works(app: APIFlask) -> None:
    ada = log_in(app)

    answer = ada.refresh()

    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert set(body(answer)) == set(ada.tokens)
    refreshed = LoggedIn(ada.client, body(answer))
    assert refreshed.call("GET", "/users/profile").status_code == 200
    assert refreshed.id == ada.id
    assert refreshed.refresh().status_code == 200


def test_a_reused_refresh_token_is_refused_and_ends_its_session(app: APIFlask) -> None:
    ada = log_in(app)
    sid = ada.id
    successor = LoggedIn(ada.client, body(ada.refresh()))

    reused = ada.refresh()
    after = successor.refresh()

    assert (reused.status_code, body(reused)["code"]) == (401, "REFRESH_REUSED")
    assert (after.status_code, body(after)["code"]) == (401, "INVALID_REFRESH_TOKEN")
    assert void(app) == [sid]
    assert reused.headers["Cache-Control"] == "no-store"
    assert ada.tokens["refresh_token"] not in reused.text


def test_a_client_that_needs_it_is_forgiven_for_a_moment(make_app: MakeApp) -> None:
    ada = log_in(make_app(refresh_grace_s=30))

    twice = [body(ada.refresh())["refresh_token"] for _ in range(2)]

    assert twice[0] == twice[1]


@pytest.mark.parametrize(
    ("document", "status", "code"),
    [
        ({"refresh_token": "nonsense"}, 401, "INVALID_REFRESH_TOKEN"),
        ({"refresh_token": ""}, 401, "INVALID_REFRESH_TOKEN"),
        ({"refresh_token": "\0"}, 401, "INVALID_REFRESH_TOKEN"),
        ({"refresh_token": "x" * 1025}, 422, "VALIDATION_ERROR"),
        ({"refresh_token": None}, 422, "VALIDATION_ERROR"),
        ({"refresh_token": ["x"]}, 422, "VALIDATION_ERROR"),
        ({}, 422, "VALIDATION_ERROR"),
        ({"refresh_token": "x", "user_id": UNKNOWN}, 422, "VALIDATION_ERROR"),
    ],
)
def test_what_is_no_refresh_token_is_refused(app: APIFlask, document: object, status: int, code: str) -> None:
    answer = app.test_client().post("/users/refresh", json=document)

    assert (answer.status_code, body(answer)["code"]) == (status, code)


def test_the_sessions_tell_device_address_and_which_one_asks(app: APIFlask) -> None:
    phone = log_in(app, **{"User-Agent": "Phone/1.0", "X-Forwarded-For": "192.0.2.7, 10.0.0.1"})
    laptop = log_in(app, **{"User-Agent": "Laptop/2.0", "X-Forwarded-For": "2001:db8::1"})

    sessions = laptop.sessions()

    assert {(one["device"], one["address"], one["current"]) for one in sessions} == {
        ("Phone/1.0", "192.0.2.7", False),
        ("Laptop/2.0", "2001:db8::1", True),
    }
    assert {one["current"] for one in phone.sessions() if one["device"] == "Phone/1.0"} == {True}
    assert set(sessions[0]) == {"id", "device", "address", "created_at", "last_used_at", "expires_at", "current"}


def test_a_refresh_tells_from_where_the_session_was_used_last(app: APIFlask) -> None:
    ada = log_in(app, **{"X-Forwarded-For": "192.0.2.7"})

    document = {"refresh_token": ada.tokens["refresh_token"]}
    ada.client.post("/users/refresh", json=document, headers={"X-Forwarded-For": "198.51.100.1"})

    assert [one["address"] for one in ada.sessions()] == ["198.51.100.1"]


def test_nobody_sees_the_sessions_of_others(app: APIFlask) -> None:
    log_in(app)

    assert [one["current"] for one in log_in(app, "bob").sessions()] == [True]


def test_logging_out_ends_this_session_and_no_other(app: APIFlask) -> None:
    here, there = log_in(app), log_in(app)
    sid = here.id

    answer = here.call("POST", "/users/logout")

    assert (answer.status_code, answer.data, answer.headers["Cache-Control"]) == (204, b"", "no-store")
    assert void(app) == [sid]
    assert body(here.refresh())["code"] == "INVALID_REFRESH_TOKEN"
    assert there.refresh().status_code == 200


def test_logging_out_everywhere_ends_all_sessions_of_the_user(app: APIFlask) -> None:
    here, there, bob = log_in(app), log_in(app), log_in(app, "bob")
    ids = {here.id, there.id}

    answer = here.call("POST", "/users/logout-all")

    assert (answer.status_code, set(void(app))) == (204, ids)
    assert [one.refresh().status_code for one in (here, there, bob)] == [401, 401, 200]


def test_a_session_is_ended_from_another_one(app: APIFlask) -> None:
    lost, kept = log_in(app), log_in(app)

    answer = kept.call("DELETE", f"/users/sessions/{lost.id}")

    assert answer.status_code == 204
    assert [one.refresh().status_code for one in (lost, kept)] == [401, 200]


def test_all_other_sessions_are_ended(app: APIFlask) -> None:
    others, kept = [log_in(app), log_in(app)], log_in(app)

    answer = kept.call("DELETE", "/users/sessions")

    assert (answer.status_code, len(void(app))) == (204, 2)
    assert [one.refresh().status_code for one in (*others, kept)] == [401, 401, 200]


@pytest.mark.parametrize("what", ["another's", "unknown", "malformed", "ended"])
def test_what_is_no_session_of_mine_is_not_there(app: APIFlask, what: str) -> None:
    ada, bob = log_in(app), log_in(app, "bob")
    mine = log_in(app)
    ended = mine.id
    mine.call("POST", "/users/logout")
    sid = {"another's": bob.id, "unknown": UNKNOWN, "malformed": "x", "ended": ended}[what]

    answer = ada.call("DELETE", f"/users/sessions/{sid}")

    assert answer.status_code == 404
    assert bob.refresh().status_code == 200


def test_a_new_password_ends_all_other_sessions(app: APIFlask) -> None:
    here, there = log_in(app), log_in(app)

    changed = here.client.post(
        "/users/password",
        json={"current_password": ADA["password"], "new_password": "password456"},
        headers={"Authorization": f"Bearer {here.tokens['access_token']}"},
    )

    assert changed.status_code == 204
    assert [one.refresh().status_code for one in (here, there)] == [200, 401]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/users/logout"),
        ("POST", "/users/logout-all"),
        ("GET", "/users/sessions"),
        ("DELETE", "/users/sessions"),
        ("DELETE", f"/users/sessions/{UNKNOWN}"),
    ],
)
def test_sessions_are_for_people_who_are_logged_in(app: APIFlask, method: str, path: str) -> None:
    ada = log_in(app)
    with app.app_context(), app.extensions["database"].read() as db_session:
        user = app.extensions["users"].named("ada")
        began = db_session.get_one(LoginSession, ada.id).created_at
        of_key = app.extensions["access_tokens"].mint(
            user, session=f"key:{UNKNOWN}", amr=["api_key"], permissions=[], auth_time=began
        )

    missing = ada.client.open(path, method=method)
    refresh_token = LoggedIn(ada.client, {"access_token": ada.tokens["refresh_token"]}).call(method, path)
    key = LoggedIn(ada.client, {"access_token": of_key}).call(method, path)

    assert (missing.status_code, body(missing)["code"]) == (401, "TOKEN_REQUIRED")
    assert (refresh_token.status_code, body(refresh_token)["code"]) == (401, "INVALID_TOKEN")
    assert (key.status_code, body(key)["code"]) == (403, "SESSION_REQUIRED")
    assert ada.refresh().status_code == 200


def ask_for_revocations(app: APIFlask, query: str = "", secret: str | None = None) -> TestResponse:
    secret = secret or app.config["SERVICE_SECRET"]
    token = service_tokens.mint(secret, issuer="gateway", audience="user_service")
    return app.test_client().get(f"/internal/revocations{query}", headers={"Authorization": f"Bearer {token}"})


def test_our_own_processes_read_the_log(app: APIFlask) -> None:
    ada = log_in(app)
    sid = ada.id
    before = body(ask_for_revocations(app))
    ada.call("POST", "/users/logout")

    answer = ask_for_revocations(app, f"?after={before['last']}&wait=20")

    document = body(answer)
    (entry,) = document["entries"]
    assert (before["entries"], document["complete"]) == ([], True)
    assert (entry["seq"], entry["kind"], entry["subject"]) == (document["last"], "session", sid)
    assert entry["until"] - entry["made_at"] == 960
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_worker_that_stops_lets_nobody_wait(app: APIFlask) -> None:
    app.extensions["health"].is_draining = lambda: True
    began = time.monotonic()

    assert body(ask_for_revocations(app, "?wait=30")) == {"entries": [], "last": 0, "complete": True}
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("query", ["?wait=31", "?wait=-1", "?wait=x", "?after=-1", "?after=9999999999999999999999"])
def test_one_can_not_wait_without_end(app: APIFlask, query: str) -> None:
    assert ask_for_revocations(app, query).status_code == 422


def test_the_log_is_for_our_own_processes_only(app: APIFlask) -> None:
    ada = log_in(app)

    assert ada.client.get("/internal/revocations").status_code == 401
    assert ada.call("GET", "/internal/revocations").status_code == 401
    assert ask_for_revocations(app, secret="x" * 32).status_code == 401
