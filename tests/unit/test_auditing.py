"""What leaves an entry in the audit log by itself: refusals, looks at others' data; and who may read the log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from apiflask import APIFlask
from click.testing import Result
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.test import TestResponse

from common import migrations, service_tokens
from common.audit import Entry, Recorder
from common.models import utc_now
from common.settings import load
from user_service import create_app
from user_service.audit import Audit
from user_service.settings import UserSettings
from user_service.tables import AuditEntry
from user_service.users import ADMIN, CUSTOMER, Users

SECRET = "bT5nWq8ZsX1cV4mKj7hG2fD9pL6oI3uY"
PASSWORD = "password123"
FORWARDED = {"X-Forwarded-For": "203.0.113.77, 10.0.0.1", "X-Request-ID": "req-from-outside"}
Headers = dict[str, str]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[APIFlask]:
    own: dict[str, object] = {"database_url": f"sqlite:///{tmp_path}/users.db", "var_dir": tmp_path}
    app = create_app(load(UserSettings, "user_service", **own, service_secret=SECRET, environment="test"))
    migrations.upgrade(app.extensions["database"], Path(app.root_path) / "migrations")
    yield app
    app.extensions["database"].dispose()


@pytest.fixture
def client(app: APIFlask) -> FlaskClient:
    return app.test_client(use_cookies=False)


def log_in(app: APIFlask, name: str = "ada", *roles: str) -> tuple[str, Headers]:
    """The id of a new user, and the headers that show who it is."""
    users: Users = app.extensions["users"]
    user = users.register(name, PASSWORD, roles=(CUSTOMER, *roles))
    answer = app.test_client(use_cookies=False).post("/users/login", json={"username": name, "password": PASSWORD})
    return user.id, {"Authorization": f"Bearer {body(answer)['access_token']}"}


def body(answer: TestResponse) -> dict[str, Any]:
    assert isinstance(answer.json, dict)
    return answer.json


def entries(app: APIFlask, event: str = "") -> list[AuditEntry]:
    """What is in the log once what waits is stored, the oldest first."""
    recorder: Recorder = app.extensions["recorder"]
    audit: Audit = app.extensions["audit"]
    recorder.flush()
    return [row for row in audit.all() if row.event.startswith(event)]


def run(app: APIFlask, *words: str) -> Result:
    return app.test_cli_runner().invoke(args=words)


def test_a_refused_token_leaves_an_entry_with_network_reason_and_request(app: APIFlask, client: FlaskClient) -> None:
    client.get("/users/profile", headers={"Authorization": "Bearer nonsense", **FORWARDED})

    (entry,) = entries(app)
    assert (entry.event, entry.outcome, entry.actor) == ("access.refused", "failure", "anonymous")
    assert (entry.address, entry.request_id, entry.source) == ("203.0.113.0", "req-from-outside", "user_service")
    assert entry.details == {"reason": "INVALID_TOKEN", "route": "GET /users/profile"}


def test_what_is_not_permitted_leaves_an_entry_that_names_who_tried(app: APIFlask, client: FlaskClient) -> None:
    user_id, ada = log_in(app)

    client.get("/users/audit", headers=ada)

    (entry,) = entries(app, "access.refused")
    assert (entry.actor, entry.outcome, entry.details["reason"]) == (user_id, "denied", "PERMISSION_REQUIRED")


@pytest.mark.parametrize("name", ["ada", "nobody-has-this-name"])
def test_a_failed_log_in_leaves_one_entry_without_the_name_that_was_typed(
    app: APIFlask, client: FlaskClient, name: str
) -> None:
    log_in(app)

    client.post("/users/login", json={"username": name, "password": "wrong-password"}, headers=FORWARDED)

    (entry,) = [entry for entry in entries(app) if entry.outcome == "failure"]
    assert (entry.event, entry.address) == ("login.failed", "203.0.113.0")
    assert not any(name in str(value) for value in (entry.actor, entry.subject, entry.details))


def test_a_log_in_goes_on_while_the_log_is_away(app: APIFlask, client: FlaskClient) -> None:
    log_in(app)
    database = app.extensions["database"]
    with database.write() as session:
        session.execute(text("ALTER TABLE audit_entries RENAME TO elsewhere"))

    right = client.post("/users/login", json={"username": "ada", "password": PASSWORD})
    wrong = client.post("/users/login", json={"username": "ada", "password": "wrong-password"})

    assert (right.status_code, wrong.status_code) == (200, 401)


def test_administration_that_can_not_be_recorded_does_not_happen(app: APIFlask, client: FlaskClient) -> None:
    _, root = log_in(app, "root", ADMIN)
    ada_id, _ = log_in(app)
    database = app.extensions["database"]
    with database.write() as session:
        session.execute(text("ALTER TABLE audit_entries RENAME TO elsewhere"))

    answer = client.put(f"/users/{ada_id}/roles", json={"roles": [CUSTOMER, ADMIN]}, headers=root)

    assert answer.status_code >= 500
    assert app.extensions["users"].get(ada_id).roles == [CUSTOMER]


def test_looking_at_somebody_else_leaves_an_entry_and_at_oneself_none(app: APIFlask, client: FlaskClient) -> None:
    root_id, root = log_in(app, "root", ADMIN)
    ada_id, ada = log_in(app)

    client.get(f"/users/{ada_id}", headers=root)
    client.get(f"/users/{ada_id}", headers=ada)
    client.get("/users", headers=root)

    seen = [(entry.event, entry.actor, entry.subject) for entry in entries(app, "profile")]
    assert seen == [("profile.seen", root_id, ada_id), ("profiles.listed", root_id, "")]


def test_the_log_is_paged_filtered_and_reading_it_is_recorded(app: APIFlask, client: FlaskClient) -> None:
    root_id, root = log_in(app, "root", ADMIN)
    ada_id, _ = log_in(app)

    page = body(client.get(f"/users/audit?user={ada_id}&event=login&per_page=1", headers=root))

    assert (page["total"], len(page["items"])) == (1, 1)
    assert (page["items"][0]["event"], page["items"][0]["actor"]) == ("login.succeeded", ada_id)
    (entry,) = entries(app, "audit.read")
    assert (entry.actor, entry.subject) == (root_id, ada_id)


@pytest.mark.parametrize("query", ["since=yesterday", "since=2030-01-31", "event=a%20b", "per_page=1000", "user=%00"])
def test_a_wrong_question_about_the_log_is_422(app: APIFlask, client: FlaskClient, query: str) -> None:
    _, root = log_in(app, "root", ADMIN)

    assert client.get(f"/users/audit?{query}", headers=root).status_code == 422


def sent(*entries: Entry) -> dict[str, object]:
    return {"entries": [entry.document() for entry in entries]}


def speaking_as(source: str) -> Headers:
    token = service_tokens.mint(SECRET, issuer=source, audience="user_service")
    return {"Authorization": f"Bearer {token}"}


def test_other_processes_add_entries_under_their_own_name_and_once(app: APIFlask, client: FlaskClient) -> None:
    batch = sent(Entry("access.refused", "denied", actor="ada", details={"reason": "X"}), Entry("x", "success"))

    statuses = [client.post("/internal/audit", json=batch, headers=speaking_as("gateway")).status_code for _ in "12"]

    assert statuses == [204, 204]
    stored = [row for row in entries(app) if row.source == "gateway"]
    assert [(row.event, row.actor) for row in stored] == [("access.refused", "ada"), ("x", "anonymous")]


def test_nobody_else_adds_entries(app: APIFlask, client: FlaskClient) -> None:
    _, root = log_in(app, "root", ADMIN)
    batch = sent(Entry("login.succeeded", "success", actor="made up"))

    statuses = [client.post("/internal/audit", json=batch, headers=headers).status_code for headers in ({}, root)]

    assert statuses == [401, 401]
    assert "made up" not in [row.actor for row in entries(app)]


def test_verify_says_whether_the_log_is_whole_and_its_exit_code_too(app: APIFlask) -> None:
    log_in(app)
    head = run(app, "audit", "head").output.strip()

    good = run(app, "audit", "verify", "--expect", head)
    with app.extensions["database"].write() as session:
        session.execute(text("UPDATE audit_entries SET actor = 'somebody else' WHERE seq = 1"))
    bad = run(app, "audit", "verify")

    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert head in good.output
    assert "BROKEN at 1" in bad.output


def test_verify_refuses_an_expectation_that_is_none(app: APIFlask) -> None:
    result = run(app, "audit", "verify", "--expect", "5")

    assert result.exit_code == 2
    assert "SEQ:HASH" in result.output


def test_the_log_is_listed_and_exported_by_command(app: APIFlask) -> None:
    user_id, _ = log_in(app)

    listed = run(app, "audit", "list", "--user", user_id, "--event", "login", "--since", "2020-01-01")
    as_json = run(app, "audit", "list", "--json").output.splitlines()
    exported = run(app, "audit", "export").output.splitlines()

    assert "login.succeeded success" in listed.output
    assert as_json == exported[::-1]
    assert run(app, "audit", "list", "--since", "9999-01-01").output == ""


def test_prune_by_command_leaves_a_log_that_verifies(app: APIFlask) -> None:
    audit: Audit = app.extensions["audit"]
    audit.store([Entry("old", "success", at=utc_now() - timedelta(days=366)), Entry("new", "success")])

    pruned = run(app, "audit", "prune")

    assert "1 entries" in pruned.output
    assert [row.event for row in entries(app)] == ["new", "audit.pruned"]
    assert run(app, "audit", "verify").exit_code == 0


def test_whoever_rotates_the_service_secret_still_verifies(app: APIFlask, tmp_path: Path) -> None:
    log_in(app)
    own: dict[str, object] = {"database_url": f"sqlite:///{tmp_path}/users.db", "var_dir": tmp_path}
    new = SECRET[::-1]
    settings = load(UserSettings, "user_service", **own, service_secret=new, service_secret_previous=SECRET)

    again = create_app(settings)
    log_in(again, "bob")

    assert run(again, "audit", "verify").exit_code == 0
    again.extensions["database"].dispose()
