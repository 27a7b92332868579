"""Minting: what an access token says (RFC 9068) and what signs it. flask-jwt-extended encodes.

With signing keys a token is EdDSA and its header names the key; with `JWT_SECRET_KEY` it is HS256 and names none.
Verification is `common.tokens`, here as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from flask import Flask
from flask_jwt_extended import JWTManager, create_access_token

from common.tokens import AUDIENCE, ISSUER, TOKEN_TYPE
from user_service.signing_keys import SigningKey, SigningKeys
from user_service.tables import User


@dataclass(frozen=True, slots=True)
class _Bearer:
    """Whom a token is for, with the key that signs it: taken together, so that `kid` and signature agree."""

    user_id: str
    key: SigningKey | None  # None: the shared secret


class AccessTokens:
    """Minting for one app, whose `JWTManager` it sets up. `keys` is None in the simple mode, `secret` else."""

    def __init__(self, app: Flask, *, keys: SigningKeys | None, secret: str | None, lifetime_s: int) -> None:
        self._keys = keys
        self.lifetime_s = lifetime_s
        app.config.update(
            JWT_ALGORITHM="EdDSA" if keys else "HS256",
            JWT_ENCODE_ISSUER=ISSUER,
            JWT_ENCODE_AUDIENCE=AUDIENCE,
            JWT_COOKIE_CSRF_PROTECT=False,  # no cookies here; else each token carries a claim for them
        )
        manager: JWTManager = app.extensions.get("flask-jwt-extended") or JWTManager(app)
        manager.user_identity_loader(_subject)
        if keys is None:
            app.config["JWT_SECRET_KEY"] = secret
        else:
            manager.encode_key_loader(_key)

    def mint(
        self,
        user: User,
        *,
        session: str,
        amr: Iterable[str],
        permissions: Iterable[str],
        auth_time: datetime,
        roles: Iterable[str] | None = None,
        lifetime_s: int | None = None,
        plan: str = "",
    ) -> str:
        """A token for `user`, valid for `lifetime_s` or the configured time. Needs the app's context.

        `session` is its id, `key:<id>` for an API key; `amr` is how the user was recognised (RFC 8176), at `auth_time`;
        `roles` are the user's own unless others are given.
        """
        key = self._keys.current() if self._keys else None
        claims: dict[str, object] = {
            "username": user.username,
            "roles": user.roles if roles is None else list(roles),
            "permissions": sorted(permissions),
            "sid": session,
            "gen": user.generation,
            "amr": list(amr),
            "auth_time": int(auth_time.timestamp()),
        }
        return create_access_token(
            _Bearer(user.id, key),
            expires_delta=timedelta(seconds=self.lifetime_s if lifetime_s is None else lifetime_s),
            additional_claims={**claims, "plan": plan} if plan else claims,
            additional_headers={"typ": TOKEN_TYPE, "kid": key.kid} if key else {"typ": TOKEN_TYPE},
        )

    def published_keys(self) -> list[dict[str, str]]:
        """What others verify with, as JWKs: never the secret."""
        return [key.jwk() for key in self._keys.published()] if self._keys else []


def _subject(bearer: _Bearer) -> str:
    return bearer.user_id


def _key(bearer: _Bearer) -> object:
    assert bearer.key is not None
    return bearer.key.private
