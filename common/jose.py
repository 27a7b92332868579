"""A token's text, taken apart before anything in it is believed (RFC 7515, compact serialization).

Stricter than the libraries that verify it afterwards, so that no two readers can understand it differently:

- three parts of unpadded base64url in its one canonical form; no white space, no JSON serialization, no JWE
- header and claims are JSON objects in UTF-8 in which no name stands twice, without NaN, infinity or half characters
- no header parameter that brings a key along or asks for another way of verifying
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple, cast

import orjson

from common.keys import InvalidToken

MAX_TOKEN_BYTES = 8192
MAX_KID_LENGTH = 256
LATEST_S = 1e11  # Unix time; what expires later never does, and may not even be a float

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_SUBJECT = re.compile(r"[!-~]{1,255}")
_REFUSED = frozenset({"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc"})

Object = Mapping[str, object]


class Unverified(NamedTuple):
    """What a token says, which may all be lies."""

    header: Object
    claims: Object

    @property
    def issuer(self) -> str:
        return text(self.claims, "iss")


def take_apart(token: str) -> Unverified:
    """The header and the claims of `token`. Raises `InvalidToken` for what is no token that we could accept."""
    if len(token) > MAX_TOKEN_BYTES:
        raise InvalidToken("The token is too long.")
    parts = _COMPACT.fullmatch(token)
    if parts is None:
        raise InvalidToken("The token is malformed.")
    header, claims = _object(_decoded(parts[1])), _object(_decoded(parts[2]))
    _decoded(parts[3])
    if not _REFUSED.isdisjoint(header):
        raise InvalidToken("The token's header has a parameter that is not accepted.")
    kid = header.get("kid", "")
    if not isinstance(kid, str) or len(kid) > MAX_KID_LENGTH:
        raise InvalidToken("The token's key name is malformed.")
    return Unverified(header, claims)


def pin(header: Object, *, types: frozenset[str], algorithms: frozenset[str]) -> str:
    """The algorithm, if header and issuer agree. A type is in small letters, "" where there is none.

    Raises `InvalidToken`.
    """
    given, algorithm = header.get("typ", ""), header.get("alg")
    if not isinstance(given, str) or given.lower().removeprefix("application/") not in types:
        raise InvalidToken("The token is not an access token.")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise InvalidToken("The token is not signed in a way that is accepted.")
    return algorithm


def subject(claims: Object) -> str:
    """Whom the token is about: visible ASCII without blanks (it goes into header fields). Raises `InvalidToken`."""
    given = claims.get("sub")
    if not isinstance(given, str) or not _SUBJECT.fullmatch(given):
        raise InvalidToken("The token lacks a subject.")
    return given


def times(claims: Object) -> tuple[float, float]:
    """When it was issued and when it expires. Raises `InvalidToken` for what is no time, an odd `nbf` too."""
    issued_at, expires_at = _time(claims, "iat"), _time(claims, "exp")
    if "nbf" in claims:
        _time(claims, "nbf")
    return issued_at, expires_at


def _time(claims: Object, claim: str) -> float:
    value = claims.get(claim)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LATEST_S:
        raise InvalidToken("The token lacks an expiry." if claim == "exp" else "The token has a malformed time.")
    return float(value)


def names(claims: Object, claim: str) -> frozenset[str]:
    """A list of texts, empty where there is none. Raises `InvalidToken` for anything else."""
    value = claims.get(claim, ())
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise InvalidToken(f"The token's {claim} are malformed.")
    return _one_of(frozenset(cast("list[str]", value)))


@lru_cache(maxsize=256)
def _one_of(names: frozenset[str]) -> frozenset[str]:
    """The same object for equal sets: thousands of tokens have the same few roles."""
    return names


def text(claims: Object, claim: str) -> str:
    """A text, "" for anything else."""
    value = claims.get(claim)
    return value if isinstance(value, str) else ""


def _decoded(part: str) -> bytes:
    raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) if len(part) % 4 != 1 else b""
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != part:  # bits behind the end, of which many texts can be
        raise InvalidToken("The token is malformed.")
    return raw


def _object(raw: bytes) -> Object:
    try:
        orjson.loads(raw)  # refuses what the standard library lets in, but says nothing of names that stand twice
        value: object = json.loads(raw.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise InvalidToken("The token is malformed.") from None
    if not isinstance(value, dict):
        raise InvalidToken("The token is malformed.")
    return value


def _unique(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidToken("The token says something twice.")
        found[name] = value
    return found
