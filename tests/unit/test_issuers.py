"""Foreign issuers: what their file may say, whose tokens are believed, and who their users are to us."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path

import jwt
import pytest
from flask import Flask

from common.issuers import foreign_issuer
from common.issuers_file import IssuersError, read
from common.keys import FixedKeys, InvalidToken, KeysUnavailable
from common.permissions import BUILT_IN
from common.settings import IdentitySettings, SettingsError, load
from common.tokens import AUDIENCE, ISSUER, Verifier
from tests.support import tokens
from tests.support.processes import ROOT
from tests.support.stub import StubService
from tests.support.tokens import Algorithm, Claims, KeyPair

JWKS = "/jwks.json"
OURS = KeyPair.generate("k1")
PAIRS: Mapping[Algorithm, KeyPair] = {
    "RS256": KeyPair.generate("rsa", "RS256"),
    "ES256": KeyPair.generate("ec", "ES256"),
    "EdDSA": KeyPair.generate("ed", "EdDSA"),
}
CORP = "https://corp.example/realm"
MORE = """
    roles: {claim: realm_access.roles, map: {shop-admins: admin, staff: [customer, support]}, default: customer}
"""


@pytest.fixture
def stub() -> Generator[StubService]:
    with StubService() as stub:
        stub.json[JWKS] = tokens.jwks(*PAIRS.values())
        yield stub


def verifier(tmp_path: Path, stub: StubService, more: str = MORE, *, issuer: str = CORP, keys: str = "") -> Verifier:
    file = tmp_path / "issuers.yaml"
    keys = keys or f"jwks_url: {stub.url}{JWKS}"
    algorithms = "" if "algorithms:" in more else "    algorithms: [RS256, ES256, EdDSA]\n"
    start = f"issuers:\n  - name: corp\n    issuer: {issuer}\n    audience: [shop, other]\n    {keys}\n"
    file.write_text(start + algorithms + more)
    ours = FixedKeys({"k1": OURS.private.public_key()}.get)
    return Verifier(Flask("x"), ours, foreign=[foreign_issuer(entry) for entry in read(file)])


def said(**more: object) -> Claims:
    """What a foreign access token says."""
    claims = tokens.claims("42", iss=CORP, aud="shop", preferred_username="Alice")
    return {**tokens.without(claims, "type", "sid", "gen", "permissions", "fresh", "nbf"), **more}


@pytest.mark.parametrize("algorithm", PAIRS)
def test_a_token_of_each_kind_of_key_is_believed(tmp_path: Path, stub: StubService, algorithm: Algorithm) -> None:
    token = PAIRS[algorithm].sign(said(realm_access={"roles": ["x", "shop-admins"]}, sid="s1", gen=7, plan="gold"))

    identity = verifier(tmp_path, stub).verify(token)

    assert (identity.user_id, identity.username, identity.roles) == ("corp:42", "Alice", {"admin"})
    assert identity.permissions == BUILT_IN["admin"]
    assert (identity.issuer, identity.session, identity.generation, identity.plan) == (CORP, "", 0, "")


def test_our_own_tokens_are_believed_beside_them(tmp_path: Path, stub: StubService) -> None:
    token = OURS.sign(tokens.claims("42", iss=ISSUER, aud=AUDIENCE))

    assert verifier(tmp_path, stub).verify(token).user_id == "42"
    assert stub.requests == []


@pytest.mark.parametrize(
    ("rule", "claims", "expected"),
    [
        (MORE, {"realm_access": {"roles": ["staff"]}}, {"customer", "support"}),
        (MORE, {"realm_access": {"roles": ["admin", "nobody"]}}, {"customer"}),
        (MORE, {"realm_access": {"roles": []}}, {"customer"}),
        (MORE, {"realm_access": {"roles": 5}}, {"customer"}),
        (MORE, {"realm_access": ["staff"]}, {"customer"}),
        (MORE, {"realm_access.roles": ["shop-admins"]}, {"admin"}),
        (MORE, {"roles": ["admin"], "permissions": ["operations"]}, {"customer"}),
        ("", {"roles": ["admin"]}, set()),
        ("    roles: {claim: groups, map: {Shop Admins: admin}}", {"groups": "Shop Admins"}, {"admin"}),
        ("    roles: {claim: scope, map: {a: r1, b: r2}}", {"scope": "a b c"}, {"r1", "r2"}),
        ('    roles: {claim: "https://x.example/roles", map: {a: r1}}', {"https://x.example/roles": ["a"]}, {"r1"}),
    ],
)
def test_claims_become_roles_as_the_file_says_and_never_by_themselves(
    tmp_path: Path, stub: StubService, rule: str, claims: Mapping[str, object], expected: set[str]
) -> None:
    identity = verifier(tmp_path, stub, rule).verify(PAIRS["EdDSA"].sign(said(**claims)))

    assert identity.roles == expected


def test_permissions_that_are_mapped_stand_instead_of_those_of_roles(tmp_path: Path, stub: StubService) -> None:
    rule = MORE + "    permissions: {claim: scope, map: {read: orders:read}}\n"

    identity = verifier(tmp_path, stub, rule).verify(PAIRS["EdDSA"].sign(said(scope="read operations")))

    assert (identity.roles, identity.permissions) == ({"customer"}, {"orders:read"})


WRONG: Mapping[str, Claims] = {
    "for somebody else": said(aud="bank"),
    "for nobody": tokens.without(said(), "aud"),
    "of another realm": said(iss=f"{CORP}/"),
    "without subject": tokens.without(said(), "sub"),
    "with a subject that is no text": said(sub=42),
    "with a blank in the subject": said(sub="a b"),
    "without expiry": tokens.without(said(), "exp"),
    "without time of issue": tokens.without(said(), "iat"),
    "expired": said(exp=1),
    "of the future": said(iat=4_000_000_000),
    "not yet valid": said(nbf=4_000_000_000),
    "with an odd nbf": said(nbf="0"),
}


@pytest.mark.parametrize("claims", WRONG.values(), ids=WRONG)
def test_wrong_claims_are_refused_though_the_issuer_signed_them(
    tmp_path: Path, stub: StubService, claims: Claims
) -> None:
    with pytest.raises(InvalidToken):
        verifier(tmp_path, stub).verify(PAIRS["EdDSA"].sign(claims))


def test_nobody_speaks_for_another_issuer(tmp_path: Path, stub: StubService) -> None:
    checking, ed = verifier(tmp_path, stub), PAIRS["EdDSA"]
    for forged in (
        OURS.sign(said()),  # we for them
        ed.sign(tokens.claims("42", iss=ISSUER, aud=AUDIENCE)),  # they for us
        ed.sign(tokens.claims("42", iss=ISSUER, aud=AUDIENCE), kid="k1"),
        KeyPair.generate("ed").sign(said()),
        ed.sign(said(), jwk=ed.jwk()),
        tokens.confused(PAIRS["RS256"], said()),
        tokens.unsigned(said(), kid="ed"),
    ):
        with pytest.raises(InvalidToken):
            checking.verify(forged)


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
def test_only_the_algorithms_of_the_file_are_accepted_though_the_key_could_do_others(
    tmp_path: Path, stub: StubService, algorithm: str
) -> None:
    stub.json[JWKS] = {"keys": [tokens.without(PAIRS["RS256"].jwk(), "alg")]}
    token = jwt.encode(dict(said()), PAIRS["RS256"].private, algorithm, headers={"kid": "rsa"})

    assert verifier(tmp_path, stub, f"    algorithms: [{algorithm}]").verify(token).user_id == "corp:42"
    with pytest.raises(InvalidToken):
        verifier(tmp_path, stub).verify(token)


def test_a_key_does_only_what_it_says_it_is_for(tmp_path: Path, stub: StubService) -> None:
    token = jwt.encode(dict(said()), PAIRS["RS256"].private, "PS256", headers={"kid": "rsa"})

    with pytest.raises(InvalidToken):
        verifier(tmp_path, stub, "    algorithms: [RS256, PS256]").verify(token)  # its alg is RS256


@pytest.mark.parametrize(
    "change",
    [{"use": "enc"}, {"alg": "RS512"}, {"kty": "oct"}, {"kid": ""}, {"kid": 5}, {"n": "AQAB"}, {"n": "x"}, {"e": None}],
)
def test_a_key_that_is_for_something_else_or_weak_is_no_key(
    tmp_path: Path, stub: StubService, change: Mapping[str, object]
) -> None:
    stub.json[JWKS] = {"keys": [{**PAIRS["RS256"].jwk(), **change}, PAIRS["EdDSA"].jwk()]}

    with pytest.raises(InvalidToken):
        verifier(tmp_path, stub).verify(PAIRS["RS256"].sign(said()))


@pytest.mark.parametrize(
    ("allowed", "typ", "is_good"),
    [
        ("[at+jwt]", "at+jwt", True),
        ("[at+jwt]", "AT+JWT", True),
        ("[at+jwt]", "application/at+jwt", True),
        ("[at+jwt]", "JWT", False),
        ("[at+jwt]", "", False),
        ("[absent]", "", True),
        ("[absent]", "JWT", False),
        ("[JWT, absent]", "at+jwt", False),
        ("[JWT]", "logout+jwt", False),
    ],
)
def test_types_are_pinned(tmp_path: Path, stub: StubService, allowed: str, typ: str, is_good: bool) -> None:
    checking, token = verifier(tmp_path, stub, f"    typ: {allowed}"), PAIRS["EdDSA"].sign(said(), typ=typ)

    if is_good:
        assert checking.verify(token).user_id == "corp:42"
    else:
        with pytest.raises(InvalidToken):
            checking.verify(token)


def test_leeway_is_the_issuers_own(tmp_path: Path, stub: StubService) -> None:
    late = PAIRS["EdDSA"].sign(said(exp=int(str(said()["iat"])) - 20))

    assert verifier(tmp_path, stub, "    leeway_s: 60").verify(late).user_id == "corp:42"
    with pytest.raises(InvalidToken, match="expired"):
        verifier(tmp_path, stub).verify(late)


METADATA = "/.well-known/openid-configuration"


@pytest.mark.parametrize("slash", ["", "/"])
def test_keys_are_discovered(tmp_path: Path, stub: StubService, slash: str) -> None:
    issuer = stub.url + slash
    stub.json[METADATA] = {"issuer": issuer, "jwks_uri": f"{stub.url}{JWKS}"}

    checking = verifier(tmp_path, stub, issuer=issuer, keys="discovery: true")

    assert checking.verify(PAIRS["ES256"].sign(said(iss=issuer))).user_id == "corp:42"
    assert [received.path for received in stub.requests] == [METADATA, JWKS]


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        [],
        {"issuer": "ISSUER"},
        {"issuer": "ISSUER/", "jwks_uri": "STUB/jwks.json"},
        {"issuer": "https://attacker.example", "jwks_uri": "STUB/jwks.json"},
        {"issuer": "ISSUER", "jwks_uri": "http://attacker.example/jwks.json"},
        {"issuer": "ISSUER", "jwks_uri": "file:///etc/passwd"},
        {"issuer": "ISSUER", "jwks_uri": 5},
    ],
)
def test_metadata_that_do_not_fit_give_no_keys(tmp_path: Path, stub: StubService, metadata: object) -> None:
    def filled(value: object) -> object:
        return value.replace("ISSUER", stub.url).replace("STUB", stub.url) if isinstance(value, str) else value

    is_mapping = isinstance(metadata, dict)
    stub.json[METADATA] = {name: filled(value) for name, value in metadata.items()} if is_mapping else metadata
    checking = verifier(tmp_path, stub, issuer=stub.url, keys="discovery: true")

    with pytest.raises(KeysUnavailable):
        checking.verify(PAIRS["ES256"].sign(said(iss=stub.url)))
    assert [received.path for received in stub.requests] == [METADATA]


ONE = "name: corp, issuer: https://x.example, audience: shop, algorithms: [RS256]"
FAULTS = {
    "nothing": ("", "the file"),
    "no list": ("issuers: 5", "issuers"),
    "no keys": (f"issuers: [{{{ONE}}}]", "needs either jwks_url or discovery: true"),
    "both": (f"issuers: [{{{ONE}, discovery: true, jwks_url: https://x.example/k}}]", "needs either"),
    "plain http": (f"issuers: [{{{ONE}, jwks_url: http://x.example/k}}]", "must be an https address"),
    "a password": (f"issuers: [{{{ONE}, jwks_url: 'https://u:p@x.example/k'}}]", "must be an https address"),
    "discovery by http": (
        "issuers: [{name: corp, issuer: http://x.example, audience: shop, algorithms: [RS256], discovery: true}]",
        "issuer must be an https address",
    ),
    "HS256": (f"issuers: [{{{ONE.replace('RS256', 'HS256')}, discovery: true}}]", "algorithms.0: Input should be"),
    "none": (f"issuers: [{{{ONE.replace('RS256', 'none')}, discovery: true}}]", "algorithms.0: Input should be"),
    "no algorithm": (f"issuers: [{{{ONE.replace('RS256', '')}, discovery: true}}]", "algorithms"),
    "no audience": (f"issuers: [{{{ONE.replace('audience: shop', 'leeway_s: 1')}, discovery: true}}]", "is missing"),
    "an odd name": (f"issuers: [{{{ONE.replace('corp', 'a:b')}, discovery: true}}]", "must be a name of at most 20"),
    "our own issuer": (
        f"issuers: [{{{ONE.replace('https://x.example', ISSUER)}, jwks_url: https://x.example/k}}]",
        "own",
    ),
    "an unknown key": (f"issuers: [{{{ONE}, discovery: true, role: x}}]", "issuers.0.role: unknown key"),
    "a name twice": (
        f"issuers:\n- {{{ONE}, discovery: true}}\n- {{{ONE.replace('x.ex', 'y.ex')}, discovery: true}}",
        "issuers.1.name",
    ),
    "an issuer twice": (
        f"issuers:\n- {{{ONE}, discovery: true}}\n- {{{ONE.replace('corp', 'b')}, discovery: true}}",
        "issuers.1.issuer: stands twice",
    ),
    "a key twice": (f"issuers:\n- {{{ONE}, discovery: true, name: x}}", "stands twice"),
    "certificates that are not there": (f"issuers: [{{{ONE}, discovery: true, ca_file: /no/such}}]", "no such file"),
    "no YAML": ("issuers: [", "issuers.yaml:1"),
}


@pytest.mark.parametrize(("text", "words"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_file_is_told_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "issuers.yaml"
    file.write_text(text)

    with pytest.raises(IssuersError) as refused:
        read(file)

    problems = refused.value.problems
    assert any(words in problem for problem in problems)
    assert all(problem.startswith(f"{file}:") for problem in problems)


def test_all_faults_stop_the_start_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "issuers.yaml"
    file.write_text("issuers:\n- name: A\n  issuer: https://x.example\n  algorithms: [RS256, HS256]\n")
    monkeypatch.setenv("TOKEN_ISSUERS", str(file))
    monkeypatch.setenv("REVOCATIONS_LOST", "maybe")

    with pytest.raises(SettingsError) as refused:
        load(IdentitySettings, "gateway")

    told = "\n".join(refused.value.problems)
    for words in (f"TOKEN_ISSUERS: {file}:2:3: issuers.0.name", ":4:23: issuers.0.algorithms.1", "REVOCATIONS_LOST"):
        assert words in told
    assert "issuers.0.audience: is missing" in told


def test_a_file_that_is_not_there_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_ISSUERS", "/no/such/file")

    with pytest.raises(SettingsError, match="TOKEN_ISSUERS: /no/such/file: can't be read"):
        load(IdentitySettings, "gateway")


def test_the_example_is_right() -> None:
    corp, partner = read(ROOT / "examples" / "issuers.yaml")

    assert (corp.name, corp.discovery, partner.typ) == ("corp", True, ("at+jwt",))
