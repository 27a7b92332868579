"""Settings of user_service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import AliasChoices, Field

from common.service_settings import ServiceSettings
from common.settings import WELL_KNOWN_SECRETS, OptionalText
from user_service.users import PASSWORD_MIN_LENGTH

ADMIN_PASSWORD_MIN_LENGTH = 12  # in production
WELL_KNOWN_PASSWORDS = WELL_KNOWN_SECRETS | {
    "administrator",
    "adminadminadmin",
    "changemechangeme",
    "correcthorsebatterystaple",
    "passwordpassword",
    "password1234",
    "password12345",
    "qwertyuiop123",
    "123456789012",
}


class UserSettings(ServiceSettings):
    name: ClassVar[str] = "user_service"
    plural: ClassVar[str] = "users"

    port: int = Field(
        5002, ge=1, le=65535, validation_alias="USER_SERVICE_PORT", description="The port of user_service."
    )
    database_url: OptionalText = Field(
        None,
        validation_alias=AliasChoices("USERS_DATABASE_URL", "DATABASE_URL"),
        description="Where users and signing keys are kept: postgresql:// or sqlite:///; by default a file in VAR_DIR.",
    )
    access_token_ttl: int = Field(900, ge=60, le=86_400, description="Seconds for which an access token is valid.")
    password_min_length: int = Field(
        PASSWORD_MIN_LENGTH,
        ge=PASSWORD_MIN_LENGTH,
        le=64,
        description="The fewest characters a new password may have.",
    )
    admin_username: OptionalText = Field(
        None, description="The first administrator, whom `flask --app user_service ensure-admin` makes."
    )
    admin_password: OptionalText = Field(
        None, description="The first administrator's password; in production at least 12 characters, not a known one."
    )

    def contradictions(self) -> Iterable[str]:
        yield from super().contradictions()
        if (self.admin_username is None) != (self.admin_password is None):
            yield "ADMIN_USERNAME and ADMIN_PASSWORD: are needed together; set both or neither"
        if self.is_production and self.admin_password is not None and is_weak(self.admin_password):
            yield (
                f"ADMIN_PASSWORD: must have at least {ADMIN_PASSWORD_MIN_LENGTH} characters and not be a well-known "
                "password when ENVIRONMENT=production"
            )


def is_weak(password: str) -> bool:
    """Whether a password is too short, too uniform or too famous for an administrator in production."""
    too_uniform = len(set(password)) < 5
    return len(password) < ADMIN_PASSWORD_MIN_LENGTH or too_uniform or password.lower() in WELL_KNOWN_PASSWORDS
