"""Foreign issuers: somebody else's tokens, and who their users are to us.

All that decides about a token is pinned in the file: keys, algorithms, types, audience. Its user is called `NAME:SUB`,
so that no subject of theirs is one of ours; its roles and permissions are what the file makes of its claims, and never
names that a token brings along. It has no session of ours: only a revocation of its user ends it before it expires.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import jwt as pyjwt

from common import jose
from common.identity import Identity
from common.issuers_file import IssuerEntry, Mapped
from common.keys import JwkSetKeys
from common.permissions import bundled

METADATA = "/.well-known/openid-configuration"
MAX_USERNAME = 200

Claims = Mapping[str, object]


class ForeignIssuer:
    """One of them."""

    def __init__(self, entry: IssuerEntry, keys: JwkSetKeys) -> None:
        self._entry, self.keys = entry, keys
        self.issuer, self.leeway_s = entry.issuer, entry.leeway_s
        self._types = frozenset("" if name == "absent" else name.lower() for name in entry.typ)
        self._algorithms: frozenset[str] = frozenset(entry.algorithms)

    def identity_in(self, token: str, header: Mapping[str, object]) -> Identity:
        """Raises `InvalidToken`, `KeysUnavailable`, or what PyJWT raises."""
        algorithm = jose.pin(header, types=self._types, algorithms=self._algorithms)
        key = self.keys.find(jose.text(header, "kid") or None, algorithm)
        claims: Claims = pyjwt.decode(
            token,
            key,  # pyright: ignore[reportArgumentType] - one that fits the algorithm, see key_sets
            algorithms=[algorithm],
            audience=self._entry.audience,
            issuer=self.issuer,
            leeway=self.leeway_s,
        )
        return self._identity(claims)

    def _identity(self, claims: Claims) -> Identity:
        entry = self._entry
        subject, (issued_at, expires_at) = jose.subject(claims), jose.times(claims)
        roles = _mapped(claims, entry.roles)
        return Identity(
            user_id=f"{entry.name}:{subject}",
            username=jose.text(claims, entry.username_claim)[:MAX_USERNAME] or subject,
            roles=roles,
            expires_at=expires_at,
            permissions=_mapped(claims, entry.permissions) if entry.permissions else bundled(roles),
            issued_at=issued_at,
            amr=frozenset(_values(claims.get("amr"))),
            issuer=self.issuer,
        )


def foreign_issuer(entry: IssuerEntry) -> ForeignIssuer:
    """With keys that are fetched when first needed."""
    url = entry.jwks_url or f"{entry.issuer.rstrip('/')}{METADATA}"
    return ForeignIssuer(
        entry,
        JwkSetKeys(
            url,
            algorithms=entry.algorithms,
            discovers=entry.issuer if entry.discovery else "",
            ca_file=str(entry.ca_file or ""),
        ),
    )


def _mapped(claims: Claims, rule: Mapped | None) -> frozenset[str]:
    if rule is None:
        return frozenset()
    found = {ours for theirs in _values(_at(claims, rule.claim)) for ours in rule.map.get(theirs, ())}
    return frozenset(found or rule.default)


def _at(claims: Claims, path: str) -> object:
    """The claim called `path`, dots and all (`https://shop.example/roles`), else what the dots lead to."""
    if path in claims:
        return claims[path]
    value: object = claims
    for part in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _values(value: object) -> Iterator[str]:
    """The texts of a list; a text, and where it has blanks, as `scope` does, what is between them."""
    if isinstance(value, str):
        yield from (value, *value.split())
    elif isinstance(value, list):
        yield from (each for each in cast("list[object]", value) if isinstance(each, str))
