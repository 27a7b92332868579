"""Roles: what they bundle, who has them, and that managing them is no way to more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from apiflask import APIFlask
from werkzeug.test import TestResponse

from common.models import utc_now
from common.permissions import BUILT_IN, MEANINGS
from common.settings import load
from common.tokens import Identity
from tests.support.postgres import Unavailable, postgres_server
from user_service import create_app
from user_service.roles import BeyondOnesOwn, LastAdministrator, RoleError, RoleProtected, Roles, UnknownRole
from user_service.settings import UserSettings
from user_service.tables import Base, User
from user_service.users import UnknownUser

SECRET = "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu"
NOBODY = "00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True, slots=True)
class House:
    """One app with a customer and an administrator."""

    app: APIFlask

    @property
    def roles(self) -> Roles:
        roles: Roles = self.app.extensions["roles"]
        return roles

    def add(self, name: str, *roles: str) -> User:
        user = User(id=name, username=name, username_key=name, password_hash="", roles=list(roles))
        with self.app.extensions["database"].write() as session:
            session.add(user)
        return user

    def user(self, name: str) -> User:
        with self.app.extensions["database"].read() as session:
            return session.get_one(User, name)

    def may(self, name: str) -> frozenset[str]:
        return self.roles.permissions_of(self.user(name))

    def identity(self, name: str) -> Identity:
        user = self.user(name)
        return Identity(name, name, frozenset(user.roles), 4e9, self.may(name), generation=user.generation)

    def token(self, name: str) -> str:
        with self.app.app_context():
            token: str = self.app.extensions["access_tokens"].mint(
                self.user(name), session=f"of-{name}", amr=["pwd"], permissions=self.may(name), auth_time=utc_now()
            )
        return token

    def ask(self, method: str, path: str, by: str = "boss", json: object = None) -> TestResponse:
        headers = {"Authorization": f"Bearer {self.token(by)}"} if by else {}
        return self.app.test_client(use_cookies=False).open(path, method=method, json=json, headers=headers)

    def audited(self) -> list[tuple[str, str, str, Mapping[str, str]]]:
        entries, _ = self.app.extensions["audit"].page()
        return [(entry.event, entry.actor, entry.subject, entry.details) for entry in entries]


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    try:
        with postgres_server() as server:
            yield server.create_database("roles")
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(params=["sqlite", "postgresql"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    on_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/users.db" if on_file else str(request.getfixturevalue("postgres_url"))
    app = create_app(load(UserSettings, "user_service", database_url=url, var_dir=tmp_path, jwt_secret_key=SECRET))
    database = app.extensions["database"]
    Base.metadata.create_all(database.engine)
    house = House(app)
    house.add("ada", "customer")
    house.add("boss", "customer", "admin")
    yield house
    Base.metadata.drop_all(database.engine)
    database.dispose()


def body(answer: TestResponse) -> dict[str, Any]:
    assert isinstance(answer.json, dict)
    return answer.json


def test_the_built_in_roles_are_there_without_being_made(house: House) -> None:
    assert [(role.name, frozenset(role.permissions), role.is_built_in) for role in house.roles.all()] == [
        ("admin", frozenset(MEANINGS), True),
        ("customer", BUILT_IN["customer"], True),
    ]
    assert house.may("ada") == BUILT_IN["customer"]


def test_a_role_that_nobody_made_permits_nothing(house: House) -> None:
    assert house.roles.permissions_of(house.add("eve", "wizard")) == frozenset()


def test_a_user_may_what_any_of_the_roles_bundles(house: House) -> None:
    house.roles.put("clerk", ["products:write"], "Keeps the catalogue.", by=None)

    house.roles.grant("ada", "clerk")

    assert house.may("ada") == BUILT_IN["customer"] | {"products:write"}


def test_changing_a_role_makes_void_the_tokens_of_those_who_have_it_and_of_nobody_else(house: House) -> None:
    house.roles.put("cle_k", ["products:write"], None, by=None)
    house.add("similar", "customer", "cleck")
    house.roles.grant("ada", "cle_k")
    before = {name: house.user(name).generation for name in ("ada", "boss", "similar")}

    house.roles.put("cle_k", ["products:write", "users:read"], None, by=None)

    after = {name: house.user(name).generation for name in ("ada", "boss", "similar")}
    assert after == before | {"ada": before["ada"] + 1}


def test_a_change_of_the_description_alone_leaves_tokens_as_they_are(house: House) -> None:
    house.roles.put("clerk", ["products:write"], None, by=None)
    before = house.roles.grant("ada", "clerk").generation

    changed = house.roles.put("clerk", ["products:write"], "Keeps the catalogue.", by=None)
    kept = house.roles.put("clerk", ["products:write"], None, by=None)

    assert (changed.description, kept.description) == ("Keeps the catalogue.",) * 2
    assert house.user("ada").generation == before


def test_a_deleted_role_is_taken_from_everybody_so_that_a_new_one_of_its_name_gives_nothing(house: House) -> None:
    house.roles.put("clerk", ["products:write"], None, by=None)
    before = house.roles.grant("ada", "clerk").generation

    house.roles.delete("clerk", by=None)
    house.roles.put("clerk", ["users:write"], None, by=None)

    assert house.may("ada") == BUILT_IN["customer"]
    assert house.user("ada").generation == before + 1


@pytest.mark.parametrize("name", ["admin", "customer"])
def test_a_built_in_role_stays(house: House, name: str) -> None:
    with pytest.raises(RoleProtected):
        house.roles.delete(name, by=None)


@pytest.mark.parametrize("lost", ["users:write", "roles:write"])
def test_administrators_keep_what_they_need_to_mend_their_own_role(house: House, lost: str) -> None:
    with pytest.raises(RoleProtected):
        house.roles.put("admin", MEANINGS.keys() - {lost}, None, by=None)

    house.roles.put("admin", ["users:write", "roles:write"], None, by=None)
    assert house.may("boss") == BUILT_IN["customer"] | {"users:write", "roles:write"}


def test_the_last_administrator_stays_one(house: House) -> None:
    with pytest.raises(LastAdministrator):
        house.roles.take("boss", "admin")

    house.roles.grant("ada", "admin")
    house.roles.take("boss", "admin")
    with pytest.raises(LastAdministrator):
        house.roles.take("ada", "admin")


def test_of_administrators_who_take_each_others_role_away_at_once_one_is_left(house: House) -> None:
    house.roles.grant("ada", "admin")

    def take(name: str) -> str:
        try:
            house.roles.take(name, "admin")
        except LastAdministrator:
            return "kept"
        return "taken"

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(take, ["ada", "boss"]))

    assert outcomes == ["kept", "taken"]


def test_of_roles_that_somebody_gets_at_once_none_is_lost(house: House) -> None:
    names = [f"role{number}" for number in range(6)]
    for name in names:
        house.roles.put(name, [], None, by=None)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(house.roles.grant, ["ada"] * 6, names))

    assert set(house.user("ada").roles) == {"customer", *names}


@pytest.mark.parametrize(("name", "role", "error"), [(NOBODY, "admin", UnknownUser), ("ada", "wizard", UnknownRole)])
def test_nobody_gets_a_role_that_is_not_there(
    house: House, name: str, role: str, error: type[RoleError | UnknownUser]
) -> None:
    with pytest.raises(error):
        house.roles.grant(name, role)


def test_a_role_that_is_gone_can_still_be_taken_away(house: House) -> None:
    house.add("eve", "customer", "wizard")

    assert house.roles.assign("eve", ["customer"], by=None).roles == ["customer"]


def _manager(house: House) -> Identity:
    """Somebody who manages roles and users, and may do little else."""
    house.roles.put("manager", ["roles:write", "users:write"], None, by=None)
    house.add("mia", "customer", "manager")
    return house.identity("mia")


def test_nobody_gives_more_than_they_have(house: House) -> None:
    mia = _manager(house)
    attempts = [
        lambda: house.roles.assign("mia", ["customer", "manager", "admin"], by=mia),
        lambda: house.roles.assign("ada", ["admin"], by=mia),
        lambda: house.roles.put("manager", ["roles:write", "users:write", "users:read"], None, by=mia),
        lambda: house.roles.put("customer", BUILT_IN["customer"] | {"products:write"}, None, by=mia),
        lambda: house.roles.put("new", ["made:up"], None, by=mia),
    ]

    for attempt in attempts:
        with pytest.raises(BeyondOnesOwn):
            attempt()


def test_nobody_takes_away_what_they_do_not_have(house: House) -> None:
    mia = _manager(house)
    house.roles.put("auditor", ["audit:read"], None, by=None)
    house.roles.grant("ada", "admin")
    attempts = [
        lambda: house.roles.assign("boss", ["customer"], by=mia),
        lambda: house.roles.put("admin", ["roles:write", "users:write"], None, by=mia),
        lambda: house.roles.delete("auditor", by=mia),
    ]

    for attempt in attempts:
        with pytest.raises(BeyondOnesOwn):
            attempt()


def test_one_gives_what_one_has(house: House) -> None:
    mia = _manager(house)

    house.roles.put("helper", ["users:write"], None, by=mia)

    assert house.roles.assign("ada", ["customer", "helper"], by=mia).roles == ["customer", "helper"]


def test_an_administrator_may_give_permissions_that_nobody_has_yet(house: House) -> None:
    boss = house.identity("boss")

    house.roles.put("teacher", ["grades:write"], None, by=boss)

    assert house.roles.assign("ada", ["teacher"], by=boss).roles == ["teacher"]


def test_what_counts_is_what_one_may_now_and_not_what_an_older_token_says(house: House) -> None:
    boss = house.identity("boss")
    house.roles.grant("ada", "admin")
    house.roles.take("boss", "admin")

    with pytest.raises(BeyondOnesOwn):
        house.roles.assign("boss", ["admin"], by=boss)


def test_an_api_key_gives_no_more_than_its_scopes(house: House) -> None:
    key = Identity("boss", "boss", frozenset(), 4e9, frozenset({"users:write"}), session="key:k1")

    with pytest.raises(BeyondOnesOwn):
        house.roles.assign("ada", ["admin"], by=key)


def test_changes_are_in_the_audit_log(house: House) -> None:
    boss = house.identity("boss")
    house.roles.put("clerk", ["products:write"], None, by=boss)
    house.roles.assign("ada", ["customer", "clerk"], by=boss)
    house.roles.delete("clerk", by=None)

    assert house.audited() == [
        ("role.deleted", "command line", "clerk", {}),
        ("user.roles_changed", "boss", "ada", {"roles": "customer clerk"}),
        ("role.changed", "boss", "clerk", {"permissions": "products:write"}),
    ]


def test_roles_are_managed_over_http(house: House) -> None:
    made = house.ask("PUT", "/users/roles/clerk", json={"permissions": ["products:write"], "description": "x"})
    listed = house.ask("GET", "/users/roles")
    gone = house.ask("DELETE", "/users/roles/clerk")
    again = house.ask("DELETE", "/users/roles/clerk")

    assert body(made) == {
        "name": "clerk", "permissions": ["products:write"], "description": "x", "is_built_in": False,
    }  # fmt: skip
    assert [role["name"] for role in body(listed)["items"]] == ["admin", "clerk", "customer"]
    assert (gone.status_code, again.status_code, body(again)["code"]) == (204, 404, "ROLE_NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "json", "status", "code"),
    [
        ("PUT", "/users/roles/Clerk", {"permissions": []}, 422, "VALIDATION_ERROR"),
        ("PUT", "/users/roles/clerk", {"permissions": ["Products"]}, 422, "VALIDATION_ERROR"),
        ("PUT", "/users/roles/clerk", {"permissions": [f"a:b{n}" for n in range(65)]}, 422, "VALIDATION_ERROR"),
        ("PUT", "/users/roles/clerk", {"permissions": [], "name": "other"}, 422, "VALIDATION_ERROR"),
        ("PUT", "/users/roles/admin", {"permissions": []}, 409, "ROLE_PROTECTED"),
        ("DELETE", "/users/roles/admin", None, 409, "ROLE_PROTECTED"),
        ("PUT", f"/users/{NOBODY}/roles", {"roles": []}, 404, "USER_NOT_FOUND"),
        ("PUT", f"/users/{NOBODY}/roles", {"roles": [], "generation": 0}, 422, "VALIDATION_ERROR"),
    ],
)
def test_what_is_wrong_is_told(house: House, method: str, path: str, json: object, status: int, code: str) -> None:
    answer = house.ask(method, path, json=json)

    assert (answer.status_code, body(answer)["code"]) == (status, code)


def test_roles_are_managed_from_the_command_line(house: House) -> None:
    runner = house.app.test_cli_runner()
    words = [
        ["roles", "put", "clerk", "products:write", "grades:write"],
        ["users", "grant", "ADA", "clerk"],
        ["roles", "list"],
        ["users", "revoke", "ada", "clerk"],
        ["roles", "delete", "clerk"],
    ]

    results = [runner.invoke(args=line) for line in words]

    assert [result.exit_code for result in results] == [0] * 5
    assert "No route of ours asks for grades:write" in results[0].stderr
    assert "ada has the roles customer, clerk" in results[1].stdout
    assert "clerk: grades:write products:write" in results[2].stdout
    assert "customer (built in):" in results[2].stdout
    assert house.user("ada").roles == ["customer"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["roles", "put", "Clerk"], "must be small letters"),
        (["roles", "put", "clerk", "Products"], "must be a permission like"),
        (["roles", "delete", "clerk"], "There is no role clerk"),
        (["users", "grant", "nobody", "admin"], "There is no user nobody"),
        (["users", "revoke", "boss", "admin"], "last administrator"),
    ],
)
def test_a_command_tells_what_is_wrong_without_a_stack_trace(house: House, words: list[str], told: str) -> None:
    result = house.app.test_cli_runner().invoke(args=words)

    assert result.exit_code != 0
    assert told in result.output
    assert "Traceback" not in result.output
