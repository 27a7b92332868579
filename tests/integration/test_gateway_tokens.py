"""Tokens at real processes: forgeries, keys that change and revocations, at four workers of the gateway and two of a
service. The stub is user_service to both, and what stands behind the gateway."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event

import pytest

from tests.integration.conftest import (
    ISSUED,
    JWKS_PATH,
    KEYS,
    SERVICE_SECRET,
    Gateway,
    GatewayFactory,
    assert_problem,
    bearer,
    carrying,
    honest,
)
from tests.integration.test_product_service import Service, service
from tests.support import wire
from tests.support.forgeries import forgeries
from tests.support.processes import wait_until
from tests.support.revoking import PATH as POLL_PATH
from tests.support.stub import StubService
from tests.support.tokens import KeyPair, claims, jwks
from tests.support.wire import RawAnswer

FORGED = forgeries(KEYS, honest(), service_secret=SERVICE_SECRET)
ON_THE_WIRE = {name: token for name, token in FORGED.items() if token and token.isascii() and token.isprintable()}
COOL_DOWN_S = 5.0
WITHIN_S = 1.0
PATIENT = {"WEB_CONCURRENCY": "4"}

ISSUERS = """
issuers:
  - name: corp
    issuer: https://corp.example
    jwks_url: {url}/theirs.json
    audience: api
    algorithms: [ES256]
    roles: {{claim: groups, map: {{boss: customer}}}}
"""

Ask = Callable[[str], RawAnswer]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, database: Callable[[], str]) -> Generator[Gateway]:
    """A gateway of four workers."""
    with StubService() as stub:
        directory = tmp_path_factory.mktemp("gateway")
        with Gateway(directory, stub=stub, redis_url=database(), env=PATIENT) as gateway:
            yield gateway


@pytest.fixture(scope="module")
def orders(wide: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Generator[Service]:
    """order_service, two workers, to which the same stub is user_service."""
    directory = tmp_path_factory.mktemp("orders")
    identity = {"USER_SERVICE_URL": wide.stub.url, "JWT_SECRET_KEY": "", "SERVICE_SECRET": SERVICE_SECRET}
    started = service("order_service", directory, f"sqlite:///{directory}/orders.db", **identity)
    with started.process:
        yield started


def asking(gateway: Gateway) -> Ask:
    return lambda token: gateway.get("/orders", carrying(token))


def asking_service(orders: Service) -> Ask:
    port = int(orders.url.rpartition(":")[2])
    return lambda token: wire.get(port, "/orders", carrying(token))


@pytest.fixture(params=["gateway", "service"])
def ask(request: pytest.FixtureRequest, wide: Gateway) -> Ask:
    """Asks for something that wants a token, on a connection of its own."""
    if request.param == "gateway":
        return asking(wide)
    return asking_service(request.getfixturevalue("orders"))


def fresh(sid: str = "s", *, pair: KeyPair = KEYS, user: str = "u1") -> str:
    """A token that nobody has seen yet."""
    return pair.sign(claims(user, lifetime_s=14_400, sid=sid, roles=["customer"], **ISSUED))


def answers(ask: Ask, token: str, count: int = 80) -> set[int]:
    """The statuses that many new connections get: more than enough to meet each worker."""
    with ThreadPoolExecutor(8) as threads:
        return {answer.status for answer in threads.map(ask, [token] * count)}


def test_no_forgery_passes_a_process(ask: Ask) -> None:
    assert len(ON_THE_WIRE) > 200
    assert ask(KEYS.sign(honest())).status == 200

    wrong = {name: answer.raw for name, token in ON_THE_WIRE.items() if not _is_refused(answer := ask(token))}

    assert wrong == {}


def _is_refused(answer: RawAnswer) -> bool:
    challenge = answer.header("WWW-Authenticate") or ""
    return answer.status == 401 and challenge.startswith('Bearer error="invalid_token"')


def test_a_revoked_session_is_refused_by_every_worker_within_a_second(wide: Gateway, orders: Service) -> None:
    everybody = (asking(wide), asking_service(orders))
    revoked, other = fresh("revoked"), fresh("other")
    assert {status for ask in everybody for status in answers(ask, revoked)} == {200}

    wide.stub.revoked.session("revoked")
    time.sleep(WITHIN_S)

    for ask in everybody:
        assert answers(ask, revoked) == {401}
        assert answers(ask, fresh("revoked"), 8) == {401}
        assert answers(ask, other) == {200}
        assert 'error_description="The token was revoked."' in (ask(revoked).header("WWW-Authenticate") or "")


def test_a_new_generation_makes_all_older_tokens_of_the_user_void(wide: Gateway) -> None:
    def of(generation: int, user: str = "u7") -> str:
        return KEYS.sign({**honest(user), "gen": generation})

    assert answers(asking(wide), of(0), 8) == {200}

    wide.stub.revoked.user("u7", 2)
    time.sleep(WITHIN_S)

    assert [answers(asking(wide), token, 16) for token in (of(0), of(1), of(2), of(0, "u8"))] == [
        {401},
        {401},
        {200},
        {200},
    ]


def test_no_request_asks_user_service_anything(wide: Gateway) -> None:
    def asked() -> tuple[int, int]:
        sets = [received for received in wide.stub.requests if received.path == JWKS_PATH]
        return len(wide.stub.revoked.polls), len(sets)

    began, (polls, sets) = time.monotonic(), asked()
    for _ in range(3):
        assert answers(asking(wide), fresh(), 100) == {200}
    took_s = time.monotonic() - began

    later = asked()
    assert later[1] - sets <= 1
    assert later[0] - polls <= 4 * (took_s / 2 + 2)  # four workers, each of which waits three seconds


def test_the_metrics_tell_what_the_cache_is_worth(wide: Gateway) -> None:
    token = fresh()
    answers(asking(wide), token)

    def page() -> str:
        return wide.operations("/metrics").body.decode()

    wait_until(lambda: 'gateway_token_cache_total{result="hit"}' in page(), "the counter")
    assert 'gateway_token_cache_total{result="miss"}' in page()
    assert "gateway_revocations_current 1.0" in page()


def test_users_of_a_foreign_issuer_are_let_in_as_the_file_says(
    tmp_path: Path, database: Callable[[], str], wide: Gateway
) -> None:
    pair = KeyPair.generate("theirs", "ES256")
    wide.stub.json["/theirs.json"] = jwks(pair)
    file = tmp_path / "issuers.yaml"
    file.write_text(ISSUERS.format(url=wide.stub.url))
    env = {"WEB_CONCURRENCY": "1", "TOKEN_ISSUERS": str(file)}
    said = claims("42", iss="https://corp.example", aud="api", groups=["boss"], roles=["admin"])

    with Gateway(tmp_path, stub=wide.stub, redis_url=database(), env=env) as gateway:
        answer = gateway.get("/orders", carrying(pair.sign(said)))
        refused = gateway.get("/services", carrying(pair.sign(said)))

    received = next(each for each in reversed(gateway.arrived) if each.path.startswith("/orders"))
    assert answer.status == 200
    assert (received.header("X-User-Id"), received.header("X-User-Roles")) == ("corp:42", "customer")
    assert_problem(refused, 403, "PERMISSION_REQUIRED")


@contextmanager
def log_away(gateway: Gateway) -> Generator[None]:
    """The polls fail from now on, those under way at once."""
    gateway.stub.failing.add(POLL_PATH)
    gateway.stub.drop_connections()
    yield
    gateway.stub.failing.discard(POLL_PATH)


def test_workers_that_lost_the_log_catch_up_once_it_is_back(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(WEB_CONCURRENCY="4")
    token, ask = fresh("meanwhile"), asking(gateway)
    assert answers(ask, token) == {200}

    with log_away(gateway):
        gateway.wait_for_metric("gateway_revocations_current 0.0")
        gateway.stub.revoked.session("meanwhile")
        assert answers(ask, token) == {200}  # nobody could know

    gateway.wait_for_metric("gateway_revocations_current 1.0")
    assert answers(ask, token) == {401}
    wait_until(lambda: len(gateway.events("revocations_current")) == 4, "the line of each worker")
    assert len(gateway.events("revocations_lost")) == 4


def test_tokens_are_refused_meanwhile_if_that_is_wanted_and_from_the_start(
    tmp_path: Path, database: Callable[[], str]
) -> None:
    wary = {"WEB_CONCURRENCY": "2", "REVOCATIONS_LOST": "refuse", "REVOCATIONS_PATIENCE_S": "0.5"}
    with ExitStack() as stack:
        stub = stack.enter_context(StubService())
        stub.failing.add(POLL_PATH)
        gateway = stack.enter_context(Gateway(tmp_path, stub=stub, redis_url=database(), env=wary))
        assert gateway.get("/health").status == 200
        refusal = gateway.get("/orders", bearer())
        assert_problem(refusal, 503, "IDENTITY_UNAVAILABLE")
        assert refusal.header("WWW-Authenticate") is None

        stub.failing.clear()
        gateway.wait_for_metric("gateway_revocations_current 1.0")
        assert answers(asking(gateway), fresh(), 16) == {200}

        with log_away(gateway):
            gateway.wait_for_metric("gateway_revocations_current 0.0")
            time.sleep(0.6)
            assert answers(asking(gateway), fresh(), 16) == {503}
            assert gateway.get("/products").status == 200


def test_no_honest_token_is_refused_while_keys_change_under_load(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(**PATIENT)
    pairs = [KEYS]
    ask, is_over, refused = asking(gateway), Event(), list[RawAnswer]()
    counts = {pair.kid: 0 for pair in pairs}

    def load(number: int) -> None:
        while not is_over.is_set():
            pair = pairs[-1]
            answer = ask(fresh(f"{number}", pair=pair))
            counts[pair.kid] = counts.get(pair.kid, 0) + 1
            if answer.status != 200:
                refused.append(answer)

    def flood() -> None:
        number = 0
        while not is_over.wait(0.05):
            number += 1
            assert ask(KEYS.sign(honest(), kid=f"nobody's-{number}")).status == 401

    with ThreadPoolExecutor(7) as threads:
        working = [threads.submit(load, number) for number in range(6)]
        time.sleep(COOL_DOWN_S + 0.5)  # nobody signs with a key that was published less long ago than that
        for number in (2, 3):
            new = KeyPair.generate(f"key-{number}")
            gateway.stub.json[JWKS_PATH] = jwks(*pairs, new)
            pairs.append(new)
            time.sleep(COOL_DOWN_S + 0.5)
        sets = [received for received in gateway.stub.requests if received.path == JWKS_PATH]
        working.append(threads.submit(flood))
        gateway.stub.json[JWKS_PATH] = jwks(*pairs, KeyPair.generate("key-4"))
        time.sleep(COOL_DOWN_S + 0.5)
        is_over.set()
        for work in working:
            work.result()

    assert [answer.raw for answer in refused] == []
    assert all(counts[pair.kid] > 50 for pair in pairs)
    assert len(sets) <= 4  # at the start, for each new key, and perhaps once for their age
    all_sets = [received for received in gateway.stub.requests if received.path == JWKS_PATH]
    assert len(all_sets) - len(sets) <= 2  # many unknown keys, one fetch in each cool-down
