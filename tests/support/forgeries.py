"""Tokens that nobody may believe: the attacks on JSON Web Tokens (RFC 8725 and the years since), as one table.

Each is made from the claims of an honest token, and where it says so even signed with our own key: then it is the
text, the header or a claim that is wrong.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support import tokens
from tests.support.tokens import ACCESS, Claims, KeyPair, SharedSecret, without

ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
FAR = 4_000_000_000
URLSAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

_ATTACKER = KeyPair.generate("attacker")
_RSA = KeyPair.generate("attacker", "RS256")
_EC = ec.generate_private_key(ec.SECP256R1())


def encoded(text: str | bytes) -> str:
    """As a part of a token."""
    return base64.urlsafe_b64encode(text.encode() if isinstance(text, str) else text).rstrip(b"=").decode()


def signed(pair: KeyPair, header: str | bytes, claims: str | bytes) -> str:
    """Any two texts, with a good signature of ours."""
    assert isinstance(pair.private, Ed25519PrivateKey)
    said = f"{encoded(header)}.{encoded(claims)}"
    return f"{said}.{encoded(pair.private.sign(said.encode()))}"


def forgeries(pair: KeyPair, honest: Claims, *, service_secret: str = "s" * 32) -> Mapping[str, str]:
    """By what is wrong. `pair` is our own key, `service_secret` that of our services."""
    return dict(
        [
            *_unsigned(pair, honest),
            *_confused(pair, honest),
            *_vouched(pair, honest),
            *_headers(pair, honest),
            *_times(pair, honest),
            *_claims(pair, honest),
            *_shapes(pair, honest),
            *_others(pair, honest, service_secret),
        ]
    )


Table = Iterator[tuple[str, str]]


def _unsigned(pair: KeyPair, honest: Claims) -> Table:
    for spelling in ("none", "None", "NONE", "nOnE", "none ", "", "EdDSA", "HS256", "null"):
        yield f"unsigned, alg {spelling!r}", tokens.unsigned(honest, algorithm=spelling, kid=pair.kid)
    yield "unsigned with a signature", tokens.unsigned(honest, kid=pair.kid) + encoded(b"\0" * 64)
    head, body, signature = pair.sign(honest).split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    scalar = int.from_bytes(raw[32:], "little")
    yield "signature stripped", f"{head}.{body}."
    yield "signature and its dot stripped", f"{head}.{body}"
    yield "signature of zeros", f"{head}.{body}.{encoded(bytes(64))}"
    yield "signature by the point of order one", f"{head}.{body}.{encoded(bytes([1]) + bytes(63))}"
    yield "signature cut short", f"{head}.{body}.{encoded(raw[:-1])}"
    yield "signature made longer", f"{head}.{body}.{encoded(raw + bytes(1))}"
    malleable = raw[:32] + (scalar + ED25519_ORDER).to_bytes(32, "little")
    yield "signature with the order added (RFC 8032, 5.1.7)", f"{head}.{body}.{encoded(malleable)}"
    yield "signature with another bit", f"{head}.{body}.{encoded(bytes([raw[0] ^ 1]) + raw[1:])}"
    other = pair.sign({**honest, "sub": "somebody-else"}).split(".")[2]
    yield "signature of another token", f"{head}.{body}.{other}"
    yield "altered subject", tokens.altered(pair.sign(honest), sub="boss")
    yield "altered roles", tokens.altered(pair.sign(honest), roles=["admin"])
    yield "altered permissions", tokens.altered(pair.sign(honest), permissions=["operations"])


def _confused(pair: KeyPair, honest: Claims) -> Table:
    public, pem = pair.private.public_key(), pair.public_pem()
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    secrets = {
        "PEM": pem,
        "PEM without its last line break": pem.rstrip(),
        "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "raw bytes": raw,
        "JWK": json.dumps(pair.jwk()).encode(),
        "JWK set": json.dumps(tokens.jwks(pair)).encode(),
        "x": pair.jwk()["x"].encode(),
        "kid": pair.kid.encode(),
        "nothing": b"",
    }
    for name, secret in secrets.items():
        yield f"HS256 with our public key's {name}", tokens.confused(pair, honest, secret=secret)
    for algorithm, digest in (("HS384", hashlib.sha384), ("HS512", hashlib.sha512)):
        said = (
            f"{encoded(json.dumps({'alg': algorithm, 'typ': ACCESS, 'kid': pair.kid}))}.{encoded(json.dumps(honest))}"
        )
        yield f"{algorithm} with our public key", f"{said}.{encoded(hmac.digest(pem, said.encode(), digest))}"
    yield "HS256 with some secret", SharedSecret.generate().sign(honest, kid=pair.kid)
    yield "RS256 under our kid", _RSA.sign(honest, kid=pair.kid)
    header = {"kid": pair.kid, "typ": ACCESS}
    yield "PS256 under our kid", jwt.encode(dict(honest), _RSA.private, "PS256", headers=header)
    yield "ES256 under our kid", jwt.encode(dict(honest), _EC, "ES256", headers=header)
    for algorithm in ('"eddsa"', '"EDDSA"', '"Ed448"', '["EdDSA"]', "5", "null", "{}", "true"):
        text = f'{{"alg":{algorithm},"typ":"{ACCESS}","kid":"{pair.kid}"}}'
        yield f"our signature, alg {algorithm}", signed(pair, text, json.dumps(honest))
    yield "our signature, no alg", signed(pair, f'{{"typ":"{ACCESS}","kid":"{pair.kid}"}}', json.dumps(honest))


def _vouched(pair: KeyPair, honest: Claims) -> Table:
    kid = pair.kid
    yield "attacker's key under our kid", _ATTACKER.sign(honest, kid=kid)
    yield "attacker's key inside", tokens.self_vouched(_ATTACKER, honest, kid=kid)
    yield "attacker's key inside, under its own kid", tokens.self_vouched(_ATTACKER, honest, kid="attacker")
    yield "our own key inside", pair.sign(honest, jwk=pair.jwk())
    yield (
        "a key of small order inside",
        _ATTACKER.sign(honest, kid=kid, jwk={"kty": "OKP", "crv": "Ed25519", "x": encoded(b"\x01" + bytes(31))}),
    )
    yield "a secret inside", SharedSecret("k" * 32).sign(honest, jwk={"kty": "oct", "k": encoded(b"k" * 32)})
    yield "a set to be fetched", _ATTACKER.sign(honest, jku="http://127.0.0.1:1/jwks.json")
    yield (
        "a set to be fetched, under our kid",
        _ATTACKER.sign(honest, kid=kid, jku="https://attacker.example/jwks.json"),
    )
    yield "a set to be fetched, signed by us", pair.sign(honest, jku="http://169.254.169.254/")
    yield "a certificate to be fetched", _ATTACKER.sign(honest, kid=kid, x5u="http://127.0.0.1:1/")
    yield "a certificate inside", _ATTACKER.sign(honest, kid=kid, x5c=["AAAA"])
    for odd in (
        "../../../../dev/null",
        "/dev/null",
        "file:///dev/null",
        "http://127.0.0.1:1/key",
        "x' UNION SELECT 'key' --",
        "key-1|/bin/id",
        "key-1\0",
        pair.kid.upper(),
        f" {kid}",
        "*",
        "ключ",
        "k" * 300,
    ):
        yield f"kid {odd[:24]!r}, HS256 with nothing", _by_nothing(odd, honest)
        yield f"kid {odd[:24]!r}, signed by us", pair.sign(honest, kid=odd)
    for odd in ("null", '""', "5", "true", '["key-1"]', '{"key":"key-1"}', "1e400"):
        text = f'{{"alg":"EdDSA","typ":"{ACCESS}","kid":{odd}}}'
        yield f"kid {odd}", signed(pair, text, json.dumps(honest))
    yield "no kid", signed(pair, f'{{"alg":"EdDSA","typ":"{ACCESS}"}}', json.dumps(honest))


def _by_nothing(kid: str, honest: Claims) -> str:
    said = f"{encoded(json.dumps({'alg': 'HS256', 'typ': ACCESS, 'kid': kid}))}.{encoded(json.dumps(honest))}"
    return f"{said}.{encoded(hmac.digest(b'', said.encode(), hashlib.sha256))}"


def _headers(pair: KeyPair, honest: Claims) -> Table:
    for kind in ("JWT", "", "refresh+jwt", "service+jwt", "at+jwt ", "at", "JOSE", "application/json", "id+jwt"):
        yield f"typ {kind!r}", pair.sign(honest, typ=kind)
    said, body = f'"alg":"EdDSA","kid":"{pair.kid}"', json.dumps(honest)
    for odd in ("null", "5", '["at+jwt"]', "{}"):
        yield f"typ {odd}", signed(pair, f'{{{said},"typ":{odd}}}', body)
    whole = f'{said},"typ":"{ACCESS}"'
    yield "payload said to be unencoded", signed(pair, f'{{{whole},"b64":false,"crit":["b64"]}}', body)
    yield "payload left out, said to be unencoded", _detached(pair, f'{{{whole},"b64":false,"crit":["b64"]}}', body)
    yield "payload unencoded, not critical", signed(pair, f'{{{whole},"b64":false}}', body)
    yield "critical extension", signed(pair, f'{{{whole},"crit":["exp"],"exp":1}}', body)
    yield "critical, but no list", signed(pair, f'{{{whole},"crit":"b64"}}', body)
    yield "nothing critical", signed(pair, f'{{{whole},"crit":[]}}', body)
    yield "compressed", signed(pair, f'{{{whole},"zip":"DEF"}}', body)
    yield "alg twice", signed(pair, f'{{"alg":"none",{whole}}}', body)
    yield "typ twice", signed(pair, f'{{"typ":"JWT",{whole}}}', body)
    yield "kid twice", signed(pair, f'{{"kid":"attacker",{whole}}}', body)
    for odd in ("[]", "null", "5", '"alg"', "", "{", f"{{{whole}}},", f"{{{whole}", f"\ufeff{{{whole}}}"):
        yield f"header {odd[:12]!r}{len(odd)}", signed(pair, odd, body)
    yield "header in UTF-16", signed(pair, f"{{{whole}}}".encode("utf-16"), body)
    yield "header not UTF-8", signed(pair, b'{"x":"\xff",' + f"{whole}}}".encode(), body)
    yield "header nested without end", signed(pair, "[" * 3000, body)


def _detached(pair: KeyPair, header: str, body: str) -> str:
    assert isinstance(pair.private, Ed25519PrivateKey)
    return f"{encoded(header)}..{encoded(pair.private.sign(f'{encoded(header)}.{body}'.encode()))}"


def _times(pair: KeyPair, honest: Claims) -> Table:
    yield "expired", pair.sign({**honest, "exp": int(str(honest["iat"])) - 3600, "iat": 1, "nbf": 1})
    yield "expired at 0", pair.sign({**honest, "exp": 0})
    yield "not yet valid", pair.sign({**honest, "nbf": FAR})
    yield "issued in the future", pair.sign({**honest, "iat": FAR})
    for claim in ("exp", "iat", "nbf"):
        for odd in ('"9999999999"', '"never"', "true", "null", "[]", '{"$gt":0}', "-1", "1e400", "NaN", "Infinity"):
            yield f"{claim} {odd}", _with(pair, honest, claim, odd)
        yield f"{claim} huge", _with(pair, honest, claim, "9" * 400)
    for claim in ("exp", "iat"):
        yield f"no {claim}", pair.sign(without(honest, claim))


def _claims(pair: KeyPair, honest: Claims) -> Table:
    issuer, audience = str(honest["iss"]), str(honest["aud"])
    odd_issuers = ("elsewhere", issuer.upper(), f"{issuer}/", f"{issuer} ", f"https://{issuer}", "order_service", "")
    for odd in (*odd_issuers, None, 5, True, [issuer], {"iss": issuer}):
        yield (
            f"iss {odd!r}",
            pair.sign({**honest, "iss": odd}) if isinstance(odd, str) else _with(pair, honest, "iss", json.dumps(odd)),
        )
    for odd in ("bank", audience.upper(), f"{audience} ", f"{audience}/", "", None, 5, [], ["bank"], [5], {"aud": 1}):
        yield f"aud {odd!r}", _with(pair, honest, "aud", json.dumps(odd))
    for odd in (42, "", None, True, [], ["42"], {"id": "42"}, "a b", "a\nb", "é", "a" * 300, "\ud800"):
        yield f"sub {str(odd)[:12]!r} {type(odd).__name__}", _with(pair, honest, "sub", json.dumps(odd))
    for claim in ("iss", "aud", "sub"):
        yield f"no {claim}", pair.sign(without(honest, claim))
    for kind in ("refresh", "", "Access", None, 5, ["access"]):
        yield f"type {kind!r}", _with(pair, honest, "type", json.dumps(kind))
    for odd in ("0", 1.5, True, None, [0]):
        yield f"gen {odd!r}", _with(pair, honest, "gen", json.dumps(odd))
    for claim in ("roles", "permissions", "amr"):
        for odd in ("admin", {"admin": True}, [5], [None], [["admin"]], None, 5, True):
            yield f"{claim} {odd!r}", _with(pair, honest, claim, json.dumps(odd))
    said = json.dumps(dict(honest))[:-1]
    for claim, value in (("sub", "boss"), ("roles", ["admin"]), ("exp", FAR), ("iss", issuer)):
        text = f'{said},"{claim}":{json.dumps(value)}}}'
        yield f"{claim} twice", signed(pair, _header(pair), text)


def _with(pair: KeyPair, honest: Claims, claim: str, value: str) -> str:
    """Signed by us; `value` is written as it is."""
    said = json.dumps(without(honest, claim))[:-1]
    return signed(pair, _header(pair), f'{said},"{claim}":{value}}}')


def _header(pair: KeyPair) -> str:
    return json.dumps({"alg": "EdDSA", "kid": pair.kid, "typ": ACCESS})


def _shapes(pair: KeyPair, honest: Claims) -> Table:
    token = pair.sign(honest)
    head, body, signature = token.split(".")
    for position, name in enumerate(("header", "claims", "signature")):
        parts = [head, body, signature]
        yield f"{name} padded", ".".join([*parts[:position], parts[position] + "=", *parts[position + 1 :]])
        yield f"{name} missing", ".".join([*parts[:position], "", *parts[position + 1 :]])
        yield (
            f"{name} not canonical",
            ".".join([*parts[:position], _not_canonical(parts[position]), *parts[position + 1 :]]),
        )
        yield f"{name} in plain base64", ".".join([*parts[:position], parts[position] + "+/", *parts[position + 1 :]])
    yield "four parts", f"{token}.{signature}"
    yield "five parts, as JWE", f"{head}.{body}.{signature}.{body}.{signature}"
    direct = encoded('{"alg":"dir","enc":"A256GCM"}')
    yield "five parts, direct", f"{direct}..{body}.{body}.{signature}"
    yield "one part", head
    yield "dots", ".."
    yield "many dots", "." * 4000
    yield "flattened JSON", json.dumps({"protected": head, "payload": body, "signature": signature}).replace(" ", "")
    general = {"payload": body, "signatures": [{"protected": head, "signature": signature}]}
    yield "general JSON", json.dumps(general).replace(" ", "")
    yield "cut short", token[:-9]
    yield "twice", f"{token}{token}"
    yield "too long", pair.sign({**honest, "x": "x" * 8192})
    yield "not base64url", "%%%.$$$.!!!"
    yield "a word", "null"
    for odd in (
        "[]",
        "null",
        "5",
        '"sub"',
        "",
        "{",
        "[" * 3000,
        f"{json.dumps(honest)}x",
        '{"a":' * 900 + "1" + "}" * 900,
    ):
        yield f"claims {odd[:12]!r}{len(odd)}", signed(pair, _header(pair), odd)
    yield "claims not UTF-8", signed(pair, _header(pair), b'{"x":"\xff"}')
    yield "half a character in the name", _with(pair, honest, "username", '"\\ud800"')


def _not_canonical(part: str) -> str:
    """Another text for the same bytes, where there is one; else one that is not the same."""
    unused = {2: 4, 3: 2}.get(len(part) % 4, 0)
    if not unused:
        return part[:-1] + ("A" if part[-1] != "A" else "B")
    return part[:-1] + URLSAFE[URLSAFE.index(part[-1]) ^ 1]


def _others(pair: KeyPair, honest: Claims, service_secret: str) -> Table:
    times = {"iat": honest["iat"], "exp": honest["exp"]}
    service = {"iss": "order_service", "aud": "product_service", **times}
    yield "a service's token", jwt.encode(service, service_secret, "HS256", headers={"typ": "service+jwt"})
    yield "a service's token in our clothes", SharedSecret(service_secret).sign(honest, kid=pair.kid)
    yield "a service's token by our key", pair.sign(service, typ="service+jwt")
    yield "a refresh token", encoded(b"r" * 32)
    yield "a refresh token with a prefix", f"rt_{encoded(b'r' * 32)}"
    yield "an API key", f"sk_live_{encoded(b'k' * 32)}"
    yield "an ID token", pair.sign({**honest, "aud": "some-client", "nonce": "n"}, typ="JWT")
