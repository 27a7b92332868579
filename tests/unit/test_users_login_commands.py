"""`flask --app user_service unlock | reset-second-factor`: for people who can't get in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from apiflask import APIFlask
from click.testing import Result
from sqlalchemy import select

from common import migrations
from common.db import Database
from common.settings import load
from user_service import create_app
from user_service.login import Login
from user_service.settings import UserSettings
from user_service.tables import AuditEntry, User
from user_service.users import UserError, Users


@pytest.fixture
def app(tmp_path: Path) -> Iterator[APIFlask]:
    own: dict[str, object] = {"database_url": f"sqlite:///{tmp_path}/users.db", "var_dir": tmp_path}
    own |= {"jwt_secret_key": None, "argon2_memory_kib": 8, "argon2_passes": 1}
    app = create_app(load(UserSettings, "user_service", **own))
    migrations.upgrade(app.extensions["database"], Path(app.root_path) / "migrations")
    yield app
    app.extensions["database"].dispose()


@pytest.fixture
def ada(app: APIFlask) -> User:
    users: Users = app.extensions["users"]
    return users.register("Ada", "password123")


def run(app: APIFlask, *words: str) -> Result:
    return app.test_cli_runner().invoke(args=words)


def log_in(app: APIFlask, password: str = "password123") -> str:
    """What becomes of it: the name of an error, or of the factors shown."""
    login: Login = app.extensions["login"]
    try:
        return " ".join(login.authenticate("ada", password, None, "192.0.2.1").amr)
    except UserError as error:
        return type(error).__name__


def events(app: APIFlask) -> list[tuple[str, str, str]]:
    database: Database = app.extensions["database"]
    with database.read() as session:
        entries = session.scalars(select(AuditEntry).order_by(AuditEntry.seq)).all()
    return [(entry.event, entry.actor, entry.subject) for entry in entries]


def test_unlock_lets_a_user_in_at_once(app: APIFlask, ada: User) -> None:
    before = [log_in(app, "wrong") for _ in range(5)] + [log_in(app)]

    result = run(app, "unlock", "ADA")

    assert before == ["WrongCredentials"] * 5 + ["TooManyFailures"]
    assert (result.exit_code, log_in(app)) == (0, "pwd")
    assert ("user.unlocked", "command line", ada.id) in events(app)


def test_reset_second_factor_takes_it_away(app: APIFlask, ada: User) -> None:
    login, users = app.extensions["login"], app.extensions["users"]
    login.enrol(ada, "password123", address="192.0.2.1")
    with app.extensions["database"].write() as session:
        session.get_one(User, ada.id).totp_confirmed_at = ada.created_at
    before = log_in(app)

    result = run(app, "reset-second-factor", "ada")

    assert (before, result.exit_code, log_in(app)) == ("SecondFactorRequired", 0, "pwd")
    assert users.get(ada.id).totp_secret is None
    assert ("second_factor.removed", "command line", ada.id) in events(app)


def test_there_is_nothing_to_reset_without_a_second_factor(app: APIFlask, ada: User) -> None:
    result = run(app, "reset-second-factor", "ada")

    assert result.exit_code == 1
    assert "Ada has no second factor." in result.output


@pytest.mark.parametrize("command", ["unlock", "reset-second-factor"])
def test_nobody_is_told(app: APIFlask, command: str) -> None:
    result = run(app, command, "nobody")

    assert result.exit_code == 1
    assert "There is no user nobody." in result.output
