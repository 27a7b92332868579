"""Permissions: which names there are, and what a route that asks for some makes of who calls."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import order_service
import product_service
import user_service
from common.identity import Identity
from common.permissions import ADMIN, BUILT_IN, CUSTOMER, MEANINGS, PATTERN, Requirement, bundled, parse_permission
from common.problems import Forbidden
from common.settings import load
from common.tokens import REQUIREMENT
from order_service.settings import OrderSettings
from product_service.settings import ProductSettings
from user_service.settings import UserSettings

ROOT = Path(__file__).resolve().parents[2]
SECRET = "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu"

PERSON = Identity("u1", "ada", frozenset({CUSTOMER}), time.time() + 60, frozenset({"orders:read"}), session="s1")
KEY = Identity("u1", "ada", frozenset(), time.time() + 60, frozenset({"orders:read"}), session="key:k1")
WITH_CODE = Identity("u1", "ada", frozenset(), time.time() + 60, session="s1", amr=frozenset({"pwd", "otp"}))

REQUIREMENTS: list[tuple[Requirement, Identity, str]] = [
    (Requirement(), KEY, ""),
    (Requirement(roles=("customer",)), PERSON, ""),
    (Requirement(roles=("admin", "customer")), PERSON, ""),
    (Requirement(roles=("admin",)), PERSON, "ROLE_REQUIRED"),
    (Requirement(roles=("customer",)), KEY, "ROLE_REQUIRED"),
    (Requirement(permissions=("orders:read",)), KEY, ""),
    (Requirement(permissions=("orders:write", "orders:read")), KEY, ""),
    (Requirement(permissions=("orders:read:any",)), KEY, "PERMISSION_REQUIRED"),
    (Requirement(roles=("admin",), permissions=("orders:read",)), KEY, ""),
    (Requirement(roles=("customer",), permissions=("users:read",)), PERSON, ""),
    (Requirement(roles=("admin",), permissions=("users:read",)), PERSON, "PERMISSION_REQUIRED"),
    (Requirement(session=True), PERSON, ""),
    (Requirement(session=True), KEY, "SESSION_REQUIRED"),
    (Requirement(permissions=("orders:read",), session=True), KEY, "SESSION_REQUIRED"),
    (Requirement(second_factor=True), WITH_CODE, ""),
    (Requirement(second_factor=True), PERSON, "SECOND_FACTOR_NEEDED"),
    (Requirement(second_factor=True), KEY, "SECOND_FACTOR_NEEDED"),
    (Requirement(permissions=("users:read",), second_factor=True), WITH_CODE, "PERMISSION_REQUIRED"),
]


@pytest.mark.parametrize(("requirement", "identity", "code"), REQUIREMENTS)
def test_a_requirement_lets_pass_who_meets_it_and_tells_others_what_is_missing(
    requirement: Requirement, identity: Identity, code: str
) -> None:
    if not code:
        requirement.check(identity)
        return

    with pytest.raises(Forbidden) as caught:
        requirement.check(identity)

    assert caught.value.code == code


def test_a_refusal_names_all_ways_to_pass() -> None:
    with pytest.raises(Forbidden, match=r"the role admin, or the permission users:read or users:write\.$"):
        Requirement(roles=("admin",), permissions=("users:read", "users:write")).check(PERSON)


@pytest.mark.parametrize("name", ["operations", "orders:read", "orders:read:any", "a", "x-1:y-2:z-3", "a" * 64])
def test_a_permission_has_one_to_three_words(name: str) -> None:
    assert parse_permission(name) == name
    assert re.fullmatch(PATTERN, name)


@pytest.mark.parametrize(
    "name", ["", "Orders:read", "orders:", ":read", "a:b:c:d", "orders read", "1a", "a\n", "a:*", "*", "ä", "a" * 65]
)
def test_what_is_no_permission_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be a permission like"):
        parse_permission(name)


def test_every_permission_of_ours_is_one_and_administrators_have_all_of_them() -> None:
    assert [parse_permission(name) for name in MEANINGS] == list(MEANINGS)
    assert BUILT_IN[ADMIN] == MEANINGS.keys() > BUILT_IN[CUSTOMER]


def test_roles_that_are_not_built_in_bundle_nothing_that_is_known_beforehand() -> None:
    assert bundled(["customer", "teacher"]) == BUILT_IN[CUSTOMER]
    assert bundled([]) == frozenset()


def test_the_page_about_permissions_says_what_the_code_says() -> None:
    page = (ROOT / "docs" / "permissions.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]

    assert [row for row in rows if len(row) == 4] == [
        [f"`{name}`", meaning, "yes" if name in BUILT_IN[CUSTOMER] else "", "yes"] for name, meaning in MEANINGS.items()
    ]


def test_the_page_about_permissions_names_every_route_and_what_it_asks_for(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "permissions.md").read_text()
    told = dict(re.findall(r"^\| `([A-Z]+ /\S*)` \| (.+) \|$", page, re.MULTILINE))

    assert told == dict(_routes(tmp_path))


def _routes(directory: Path) -> Iterator[tuple[str, str]]:
    given = {"database_url": f"sqlite:///{directory}/x.db", "var_dir": directory, "jwt_secret_key": SECRET}
    apps = (
        product_service.create_app(load(ProductSettings, "product_service", **given)),
        order_service.create_app(load(OrderSettings, "order_service", **given)),
        user_service.create_app(load(UserSettings, "user_service", **given)),
    )
    for app in apps:
        for rule in app.url_map.iter_rules():
            if rule.rule.split("/")[1] not in ("users", "orders", "products"):
                continue
            (method,) = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
            yield f"{method} {path}", _words(getattr(app.view_functions[rule.endpoint], REQUIREMENT, None))
        app.extensions["database"].dispose()


def _words(requirement: Requirement | None) -> str:
    if requirement is None:
        return "nothing"
    words = [" or ".join(f"`{name}`" for name in (*requirement.roles, *requirement.permissions))]
    words += ["a second factor"] if requirement.second_factor else []
    words += ["a session"] if requirement.session else []
    return " and ".join(word for word in words if word)
