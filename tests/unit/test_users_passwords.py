"""Which passwords may be chosen, and what makes two spellings one password."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from common import migrations
from common.db import Database
from common.settings import SettingsError, load
from user_service.denied_passwords import DeniedPasswords
from user_service.passwords import Passwords, are_enough
from user_service.settings import UserSettings
from user_service.users import PasswordDenied, PasswordTooShort, Users

MIGRATIONS = Path(__file__).resolve().parents[2] / "user_service" / "migrations"
COMPOSED, DECOMPOSED = "p\u00e9ch\u00e9s \u00e0 deux", "pe\u0301che\u0301s a\u0300 deux"
PRODUCTION = {
    "environment": "production",
    "database_url": "postgresql://db/users",
    "service_secret": "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu",
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/users.db")
    migrations.upgrade(database, MIGRATIONS)
    yield database
    database.dispose()


def users_of(database: Database, *, denied: DeniedPasswords | None = None) -> Users:
    return Users(database, Passwords(memory_kib=8, passes=1), denied=denied)


@pytest.mark.parametrize(
    "password", ["password123", "12345678", "        ", "pass word", "p\u00e4ssw\u00f6rt", "\u5bc6" * 8, "🦒" * 8]
)
def test_length_is_all_that_is_asked_for(database: Database, password: str) -> None:
    users = users_of(database)

    users.register("ada", password)

    assert users.authenticate("ada", password).username == "ada"


@pytest.mark.parametrize(
    "password", ["", "1234567", "🦒" * 7, "e\u0301" * 7], ids=["none", "ascii", "emoji", "letters"]
)
def test_length_is_counted_in_characters_however_they_are_written(database: Database, password: str) -> None:
    with pytest.raises(PasswordTooShort, match="at least 8 characters"):
        users_of(database).register("ada", password)


@pytest.mark.parametrize(("first", "then"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_letter_is_the_same_from_any_keyboard(database: Database, first: str, then: str) -> None:
    users = users_of(database)
    users.register("ada", first)

    assert users.authenticate("ada", then).username == "ada"


@pytest.mark.parametrize("other", ["PASSWORD123", "password\uff11\uff12\uff13", "password123 "])
def test_nothing_else_is_taken_for_the_same(other: str) -> None:
    passwords = Passwords(memory_kib=8, passes=1)

    assert not passwords.is_right(other, passwords.hash("password123"))


@pytest.mark.parametrize(
    "lines", ["letmein-2026\n", "letmein-2026", "LetMeIn-2026\r\n\r\n", "other\n\nletmein-2026\nmore\n"]
)
@pytest.mark.parametrize("password", ["letmein-2026", "LETMEIN-2026"])
def test_a_password_of_the_list_is_denied_in_any_spelling(
    database: Database, tmp_path: Path, lines: str, password: str
) -> None:
    (tmp_path / "denied").write_bytes(lines.encode())
    users = users_of(database, denied=DeniedPasswords.read(tmp_path / "denied"))

    with pytest.raises(PasswordDenied, match="too well known") as caught:
        users.register("ada", password)

    assert caught.value.field == "password"
    assert users.register("ada", f"{password}!").username == "ada"  # a part of one is none


def test_a_list_may_hold_lines_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "denied").write_bytes(b"caf\xe9-au-lait\nletmein-2026\n")

    assert DeniedPasswords.read(tmp_path / "denied").has("letmein-2026")


def test_an_empty_line_denies_nothing(tmp_path: Path) -> None:
    (tmp_path / "denied").write_text("\n\n")

    assert not DeniedPasswords.read(tmp_path / "denied").has("")


@pytest.mark.parametrize("password", ["ada.lovelace", "Ada.LoveLace"])
def test_the_own_name_is_denied_where_there_is_a_list(database: Database, password: str) -> None:
    with pytest.raises(PasswordDenied, match="must not be the username"):
        users_of(database, denied=DeniedPasswords([])).register("ada.lovelace", password)

    assert users_of(database).register("ada.lovelace", password).username == "ada.lovelace"


def test_who_has_a_denied_password_can_still_log_in(database: Database) -> None:
    users_of(database).register("ada", "letmein-2026")

    assert users_of(database, denied=DeniedPasswords(["letmein-2026"])).authenticate("ada", "letmein-2026")


@pytest.mark.parametrize(
    ("memory_kib", "passes", "enough"),
    [(19_456, 2, True), (47_104, 1, True), (7_168, 5, True), (65_536, 3, True), (19_456, 1, False), (8, 100, False)],
)
def test_enough_is_what_owasp_calls_equal(memory_kib: int, passes: int, enough: bool) -> None:
    assert are_enough(memory_kib, passes) is enough


def test_production_refuses_a_hash_that_is_too_cheap() -> None:
    with pytest.raises(SettingsError, match="ARGON2_MEMORY_KIB and ARGON2_PASSES: together too weak"):
        load(UserSettings, "user_service", **PRODUCTION, argon2_memory_kib=1024)


def test_a_list_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="PASSWORD_DENY_LIST: must be a file that can be read"):
        load(UserSettings, "user_service", password_deny_list=tmp_path / "nowhere")
