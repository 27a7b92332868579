"""The rules about users and their passwords, on a database of their own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from common import migrations
from common.db import Database
from common.models import utc_now
from user_service.passwords import Passwords
from user_service.tables import User
from user_service.users import (
    ADMIN,
    CUSTOMER,
    MalformedName,
    NameTaken,
    PasswordTooShort,
    UnknownUser,
    Users,
    WrongCredentials,
    WrongPassword,
)

MIGRATIONS = Path(__file__).resolve().parents[2] / "user_service" / "migrations"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/users.db")
    migrations.upgrade(database, MIGRATIONS)
    yield database
    database.dispose()


@pytest.fixture
def users(database: Database) -> Users:
    return Users(database, Passwords(memory_kib=8, passes=1))


@pytest.fixture
def ada(users: Users) -> User:
    return users.register("Ada", "password123", "ada@example.org")


def test_registered_user_is_a_customer_and_nothing_else(users: Users, ada: User) -> None:
    found = users.get(ada.id)

    assert (found.username, found.email, found.roles) == ("Ada", "ada@example.org", [CUSTOMER])


def test_a_default_hash_has_the_parameters_owasp_recommends(database: Database) -> None:
    user = Users(database, Passwords()).register("ada", "password123")

    assert user.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.parametrize("again", ["Ada", "ada", "ADA"])
def test_a_name_is_taken_in_any_spelling(users: Users, ada: User, again: str) -> None:
    with pytest.raises(NameTaken):
        users.register(again, "password456")


def test_of_many_who_want_one_name_at_once_only_one_gets_it(users: Users) -> None:
    def attempt(_: int) -> bool:
        try:
            users.register("wanted", "password123")
        except NameTaken:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, range(8)))

    assert outcomes.count(True) == 1


@pytest.mark.parametrize("name", ["", "ab", "a" * 65, "a b c", "ada\n", "ada\0", "ädä", "a/b", "<ada>", "ada@home"])
def test_a_malformed_name_is_refused(users: Users, name: str) -> None:
    with pytest.raises(MalformedName):
        users.register(name, "password123")


@pytest.mark.parametrize("name", ["abc", "a" * 64, "Ada.Lovelace-1815_", "123"])
def test_a_well_formed_name_is_accepted(users: Users, name: str) -> None:
    assert users.register(name, "password123").username == name


def test_the_operator_may_ask_for_longer_passwords(database: Database) -> None:
    strict = Users(database, Passwords(memory_kib=8, passes=1), password_min_length=12)

    with pytest.raises(PasswordTooShort, match="at least 12 characters"):
        strict.register("ada", "password123")


@pytest.mark.parametrize("name", ["Ada", "ada", "ADA"])
def test_log_in_takes_the_name_in_any_spelling(users: Users, ada: User, name: str) -> None:
    assert users.authenticate(name, "password123").id == ada.id


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("Ada", "password124"),
        ("Ada", "PASSWORD123"),
        ("Ada", ""),
        ("nobody", "password123"),
        ("", ""),
        ("ad\0a", "password123"),
        ("Ada' OR '1'='1", "password123"),
    ],
)
def test_a_wrong_name_and_a_wrong_password_are_refused_in_the_same_words(
    users: Users, ada: User, name: str, password: str
) -> None:
    with pytest.raises(WrongCredentials, match=r"^The username or the password is wrong\.$"):
        users.authenticate(name, password)


def test_an_unknown_name_costs_the_same_verification_as_a_known_one(database: Database) -> None:
    verified: list[str] = []

    class Watched(Passwords):
        def _verify(self, password_hash: str, password: str) -> bool:
            verified.append(password_hash)
            return super()._verify(password_hash, password)

    passwords = Watched(memory_kib=8, passes=1)

    with pytest.raises(WrongCredentials):
        Users(database, passwords).authenticate("nobody", "password123")

    assert [passwords.is_outdated(password_hash) for password_hash in verified] == [False]


def test_log_in_does_not_apply_the_rule_for_new_passwords(users: Users) -> None:
    users.add("demo", "demo")

    assert users.authenticate("demo", "demo").username == "demo"


def test_log_in_renews_a_hash_that_was_made_with_older_parameters(database: Database, users: Users, ada: User) -> None:
    stronger = Users(database, Passwords(memory_kib=16, passes=1))

    stronger.authenticate("ada", "password123")

    assert "m=16," in users.get(ada.id).password_hash
    assert stronger.authenticate("ada", "password123").id == ada.id


def test_a_hash_that_cannot_be_read_is_a_wrong_password() -> None:
    assert not Passwords(memory_kib=8, passes=1).is_right("password123", "not a hash")


def test_a_changed_password_replaces_the_old_one(users: Users, ada: User) -> None:
    users.change_password(ada, "password456")

    assert users.authenticate("ada", "password456").id == ada.id
    with pytest.raises(WrongCredentials):
        users.authenticate("ada", "password123")


def test_the_current_password_is_known_by_its_owner_only(users: Users, ada: User) -> None:
    users.require_password(ada, "password123")

    with pytest.raises(WrongPassword):
        users.require_password(ada, "password124")


def test_an_erased_user_cannot_log_in(database: Database, users: Users, ada: User) -> None:
    with database.write() as session:
        session.get_one(User, ada.id).erased_at = utc_now()

    with pytest.raises(WrongCredentials):
        users.authenticate("ada", "password123")


def test_what_else_is_to_be_done_fails_together_with_the_change_of_a_password(users: Users, ada: User) -> None:
    def broken(_: Session) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        users.change_password(ada, "password456", also=broken)

    assert users.authenticate("ada", "password123").id == ada.id


def test_of_two_changes_of_one_password_the_later_is_refused(users: Users, ada: User) -> None:
    users.change_password(ada, "password456")

    with pytest.raises(WrongPassword):
        users.change_password(ada, "password789")  # ada is still what was read before the first


def test_an_address_can_be_changed_and_taken_away(users: Users, ada: User) -> None:
    assert users.change_email(ada, "new@example.org").email == "new@example.org"
    assert users.change_email(ada, None).email is None
    assert users.get(ada.id).email is None


def test_a_role_is_granted_once(users: Users, ada: User) -> None:
    users.grant(ada, ADMIN)
    users.grant(ada, ADMIN)

    assert users.get(ada.id).roles == [CUSTOMER, ADMIN]


def test_a_page_holds_its_part_of_all_users_by_name(users: Users) -> None:
    for name in ("carol", "Bob", "alice"):
        users.register(name, "password123")

    found, total = users.page(1, 2)

    assert ([user.username for user in found], total) == (["Bob", "carol"], 3)


def test_an_unknown_id_is_told(users: Users) -> None:
    with pytest.raises(UnknownUser):
        users.get("00000000-0000-4000-8000-000000000000")
