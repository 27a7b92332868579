"""What user_service refuses to start with."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.settings import SettingsError, documented, load
from user_service.settings import UserSettings, is_weak

PRODUCTION = {
    "environment": "production",
    "database_url": "postgresql://db/users",
    "service_secret": "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu",
}


@pytest.mark.parametrize(
    ("password", "weak"),
    [
        ("short-1A", True),
        ("password1234", True),
        ("ADMINISTRATOR", True),
        ("aaaaaaaaaaaaaaaa", True),
        ("nine tall giraffes", False),
    ],
)
def test_an_administrators_password_in_production_is_long_and_not_famous(password: str, weak: bool) -> None:
    assert is_weak(password) is weak


def test_a_weak_administrators_password_stops_the_start_in_production_and_is_not_repeated() -> None:
    with pytest.raises(SettingsError, match="ADMIN_PASSWORD: must have at least 12 characters") as caught:
        load(UserSettings, "user_service", **PRODUCTION, admin_username="root", admin_password="admin-1")

    assert "admin-1" not in str(caught.value)


def test_a_weak_administrators_password_will_do_for_development() -> None:
    settings = load(UserSettings, "user_service", admin_username="root", admin_password="admin-1")

    assert settings.admin_password == "admin-1"


@pytest.mark.parametrize("given", [{"admin_username": "root"}, {"admin_password": "nine tall giraffes"}])
def test_half_an_administrator_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="set both or neither"):
        load(UserSettings, "user_service", **given)


def test_the_services_own_database_variable_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///shared.db")
    monkeypatch.delenv("USERS_DATABASE_URL", raising=False)
    assert load(UserSettings, "user_service").database_url == "sqlite:///shared.db"

    monkeypatch.setenv("USERS_DATABASE_URL", "sqlite:///own.db")

    assert load(UserSettings, "user_service").database_url == "sqlite:///own.db"


def test_without_a_database_variable_it_is_a_file_of_var_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USERS_DATABASE_URL", raising=False)
    monkeypatch.delenv("DATABASE_URL", raising=False)

    settings = load(UserSettings, "user_service", var_dir=Path("elsewhere"))

    assert settings.effective_database_url == "sqlite:///elsewhere/users.db"


def test_every_setting_is_described() -> None:
    assert [row.names for row in documented(UserSettings) if not row.description.endswith(".")] == []
