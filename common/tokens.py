"""Access tokens: who verifies them, with which keys, and what they say.

user_service signs (EdDSA) and publishes its public keys as a JWK set (RFC 7517); everybody else holds public keys only
and so can't mint. With `JWT_SECRET_KEY` set, all four processes share one HS256 secret instead (the simple mode). Other
issuers may be trusted too (`issuers`). Algorithm, type, audience and keys are pinned for each issuer, never taken from
the token: its unverified `iss` only picks whose they are, and of its header only `kid` is read, to look up one of the
issuer's own keys.

flask-jwt-extended decodes our own; `Verifier` keeps what was found, keyed by the token's SHA-256 and bounded, until the
token expires, is revoked (`revocations`) or its key goes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import ParamSpec, Protocol, TypeVar

import jwt as pyjwt
from flask import Flask, g, request
from flask_jwt_extended import JWTManager, decode_token
from flask_jwt_extended.exceptions import JWTExtendedException

from common import jose
from common.identity import ISSUER as ISSUER
from common.identity import Identity as Identity
from common.jose import MAX_TOKEN_BYTES
from common.keys import InvalidToken, Keys, KeysUnavailable
from common.permissions import Requirement, bundled
from common.problems import Problem, ServiceUnavailable, Unauthorized
from common.remembering import Recent

AUDIENCE = "shop"
TOKEN_TYPE = "at+jwt"  # noqa: S105 - RFC 9068, 2.1: the header's `typ`, not a secret
LEEWAY_S = 5  # for clocks that differ
MAX_CACHED = 20_000
REFUSED_S = 1.0
"""So long a token that was refused is refused again without a look: who sends the same one in a flood costs little, and
one whose key, or time, has come only now waits for no longer."""
REQUIREMENT = "__requirement__"
"""Where a view of a service carries what it asks for."""

P = ParamSpec("P")
R = TypeVar("R")


class Issuer(Protocol):
    """Who signs tokens, with all that is pinned."""

    @property
    def issuer(self) -> str: ...
    @property
    def leeway_s(self) -> float: ...

    def identity_in(self, token: str, header: Mapping[str, object]) -> Identity:
        """Raises `InvalidToken`, `KeysUnavailable`, or what PyJWT raises."""
        ...


class Revoked(Protocol):
    """What is known of revocations."""

    @property
    def is_trusted(self) -> bool: ...

    def is_revoked(self, identity: Identity) -> bool: ...


class Verifier:
    """Tokens to identities. Shared by greenlets; each method is safe to interleave: it touches the cache in one step.

    The cache holds at most `max_cached` identities, of which the half that was used last is always there, and each for
    `max_age_s`.
    """

    def __init__(
        self,
        app: Flask,
        keys: Keys,
        *,
        foreign: Iterable[Issuer] = (),
        revoked: Revoked | None = None,
        max_cached: int = MAX_CACHED,
        max_age_s: float = 600,
        tell: Callable[[str], None] = lambda _result: None,
    ) -> None:
        """`tell` hears whether the cache had the token: `hit` or `miss`."""
        self.keys = keys
        self.issuers: Mapping[str, Issuer] = {each.issuer: each for each in (OwnIssuer(app, keys), *foreign)}
        self._revoked = revoked
        self._max_age_s = max_age_s
        self._tell = tell
        self._cache = Recent[bytes, tuple[Identity, float]](max_cached)
        self._refused = Recent[bytes, tuple[str, float]](max_cached)  # why, and when that was found
        self.in_background: list[Callable[[Callable[[], bool]], object]] = []

    def start(self, is_wanted: Callable[[], bool]) -> None:
        """Begin what goes on `in_background` of a worker, until it `is_wanted` no longer. Takes two seconds at most: no
        token is believed before what was revoked is known, if that can be had."""
        for begin in self.in_background:
            begin(is_wanted)

    def verify(self, token: str) -> Identity:
        """The identity in `token`. Raises `InvalidToken` or `KeysUnavailable`."""
        if len(token) > MAX_TOKEN_BYTES:
            raise InvalidToken("The token is too long.")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._cache.get(digest)
        if known is None or time.time() >= known[1]:
            self._tell("miss")
            self._cache.drop(digest)
            self._refuse_again(digest)
            try:
                identity = self._decode(digest, token)
            except InvalidToken as error:
                self._refused.put(digest, (str(error), time.time()))
                raise
        else:
            self._tell("hit")
            identity = known[0]
        if self._revoked is not None:
            self._ask_whether_revoked(self._revoked, digest, identity)
        return identity

    def forget(self) -> None:
        """Decode each token anew: a key has gone."""
        self._cache.clear()
        self._refused.clear()

    def _refuse_again(self, digest: bytes) -> None:
        text, at = self._refused.get(digest) or ("", 0.0)
        if 0 <= time.time() - at < REFUSED_S:
            raise InvalidToken(text)

    def _ask_whether_revoked(self, revoked: Revoked, digest: bytes, identity: Identity) -> None:
        if not revoked.is_trusted:
            raise KeysUnavailable("what was revoked is not known")
        if revoked.is_revoked(identity):
            self._cache.drop(digest)
            raise InvalidToken("The token was revoked.")

    def _decode(self, digest: bytes, token: str) -> Identity:
        said = jose.take_apart(token)
        issuer = self.issuers.get(said.issuer)
        if issuer is None:
            raise InvalidToken("The token was issued by somebody whom we don't know.")
        try:
            identity = issuer.identity_in(token, said.header)
        except pyjwt.ExpiredSignatureError:
            raise InvalidToken("The token has expired.") from None
        except (InvalidToken, KeysUnavailable):
            raise
        except (pyjwt.PyJWTError, JWTExtendedException, ValueError, TypeError, KeyError, AttributeError):
            # ValueError and the like: what PyJWT lets through for some malformed tokens
            raise InvalidToken("The token is not valid.") from None
        until = min(identity.expires_at + issuer.leeway_s, time.time() + self._max_age_s)
        self._cache.put(digest, (identity, until))
        return identity


class OwnIssuer:
    """user_service, whose tokens flask-jwt-extended decodes. Sets up the app's `JWTManager`."""

    issuer = ISSUER
    leeway_s: float = LEEWAY_S

    def __init__(self, app: Flask, keys: Keys) -> None:
        self._app, self._keys = app, keys
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

    def identity_in(self, token: str, header: Mapping[str, object]) -> Identity:
        jose.pin(header, types=frozenset({TOKEN_TYPE}), algorithms=frozenset({self._keys.algorithm}))
        with self._app.app_context():
            return _identity(decode_token(token))

    def _key_for(self, header: Mapping[str, object], _claims: Mapping[str, object]) -> object:
        return self._keys.find(jose.text(header, "kid") or None)


def _identity(claims: Mapping[str, object]) -> Identity:
    user_id, (issued_at, expires_at) = jose.subject(claims), jose.times(claims)
    generation = claims.get("gen", 0)
    if claims.get("type") != "access" or isinstance(generation, bool) or not isinstance(generation, int):
        raise InvalidToken("The token is not an access token.")
    roles = jose.names(claims, "roles")
    return Identity(
        user_id=user_id,
        username=jose.text(claims, "username") or user_id,
        roles=roles,
        expires_at=expires_at,
        permissions=jose.names(claims, "permissions") if "permissions" in claims else bundled(roles),
        session=jose.text(claims, "sid"),
        generation=generation,
        issued_at=issued_at,
        amr=jose.names(claims, "amr"),
        plan=jose.text(claims, "plan"),
    )


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


def start(app: Flask, is_wanted: Callable[[], bool]) -> None:
    """`Verifier.start` for the worker that serves `app`."""
    verifier: Verifier = app.extensions["verifier"]
    verifier.start(is_wanted)


def app_verifier() -> Verifier:
    from flask import current_app

    verifier: Verifier = current_app.extensions["verifier"]
    return verifier


def signed_in(
    *roles: str, permissions: tuple[str, ...] = (), second_factor: bool = False, session: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A view decorator of the services: a valid token, and what `Requirement` says of the rest."""
    requirement = Requirement(roles, permissions, second_factor, session)

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            requirement.check(current_identity())
            return view(*args, **kwargs)

        setattr(guarded, REQUIREMENT, requirement)
        return guarded

    return decorate
