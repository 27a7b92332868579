"""Access tokens: only what user_service signed for us is believed, whatever else is sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import jwt
import pytest
import time_machine
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from common import tokens as subject
from common.keys import FixedKeys, InvalidToken, JwkSetKeys, KeysUnavailable, SharedSecret
from common.problems import Problem, ServiceUnavailable, Unauthorized
from common.tokens import AUDIENCE, ISSUER, REFUSED_S, Identity, Verifier, bearer_token, refusal
from tests.support import tokens
from tests.support.stub import StubService
from tests.support.tokens import KeyPair

JWKS = "/.well-known/jwks.json"
PAIR = KeyPair.generate("k1")
NEXT = KeyPair.generate("k2")
RSA = KeyPair.generate("k1", "RS256")
NOW = 1_900_000_000


def claims(subject: str = "42", *, lifetime_s: float = 900, **more: object) -> dict[str, object]:
    """What user_service says."""
    return tokens.claims(subject, lifetime_s=lifetime_s, iss=ISSUER, aud=AUDIENCE, **more)


class Counted:
    """Two published keys, and how often they were looked for: as often as tokens were really decoded."""

    algorithm = "EdDSA"

    def __init__(self) -> None:
        self.times = 0
        self.is_away = False
        self._keys = {pair.kid: pair.private.public_key() for pair in (PAIR, NEXT)}

    def find(self, kid: str | None) -> object:
        self.times += 1
        if self.is_away:
            raise KeysUnavailable("away")
        return FixedKeys(self._keys.get).find(kid)


@pytest.fixture
def keys() -> Counted:
    return Counted()


@pytest.fixture
def verifier(keys: Counted) -> Verifier:
    return Verifier(Flask("x"), keys)


def test_a_valid_token_is_an_identity(verifier: Verifier) -> None:
    with time_machine.travel(NOW, tick=False):
        said = claims(
            roles=["support", "customer"], permissions=["orders:read"], username="testuser", gen=3, plan="gold"
        )
        identity = verifier.verify(PAIR.sign(said))

    assert identity == Identity(
        "42",
        "testuser",
        frozenset({"support", "customer"}),
        NOW + 900,
        permissions=frozenset({"orders:read"}),
        session="session-of-42",
        generation=3,
        issued_at=NOW,
        amr=frozenset({"pwd"}),
        issuer=ISSUER,
        plan="gold",
    )


def test_roles_and_name_may_be_missing(verifier: Verifier) -> None:
    identity = verifier.verify(PAIR.sign(claims()))

    assert (identity.username, identity.roles) == ("42", frozenset())


@pytest.mark.parametrize("pair", [PAIR, NEXT])
def test_each_published_key_verifies(verifier: Verifier, pair: KeyPair) -> None:
    assert verifier.verify(pair.sign(claims())).user_id == "42"


@pytest.mark.parametrize(
    ("have", "wanted", "expected"),
    [
        ((), (), True),
        (("customer",), (), True),
        (("admin",), ("admin",), True),
        (("customer", "admin"), ("admin", "staff"), True),
        (("customer",), ("admin",), False),
        ((), ("admin",), False),
        (("Admin",), ("admin",), False),
    ],
)
def test_any_of_the_wanted_roles_will_do(have: tuple[str, ...], wanted: tuple[str, ...], expected: bool) -> None:
    assert Identity("42", "x", frozenset(have), 0).has_any(wanted) is expected


WRONG_CLAIMS = {
    "expired": claims(lifetime_s=-10),
    "not yet valid": claims(nbf=NOW + 900_000_000),
    "issued in the future": claims(iat=NOW + 900_000_000),
    "issued by somebody else": claims() | {"iss": "order_service"},
    "without issuer": tokens.without(claims(), "iss"),
    "for somebody else": claims() | {"aud": "bank"},
    "without audience": tokens.without(claims(), "aud"),
    "with a number as audience": claims() | {"aud": 5},
    "a refresh token": claims(type="refresh"),
    "with an unknown type": claims(type=5),
    "without subject": tokens.without(claims(), "sub"),
    "with an empty subject": claims(""),
    "with a number as subject": claims() | {"sub": 42},
    "with a list as subject": claims() | {"sub": ["42"]},
    "without expiry": tokens.without(claims(), "exp"),
    "with a text as expiry": claims(exp="9999999999"),
    "with an endless expiry": claims(exp=float("inf")),
    "with a huge expiry": claims(exp=10**400),
    "with a text as roles": claims(roles="admin"),
    "with a mapping as roles": claims(roles={"admin": True}),
}


@pytest.mark.parametrize("wrong", WRONG_CLAIMS.values(), ids=WRONG_CLAIMS)
def test_wrong_claims_are_refused_though_we_signed_them(verifier: Verifier, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidToken):
        verifier.verify(PAIR.sign(wrong))


RAW_PUBLIC = PAIR.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
ATTACKER = KeyPair.generate("k1")
FORGERIES = {
    "unsigned": tokens.unsigned(claims(), kid="k1"),
    "unsigned, in odd letters": tokens.unsigned(claims(), algorithm="nOnE", kid="k1"),
    "unsigned, but said to be EdDSA": tokens.unsigned(claims(), algorithm="EdDSA", kid="k1"),
    "HS256 with the public key": tokens.confused(PAIR, claims()),
    "HS256 with the raw public key": tokens.confused(PAIR, claims(), secret=RAW_PUBLIC),
    "HS256 with nothing": tokens.confused(PAIR, claims(), secret=b""),
    "RS256 by the attacker": RSA.sign(claims()),
    "somebody else's key under our kid": ATTACKER.sign(claims()),
    "a key that the token brings along": tokens.self_vouched(ATTACKER, claims(), kid="k1"),
    "a key to be fetched": ATTACKER.sign(claims(), jku="http://127.0.0.1:1/jwks.json"),
    "a certificate": ATTACKER.sign(claims(), x5u="http://127.0.0.1:1/", x5c=["AAAA"]),
    "unknown kid": PAIR.sign(claims(), kid="k3"),
    "kid as path": PAIR.sign(claims(), kid="../../dev/null"),
    "kid of another key": PAIR.sign(claims(), kid="k2"),
    "altered": tokens.altered(PAIR.sign(claims()), sub="1"),
    "altered roles": tokens.altered(PAIR.sign(claims()), roles=["admin"]),
    "unknown critical extension": PAIR.sign(claims(), crit=["x"], x=1),
    "cut short": PAIR.sign(claims())[:-5],
    "another byte": PAIR.sign(claims())[:-9] + "AAAAAAAAA",
    "too long": PAIR.sign(claims(x="x" * 8192)),
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_a_forgery_is_refused(verifier: Verifier, forgery: str) -> None:
    with pytest.raises(InvalidToken):
        verifier.verify(forgery)


def test_a_token_without_kid_is_refused_by_the_jwk_set_without_fetching() -> None:
    with pytest.raises(InvalidToken):
        JwkSetKeys("http://127.0.0.1:1/").find(None)


def test_the_reason_does_not_repeat_the_token(verifier: Verifier) -> None:
    for forgery in FORGERIES.values():
        with pytest.raises(InvalidToken) as refused:
            verifier.verify(forgery)
        assert forgery[:20] not in str(refused.value)
        assert '"' not in str(refused.value)  # it stands in a quoted string of WWW-Authenticate


SECRET = tokens.SharedSecret.generate()


def test_in_the_simple_mode_only_hs256_with_the_secret_is_believed() -> None:
    verifier = Verifier(Flask("x"), SharedSecret(SECRET.value))

    assert verifier.verify(SECRET.sign(claims())).user_id == "42"
    for forgery in (
        PAIR.sign(claims()),
        tokens.unsigned(claims()),
        tokens.SharedSecret.generate().sign(claims()),
        SECRET.sign(claims() | {"aud": "product_service"}),
        jwt.encode(claims(), SECRET.value, "HS384"),
    ):
        with pytest.raises(InvalidToken):
            verifier.verify(forgery)


CHARACTERS = st.characters(codec=None)  # lone surrogates too
PARTS = st.sampled_from([*PAIR.sign(claims()).split("."), "e30", "bnVsbA", "W10", "", "=", "AA", "{}", "\x00", "é"])
GARBAGE = st.text(CHARACTERS) | st.lists(PARTS, max_size=6).map(".".join) | st.text("eyJ0.-_=A", max_size=80)


@given(token=GARBAGE)
def test_garbage_is_refused_and_nothing_worse(token: str) -> None:
    verifier = Verifier(Flask("x"), Counted())

    try:
        identity = verifier.verify(token)
    except InvalidToken:
        return
    assert identity.user_id == "42"  # the parts of an honest token, put together again


@pytest.mark.parametrize(
    "token", ["[" * 8000, "eyJ" + "W1tb" * 2000 + ".e30.AA", "\ud800", "\x00.\x00.\x00", ".." * 4000]
)
def test_nested_or_undecodable_garbage_is_refused(verifier: Verifier, token: str) -> None:
    with pytest.raises(InvalidToken):
        verifier.verify(token)


def test_a_token_is_decoded_once(verifier: Verifier, keys: Counted) -> None:
    token = PAIR.sign(claims())

    identities = [verifier.verify(token) for _ in range(10)]

    assert keys.times == 1
    assert all(identity is identities[0] for identity in identities)


def test_a_bad_token_is_never_remembered_as_good(verifier: Verifier, keys: Counted) -> None:
    for _ in range(2):
        with pytest.raises(InvalidToken):
            verifier.verify(ATTACKER.sign(claims()))

    assert keys.times == 2


@pytest.mark.parametrize("was_seen", [True, False])
def test_a_token_ends_with_its_life_whether_it_was_seen_before_or_not(verifier: Verifier, was_seen: bool) -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        token = PAIR.sign(claims(lifetime_s=60))
        if was_seen:
            verifier.verify(token)

        clock.move_to(NOW + 64)  # five seconds of leeway, for clocks that differ
        for _ in range(3):
            assert verifier.verify(token).user_id == "42"
        clock.move_to(NOW + 65)
        for _ in range(3):
            with pytest.raises(InvalidToken, match="expired"):
                verifier.verify(token)


def test_a_token_that_is_not_yet_valid_becomes_so(verifier: Verifier) -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        token = PAIR.sign(claims(nbf=NOW + 60))
        with pytest.raises(InvalidToken):
            verifier.verify(token)

        clock.move_to(NOW + 60)

        assert verifier.verify(token).user_id == "42"


def test_a_refused_token_is_looked_at_once_a_second_and_when_keys_go(keys: Counted, verifier: Verifier) -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        token = PAIR.sign(claims(nbf=NOW + 60))

        def refused() -> int:
            with pytest.raises(InvalidToken):
                verifier.verify(token)
            return keys.times

        at_once = [refused() for _ in range(3)]
        clock.shift(REFUSED_S)
        later = [refused() for _ in range(2)]
        verifier.forget()

        assert (at_once, later, refused()) == ([1, 1, 1], [2, 2], 3)


def test_the_least_recently_used_identity_is_forgotten_first(keys: Counted) -> None:
    verifier = Verifier(Flask("x"), keys, max_cached=2)
    first, second, third = (PAIR.sign(claims(str(number))) for number in range(3))
    for token in (first, second, first, third):  # the second is the one that was not used for longest
        verifier.verify(token)
    assert keys.times == 3

    verifier.verify(first)
    verifier.verify(third)
    assert keys.times == 3
    verifier.verify(second)
    assert keys.times == 4


def test_what_many_tokens_say_alike_is_held_once(verifier: Verifier) -> None:
    first, second = (
        verifier.verify(PAIR.sign(claims(f"user-{number}", roles=["editor"], permissions=["a:read", "b:write"])))
        for number in range(2)
    )

    assert first.user_id != second.user_id
    assert first.roles is second.roles
    assert first.permissions is second.permissions


def test_a_token_is_remembered_no_longer_than_is_said_though_it_lives_longer(keys: Counted) -> None:
    verifier = Verifier(Flask("x"), keys, max_age_s=60)
    with time_machine.travel(NOW, tick=False) as clock:
        token = PAIR.sign(claims())
        for later, decoded in ((0, 1), (59, 1), (60, 2), (61, 2)):
            clock.move_to(NOW + later)
            verifier.verify(token)
            assert keys.times == decoded


def test_nothing_is_remembered_once_a_key_has_gone(verifier: Verifier, keys: Counted) -> None:
    token = PAIR.sign(claims())
    verifier.verify(token)

    verifier.forget()

    verifier.verify(token)
    assert keys.times == 2


def test_what_the_cache_is_worth_is_told(keys: Counted) -> None:
    told: list[str] = []
    verifier = Verifier(Flask("x"), keys, tell=told.append)
    good = PAIR.sign(claims())
    for token in (good, good, good):
        verifier.verify(token)
    with pytest.raises(InvalidToken):
        verifier.verify(ATTACKER.sign(claims()))

    assert told == ["miss", "hit", "hit", "miss"]


def test_without_keys_a_token_is_neither_good_nor_bad_and_is_tried_anew(verifier: Verifier, keys: Counted) -> None:
    token = PAIR.sign(claims())
    keys.is_away = True
    with pytest.raises(KeysUnavailable):
        verifier.verify(token)

    keys.is_away = False

    assert verifier.verify(token).user_id == "42"


@pytest.fixture
def stub() -> Generator[StubService]:
    with StubService() as stub:
        stub.json[JWKS] = tokens.jwks(PAIR)
        yield stub


def fetched(stub: StubService) -> int:
    return len(stub.requests)


def jwk_set(stub: StubService, *, cool_down_s: float = 60) -> JwkSetKeys:
    return JwkSetKeys(f"{stub.url}{JWKS}", cool_down_s=cool_down_s, timeout_s=0.5)


def test_keys_are_fetched_when_first_needed_and_once(stub: StubService) -> None:
    keys = jwk_set(stub)
    assert (keys.is_loaded, fetched(stub)) == (False, 0)

    verifier = Verifier(Flask("x"), keys)
    for number in range(5):
        verifier.verify(PAIR.sign(claims(str(number))))

    assert (keys.is_loaded, fetched(stub)) == (True, 1)


def test_many_threads_wait_for_one_fetch(stub: StubService) -> None:
    keys = jwk_set(stub, cool_down_s=0)
    barrier = threading.Barrier(20)

    def find(_number: int) -> object:
        barrier.wait()
        return keys.find("k1")

    with ThreadPoolExecutor(20) as threads:
        found = list(threads.map(find, range(20)))

    assert len(set(map(id, found))) == 1
    assert fetched(stub) == 1


def test_unknown_kids_make_one_fetch_for_each_cool_down(stub: StubService) -> None:
    keys = jwk_set(stub, cool_down_s=0.3)
    keys.find("k1")

    def flood() -> None:
        for number in range(20):
            with pytest.raises(InvalidToken):
                keys.find(f"unknown-{number}")

    flood()
    assert fetched(stub) == 1  # the set was fetched a moment ago
    time.sleep(0.3)
    flood()
    assert fetched(stub) == 2


def test_a_new_key_is_found_after_the_cool_down(stub: StubService) -> None:
    keys = jwk_set(stub, cool_down_s=0.2)
    keys.find("k1")
    stub.json[JWKS] = tokens.jwks(PAIR, NEXT)
    with pytest.raises(InvalidToken):
        keys.find("k2")

    time.sleep(0.2)

    assert keys.find("k2") == NEXT.private.public_key()


def test_a_key_that_is_published_no_longer_is_believed_no_longer(stub: StubService) -> None:
    keys = jwk_set(stub, cool_down_s=0)
    keys.find("k1")
    stub.json[JWKS] = tokens.jwks(NEXT)

    keys.find("k2")

    with pytest.raises(InvalidToken):
        keys.find("k1")


def test_known_keys_go_on_being_used_during_an_outage(stub: StubService) -> None:
    keys = jwk_set(stub, cool_down_s=0)
    keys.find("k1")

    stub.stop()

    with pytest.raises(InvalidToken):
        keys.find("k2")
    assert keys.find("k1") == PAIR.private.public_key()


NONSENSE = {
    "a number": 5,
    "nothing": None,
    "a list": [],
    "no keys": {},
    "keys that are no list": {"keys": 5},
    "an empty list": {"keys": []},
    "no mappings": {"keys": [1, None, "x", []]},
    "empty keys": {"keys": [{}]},
    "half a key": {"keys": [{"kty": "OKP", "kid": "k1"}]},
    "a key without a name": {"keys": [tokens.without(PAIR.jwk(), "kid")]},
    "another kind of key": tokens.jwks(RSA),
    "a shared secret": {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k1", "alg": "HS256"}]},
}


@pytest.mark.parametrize("document", NONSENSE.values(), ids=NONSENSE)
def test_a_nonsense_document_gives_no_keys(stub: StubService, document: object) -> None:
    stub.json[JWKS] = document

    with pytest.raises(KeysUnavailable):
        jwk_set(stub).find("k1")


@pytest.mark.parametrize("document", NONSENSE.values(), ids=NONSENSE)
def test_a_nonsense_document_does_not_replace_known_keys(stub: StubService, document: object) -> None:
    keys = jwk_set(stub, cool_down_s=0)
    keys.find("k1")
    stub.json[JWKS] = document

    with pytest.raises(InvalidToken):
        keys.find("k2")

    assert keys.find("k1") == PAIR.private.public_key()


def test_usable_keys_beside_unusable_ones_are_used(stub: StubService) -> None:
    stub.json[JWKS] = {"keys": [1, {"kty": "OKP"}, RSA.jwk() | {"kid": "rsa"}, PAIR.jwk()]}
    keys = jwk_set(stub)

    assert keys.find("k1") == PAIR.private.public_key()
    with pytest.raises(InvalidToken):
        keys.find("rsa")


@pytest.mark.parametrize(
    "path", ["/status/500", "/status/404", "/garbage", "/reset", "/nothing", "/redirect", "/slow/5"]
)
def test_a_service_that_fails_gives_no_keys_within_the_timeout(stub: StubService, path: str) -> None:
    keys = JwkSetKeys(stub.url + path, timeout_s=0.1)

    began = time.monotonic()
    with pytest.raises(KeysUnavailable):
        keys.find("k1")

    assert time.monotonic() - began < 1
    assert len(stub.requests) <= 1


def test_without_any_key_the_service_is_asked_once_a_second_at_most(stub: StubService) -> None:
    keys = JwkSetKeys(f"{stub.url}/status/503")

    for _ in range(20):
        with pytest.raises(KeysUnavailable):
            keys.find("k1")
    assert not keys.warm()

    assert fetched(stub) == 1


def test_keys_are_there_a_second_after_the_service_is(stub: StubService) -> None:
    keys = jwk_set(stub)
    stub.stop()
    assert not keys.warm()
    stub.start()

    time.sleep(1.0)

    assert keys.warm()
    assert keys.find("k1") == PAIR.private.public_key()


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (None, None),
        ("Bearer x.y.z", "x.y.z"),
        ("bearer x", "x"),
        ("BEARER   x  ", "x"),
        ("  Bearer x", "x"),
    ],
)
def test_the_token_of_an_authorization_field_is_found(header: str | None, token: str | None) -> None:
    assert bearer_token(header) == token


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "x.y.z",
        "Basic dTpw",
        "Bearer a b",
        "Bearer a, Bearer b",
        "Bearer a,b",
        "Bearer,x",
        "Bearerx y",
    ],
)
def test_other_credentials_are_refused(header: str) -> None:
    with pytest.raises(InvalidToken, match="Bearer <token>"):
        bearer_token(header)


@pytest.mark.parametrize(
    ("error", "kind", "code", "header"),
    [
        (
            InvalidToken("The token has expired."),
            Unauthorized,
            "INVALID_TOKEN",
            ("WWW-Authenticate", 'Bearer error="invalid_token", error_description="The token has expired."'),
        ),
        (KeysUnavailable("away"), ServiceUnavailable, "IDENTITY_UNAVAILABLE", ("Retry-After", "2")),
    ],
)
def test_what_is_wrong_with_a_token_is_told_as_a_problem(
    error: Exception, kind: type[Problem], code: str, header: tuple[str, str]
) -> None:
    problem = refusal(error)

    assert (type(problem), problem.code, problem.headers) == (kind, code, (header,))


def test_a_missing_token_is_told_with_the_scheme_that_is_wanted() -> None:
    missing = subject.missing_token()

    assert (missing.status, missing.code, missing.headers) == (401, "TOKEN_REQUIRED", (("WWW-Authenticate", "Bearer"),))
