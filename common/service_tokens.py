"""Tokens with which one of our services speaks for itself to another: HS256 with `SERVICE_SECRET`, valid a minute.

They differ from users' tokens in key, algorithm, issuer, audience and header type, so neither passes for the other, and
the gateway never hands them out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import jwt
from flask import current_app, g, request

from common.jose import take_apart, times
from common.keys import InvalidToken
from common.problems import Unauthorized
from common.tokens import bearer_token

P = ParamSpec("P")
R = TypeVar("R")

TOKEN_TYPE = "service+jwt"  # noqa: S105 - the header's `typ`, not a secret
LIFETIME_S = 60


def mint(secret: str, *, issuer: str, audience: str, lifetime_s: int = LIFETIME_S) -> str:
    """A token that lets `issuer` call `audience` for the next minute, or as long as is said."""
    now = int(time.time())
    claims = {"iss": issuer, "aud": audience, "iat": now, "exp": now + lifetime_s}
    return jwt.encode(claims, secret, algorithm="HS256", headers={"typ": TOKEN_TYPE})


def verify(token: str, secret: str, *, audience: str) -> str:
    """The name of the calling service. Raises `InvalidToken`."""
    header = take_apart(token).header
    try:
        claims = jwt.decode(
            token,
            secret,
            algorithms=["HS256"],
            audience=audience,
            leeway=5,
            options={"require": ["exp", "iss", "aud"]},
        )
    except (jwt.PyJWTError, ValueError):
        raise InvalidToken("The service token is not valid.") from None
    times({"iat": 0, **claims})
    issuer = claims["iss"]
    if header.get("typ") != TOKEN_TYPE or not isinstance(issuer, str):
        raise InvalidToken("The token is not a service token.")
    return issuer


def services_only(view: Callable[P, R]) -> Callable[P, R]:
    """A view decorator: only our own services may call; `SERVICE_SECRET` comes from the app's config."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        secret, audience = current_app.config["SERVICE_SECRET"], current_app.config["SERVICE_NAME"]
        try:
            token = bearer_token(request.headers.get("Authorization"))
            if token is None:
                raise Unauthorized("This is for our own services; it needs a service token.", code="TOKEN_REQUIRED")
            g.calling_service = verify(token, secret, audience=audience)
        except InvalidToken as error:
            raise Unauthorized(str(error), code="INVALID_TOKEN", error="invalid_token") from None
        return view(*args, **kwargs)

    return guarded
