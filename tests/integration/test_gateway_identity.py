"""Who may do what, seen from outside; and what holds while keys cannot be had. What is refused reaches no service."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import jwt
import pytest

from tests.integration.conftest import (
    ADMIN,
    JWKS_PATH,
    KEYS,
    Gateway,
    GatewayFactory,
    assert_problem,
    bearer,
    carrying,
    honest,
    ready,
)
from tests.support.processes import wait_until
from tests.support.stub import StubService
from tests.support.tokens import KeyPair, SharedSecret, altered, confused, jwks, self_vouched, unsigned, without

OTHER = KeyPair.generate("key-1")  # not ours, under a kid of ours
UNKNOWN = KeyPair.generate("key-9")
FOREIGN = KeyPair.generate("key-1", "RS256")

ROUTES = [
    ("GET", "/products", "anyone"),
    ("GET", "/products/5", "anyone"),
    ("HEAD", "/products/5", "anyone"),
    ("POST", "/products", "admin"),
    ("PUT", "/products/5", "admin"),
    ("PATCH", "/products/5", "admin"),
    ("DELETE", "/products/5", "admin"),
    ("POST", "/users/register", "anyone"),
    ("POST", "/users/login", "anyone"),
    ("POST", "/auth/login", "anyone"),
    ("GET", "/users/login", "user"),
    ("GET", "/users/profile", "user"),
    ("DELETE", "/users/5", "user"),
    ("GET", "/auth/profile", "user"),
    ("GET", "/orders", "user"),
    ("POST", "/orders", "user"),
    ("GET", "/orders/5", "user"),
    ("DELETE", "/orders/5/items/1", "user"),
    ("GET", "/students/x", "user"),
    ("POST", "/students", "user"),
    ("GET", "/open/x", "anyone"),
    ("GET", "/staff/x", "admin"),
    ("GET", "/services", "admin page"),
    ("GET", "/api/v1/services", "admin page"),
    ("GET", "/metrics", "admin page"),
    ("GET", "/health/services", "admin page"),
    ("GET", "/", "page"),
    ("GET", "/health", "page"),
    ("GET", "/ready", "page"),
    ("GET", "/health/startup", "page"),
]
CALLERS = {"anonymous": [], "customer": bearer("u1"), "admin": ADMIN}


def expected(who: str, caller: str) -> int:
    if who in ("anyone", "page") or caller == "admin":
        return 200
    if caller == "anonymous":
        return 401
    return 200 if who == "user" else 403


@pytest.mark.parametrize(("method", "target", "who"), ROUTES)
@pytest.mark.parametrize("caller", CALLERS)
def test_route_is_for_those_whom_it_is_for(gateway: Gateway, method: str, target: str, who: str, caller: str) -> None:
    answer = gateway.request(method, target, CALLERS[caller])

    status = expected(who, caller)
    if status == 200:
        assert answer.status == 200
        assert len(gateway.arrived) == 1 or "page" in who
    else:
        lacking = "ROLE_REQUIRED" if target.startswith("/staff") else "PERMISSION_REQUIRED"
        assert_problem(answer, status, "TOKEN_REQUIRED" if status == 401 else lacking)
        assert gateway.arrived == []


@pytest.mark.parametrize("face", ["", "/api", "/api/v1"])
@pytest.mark.parametrize("target", ["/%6frders", "/orders/", "/orders//", "/orders?x=/products", "/orders;x"])
def test_no_spelling_of_a_guarded_route_goes_round_the_guard(gateway: Gateway, face: str, target: str) -> None:
    answer = gateway.get(f"{face}{target}")

    assert answer.status in (400, 401, 404)
    assert gateway.arrived == []


def _honest_but(**changes: object) -> str:
    return KEYS.sign({**honest(), **changes})


FORGED: dict[str, Callable[[], str]] = {
    "expired": lambda: KEYS.sign(honest(lifetime_s=-60)),
    "not yet valid": lambda: _honest_but(nbf=4_000_000_000, iat=4_000_000_000),
    "other issuer": lambda: _honest_but(iss="elsewhere"),
    "other audience": lambda: _honest_but(aud="bank"),
    "no issuer": lambda: KEYS.sign(without(honest(), "iss")),
    "no audience": lambda: KEYS.sign(without(honest(), "aud")),
    "no expiry": lambda: KEYS.sign(without(honest(), "exp")),
    "no subject": lambda: KEYS.sign(without(honest(), "sub")),
    "empty subject": lambda: _honest_but(sub=""),
    "refresh token": lambda: _honest_but(type="refresh"),
    "roles not a list": lambda: _honest_but(roles="admin"),
    "unsigned": lambda: unsigned(honest(), kid="key-1"),
    "unsigned, odd spelling": lambda: unsigned(honest(), algorithm="nOnE", kid="key-1"),
    "public key as secret": lambda: confused(KEYS, honest()),
    "our key's place as secret": lambda: confused(KEYS, honest(), secret=b"key-1"),
    "other key under our kid": lambda: OTHER.sign(honest()),
    "unknown key": lambda: UNKNOWN.sign(honest()),
    "no kid": lambda: jwt.encode(honest(), KEYS.private, "EdDSA"),
    "other algorithm": lambda: FOREIGN.sign(honest()),
    "shared secret": lambda: SharedSecret.generate().sign(honest(), kid="key-1"),
    "its own key inside": lambda: self_vouched(OTHER, honest(), kid="key-1"),
    "altered roles": lambda: altered(KEYS.sign(honest()), roles=["admin"]),
    "altered subject": lambda: altered(KEYS.sign(honest()), sub="boss"),
    "signature cut": lambda: KEYS.sign(honest())[:-4],
    "no signature": lambda: KEYS.sign(honest()).rpartition(".")[0] + ".",
    "two parts": lambda: ".".join(KEYS.sign(honest()).split(".")[:2]),
    "nonsense": lambda: "nonsense",
    "dots": lambda: "..",
    "too long": lambda: _honest_but(filler="x" * 9000),
    "critical extension": lambda: KEYS.sign(honest(), crit=["x"], x=1),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("target", ["/orders", "/students/x", "/metrics"])
def test_forged_token_is_refused(gateway: Gateway, forged: Callable[[], str], target: str) -> None:
    answer = gateway.get(target, carrying(forged()))

    assert_problem(answer, 401, "INVALID_TOKEN")
    assert (answer.header("WWW-Authenticate") or "").startswith('Bearer error="invalid_token"')
    assert gateway.arrived == []


@pytest.mark.parametrize(
    "header", ["Basic eDp5", "Bearer", "Bearer ", "Token x", "bearer  ", "Bearer a b", "Bearer a, Bearer b"]
)
def test_credentials_that_are_no_bearer_token_are_refused(gateway: Gateway, header: str) -> None:
    answer = gateway.get("/orders", [("Authorization", header)])

    assert_problem(answer, 401, "INVALID_TOKEN")
    assert gateway.arrived == []


def test_missing_token_is_asked_for(gateway: Gateway) -> None:
    answer = gateway.get("/orders")

    assert answer.header("WWW-Authenticate") == "Bearer"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_scheme_is_known_in_any_case_and_the_token_goes_on(gateway: Gateway, scheme: str) -> None:
    token = KEYS.sign(honest("u3"))

    answer = gateway.get("/orders", [("Authorization", f"{scheme} {token}")])

    (received,) = gateway.arrived
    assert answer.status == 200
    assert received.header("Authorization") == f"Bearer {token}"
    assert received.header("X-User-Id") == "u3"


def test_two_authorizations_are_refused(gateway: Gateway) -> None:
    answer = gateway.get("/orders", [*bearer(), *ADMIN])

    assert_problem(answer, 400, "MALFORMED_REQUEST")


def test_token_in_the_query_is_no_token(gateway: Gateway) -> None:
    answer = gateway.get(f"/orders?access_token={KEYS.sign(honest())}")

    assert_problem(answer, 401, "TOKEN_REQUIRED")


def test_token_that_was_good_is_refused_once_it_expires(gateway: Gateway) -> None:
    about_to_expire = carrying(KEYS.sign(honest(lifetime_s=-3)))  # within the leeway of five seconds

    def answer() -> int:
        return gateway.get("/orders", about_to_expire).status

    assert answer() == 200
    wait_until(lambda: answer() == 401, "the end of the leeway", timeout_s=8, poll_s=0.2)


@pytest.fixture
def gateway_without_keys(tmp_path: Path, database: Callable[[], str]) -> Generator[Gateway]:
    with StubService() as stub:
        stub.json[JWKS_PATH] = "not a set"
        with Gateway(tmp_path, stub=stub, redis_url=database(), env={"WEB_CONCURRENCY": "1"}) as gateway:
            yield gateway


def test_gateway_without_keys_says_so_and_recovers_by_itself(gateway_without_keys: Gateway) -> None:
    gateway = gateway_without_keys

    assert gateway.get("/ready").status == 503
    assert gateway.get("/health/startup").status == 503
    assert gateway.get("/health").status == 200
    assert gateway.get("/products").status == 200
    refusal = gateway.get("/orders", bearer())
    assert_problem(refusal, 503, "IDENTITY_UNAVAILABLE")
    assert int(refusal.header("Retry-After") or 0) >= 1
    assert_problem(gateway.get("/orders"), 401, "TOKEN_REQUIRED")

    gateway.stub.json[JWKS_PATH] = jwks(KEYS)
    wait_until(lambda: gateway.get("/ready").status == 200, "keys", timeout_s=8)
    assert gateway.get("/orders", bearer()).status == 200
    assert gateway.get("/health/startup").status == 200


def test_known_keys_go_on_being_used_while_the_set_is_away_and_new_ones_are_found(
    start_gateway: GatewayFactory,
) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1")
    new = KeyPair.generate("key-2")
    gateway.stub.json[JWKS_PATH] = "not a set"

    assert gateway.get("/orders", bearer("u1")).status == 200
    assert_problem(gateway.get("/orders", carrying(new.sign(honest()))), 401, "INVALID_TOKEN")
    assert gateway.get("/orders", bearer("u2")).status == 200

    gateway.stub.json[JWKS_PATH] = jwks(KEYS, new)
    wait_until(lambda: gateway.get("/orders", carrying(new.sign(honest()))).status == 200, "key-2", timeout_s=10)


def test_unknown_kids_do_not_make_the_gateway_hammer_the_user_service(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1")
    ready(gateway)

    for number in range(30):
        gateway.get("/orders", carrying(KEYS.sign(honest(), kid=f"unknown-{number}")))

    asked = [received for received in gateway.stub.requests if received.path == JWKS_PATH]
    assert len(asked) <= 2


def test_simple_mode_takes_tokens_of_the_shared_secret_and_no_others(start_gateway: GatewayFactory) -> None:
    secret, other = SharedSecret.generate(), SharedSecret.generate()
    gateway = start_gateway(WEB_CONCURRENCY="1", JWT_SECRET_KEY=secret.value)
    ready(gateway)

    assert gateway.get("/orders", carrying(secret.sign(honest("u5")))).status == 200
    assert gateway.arrived[0].header("X-User-Id") == "u5"
    for forged in (
        other.sign(honest()),
        KEYS.sign(honest()),
        unsigned(honest()),
        secret.sign(without(honest(), "exp")),
    ):
        assert_problem(gateway.get("/orders", carrying(forged)), 401, "INVALID_TOKEN")
    assert len(gateway.arrived) == 1
    assert [received for received in gateway.stub.requests if received.path == JWKS_PATH] == []
