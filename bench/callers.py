"""Who calls: keys of the bench's own, the tokens that they sign, and what wrk sends for one user and for many."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.tokens import KeyPair, SharedSecret, claims, jwks

LIFETIME_S = 14_400
ADDRESSES = 1_000
COMMON_HEADERS = ("User-Agent: bench/1.0", "Accept: */*", "Accept-Encoding: gzip, deflate")


@dataclass(frozen=True, slots=True)
class Callers:
    """The gateway verifies EdDSA tokens with a published key; peers verify HS256 ones, the cheapest that there are."""

    key: KeyPair = field(default_factory=lambda: KeyPair.generate("bench"))
    secret: SharedSecret = field(default_factory=SharedSecret.generate)

    @property
    def jwks(self) -> Mapping[str, object]:
        """The document that publishes the key."""
        return jwks(self.key)

    def token(self, subject: str = "caller") -> str:
        """For the gateway."""
        return self.key.sign(_said(subject))

    def peers_token(self, subject: str = "caller") -> str:
        return self.secret.sign(_said(subject))

    def forged_token(self, subject: str = "caller") -> str:
        """It looks well, but another key has signed it."""
        return KeyPair.generate(self.key.kid).sign(_said(subject))

    def write_users(self, file: Path, count: int) -> Path:
        """A line for each: token and address. At most a thousand addresses."""
        lines = (f"{self.token(f'caller-{number}')} {_address(number % ADDRESSES)}" for number in range(count))
        file.write_text("\n".join(lines) + "\n")
        return file

    def write_forgeries(self, file: Path, count: int) -> Path:
        """The same, with tokens whose signatures are wrong, each in its own way."""
        tokens = (self.token(f"caller-{number}").rpartition(".")[0] for number in range(count))
        lines = (
            f"{token}.{secrets.token_urlsafe(64)} {_address(number % ADDRESSES)}" for number, token in enumerate(tokens)
        )
        file.write_text("\n".join(lines) + "\n")
        return file


def with_token(token: str) -> tuple[str, ...]:
    """Header fields as `wrk -H` takes them."""
    return (*COMMON_HEADERS, f"Authorization: Bearer {token}")


def _said(subject: str) -> Mapping[str, object]:
    return claims(subject, lifetime_s=LIFETIME_S, username=subject, roles=["customer"], iss="user_service", aud="shop")


def _address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
