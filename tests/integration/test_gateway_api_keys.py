"""API keys over real sockets: where the key goes, and where it does not."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from tests.integration.conftest import ISSUED, KEYS, Gateway, GatewayFactory, assert_problem, bearer
from tests.support.processes import wait_until
from tests.support.tokens import claims
from tests.support.wire import Pairs

EXCHANGE, USAGE = "/internal/api-keys/exchange", "/internal/api-keys/usage"
KEY = "gk_qxjxwair_TCRDUkOnlpuPOa2i9me8B_XAPvWvbrKdUi0p5VMzgKU_A--T0g"
UNKNOWN = "gk_j56jnon7_5ZoW4Oi5L9jN4JB-WvHsO8FnzltXBFyet0_4xxNl_58_Hy_l4Q"
SHOWN: Mapping[str, Pairs] = {
    "X-API-Key": [("X-API-Key", KEY)],
    "Authorization": [("Authorization", f"ApiKey {KEY}")],
}


def exchanged() -> dict[str, object]:
    """What user_service answers for a key that may read orders."""
    said = claims("u1", username="u1", sid="key:k1", amr=["api_key"], permissions=["orders:read"])
    return {"access_token": KEYS.sign(said | ISSUED), "expires_in": 300, "key_id": "k1", "plan": ""}


@pytest.fixture(scope="module")
def own(start_gateway: GatewayFactory) -> Gateway:
    gateway = start_gateway(WEB_CONCURRENCY="1")
    gateway.stub.json[EXCHANGE] = exchanged()
    return gateway


def exchanges(gateway: Gateway) -> int:
    return sum(each.path == EXCHANGE for each in gateway.stub.requests)


@pytest.mark.parametrize("way", SHOWN)
def test_a_key_reaches_no_service_and_no_log(own: Gateway, way: str) -> None:
    answer = own.get("/orders?page=2", SHOWN[way])

    received = [each for each in own.stub.requests if each.target == "/orders?page=2"][-1]
    assert answer.status == 200
    assert str(received.header("Authorization")).startswith("Bearer eyJ")
    assert KEY not in str(received)
    own.log_of(answer)
    assert KEY not in own.process.log()


def test_a_key_without_the_permission_is_refused_at_the_gateway(own: Gateway) -> None:
    assert_problem(own.request("POST", "/orders", SHOWN["X-API-Key"], b"{}"), 403, "PERMISSION_REQUIRED")


@pytest.mark.parametrize(
    "key", ["", " ", "nonsense", KEY[:-1], f"{KEY}, {KEY}", f"{KEY} {KEY}", "\xe4" * 62, "x" * 9000]
)
@pytest.mark.parametrize("form", ["X-API-Key", "Authorization"])
def test_what_is_no_key_is_refused_without_asking_anybody(own: Gateway, form: str, key: str) -> None:
    before = exchanges(own)
    field = (form, key if form == "X-API-Key" else f"ApiKey {key}")

    answer = own.get("/orders", [field])

    assert answer.status == 401
    assert 'error="invalid_token"' in str(answer.header("WWW-Authenticate"))
    assert exchanges(own) == before


@pytest.mark.parametrize(
    "fields",
    [
        [("X-API-Key", KEY), *bearer()],
        [("Authorization", f"ApiKey {KEY}"), ("X-API-Key", KEY)],
        [("X-API-Key", KEY), ("Authorization", "")],
    ],
)
def test_two_credentials_are_refused(own: Gateway, fields: Pairs) -> None:
    assert_problem(own.get("/orders", fields), 400, "AMBIGUOUS_CREDENTIALS")


def test_a_public_route_works_with_a_bad_key_which_goes_nowhere(own: Gateway) -> None:
    answer = own.get("/open/x", [("X-API-Key", "nonsense")])

    assert answer.status == 200
    (received,) = [each for each in own.stub.requests if each.path == "/x"]
    assert "nonsense" not in str(received)


def test_uses_are_told_when_the_worker_ends(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1")
    gateway.stub.json[EXCHANGE] = exchanged()
    for _ in range(3):
        assert gateway.get("/orders", SHOWN["X-API-Key"]).status == 200

    gateway.process.terminate()

    told = [json.loads(each.body)["counts"] for each in gateway.stub.requests if each.path == USAGE]
    assert sum(counts["k1"] for counts in told) == 3


def test_a_new_key_is_told_to_wait_while_user_service_is_away(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="1", USER_SERVICE_URL="http://127.0.0.1:1", is_ready=False)

    answer = gateway.get("/orders", [("X-API-Key", UNKNOWN)])

    assert_problem(answer, 503, "IDENTITY_UNAVAILABLE")
    wait_until(lambda: bool(gateway.events("api_key_exchange_failed")), "a warning")
    assert UNKNOWN not in gateway.process.log()
