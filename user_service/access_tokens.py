"""Minting: what an access token says and what signs it. flask-jwt-extended asks the loaders below.

With signing keys a token is EdDSA and its header names the key; with `JWT_SECRET_KEY` it is HS256 and names none.
Verification is `common.tokens`, here as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from flask import Flask
from flask_jwt_extended import JWTManager, create_access_token

from user_service.signing_keys import SigningKey, SigningKeys
from user_service.tables import User


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whom a token is for, with the key that signs it: taken together, so that `kid` and signature agree."""

    user: User
    key: SigningKey | None  # None: the shared secret


class AccessTokens:
    """Minting for one app, whose `JWTManager` it sets up. `keys` is None in the simple mode, `secret` else."""

    def __init__(self, app: Flask, *, keys: SigningKeys | None, secret: str | None, lifetime_s: int) -> None:
        self._keys = keys
        self.lifetime_s = lifetime_s
        app.config["JWT_ACCESS_TOKEN_EXPIRES"] = timedelta(seconds=lifetime_s)
        app.config["JWT_COOKIE_CSRF_PROTECT"] = False  # no cookies here; else each token carries a claim for them
        manager: JWTManager = app.extensions["flask-jwt-extended"]
        manager.user_identity_loader(_subject)
        manager.additional_claims_loader(_claims)
        if keys is None:
            app.config["JWT_SECRET_KEY"] = secret
        else:
            manager.additional_headers_loader(_headers)
            manager.encode_key_loader(_key)

    def mint(self, user: User) -> str:
        """A token for `user`, valid for `lifetime_s`. Needs the app's context."""
        return create_access_token(Bearer(user, self._keys.current() if self._keys else None))

    def published_keys(self) -> list[dict[str, str]]:
        """What others verify with, as JWKs: never the secret."""
        return [key.jwk() for key in self._keys.all()] if self._keys else []


def _subject(bearer: Bearer) -> str:
    return bearer.user.id


def _claims(bearer: Bearer) -> dict[str, object]:
    return {"username": bearer.user.username, "roles": bearer.user.roles}


def _headers(bearer: Bearer) -> dict[str, object]:
    return {"kid": bearer.key.kid} if bearer.key else {}


def _key(bearer: Bearer) -> object:
    assert bearer.key is not None
    return bearer.key.private
