"""Every forgery that we know of, shown to the verifier; the gateway and a service get the same table."""

from __future__ import annotations

import hmac
import json

import pytest
from flask import Flask

from common import service_tokens
from common.keys import FixedKeys, InvalidToken, SharedSecret
from common.tokens import AUDIENCE, ISSUER, Verifier
from tests.support import tokens
from tests.support.forgeries import encoded, forgeries, signed
from tests.support.tokens import KeyPair

PAIR = KeyPair.generate("key-1")
SECRET = tokens.SharedSecret.generate()
HONEST = tokens.claims("42", lifetime_s=14_400, iss=ISSUER, aud=AUDIENCE, roles=["customer"])
FORGED = forgeries(PAIR, HONEST, service_secret=SECRET.value)


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    return Verifier(Flask("x"), FixedKeys({PAIR.kid: PAIR.private.public_key()}.get))


def test_the_table_is_made_from_an_honest_token(verifier: Verifier) -> None:
    assert verifier.verify(PAIR.sign(HONEST)).user_id == "42"
    assert len(set(FORGED.values())) > 200


@pytest.mark.parametrize("forgery", FORGED.values(), ids=FORGED)
def test_a_forgery_is_refused_and_never_remembered(verifier: Verifier, forgery: str) -> None:
    for _ in range(2):
        with pytest.raises(InvalidToken) as refused:
            verifier.verify(forgery)

        assert '"' not in str(refused.value)  # it stands in a quoted string of WWW-Authenticate


def test_none_of_them_passes_for_a_services_token() -> None:
    def passes(token: str) -> bool:
        try:
            service_tokens.verify(token, SECRET.value, audience="product_service")
        except InvalidToken:
            return False
        return True

    assert [name for name, forgery in FORGED.items() if passes(forgery)] == ["a service's token"]  # which is one
    honest = service_tokens.mint(SECRET.value, issuer="order_service", audience="product_service")
    assert passes(honest)
    for token in (PAIR.sign(HONEST), SECRET.sign(HONEST), SECRET.sign({**HONEST, "aud": "product_service"})):
        assert not passes(token)


@pytest.mark.parametrize("value", ['"9999999999"', "null", "[]", "true", "1e400", "NaN", "-1", "{}", "9" * 400])
@pytest.mark.parametrize("claim", ["exp", "iat"])
def test_a_services_token_with_an_odd_time_is_refused(claim: str, value: str) -> None:
    said = json.dumps({"iss": "order_service", "aud": "product_service", "exp": 4_000_000_000, "iat": 1})
    text = said.replace("4000000000" if claim == "exp" else '"iat": 1', value if claim == "exp" else f'"iat": {value}')
    header = json.dumps({"alg": "HS256", "typ": "service+jwt"})
    signed_text = f"{encoded(header)}.{encoded(text)}"
    mac = hmac.digest(SECRET.value.encode(), signed_text.encode(), "sha256")

    with pytest.raises(InvalidToken):
        service_tokens.verify(f"{signed_text}.{encoded(mac)}", SECRET.value, audience="product_service")


def no_key(_kid: str) -> object:
    raise AssertionError("a key was looked for")


@pytest.mark.parametrize("part", ["header", "claims", "signature"])
@pytest.mark.parametrize("fault", ["padded", "missing", "not canonical", "in plain base64"])
def test_a_malformed_text_is_refused_before_any_key_is_looked_for(part: str, fault: str) -> None:
    with pytest.raises(InvalidToken):
        Verifier(Flask("x"), FixedKeys(no_key)).verify(FORGED[f"{part} {fault}"])


@pytest.mark.parametrize("kid", ["k" * 257, None, 5, ["key-1"], {}])
def test_an_odd_key_name_is_not_looked_for(kid: object) -> None:
    with pytest.raises(InvalidToken):
        Verifier(Flask("x"), FixedKeys(no_key)).verify(
            signed(PAIR, json.dumps({"alg": "EdDSA", "typ": "at+jwt", "kid": kid}), json.dumps(HONEST))
        )


def test_no_forgery_passes_in_the_simple_mode_whatever_secrets_are_the_same() -> None:
    verifier = Verifier(Flask("x"), SharedSecret(SECRET.value))
    assert verifier.verify(SECRET.sign(HONEST)).user_id == "42"

    passed = [name for name, forgery in FORGED.items() if _passes(verifier, forgery)]

    assert passed == ["a service's token in our clothes"]  # which is an honest token here


def _passes(verifier: Verifier, token: str) -> bool:
    try:
        verifier.verify(token)
    except InvalidToken:
        return False
    return True
