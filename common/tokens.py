"""Access tokens: who verifies them, with which keys, and what they say.

user_service signs (EdDSA) and publishes its public keys as a JWK set (RFC 7517); everybody else holds public keys only
and so can't mint. With `JWT_SECRET_KEY` set, all four processes share one HS256 secret instead (the simple mode). The
algorithm is pinned by the mode, never taken from the token; of the token's header only `kid` is read, to look up one
of our own keys.

flask-jwt-extended decodes; `Verifier` keeps what it found, keyed by the token's SHA-256 and bounded, until the token
expires.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

import jwt as pyjwt
import structlog
from flask import Flask, g, request
from flask_jwt_extended import JWTManager, decode_token
from flask_jwt_extended.exceptions import JWTExtendedException

from common.keys import InvalidToken, Keys, KeysUnavailable
from common.problems import Forbidden, Problem, ServiceUnavailable, Unauthorized

ISSUER = "user_service"
AUDIENCE = "shop"
MAX_TOKEN_BYTES = 8192
LEEWAY_S = 5  # for clocks that differ
LATEST_S = 1e11  # Unix time; what expires later never does, and may not even be a float

P = ParamSpec("P")
R = TypeVar("R")
log = structlog.get_logger("tokens")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a valid token speaks for."""

    user_id: str
    username: str
    roles: frozenset[str]
    expires_at: float  # Unix time, seconds

    def has_any(self, roles: tuple[str, ...]) -> bool:
        return not roles or not self.roles.isdisjoint(roles)


class Verifier:
    """Tokens to identities. Shared by greenlets; each method is safe to interleave: it touches the cache in one step.

    The cache holds at most `max_cached` identities, the least recently used goes first.
    """

    def __init__(self, app: Flask, keys: Keys, *, max_cached: int = 10_000) -> None:
        self._app = app
        self._keys = keys
        self._max_cached = max_cached
        self._cache: OrderedDict[bytes, Identity] = OrderedDict()
        app.config.update(
            JWT_ALGORITHM=keys.algorithm,
            JWT_DECODE_ALGORITHMS=[keys.algorithm],
            JWT_DECODE_ISSUER=ISSUER,
            JWT_ENCODE_ISSUER=ISSUER,
            JWT_DECODE_AUDIENCE=AUDIENCE,
            JWT_ENCODE_AUDIENCE=AUDIENCE,
            JWT_DECODE_LEEWAY=LEEWAY_S,
        )
        JWTManager(app).decode_key_loader(self._key_for)

    def _key_for(self, header: Mapping[str, object], _claims: Mapping[str, object]) -> object:
        return self._keys.find(_text(header.get("kid")))

    @property
    def keys(self) -> Keys:
        return self._keys

    def verify(self, token: str) -> Identity:
        """The identity in `token`. Raises `InvalidToken` or `KeysUnavailable`."""
        if len(token) > MAX_TOKEN_BYTES:
            raise InvalidToken("The token is too long.")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        identity = self._cache.get(digest)
        if identity is None:
            identity = self._decode(token)
            self._cache[digest] = identity
            if len(self._cache) > self._max_cached:
                self._cache.popitem(last=False)
        elif identity.expires_at <= time.time() - LEEWAY_S:
            self._cache.pop(digest, None)
            raise InvalidToken("The token has expired.")
        else:
            self._cache.move_to_end(digest)
        return identity

    def _decode(self, token: str) -> Identity:
        try:
            with self._app.app_context():
                claims = decode_token(token)
        except pyjwt.ExpiredSignatureError:
            raise InvalidToken("The token has expired.") from None
        except (InvalidToken, KeysUnavailable):
            raise
        except (pyjwt.PyJWTError, JWTExtendedException, ValueError, TypeError, KeyError, AttributeError):
            # ValueError and the like: what PyJWT lets through for some malformed tokens
            raise InvalidToken("The token is not valid.") from None
        return _identity(claims)


def _identity(claims: Mapping[str, object]) -> Identity:
    subject, expires_at, roles = claims.get("sub"), claims.get("exp"), claims.get("roles", [])
    if not isinstance(subject, str) or not subject:
        raise InvalidToken("The token lacks a subject.")
    if not isinstance(expires_at, int | float) or not expires_at < LATEST_S:
        raise InvalidToken("The token lacks an expiry.")
    if claims.get("type") != "access" or not isinstance(roles, list):
        raise InvalidToken("The token is not an access token.")
    name = _text(claims.get("username")) or subject
    return Identity(subject, name, frozenset(str(role) for role in roles), float(expires_at))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def bearer_token(header: str | None) -> str | None:
    """The token of an `Authorization` header (RFC 6750, 2.1), or None where there is no such header.

    Raises `InvalidToken` for another scheme or a malformed header: whoever sends credentials means them.
    """
    if header is None:
        return None
    scheme, _, token = header.strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or " " in token or "," in token:
        raise InvalidToken("The Authorization header must be: Bearer <token>.")
    return token


def refusal(error: Exception) -> Problem:
    """What the caller is told when the token could not be verified."""
    if isinstance(error, KeysUnavailable):
        return ServiceUnavailable("Tokens can't be verified just now.", code="IDENTITY_UNAVAILABLE", retry_after_s=2)
    return Unauthorized(str(error), code="INVALID_TOKEN", error="invalid_token")


def missing_token() -> Problem:
    return Unauthorized("This needs a token: send it as 'Authorization: Bearer <token>'.", code="TOKEN_REQUIRED")


def lacking_role(roles: tuple[str, ...]) -> Problem:
    return Forbidden(f"This needs the role {' or '.join(roles)}.", code="ROLE_REQUIRED")


def init_app(app: Flask, verifier: Verifier) -> None:
    app.extensions["verifier"] = verifier


def current_identity() -> Identity:
    """Whoever calls. Raises the problems of `refusal`; verified once a request."""
    if "identity" not in g:
        verifier: Verifier = app_verifier()
        try:
            token = bearer_token(request.headers.get("Authorization"))
            if token is None:
                raise missing_token()
            g.identity = verifier.verify(token)
        except (InvalidToken, KeysUnavailable) as error:
            raise refusal(error) from error
    identity: Identity = g.identity
    return identity


def app_verifier() -> Verifier:
    from flask import current_app

    verifier: Verifier = current_app.extensions["verifier"]
    return verifier


def signed_in(*roles: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A view decorator of the services: a valid token, and any of `roles` where some are named."""

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            if not current_identity().has_any(roles):
                raise lacking_role(roles)
            return view(*args, **kwargs)

        return guarded

    return decorate
