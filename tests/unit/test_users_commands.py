"""`flask --app user_service ...`"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from apiflask import APIFlask
from click.testing import Result

from common.settings import load
from user_service import create_app
from user_service.settings import UserSettings
from user_service.users import ADMIN, CUSTOMER, Users

Run = Callable[..., Result]
MakeApp = Callable[..., APIFlask]


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    """`create_app` with some settings, on one migrated database."""
    apps: list[APIFlask] = []

    def make(**given: object) -> APIFlask:
        own = {"database_url": f"sqlite:///{tmp_path}/users.db", "var_dir": tmp_path, "jwt_secret_key": None}
        apps.append(create_app(load(UserSettings, "user_service", **own | given)))
        assert run(apps[-1], "db", "upgrade").exit_code == 0
        return apps[-1]

    yield make
    for app in apps:
        app.extensions["database"].dispose()


def run(app: APIFlask, *words: str, given: str = "") -> Result:
    return app.test_cli_runner().invoke(args=words, input=given)


def users_of(app: APIFlask) -> Users:
    users: Users = app.extensions["users"]
    return users


def roles_of(app: APIFlask, name: str) -> list[str]:
    user = users_of(app).named(name)
    assert user is not None
    return user.roles


def test_create_admin_asks_for_a_password_twice(make_app: MakeApp) -> None:
    app = make_app()

    result = run(app, "create-admin", "root", given="giraffes-9\ngiraffes-9\n")

    assert result.exit_code == 0
    assert "giraffes-9" not in result.output
    assert ADMIN in users_of(app).authenticate("root", "giraffes-9").roles


def test_create_admin_reads_the_password_from_standard_input(make_app: MakeApp) -> None:
    app = make_app()

    run(app, "create-admin", "root", "--password-stdin", given="giraffes-9\n")

    assert ADMIN in users_of(app).authenticate("root", "giraffes-9").roles


@pytest.mark.parametrize(
    ("name", "password", "reason"), [("ab", "giraffes-9", "3 to 64"), ("root", "short", "least 8")]
)
def test_create_admin_keeps_to_the_rules(make_app: MakeApp, name: str, password: str, reason: str) -> None:
    result = run(make_app(), "create-admin", name, "--password-stdin", given=password)

    assert result.exit_code == 1
    assert reason in result.output


def test_create_admin_promotes_an_existing_user_only_when_told_to(make_app: MakeApp) -> None:
    app = make_app()
    users_of(app).register("ada", "password123")

    refused = run(app, "create-admin", "ada")
    roles_before = roles_of(app, "ada")
    promoted = run(app, "create-admin", "ADA", "--promote")

    assert (refused.exit_code, roles_before) == (1, [CUSTOMER])
    assert (promoted.exit_code, roles_of(app, "ada")) == (0, [CUSTOMER, ADMIN])


def test_create_admin_does_not_promote_nobody(make_app: MakeApp) -> None:
    result = run(make_app(), "create-admin", "nobody", "--promote")

    assert result.exit_code == 1
    assert "There is no user nobody to promote" in result.output


def test_ensure_admin_does_nothing_when_nobody_is_named(make_app: MakeApp) -> None:
    result = run(make_app(), "ensure-admin")

    assert result.exit_code == 0
    assert "nothing to do" in result.output


def test_ensure_admin_makes_the_first_administrator_once(make_app: MakeApp) -> None:
    app = make_app(admin_username="root", admin_password="giraffes-9")

    codes = [run(app, "ensure-admin").exit_code for _ in range(2)]

    assert codes == [0, 0]
    assert ADMIN in users_of(app).authenticate("root", "giraffes-9").roles


def test_ensure_admin_does_not_promote_whoever_registered_that_name(make_app: MakeApp) -> None:
    app = make_app(admin_username="root", admin_password="giraffes-9")
    users_of(app).register("Root", "password123")

    result = run(app, "ensure-admin")

    assert (result.exit_code, roles_of(app, "root")) == (1, [CUSTOMER])


def test_demo_users_can_log_in(make_app: MakeApp) -> None:
    app = make_app()

    result = run(app, "seed-demo")

    assert "FOR DEVELOPMENT ONLY" in result.output
    assert users_of(app).authenticate("admin", "admin").roles == [CUSTOMER, ADMIN]
    assert users_of(app).authenticate("alice", "password123").roles == [CUSTOMER]
    assert users_of(app).authenticate("bob", "password123").roles == [CUSTOMER]


def test_seeding_twice_keeps_what_was_changed_between(make_app: MakeApp) -> None:
    app = make_app()
    run(app, "seed-demo")
    alice = users_of(app).authenticate("alice", "password123")
    users_of(app).change_password(alice, "password456")

    result = run(app, "seed-demo")

    assert result.exit_code == 0
    assert users_of(app).authenticate("alice", "password456").id == alice.id
    assert users_of(app).page(0, 10)[1] == 3


def test_demo_users_are_refused_in_production(make_app: MakeApp) -> None:
    app = make_app(environment="production", service_secret="9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu")

    result = run(app, "seed-demo")

    assert result.exit_code == 1
    assert users_of(app).page(0, 10)[1] == 0


def test_keys_are_rotated_listed_and_retired(make_app: MakeApp) -> None:
    app = make_app()
    first = run(app, "keys", "rotate").output.split()[0]

    rotated = run(app, "keys", "rotate").output
    listed = run(app, "keys", "list").output
    retired = run(app, "keys", "retire", first).output

    second = rotated.split()[0]
    assert f"{second} is published and signs from " in rotated
    assert [line.split()[:2] for line in listed.splitlines()] == [[first, "signing"], [second, "next"]]
    assert f"{first} is out of use" in retired
    assert f"{second} signs from now on." in retired
    assert "PRIVATE" not in rotated + listed + retired


def test_a_key_whose_name_begins_with_a_hyphen_is_no_option(make_app: MakeApp) -> None:
    app = make_app()
    run(app, "keys", "rotate")

    assert "no key of this name" in run(app, "keys", "retire", "-3x_").output


@pytest.mark.parametrize(
    ("words", "reason"), [(["rotate"], "is published already"), (["retire", "unknown"], "no key of this name")]
)
def test_what_can_not_be_done_to_keys_is_told_in_a_sentence(make_app: MakeApp, words: list[str], reason: str) -> None:
    app = make_app()
    for _ in range(2):
        run(app, "keys", "rotate")

    result = run(app, "keys", *words)

    assert (result.exit_code, reason in result.output) == (1, True)
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("words", "code"), [(["list"], 0), (["rotate"], 1), (["retire", "x"], 1)])
def test_the_simple_mode_has_no_keys_to_rotate(make_app: MakeApp, words: list[str], code: int) -> None:
    result = run(make_app(jwt_secret_key="9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu"), "keys", *words)

    assert result.exit_code == code
    assert "there are no key pairs" in result.output
