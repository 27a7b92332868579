"""What callers send and get."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from common.models import Page, Schema
from user_service.users import PASSWORD_MIN_LENGTH, USERNAME_PATTERN

PASSWORD_MAX_LENGTH = 128
LOGIN_MAX_LENGTH = 1024  # accounts may be older than today's rules; only the work is bounded

Email = Annotated[
    str,
    # a sanity check: only a letter sent there proves an address. No `\s`: regex dialects differ about U+0085
    Field(max_length=254, pattern=r"^[^@\x00-\x20\x7f-\xa0]+@[^@\x00-\x20\x7f-\xa0]+$", examples=["ada@example.org"]),
]
Password = Annotated[
    str,
    Field(
        max_length=PASSWORD_MAX_LENGTH,
        description="Any characters. The operator may ask for more than the least length given here.",
        examples=["password123"],
        json_schema_extra={"minLength": PASSWORD_MIN_LENGTH},  # checked by the rules, which know the operator's wish
    ),
]
OneTimeCode = Annotated[
    str, Field(max_length=64, description="A one-time code, or a recovery code.", examples=["123456"])
]
AnyPassword = Annotated[str, Field(max_length=LOGIN_MAX_LENGTH)]


class Registration(Schema):
    username: str = Field(
        pattern=USERNAME_PATTERN,
        description="3 to 64 letters, digits, `_`, `.` or `-`; unique in any spelling.",
        examples=["testuser"],
    )
    password: Password
    email: Email | None = None


class Credentials(Schema):
    username: str = Field(max_length=LOGIN_MAX_LENGTH, examples=["testuser"])
    password: AnyPassword = Field(examples=["password123"])
    otp: OneTimeCode | None = Field(None, description="For accounts with a second factor: a one-time or recovery code.")


class RefreshRequest(Schema):
    refresh_token: str = Field(max_length=LOGIN_MAX_LENGTH, examples=["shop_rt_..."])


class TokenPair(Schema):
    """An answer of RFC 6749, 5.1."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_in: int = Field(description="Seconds for which the access token is valid.")
    refresh_token: str = Field(description="Good once, for `POST /auth/refresh`.")
    refresh_expires_in: int = Field(description="Seconds for which the refresh token is valid.")


class SessionView(Schema):
    """One log-in on one device."""

    id: str
    device: str = Field(description="As the caller named itself, shortened.")
    address: str
    created_at: datetime
    last_used_at: datetime = Field(description="When it began or was last refreshed.")
    expires_at: datetime
    current: bool = Field(description="Whether it is the one of the token that asks.")


class SessionList(Schema):
    items: list[SessionView]


class Profile(Schema):
    id: str
    username: str
    email: str | None
    roles: list[str]
    created_at: datetime


class ProfileChange(Schema):
    email: Email | None = Field(description="null takes the address away.")


class PasswordChange(Schema):
    current_password: AnyPassword
    new_password: Password


class UserPage(Page):
    items: list[Profile]


class Jwk(Schema):
    """A public key (RFC 7517; Ed25519 by RFC 8037)."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str
    kid: str
    use: Literal["sig"]
    alg: Literal["EdDSA"]


class JwkSet(Schema):
    keys: list[Jwk]
