"""Keys and bearer tokens for the tests: honest ones, and the forgeries that a verifier must refuse."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from common.permissions import bundled

Algorithm = Literal["EdDSA", "RS256", "ES256"]
Claims = Mapping[str, object]
LIFETIME_S = 14_400  # longer than any run of the tests: some are made as a module is read
RSA_BITS = 2048
ACCESS = "at+jwt"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A signing key; its public half is what a JWKS publishes."""

    kid: str
    algorithm: Algorithm
    private: Ed25519PrivateKey | RSAPrivateKey | EllipticCurvePrivateKey

    @classmethod
    def generate(cls, kid: str, algorithm: Algorithm = "EdDSA") -> KeyPair:
        """A new key pair: Ed25519 for EdDSA, P-256 for ES256, 2048 bits for RS256."""
        if algorithm == "EdDSA":
            return cls(kid, algorithm, Ed25519PrivateKey.generate())
        if algorithm == "ES256":
            return cls(kid, algorithm, generate_ec_private_key(SECP256R1()))
        return cls(kid, algorithm, generate_private_key(public_exponent=65537, key_size=RSA_BITS))

    def jwk(self) -> dict[str, str]:
        """The public key as a JWK (RFC 7517; OKP by RFC 8037)."""
        if isinstance(self.private, Ed25519PrivateKey):
            text = OKPAlgorithm.to_jwk(self.private.public_key(), as_dict=False)
        elif isinstance(self.private, EllipticCurvePrivateKey):
            text = ECAlgorithm.to_jwk(self.private.public_key(), as_dict=False)
        else:
            text = RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=False)
        public = cast("dict[str, str]", json.loads(text))
        public.pop("key_ops", None)  # stands beside `use` only in inconsistent keys (RFC 7517, 4.3)
        return public | {"kid": self.kid, "use": "sig", "alg": self.algorithm}

    def public_pem(self) -> bytes:
        """The public key as PEM."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, claims: Claims, **headers: object) -> str:
        """A token; `headers` add to its header or replace what would stand there (`kid="other"`)."""
        return jwt.encode(
            dict(claims), self.private, self.algorithm, headers={"typ": ACCESS, "kid": self.kid, **headers}
        )


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """An HS256 key, which signs and verifies."""

    value: str

    @classmethod
    def generate(cls) -> SharedSecret:
        """A new secret of 256 bits."""
        return cls(secrets.token_hex(32))

    def sign(self, claims: Claims, **headers: object) -> str:
        """A token; `headers` add to its header."""
        return jwt.encode(dict(claims), self.value, "HS256", headers={"typ": ACCESS, **headers})


def jwks(*pairs: KeyPair) -> dict[str, list[dict[str, str]]]:
    """The document that publishes these keys."""
    return {"keys": [pair.jwk() for pair in pairs]}


def claims(subject: str, *, lifetime_s: float = LIFETIME_S, **more: object) -> dict[str, object]:
    """What an access token of user_service says but for issuer and audience, from now on; `more` adds and replaces.

    A negative `lifetime_s` makes a token that has expired that many seconds ago.
    """
    now = int(time.time())
    issued = now + min(0, int(lifetime_s) - 1)
    times: dict[str, object] = {"iat": issued, "nbf": issued, "exp": now + int(lifetime_s)}
    roles = more.get("roles", ())
    permissions = sorted(bundled(map(str, roles))) if isinstance(roles, list | tuple) else []
    session: dict[str, object] = {"sid": f"session-of-{subject}", "gen": 0, "amr": ["pwd"], "auth_time": issued}
    token: dict[str, object] = {"sub": subject, "jti": str(uuid.uuid4()), "type": "access", "fresh": False}
    return {**token, **times, **session, "permissions": permissions, **more}


def without(claims: Claims, *names: str) -> dict[str, object]:
    """The claims, less some."""
    return {name: value for name, value in claims.items() if name not in names}


def unsigned(claims: Claims, *, algorithm: str = "none", **headers: object) -> str:
    """A token without a signature; `algorithm` may be any spelling of "none"."""
    return f"{_encoded({'alg': algorithm, 'typ': ACCESS, **headers})}.{_encoded(claims)}."


def confused(pair: KeyPair, claims: Claims, *, secret: bytes | None = None) -> str:
    """A token signed by HS256 with what everybody knows, the public key, as secret (PEM unless `secret`)."""
    signed = f"{_encoded({'alg': 'HS256', 'typ': ACCESS, 'kid': pair.kid})}.{_encoded(claims)}"
    # by hand: PyJWT refuses to sign with a public key
    mac = hmac.digest(pair.public_pem() if secret is None else secret, signed.encode(), hashlib.sha256)
    return f"{signed}.{_base64(mac)}"


def altered(token: str, **changes: object) -> str:
    """The token with other claims and the signature it had."""
    head, body, signature = token.split(".")
    said = cast("dict[str, object]", json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))
    return f"{head}.{_encoded(said | changes)}.{signature}"


def self_vouched(attacker: KeyPair, claims: Claims, *, kid: str) -> str:
    """A token signed by the attacker's key, which its own header carries under a kid of ours."""
    return attacker.sign(claims, kid=kid, jwk=attacker.jwk())


def _encoded(value: Mapping[str, object]) -> str:
    return _base64(json.dumps(dict(value), separators=(",", ":")).encode())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
