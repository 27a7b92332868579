"""Keys, tokens and forgeries."""

from __future__ import annotations

import base64

import jwt
import pytest

from tests.support import tokens
from tests.support.tokens import Algorithm, KeyPair, SharedSecret


@pytest.fixture(scope="module")
def pair() -> KeyPair:
    return KeyPair.generate("k1")


def verified(token: str, pair: KeyPair) -> dict[str, object]:
    """What PyJWT makes of a token, given the published key and the algorithm that it is pinned to."""
    return dict(jwt.decode(token, jwt.PyJWK(pair.jwk()), algorithms=[pair.algorithm]))


@pytest.mark.parametrize("algorithm", ["EdDSA", "RS256", "ES256"])
def test_an_honest_token_is_verified_by_the_published_key(algorithm: Algorithm) -> None:
    pair = KeyPair.generate("k", algorithm)

    token = pair.sign(tokens.claims("42", roles=["admin"]))

    claims = verified(token, pair)
    assert (claims["sub"], claims["roles"], claims["type"]) == ("42", ["admin"], "access")
    assert jwt.get_unverified_header(token) == {"alg": algorithm, "typ": "at+jwt", "kid": "k"}


def test_the_jwk_is_public_and_complete(pair: KeyPair) -> None:
    jwk = pair.jwk()

    assert {name: jwk[name] for name in jwk if name != "x"} == {
        "kty": "OKP",
        "crv": "Ed25519",
        "kid": "k1",
        "use": "sig",
        "alg": "EdDSA",
    }
    assert len(base64.urlsafe_b64decode(jwk["x"] + "=")) == 32
    assert tokens.jwks(pair) == {"keys": [jwk]}


def test_an_rsa_jwk_is_public() -> None:
    assert set(KeyPair.generate("k", "RS256").jwk()) == {"kty", "n", "e", "kid", "use", "alg"}


def test_a_shared_secret_signs(pair: KeyPair) -> None:
    secret = SharedSecret.generate()

    token = secret.sign(tokens.claims("42"))

    assert jwt.decode(token, secret.value, algorithms=["HS256"])["sub"] == "42"


def test_an_expired_token_has_expired(pair: KeyPair) -> None:
    with pytest.raises(jwt.ExpiredSignatureError):
        verified(pair.sign(tokens.claims("42", lifetime_s=-5)), pair)


def test_claims_can_be_left_out(pair: KeyPair) -> None:
    assert "exp" not in verified(pair.sign(tokens.without(tokens.claims("42"), "exp")), pair)


def test_the_kid_can_be_a_wrong_one(pair: KeyPair) -> None:
    assert jwt.get_unverified_header(pair.sign(tokens.claims("42"), kid="other"))["kid"] == "other"


def test_forgeries_are_well_formed_and_refused(pair: KeyPair) -> None:
    claims = tokens.claims("42")
    attacker = KeyPair.generate("k1")
    forgeries = [
        tokens.unsigned(claims),
        tokens.unsigned(claims, algorithm="nOnE", kid="k1"),
        tokens.confused(pair, claims),
        tokens.altered(pair.sign(claims), sub="1"),
        tokens.self_vouched(attacker, claims, kid="k1"),
        attacker.sign(claims),
    ]

    for forgery in forgeries:
        assert jwt.decode(forgery, options={"verify_signature": False})["sub"] in ("42", "1")
        with pytest.raises(jwt.InvalidTokenError):
            verified(forgery, pair)
