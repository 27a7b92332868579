"""Which keys of a published set can be used, and where sets may be fetched."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from common.key_sets import ALGORITHMS, safe_url, usable_keys
from tests.support.tokens import KeyPair, jwks

RSA = KeyPair.generate("rsa", "RS256").jwk()
WITHOUT_ALG = {name: value for name, value in RSA.items() if name != "alg"}


def usable(*entries: object) -> set[tuple[str, str]]:
    try:
        return set(usable_keys(json.dumps({"keys": entries}).encode(), ALGORITHMS))
    except ValueError:
        return set()


def curve(name: str) -> dict[str, object]:
    curves: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
    return {**ECAlgorithm.to_jwk(ec.generate_private_key(curves[name]).public_key(), as_dict=True), "kid": name}


def test_a_key_fits_the_algorithms_of_its_kind() -> None:
    assert usable(RSA) == {("rsa", "RS256")}
    assert usable(WITHOUT_ALG) == {("rsa", name) for name in ("RS256", "RS384", "RS512", "PS256")}
    assert usable(curve("P-256"), curve("P-384"), curve("P-521")) == {("P-256", "ES256"), ("P-384", "ES384")}
    assert usable(KeyPair.generate("ed").jwk() | {"alg": "Ed25519"}) == {("ed", "EdDSA")}


def test_two_keys_of_one_name_are_told_apart_by_their_kind() -> None:
    assert usable(RSA | {"kid": "k"}, KeyPair.generate("k").jwk()) == {("k", "RS256"), ("k", "EdDSA")}


@pytest.mark.parametrize(("bits", "is_good"), [(1024, False), (2047, False), (2048, True)])
def test_weak_rsa_keys_are_left_out(bits: int, is_good: bool) -> None:
    public = rsa.generate_private_key(public_exponent=65537, key_size=bits).public_key()
    jwk = {**RSAAlgorithm.to_jwk(public, as_dict=True), "kid": "k", "alg": "RS256"}

    assert bool(usable(jwk)) is is_good


def test_a_private_key_that_was_published_is_taken_for_its_public_half() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    jwk = {**ECAlgorithm.to_jwk(private, as_dict=True), "kid": "k"}
    assert "d" in jwk

    (key,) = usable_keys(json.dumps({"keys": [jwk]}).encode(), ALGORITHMS).values()

    assert key == private.public_key()


def test_only_what_is_wanted_is_taken() -> None:
    with pytest.raises(ValueError, match="no key"):
        usable_keys(json.dumps(jwks(KeyPair.generate("k"))).encode(), ["RS256"])


@pytest.mark.parametrize(
    ("url", "near", "is_safe"),
    [
        ("https://x.example/keys", "", True),
        ("https://x.example/keys", "https://x.example", True),
        ("http://127.0.0.1:1/keys", "", True),
        ("http://localhost/keys", "http://127.0.0.1:1", True),
        ("http://[::1]:1/keys", "", True),
        ("http://127.0.0.1/keys", "https://x.example", False),
        ("http://x.example/keys", "", False),
        ("http://localhost.x.example/", "", False),
        ("http://127.0.0.1.x.example/", "", False),
        ("https://u@x.example/keys", "", False),
        ("https://x.example/keys#x", "", False),
        ("https:///keys", "", False),
        ("ftp://x.example/", "", False),
        ("file:///etc/passwd", "", False),
        ("//x.example/", "", False),
        ("", "", False),
        (None, "", False),
        (5, "", False),
    ],
)
def test_sets_are_fetched_by_https_or_from_this_machine(url: object, near: str, is_safe: bool) -> None:
    if is_safe:
        assert safe_url(url, near=near) == url
    else:
        with pytest.raises(ValueError, match="https"):
            safe_url(url, near=near)
