"""What of a JWK set (RFC 7517) can verify with which algorithm. Pure.

A key fits the algorithms of its kind only, and of these the one that its own `alg` names, if it names one. So an RSA
key is never taken for a secret, and a token's header can't make a key do what it was not made for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import cast
from urllib.parse import urlsplit

import jwt as pyjwt
import orjson

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
RSA_MIN_BITS = 2048

Name = tuple[str, str]
"""A key's `kid`, and the algorithm that it is for."""

_RSA = ("RS256", "RS384", "RS512", "PS256")
_FITTING: Mapping[tuple[object, object], tuple[str, ...]] = {
    ("OKP", "Ed25519"): ("EdDSA",),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
}
_PUBLIC = ("kty", "crv", "x", "y", "n", "e")
_SAME = {"Ed25519": "EdDSA"}  # RFC 9864


def usable_keys(document: bytes, algorithms: Iterable[str]) -> Mapping[Name, object]:
    """The keys of the set that have a name and are for signatures. Raises `ValueError` when there is none."""
    parsed = orjson.loads(document)
    entries = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JWK set")
    wanted = frozenset(algorithms)
    found = {name: key for entry in entries for name, key in _keys_of(entry, wanted)}
    if not found:
        raise ValueError("no key that can be used")
    return found


def _keys_of(entry: object, wanted: frozenset[str]) -> Iterator[tuple[Name, object]]:
    if not isinstance(entry, dict):
        return
    jwk = cast("dict[str, object]", entry)
    kid = jwk.get("kid")
    if not isinstance(kid, str) or not kid or jwk.get("use", "sig") != "sig":
        return
    fitting = _RSA if jwk.get("kty") == "RSA" else _FITTING.get((str(jwk.get("kty")), str(jwk.get("crv"))), ())
    own = jwk.get("alg")
    for algorithm in wanted.intersection(fitting):
        is_for_it = own is None or _SAME.get(str(own), own) == algorithm
        if is_for_it and (key := _public(jwk, algorithm)) is not None:
            yield (kid, algorithm), key


def _public(jwk: Mapping[str, object], algorithm: str) -> object | None:
    members = {name: jwk[name] for name in _PUBLIC if name in jwk}  # a set that has private members is public now
    try:
        key: object = pyjwt.PyJWK(members, algorithm).key
    except (pyjwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    size = getattr(key, "key_size", RSA_MIN_BITS) if jwk.get("kty") == "RSA" else RSA_MIN_BITS
    return key if size >= RSA_MIN_BITS else None


def safe_url(value: object, *, near: str = "") -> str:
    """`value`, if keys may be fetched there: by https, or by http from this machine. Raises `ValueError`.

    With `near` given, this machine counts only if that address is of it, too.
    """
    address = urlsplit(value if isinstance(value, str) else "")
    is_safe = address.scheme == "https" and bool(address.hostname)
    if address.scheme == "http" and _is_loopback(address.hostname):
        is_safe = not near or _is_loopback(urlsplit(near).hostname)
    if not is_safe or address.username is not None or address.fragment:
        raise ValueError("must be an https address (http only on this machine)")
    return str(value)


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
