"""What a request shows of who it is: nothing, or one of

    Authorization: Bearer TOKEN      an access token
    Authorization: ApiKey KEY        an API key, which is exchanged for a token
    X-API-Key: KEY                   the same
    a session cookie                 a token, where browsers may keep theirs in cookies

Two at once are refused, for whoever decides by one of them would let the other pass unseen; but a cookie, which a
browser sends unasked, counts only where nothing else is shown. What a service gets is an access token, always.
"""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Literal, NamedTuple

from common.keys import InvalidToken
from common.problems import BadRequest
from common.tokens import bearer_token

KEY_HEADER = "x-api-key"


class Credential(NamedTuple):
    """`value` is the token, or the key. A cookie holds a token."""

    kind: Literal["token", "key", "cookie"]
    value: str


def credential_of(headers: Mapping[str, str], cookie: str = "") -> Credential | None:
    """The one that the fields (by lower-case name) show; `cookie` is the name of the session cookie, "" for none.

    Raises `BadRequest` for two, `InvalidToken` for a malformed one.
    """
    authorization, key = headers.get("authorization"), headers.get(KEY_HEADER)
    if key is None and authorization is not None and authorization.startswith("Bearer "):  # the usual case, read once
        token = authorization[7:].strip()
        if token and " " not in token and "," not in token:
            return Credential("token", token)
    if authorization is not None and key is not None:
        raise BadRequest(
            "The request has both Authorization and X-API-Key; send one of them.", code="AMBIGUOUS_CREDENTIALS"
        )
    if key is not None:
        return Credential("key", _one_key(key))
    if authorization is not None:
        scheme, _, rest = authorization.strip().partition(" ")
        if scheme.lower() == "apikey":
            return Credential("key", _one_key(rest))
        token = bearer_token(authorization)
        return Credential("token", token) if token is not None else None
    if cookie and (token := _cookie(headers.get("cookie", ""), cookie)):
        return Credential("cookie", token)
    return None


def _one_key(text: str) -> str:
    key = text.strip()
    if not key or " " in key or "," in key:
        raise InvalidToken("There must be one API key: X-API-Key: <key>, or Authorization: ApiKey <key>.")
    return key


def _cookie(header: str, name: str) -> str:
    try:
        morsel = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel else ""
