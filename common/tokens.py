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
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, Protocol, TypeVar

import jwt as pyjwt
import requests
import structlog
from flask import Flask, g, request
from flask_jwt_extended import JWTManager, decode_token
from flask_jwt_extended.exceptions import JWTExtendedException

from common.http import tuned_session
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


class InvalidToken(Exception):
    """The token is malformed, expired, not yet valid, for somebody else or not signed by us. The text may be told."""


class KeysUnavailable(Exception):
    """No key to verify with could be had; the token may well be good."""


class Keys(Protocol):
    """Where verification keys come from. `algorithm` is the only one that is accepted."""

    algorithm: str

    def find(self, kid: str | None) -> object:
        """The key named `kid`. Raises `InvalidToken` for an unknown one, `KeysUnavailable` when none can be had."""
        ...


class SharedSecret:
    """HS256 with `JWT_SECRET_KEY`."""

    algorithm = "HS256"

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def find(self, kid: str | None) -> object:
        return self._secret


class JwkSetKeys:
    """EdDSA keys of a JWK set, fetched when first needed and, at most once per `cool_down_s`, for an unknown `kid`.

    Shared by greenlets: a lock lets one of them fetch while the others wait for its result. While the set can't be
    fetched the keys that are known go on being used.
    """

    algorithm = "EdDSA"

    def __init__(self, url: str, *, cool_down_s: float = 5.0, timeout_s: float = 2.0) -> None:
        self._url = url
        self._cool_down_s = cool_down_s
        self._timeout_s = timeout_s
        self._session = tuned_session(pool_size=2)
        self._lock = threading.Lock()
        self._keys: Mapping[str, object] = {}
        self._tried_at = float("-inf")

    @property
    def is_loaded(self) -> bool:
        return bool(self._keys)

    def find(self, kid: str | None) -> object:
        if kid is None:
            raise InvalidToken("The token names no key.")
        if kid not in self._keys:
            self._refresh(kid)
        if key := self._keys.get(kid):
            return key
        if not self._keys:
            raise KeysUnavailable("the keys of user_service could not be fetched")
        raise InvalidToken("The token was signed with a key that is not ours.")

    def warm(self) -> bool:
        """Fetch the set if that was not done yet; whether there are keys now."""
        if not self._keys:
            self._refresh("")
        return self.is_loaded

    def _refresh(self, kid: str) -> None:
        with self._lock:
            now = time.monotonic()
            # without any key a quick second try is worth more than the service's peace
            cool_down_s = self._cool_down_s if self._keys else min(1.0, self._cool_down_s)
            if kid in self._keys or now - self._tried_at < cool_down_s:
                return
            try:
                answer = self._session.get(self._url, timeout=self._timeout_s)
                answer.raise_for_status()
                fetched = _verification_keys(answer.json())
            except (requests.RequestException, ValueError, TypeError, KeyError, pyjwt.PyJWTError) as error:
                log.warning("jwks_unavailable", reason=type(error).__name__, keys_kept=len(self._keys))
            else:
                self._keys = fetched
            self._tried_at = time.monotonic()


class FixedKeys:
    """EdDSA keys handed over by a callable: user_service itself reads them from its database."""

    algorithm = "EdDSA"

    def __init__(self, find: Callable[[str], object | None]) -> None:
        self._find = find

    def find(self, kid: str | None) -> object:
        key = self._find(kid) if kid else None
        if key is None:
            raise InvalidToken("The token was signed with a key that is not ours.")
        return key


def _verification_keys(document: object) -> Mapping[str, object]:
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("not a JWK set")
    keys = pyjwt.PyJWKSet.from_dict(document).keys
    usable = {key.key_id: key.key for key in keys if key.key_id and key.key_type == "OKP"}
    if not usable:
        raise ValueError("no key that signs with EdDSA")
    return usable


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
