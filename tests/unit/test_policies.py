"""Policies: whether a request may pass, and in which order that is asked."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from limits import parse

from common.problems import Forbidden, PayloadTooLarge, Problem, ServiceUnavailable, TooManyRequests, Unauthorized
from common.tokens import AUDIENCE, ISSUER
from deploy.local.valkey import Valkey
from gateway.exchange import Answer, Exchange, Handler
from gateway.policies import STACK, compose
from gateway.policies.identity import require_jwt
from gateway.policies.limited import limited
from gateway.policies.sized import sized
from gateway.runtime import Runtime
from gateway.services import Service
from tests.support import tokens
from tests.support.ports import free_port
from tests.unit import parts

SECRET = tokens.SharedSecret.generate()
KEEP_ME = [("Cache-Control", "public, max-age=60")]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Generator[Runtime]:
    directory = tmp_path_factory.mktemp("gateway")
    with Valkey(directory, port=free_port()) as valkey:
        yield parts.runtime(directory, redis_url=valkey.url, jwt_secret_key=SECRET.value)


_names = iter(range(10_000))


def new_service(**changes: object) -> Service:
    """A service under a name of its own, so that its limits and its cache are empty."""
    return parts.service(f"things-{next(_names)}", **changes)


def bearer(user: str = "42", *roles: str) -> dict[str, str]:
    """The header of a request with a good token."""
    token = SECRET.sign(tokens.claims(user, iss=ISSUER, aud=AUDIENCE, roles=list(roles)))
    return {"authorization": f"Bearer {token}"}


def refused(handler: Handler, exchange: Exchange) -> Problem:
    with pytest.raises(Problem) as caught:
        handler(exchange)
    return caught.value


def depth(handler: Any) -> int:
    """How many policies stand around the innermost handler."""
    return 1 + depth(handler.__wrapped__) if hasattr(handler, "__wrapped__") else 0


@pytest.mark.parametrize(
    ("changes", "policies"),
    [
        ({"is_public": True}, 2),
        ({"is_public": True, "is_cached": True}, 3),
        ({"is_public": False}, 3),
        ({"is_public": False, "is_cached": True}, 4),
    ],
)
def test_a_policy_that_a_service_does_not_ask_for_is_not_there(changes: dict[str, object], policies: int) -> None:
    innermost = parts.answering()

    handler = compose(new_service(**changes), innermost)

    assert depth(handler) == policies <= len(STACK)


def test_the_first_reason_to_refuse_is_told_in_the_order_of_the_stack(runtime: Runtime) -> None:
    service = new_service(
        is_public=False,
        is_cached=True,
        roles=("admin",),
        max_body_bytes=3,
        limits={"default": parse("4/minute")},
    )
    calls: list[Exchange] = []
    handler = compose(service, parts.answering(headers=KEEP_ME, calls=calls))

    def ask(headers: dict[str, str] | None = None, body: bytes = b"") -> Exchange:
        return parts.exchange(runtime, "POST" if body else "GET", headers=headers, body=body, of=service)

    problems = [
        refused(handler, ask(body=b"long")),  # without a token as well
        refused(handler, ask()),
        refused(handler, ask({"authorization": "Bearer nonsense"})),
    ]
    problems += [refused(handler, ask(bearer("7"))), *(refused(handler, ask(body=b"long")) for _ in range(2))]

    kinds = [PayloadTooLarge, Unauthorized, Unauthorized, Forbidden, PayloadTooLarge, TooManyRequests]
    assert [type(problem) for problem in problems] == kinds
    assert calls == []


def test_nobody_gets_from_the_cache_what_he_may_not_have_from_the_service(runtime: Runtime) -> None:
    service = new_service(is_public=False, is_cached=True, roles=("admin",))
    handler = compose(service, parts.answering(headers=KEEP_ME))
    answers = [handler(parts.exchange(runtime, headers=bearer("1", "admin"), of=service)) for _ in range(2)]
    assert answers[1].header("cache-status") == "gateway; hit; ttl=60"

    assert type(refused(handler, parts.exchange(runtime, of=service))) is Unauthorized
    assert type(refused(handler, parts.exchange(runtime, headers=bearer("2"), of=service))) is Forbidden


def test_a_public_service_does_not_care_about_a_bad_token(runtime: Runtime) -> None:
    service = new_service(is_public=True)
    exchange = parts.exchange(runtime, headers={"authorization": "Bearer nonsense"}, of=service)

    assert compose(service, parts.answering())(exchange).status == 200


def test_a_body_as_long_as_the_limit_passes_and_nothing_of_it_is_read(runtime: Runtime) -> None:
    service = new_service(max_body_bytes=5)
    exchange = parts.exchange(runtime, "POST", body=b"12345", of=service)

    sized(parts.answering())(exchange)

    assert exchange.body.read_bytes == 0
    assert exchange.body.reader.read() == b"12345"


def test_a_longer_body_is_refused_before_it_is_read(runtime: Runtime) -> None:
    calls: list[Exchange] = []
    exchange = parts.exchange(runtime, "POST", body=b"123456", of=new_service(max_body_bytes=5))

    problem = refused(sized(parts.answering(calls=calls)), exchange)

    assert (type(problem), problem.code, calls) == (PayloadTooLarge, "PAYLOAD_TOO_LARGE", [])
    assert "5 bytes" in problem.detail
    assert exchange.body.reader.read() == b"123456"


def test_a_chunked_body_announces_nothing_so_it_passes_here_and_is_bounded_when_read(runtime: Runtime) -> None:
    exchange = parts.exchange(runtime, "POST", body=b"123456", is_chunked=True, of=new_service(max_body_bytes=5))

    sized(parts.answering())(exchange)

    with pytest.raises(PayloadTooLarge):
        exchange.body.bound(5)


def ask(handler: Handler, runtime: Runtime, service: Service, **more: Any) -> bool:
    """Whether one more request passes."""
    try:
        handler(parts.exchange(runtime, of=service, **more))
    except TooManyRequests:
        return False
    return True


def test_a_caller_has_a_limit_and_another_address_another(runtime: Runtime) -> None:
    service = new_service(limits={"default": parse("2/minute")})
    handler = limited(parts.answering())

    assert [ask(handler, runtime, service) for _ in range(3)] == [True, True, False]
    assert ask(handler, runtime, service, caller="192.0.2.2")


def test_each_service_counts_for_itself(runtime: Runtime) -> None:
    first, second = (new_service(limits={"default": parse("1/minute")}) for _ in range(2))
    handler = limited(parts.answering())

    assert [ask(handler, runtime, service) for service in (first, first, second)] == [True, False, True]


def test_a_user_has_one_limit_from_wherever_he_calls(runtime: Runtime) -> None:
    service = new_service(limits={"default": parse("2/minute")})
    handler = limited(parts.answering())
    addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]

    assert [ask(handler, runtime, service, headers=bearer("7"), caller=each) for each in addresses] == [
        True,
        True,
        False,
    ]
    assert ask(handler, runtime, service, headers=bearer("8"))
    assert ask(handler, runtime, service)


UNSIGNED = tokens.unsigned(tokens.claims("1", iss=ISSUER, aud=AUDIENCE))


@pytest.mark.parametrize(
    "value", ["Bearer nonsense", "Basic dTpw", f"Bearer {UNSIGNED}"], ids=["nonsense", "Basic", "unsigned"]
)
def test_bad_tokens_are_counted_by_address(runtime: Runtime, value: str) -> None:
    service = new_service(limits={"default": parse("2/minute")})
    handler = limited(parts.answering())
    headers: list[dict[str, str]] = [{"authorization": value}, {}, {"authorization": value}]

    assert [ask(handler, runtime, service, headers=each) for each in headers] == [True, True, False]


def test_requests_that_share_an_id_count_each(runtime: Runtime) -> None:
    # a proxy that we trust may pass on the id that its caller chose
    service = new_service(limits={"default": parse("3/minute")})
    handler = limited(parts.answering())

    passed = [ask(handler, runtime, service, request_id="always-the-same") for _ in range(5)]

    assert passed == [True, True, True, False, False]


def test_a_named_rate_counts_by_address_whoever_the_token_speaks_for(runtime: Runtime) -> None:
    service = new_service(limits={"default": parse("100/minute"), "login": parse("2/minute")})
    handler = limited("login")(parts.answering())

    assert [ask(handler, runtime, service, headers=bearer(str(user))) for user in range(3)] == [True, True, False]


def test_a_named_rate_counts_beside_the_default_one(runtime: Runtime) -> None:
    service = new_service(limits={"default": parse("3/minute"), "login": parse("2/minute")})
    login, other = limited("login")(parts.answering()), limited(parts.answering())
    assert [ask(login, runtime, service) for _ in range(5)] == [True, True, False, False, False]

    assert [ask(other, runtime, service) for _ in range(2)] == [True, False]


def test_a_refusal_names_the_limit_and_when_to_come_again(runtime: Runtime) -> None:
    service = new_service(limits={"default": parse("100/minute"), "login": parse("1/10 second")})
    handler = limited("login")(parts.answering())
    ask(handler, runtime, service)
    exchange = parts.exchange(runtime, of=service)

    problem = refused(handler, exchange)

    assert problem.headers == (("Retry-After", "10"),)
    assert problem.document("", "")["limit"] == exchange.notes["limit"] == "login"
    assert "1 requests in 10 seconds" in problem.detail
    fields = dict(exchange.answer_headers)
    assert (fields["X-RateLimit-Limit"], fields["X-RateLimit-Remaining"]) == ("1", "0")
    assert f'gateway_rate_limited_total{{limit="login",service="{service.name}"}} 1.0' in metrics(runtime)


def metrics(runtime: Runtime) -> str:
    return runtime.metrics.page().decode()


def test_a_good_answer_tells_what_is_left(runtime: Runtime) -> None:
    service = new_service(limits={"default": parse("5/minute")})
    exchange = parts.exchange(runtime, of=service)

    limited(parts.answering())(exchange)

    names = ["RateLimit-Policy", "RateLimit", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]
    assert [name for name, _ in exchange.answer_headers] == names
    assert dict(exchange.answer_headers)["X-RateLimit-Remaining"] == "4"


def test_without_the_store_limits_still_hold(tmp_path: Path) -> None:
    runtime = parts.runtime(tmp_path, workers=2)
    service = new_service(limits={"default": parse("4/minute")})
    handler = limited(parts.answering())

    assert [ask(handler, runtime, service) for _ in range(3)] == [True, True, False]


def test_without_a_token_nobody_is_let_in(runtime: Runtime) -> None:
    problem = refused(require_jwt(parts.answering()), parts.exchange(runtime, of=new_service()))

    assert (problem.status, problem.code) == (401, "TOKEN_REQUIRED")
    assert problem.headers == (("WWW-Authenticate", "Bearer"),)


EXPIRED = SECRET.sign(tokens.claims("1", lifetime_s=-60, iss=ISSUER, aud=AUDIENCE))


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Basic dTpw", "Bearer a b", "Bearer nonsense", f"Bearer {EXPIRED}"],
    ids=["empty", "nothing", "Basic", "two", "nonsense", "expired"],
)
@pytest.mark.parametrize("roles", [(), ("admin",)])
def test_with_a_bad_token_nobody_is_let_in(runtime: Runtime, value: str, roles: tuple[str, ...]) -> None:
    exchange = parts.exchange(runtime, headers={"authorization": value}, of=new_service())

    problem = refused(require_jwt(roles=roles)(parts.answering()), exchange)

    assert (problem.status, problem.code) == (401, "INVALID_TOKEN")
    assert problem.headers[0][1].startswith('Bearer error="invalid_token", error_description="')


@pytest.mark.parametrize(
    ("roles", "have", "status"),
    [
        ((), (), 200),
        ((), ("customer",), 200),
        (("admin",), ("customer", "admin"), 200),
        (("admin", "staff"), ("staff",), 200),
        (("admin",), ("customer",), 403),
        (("admin",), (), 403),
    ],
)
def test_any_of_the_roles_opens_the_door(
    runtime: Runtime, roles: tuple[str, ...], have: tuple[str, ...], status: int
) -> None:
    exchange = parts.exchange(runtime, headers=bearer("1", *have), of=new_service())
    handler = require_jwt(roles=roles)(parts.answering())

    if status == 200:
        assert handler(exchange).status == 200
    else:
        problem = refused(handler, exchange)
        assert (problem.status, problem.code) == (403, "ROLE_REQUIRED")


def test_while_no_key_can_be_had_nobody_is_told_that_his_token_is_bad(tmp_path: Path) -> None:
    runtime = parts.runtime(tmp_path, user_service_url="http://127.0.0.1:1")
    token = tokens.KeyPair.generate("k1").sign(tokens.claims("1", iss=ISSUER, aud=AUDIENCE))
    headers = {"authorization": f"Bearer {token}"}

    problem = refused(require_jwt(parts.answering()), parts.exchange(runtime, headers=headers, of=new_service()))

    assert (type(problem), problem.code) == (ServiceUnavailable, "IDENTITY_UNAVAILABLE")


def test_the_identity_is_known_to_what_stands_behind(runtime: Runtime) -> None:
    def handler(exchange: Exchange) -> Answer:
        assert exchange.identity is not None
        return Answer(200, [("X-Seen", exchange.identity.user_id)], ())

    answer = require_jwt(handler)(parts.exchange(runtime, headers=bearer("42"), of=new_service()))

    assert answer.header("x-seen") == "42"


def test_a_handler_keeps_its_name_in_all_policies() -> None:
    def browse(exchange: Exchange) -> Answer:
        return Answer(200, [], ())

    for policy in (limited, limited("login"), sized, require_jwt, require_jwt(roles=("admin",))):
        assert getattr(policy(browse), "__name__", "") == "browse"
