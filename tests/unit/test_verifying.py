"""The verifier of a process, as its settings make it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
import time_machine
from flask import Flask

from common.issuers import ForeignIssuer
from common.keys import FixedKeys, InvalidToken, JwkSetKeys, KeysUnavailable, SharedSecret
from common.settings import IdentitySettings
from common.tokens import AUDIENCE, ISSUER
from common.verifying import JWKS, verifier_of
from tests.support import tokens
from tests.support.revoking import PATH as POLL_PATH
from tests.support.stub import StubService
from tests.support.tokens import KeyPair

PAIR = KeyPair.generate("k1")


@pytest.fixture
def stub() -> Generator[StubService]:
    with StubService() as stub:
        stub.json[JWKS] = tokens.jwks(PAIR)
        yield stub


def settings(tmp_path: Path, **more: object) -> IdentitySettings:
    return IdentitySettings.model_validate({"var_dir": tmp_path, **more})


def token(**more: object) -> str:
    return PAIR.sign({**tokens.claims("42", iss=ISSUER, aud=AUDIENCE), **more})


def test_it_knows_what_was_revoked_and_the_keys_when_it_was_started(tmp_path: Path, stub: StubService) -> None:
    stub.revoked.session("s1")
    told: list[tuple[bool, int]] = []
    verifier = verifier_of(
        Flask("x"),
        settings(tmp_path, user_service_url=stub.url),
        "gateway",
        tell_revocations=lambda is_current, entries: told.append((is_current, entries)),
    )
    assert (stub.requests, stub.revoked.polls) == ([], [])

    verifier.start(lambda: False)

    assert told == [(True, 1)]
    with pytest.raises(InvalidToken, match="revoked"):
        verifier.verify(token(sid="s1"))
    assert verifier.verify(token(sid="s2")).user_id == "42"


def test_a_key_that_goes_ends_what_was_remembered(tmp_path: Path, stub: StubService) -> None:
    verifier = verifier_of(Flask("x"), settings(tmp_path, user_service_url=stub.url), "gateway")
    shown = token()
    assert verifier.verify(shown).user_id == "42"
    assert isinstance(verifier.keys, JwkSetKeys)
    stub.json[JWKS] = tokens.jwks(KeyPair.generate("k2"))

    verifier.keys.refresh(0)

    with pytest.raises(InvalidToken):
        verifier.verify(shown)


@pytest.mark.parametrize(("ttl", "is_own", "remembered_s"), [(600, False, 600), (30, False, 30), (600, True, 60)])
def test_tokens_are_remembered_as_long_as_is_set_and_shorter_by_who_keeps_the_keys(
    tmp_path: Path, ttl: int, is_own: bool, remembered_s: int
) -> None:
    looked: list[str] = []
    own = FixedKeys(lambda _kid: PAIR.private.public_key())
    secret = tokens.SharedSecret.generate()
    given = {} if is_own else {"jwt_secret_key": secret.value}
    verifier = verifier_of(
        Flask("x"),
        settings(tmp_path, cache_auth_ttl=ttl, **given),
        "gateway",
        keys=own if is_own else None,
        tell_cache=looked.append,
    )
    with time_machine.travel(1_900_000_000, tick=False) as clock:
        claims = tokens.claims("42", iss=ISSUER, aud=AUDIENCE)
        shown = PAIR.sign(claims) if is_own else secret.sign(claims)
        for later in (0, remembered_s - 1, remembered_s):
            clock.move_to(1_900_000_000 + later)
            verifier.verify(shown)

    assert looked == ["miss", "hit", "miss"]


@pytest.mark.parametrize("lost", ["accept", "refuse"])
def test_what_is_done_without_the_log_is_a_setting(tmp_path: Path, stub: StubService, lost: str) -> None:
    stub.failing.add(POLL_PATH)
    wary = settings(tmp_path, user_service_url=stub.url, revocations_lost=lost, revocations_patience_s=0)
    verifier = verifier_of(Flask("x"), wary, "gateway")

    verifier.start(lambda: False)

    if lost == "accept":
        assert verifier.verify(token()).user_id == "42"
    else:
        with pytest.raises(KeysUnavailable):
            verifier.verify(token())


def test_keys_are_a_secret_in_the_simple_mode_and_given_ones_go_first(tmp_path: Path) -> None:
    simple, own = settings(tmp_path, jwt_secret_key="0vN5zq8YxWm3Lr7TbKc2Hd9Gf4Js6PaE"), FixedKeys(lambda _kid: None)

    assert isinstance(verifier_of(Flask("x"), simple, "gateway").keys, SharedSecret)
    assert verifier_of(Flask("x"), simple, "user_service", keys=own).keys is own


def test_the_issuers_of_the_file_are_there_beside_our_own(tmp_path: Path) -> None:
    file = tmp_path / "issuers.yaml"
    file.write_text(
        "issuers: [{name: a, issuer: https://a.example, discovery: true, audience: x, algorithms: [RS256]}]"
    )

    verifier = verifier_of(Flask("x"), settings(tmp_path, token_issuers=file), "gateway")

    assert list(verifier.issuers) == [ISSUER, "https://a.example"]
    assert isinstance(verifier.issuers["https://a.example"], ForeignIssuer)
