"""Settings of user_service."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, AliasChoices, Field

from common.service_settings import ServiceSettings
from common.settings import WELL_KNOWN_SECRETS, OptionalText, Secret
from user_service.guard import ADDRESS_FREE, FREE, LONGEST_S
from user_service.passwords import MEMORY_KIB, PASSES, are_enough
from user_service.sessions import Terms
from user_service.users import PASSWORD_MIN_LENGTH

ADMIN_PASSWORD_MIN_LENGTH = 12  # in production
SERVICE_URL = r"^https?://[^/?#\s]+$"
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


def _readable(path: Path | None) -> Path | None:
    if path is not None:
        try:
            path.open("rb").close()
        except OSError as error:
            raise ValueError(f"must be a file that can be read ({error.strerror})") from None
    return path


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
    refresh_token_ttl: int = Field(
        2_592_000, ge=60, le=31_536_000, description="Seconds for which a refresh token is valid; a use gives the next."
    )
    session_ttl: int = Field(
        7_776_000, ge=60, le=315_360_000, description="Seconds after which a session ends, however often refreshed."
    )
    refresh_grace_s: float = Field(
        0,
        ge=0,
        le=60,
        description="Seconds for which a used refresh token is forgiven: callers with several tabs need some.",
    )
    sessions_per_user: int = Field(
        20, ge=1, le=1000, description="Sessions that a user may have; one more ends the least recently used."
    )
    key_publish_lead: int = Field(
        180, ge=0, le=86_400, description="Seconds for which a new signing key is published before it signs."
    )
    key_rotation_days: int = Field(
        0, ge=0, le=3650, description="Days after which a new signing key is made by itself; 0: never."
    )
    password_min_length: int = Field(
        PASSWORD_MIN_LENGTH,
        ge=PASSWORD_MIN_LENGTH,
        le=64,
        description="The fewest characters a new password may have.",
    )
    password_deny_list: Annotated[Path | None, AfterValidator(_readable)] = Field(
        None,
        description="A text file of passwords that nobody may choose, one a line, in any spelling of their case; with "
        "it nobody may choose their own name either.",
    )
    argon2_memory_kib: int = Field(
        MEMORY_KIB, ge=8, le=4_194_304, description="Memory that the hash of a password takes, in KiB."
    )
    argon2_passes: int = Field(PASSES, ge=1, le=100, description="How often the hash of a password goes through it.")
    login_failures_free: int = Field(
        FREE,
        ge=1,
        le=1_000_000,
        description="Failures to log in under one name after which further attempts have to wait.",
    )
    login_failures_address: int = Field(
        ADDRESS_FREE, ge=1, le=1_000_000, description="The same for one address (of IPv6: a /64), whatever the names."
    )
    login_lock_max_s: int = Field(
        LONGEST_S, ge=1, le=86_400, description="The longest wait in seconds: the first is 1 s, then 2, 4, 8 and so on."
    )
    totp_issuer: str = Field(
        "Shop", min_length=1, max_length=64, pattern=r"^[^:]+$", description="What authenticator apps call this system."
    )
    service_secret_previous: Secret = Field(
        None, description="The SERVICE_SECRET before the present one, so that second factors set up with it still work."
    )
    api_keys_per_user: int = Field(50, ge=1, le=1000, description="API keys that a user may have at once.")
    audit_secret: Secret = Field(
        None,
        description="What the audit log is sealed with; SERVICE_SECRET without it. Keep it for as long as the log.",
    )
    audit_retention_days: int = Field(
        365, ge=1, le=36_500, description="Days for which entries of the audit log are kept."
    )
    order_service_url: str = Field(
        "http://127.0.0.1:5003", pattern=SERVICE_URL, description="Where order_service is, for export and erasure."
    )
    product_service_url: str = Field(
        "http://127.0.0.1:5004", pattern=SERVICE_URL, description="Where product_service is, for export and erasure."
    )
    erasure_interval: float = Field(
        30.0, ge=0.1, le=3600, description="Seconds between two tries to finish erasures that a service was away for."
    )
    admin_username: OptionalText = Field(
        None, description="The first administrator, whom `flask --app user_service ensure-admin` makes."
    )
    admin_password: OptionalText = Field(
        None, description="The first administrator's password; in production at least 12 characters, not a known one."
    )

    def session_terms(self) -> Terms:
        return Terms(self.refresh_token_ttl, self.session_ttl, self.refresh_grace_s, self.sessions_per_user)

    def contradictions(self) -> Iterable[str]:
        yield from super().contradictions()
        if self.key_publish_lead < 2 * self.jwks_refresh_s:
            yield "KEY_PUBLISH_LEAD: must be twice JWKS_REFRESH_S at least: others fetch a new key before it signs"
        if (self.admin_username is None) != (self.admin_password is None):
            yield "ADMIN_USERNAME and ADMIN_PASSWORD: are needed together; set both or neither"
        if self.is_production and not are_enough(self.argon2_memory_kib, self.argon2_passes):
            yield (
                "ARGON2_MEMORY_KIB and ARGON2_PASSES: together too weak when ENVIRONMENT=production; allowed from "
                "47104 and 1, 19456 and 2, 12288 and 3, 9216 and 4, or 7168 and 5"
            )
        if self.is_production and self.admin_password is not None and is_weak(self.admin_password):
            yield (
                f"ADMIN_PASSWORD: must have at least {ADMIN_PASSWORD_MIN_LENGTH} characters and not be a well-known "
                "password when ENVIRONMENT=production"
            )


def is_weak(password: str) -> bool:
    """Whether a password is too short, too uniform or too famous for an administrator in production."""
    too_uniform = len(set(password)) < 5
    return len(password) < ADMIN_PASSWORD_MIN_LENGTH or too_uniform or password.lower() in WELL_KNOWN_PASSWORDS
