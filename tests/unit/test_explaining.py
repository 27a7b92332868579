"""What would become of a request, explained without sending it, and as it would in fact be."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import replace
from functools import wraps
from pathlib import Path

import pytest
from flask import Flask

from common.problems import ServiceUnavailable
from common.tokens import Identity
from deploy.local.valkey import Valkey
from gateway import create_app
from gateway.exchange import Answer, Exchange, Handler
from gateway.explaining import explain
from gateway.explanation import Explanation, from_dict
from gateway.policies.cached import cached
from gateway.policies.identity import require_jwt
from gateway.policies.layers import UNMARKED, layer, layers
from gateway.policies.limited import limited
from gateway.rehearsing import Rehearsal, rehearsal_of
from gateway.runtime import runtime_of
from gateway.telling import lines, verdict
from tests.support.ports import free_port
from tests.unit import parts

SERVICES = """services:
  users: {url: "http://127.0.0.1:1", limits: {login: 2/minute}}
  orders: {url: "http://127.0.0.1:1"}
  products: {url: "http://127.0.0.1:1", cache: true}
  shop:
    instances: ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    path: /
    limits:
      default: 5/minute
      few: 2/minute
    cache: true
    max_body: 1KB
    request_headers: {set: {X-Team: shop, X-Api-Key: secret}, remove: [X-Noise]}
    response_headers: {set: {X-Frame-Options: DENY}, remove: [X-Powered-By]}
    routes:
      - {path: "/", public: true}
      - {path: "/beta", headers: {X-Beta: "1"}, public: true}
      - {path: "/<id>", methods: [GET], roles: [buyer]}
      - path: "/<id>"
        methods: [PUT]
        limit: few
        rewrite: {path: "/items/<id>"}
      - {path: "/old/<id>", redirect: {to: "/shop/<id>"}, public: true}
  found: {instances: ["dns:found.internal:80", registry], public: true}
  lame: {instances: [registry], public: true, breaker: {fallback: {status: 200, body: "{}"}}}
  stale: {instances: [registry], public: true, cache: true, breaker: {fallback: {stale: true}}}
  copied: {url: "http://127.0.0.1:1", public: true, mirror: {service: other, percent: 5}}
  other: {url: "http://127.0.0.1:3", public: true, limits: off, max_body: off}
  some: {url: "http://127.0.0.1:4", public: true, split: [{service: other, percent: 100}]}
"""

U1 = Identity("u1", "alice", frozenset({"buyer"}), 4e9)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as server:
        yield server


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gateway") / "services.yaml"
    path.write_text(SERVICES)
    return path


@pytest.fixture(scope="module")
def app(file: Path, valkey: Valkey) -> Flask:
    with parts.clean_environment():
        return create_app(parts.settings(gateway_services=file, redis_url=valkey.url))


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    """A gateway with one service, which takes everything as it comes."""
    file = tmp_path_factory.mktemp("gateway") / "services.yaml"
    everything = '"http://127.0.0.1:1", prefixes: [/], public: true, verbatim: true, buffered: false'
    file.write_text(f"services: {{all: {{url: {everything}}}}}\n")
    with parts.clean_environment():
        return create_app(parts.settings(gateway_services=file))


def asked(
    app: Flask,
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    by: Identity | None = None,
    caller: str = parts.CALLER,
    body_bytes: int = 0,
    may_look: bool = True,
) -> Explanation:
    settings = runtime_of(app).settings
    pairs = tuple((headers or {}).items())
    rehearsal = rehearsal_of(method, url, pairs, settings, caller=caller, body_bytes=body_bytes, identity=by)
    return explain(app, rehearsal, may_look=may_look)


def places(explanation: Explanation, file: Path) -> dict[str, str]:
    """By part; of the services file the line alone."""
    return {step.part: step.place.replace(str(file), "file") for step in explanation.steps}


def test_a_request_that_passes_goes_through_every_part_in_order(app: Flask) -> None:
    found = asked(app, "GET", "/api/v1/shop/7?a=b", by=U1)

    assert [step.part for step in found.steps] == [
        "edge", "router", "changed", "limited", "sized", "require_jwt", "cached", "entrance", "backend",
    ]  # fmt: skip
    assert {step.outcome for step in found.steps} == {"passes"}
    assert (found.passes, found.route, found.service) == (True, "shop./<id>", "shop")


def test_each_step_of_a_configured_service_names_its_line(app: Flask, file: Path) -> None:
    found = places(asked(app, "GET", "/shop/7", by=U1), file)

    line = {text.strip().partition(":")[0]: number for number, text in enumerate(SERVICES.splitlines(), 1)}
    assert found == {
        "edge": "",
        "router": f"file:{SERVICES[: SERVICES.index('[GET], roles')].count(chr(10)) + 1}",
        "changed": f"file:{line['response_headers']}",
        "limited": f"file:{line['limits']}",
        "sized": f"file:{line['max_body']}",
        "require_jwt": f"file:{SERVICES[: SERVICES.index('[GET], roles')].count(chr(10)) + 1}",
        "cached": f"file:{line['cache']}",
        "entrance": "",
        "backend": f"file:{line['shop']}",
    }


def test_each_step_of_an_explicit_service_names_its_decorator(app: Flask, file: Path) -> None:
    found = places(asked(app, "GET", "/products"), file)

    root = Path(__file__).parents[2]
    for part in ("limited", "sized", "cached"):
        name, _, number = found[part].rpartition(":")
        assert (root / name).read_text().splitlines()[int(number) - 1] == f"@{part}"
        assert name == "gateway/blueprints/products.py"


@pytest.mark.parametrize(
    ("method", "url", "route", "lost"),
    [
        ("PUT", "/shop/7", "shop./<id>", ["shop./<id> (GET /shop/<id>): takes GET, not PUT"]),
        ("GET", "/shop/beta", "shop./<id>", ["shop./beta (* /shop/beta): header X-Beta is absent, wanted '1'"]),
        (
            "DELETE",
            "/shop/7",
            "",
            [
                "shop./<id> (GET /shop/<id>): takes GET, not DELETE",
                "shop./<id> (PUT /shop/<id>): takes PUT, not DELETE",
            ],
        ),
        ("GET", "/shop/", "shop./", []),
    ],
)
def test_the_candidates_that_lost_are_told_with_the_reason(
    app: Flask, method: str, url: str, route: str, lost: list[str]
) -> None:
    found = asked(app, method, url, by=U1)

    assert (found.route, list(found.passed_over)) == (route, lost)


def test_what_the_service_is_asked_for_is_rewritten_as_it_would_be(app: Flask) -> None:
    found = asked(app, "PUT", "/api/shop/7%20a?x=1", by=U1)

    assert (found.outgoing, found.instance) == ("/items/7%20a?x=1", "http://127.0.0.1:1")


def test_the_fields_that_the_service_is_sent_are_those_that_it_would_be_sent(app: Flask) -> None:
    found = dict(asked(app, "GET", "/shop/", {"X-Noise": "1", "X-User-Id": "forged", "X-Own": "2"}).outgoing_headers)

    assert (found["X-Team"], found["X-Own"], found["X-Forwarded-For"]) == ("shop", "2", parts.CALLER)
    assert not {"X-Noise", "X-User-Id"} & found.keys()


def test_credentials_are_shown_nowhere(app: Flask) -> None:
    headers = {"Authorization": "Bearer hidden", "Cookie": "a=hidden", "X-Api-Key": "hidden"}

    found = asked(app, "GET", "/other/", headers)

    text = json.dumps(found.to_dict()) + "\n".join(lines(found))
    assert "hidden" not in text
    assert text.count("(not shown)") == 4  # the key is not sent on


def test_an_explanation_survives_json(app: Flask) -> None:
    found = asked(app, "PUT", "/shop/7", by=U1)

    assert from_dict(json.loads(json.dumps(found.to_dict()))) == replace(found, outgoing_headers=found.shown_headers)


REFUSED = [
    ("GET", "/shop/../x", {}, 400, "UNSAFE_PATH", "edge"),
    ("GET", "/shop/%2e%2e/x", {}, 400, "UNSAFE_PATH", "edge"),
    ("GET", "/", {"Host": "a b"}, 400, "MALFORMED_HOST", "edge"),
    ("GET", "/shop/7", {}, 401, "TOKEN_REQUIRED", "require_jwt"),
    ("GET", "/services", {}, 401, "TOKEN_REQUIRED", "operators_only"),
    ("GET", "/shop/7", {"Authorization": "Basic x"}, 401, "INVALID_TOKEN", "require_jwt"),
    ("GET", "/nowhere", {}, 404, "SERVICE_NOT_FOUND", "router"),
    ("GET", "/config", {}, 404, "SERVICE_NOT_FOUND", "router"),
    ("POST", "/explain", {}, 404, "SERVICE_NOT_FOUND", "router"),
    ("GET", "/api/v7/shop", {}, 404, "UNKNOWN_VERSION", "router"),
    ("GET", "/shop/", {"API-Version": "7"}, 400, "UNKNOWN_VERSION", "router"),
    ("GET", "/shop/a/b/c", {}, 404, "ROUTE_NOT_FOUND", "router"),
    ("DELETE", "/shop/7", {}, 405, "METHOD_NOT_ALLOWED", "router"),
    ("DELETE", "/health", {}, 405, "METHOD_NOT_ALLOWED", "page"),
    ("GET", "/found/x", {}, 503, "NO_INSTANCE", "backend"),
    ("GET", "/other/", {"X-Request-Timeout-Ms": "0"}, 504, "DEADLINE_EXCEEDED", "backend"),
    ("CONNECT", "/shop/", {}, 501, "METHOD_NOT_IMPLEMENTED", "edge"),
    ("TRACE", "/products/", {}, 501, "METHOD_NOT_IMPLEMENTED", "edge"),
]


@pytest.mark.parametrize(("method", "url", "headers", "status", "code", "part"), REFUSED)
def test_what_is_said_is_what_would_happen(
    app: Flask, method: str, url: str, headers: Mapping[str, str], status: int, code: str, part: str
) -> None:
    found = asked(app, method, url, headers)

    told = app.test_client(use_cookies=False).open(url, method=method, headers=headers)
    assert (found.status, found.code, found.decided_by) == (status, code, part)
    assert (told.status_code, (told.get_json() or {}).get("code")) == (status, code)


@pytest.mark.parametrize(
    ("method", "url", "headers", "status", "code"),
    [
        ("GET", "/" + "x" * 9000, {}, 414, "URI_TOO_LONG"),
        ("GET", "/", {"X-Long": "x" * 20_000}, 431, "HEADERS_TOO_LARGE"),
        ("GET", "/", {f"X-{n}": "" for n in range(101)}, 431, "HEADERS_TOO_LARGE"),
        ("GET", "/", {"Expect": "a miracle"}, 417, "EXPECTATION_FAILED"),
        ("POST", "/", {"Transfer-Encoding": "gzip"}, 400, "MALFORMED_REQUEST"),
        ("POST", "/", {"Content-Length": "a"}, 400, "MALFORMED_REQUEST"),
        ("GET", "/a b", {}, 400, "MALFORMED_REQUEST"),
        ("GET", "/", {"X-Two\r\nX-Lines": ""}, 400, "MALFORMED_REQUEST"),
        ("GET /x HTTP/1.1\r\nHost: h\r\n\r\nGET", "/", {}, 400, "MALFORMED_REQUEST"),
    ],
)  # fmt: skip
def test_what_the_parser_would_refuse_is_told_too(
    app: Flask, method: str, url: str, headers: Mapping[str, str], status: int, code: str
) -> None:
    found = asked(app, method, url, headers)

    assert (found.status, found.code, found.decided_by) == (status, code, "parser")


def test_an_unusual_method_is_for_the_edge_to_refuse(app: Flask, lenient: Flask) -> None:
    strict, any_method = asked(app, "purge", "/shop/"), asked(lenient, "purge", "/shop/", may_look=False)

    assert (strict.status, strict.code, strict.decided_by) == (400, "MALFORMED_REQUEST", "edge")
    assert any_method.passes


def test_a_page_takes_nothing_that_only_a_lenient_service_takes(lenient: Flask) -> None:
    found = [asked(lenient, "GET", url, may_look=False) for url in ("/health?a=%00", "/other?a=%00")]

    told = lenient.test_client(use_cookies=False).get("/health?a=%00")
    assert [(each.status, each.code, each.decided_by) for each in found] == [(400, "UNSAFE_PATH", "page"), (0, "", "")]
    assert (told.status_code, (told.get_json() or {})["code"]) == (400, "UNSAFE_PATH")


def test_a_lacking_role_is_told(app: Flask) -> None:
    found = asked(app, "GET", "/shop/7", by=replace(U1, roles=frozenset({"seller"})))

    assert (found.status, found.code, found.way_out) == (
        403,
        "ROLE_REQUIRED",
        "Call as somebody who has the role named.",
    )


def test_a_body_that_would_be_too_long_is_told(app: Flask) -> None:
    found = asked(app, "POST", "/shop/", body_bytes=1025)

    assert (found.status, found.code, found.decided_by) == (413, "PAYLOAD_TOO_LARGE", "sized")


def test_nothing_behind_a_refusal_is_asked(app: Flask) -> None:
    found = asked(app, "GET", "/shop/7")

    assert found.steps[-1].part == "require_jwt"
    assert (found.outgoing, found.instance, found.outgoing_headers) == ("", "", ())


def test_a_redirect_is_an_answer(app: Flask) -> None:
    found = asked(app, "GET", "/shop/old/7?a=b")

    assert (found.status, found.location, found.decided_by) == (308, "/shop/7?a=b", "redirected")
    assert not found.passes


def test_options_are_answered_by_the_router(app: Flask) -> None:
    found = asked(app, "OPTIONS", "/products")

    assert (found.status, found.decided_by, found.code) == (204, "router", "")


def test_a_page_of_the_gateway_is_an_answer(app: Flask) -> None:
    found = asked(app, "GET", "/problems/not-found")

    assert (found.decided_by, found.steps[-1].words) == ("page", "pages.problem_type, a page of the gateway itself")
    assert found.steps[-1].place.startswith("gateway/blueprints/pages.py:")


def test_pages_of_the_operations_listener_are_found_by_its_port(app: Flask) -> None:
    port = runtime_of(app).settings.operations_port

    found = [asked(app, "GET", f"http://gateway:{port}{path}") for path in ("/services", "/config")]

    assert [(each.decided_by, each.status) for each in found] == [("page", 0), ("page", 0)]


def test_a_whole_url_names_the_host(app: Flask) -> None:
    found = asked(app, "GET", "HTTPS://shop.example:8443/other/x?y#z")

    assert dict(found.outgoing_headers)["X-Forwarded-Host"] == "shop.example:8443"
    assert found.outgoing == "/other/x?y"


def test_a_split_says_who_gets_the_caller(app: Flask) -> None:
    found = asked(app, "GET", "/some/x")

    assert (found.service, found.instance, found.outgoing) == ("other", "http://127.0.0.1:3", "/some/x")


def test_changes_of_the_answer_are_told_where_there_will_be_one(app: Flask) -> None:
    passing, refused = asked(app, "GET", "/shop/"), asked(app, "GET", "/shop/7")

    assert passing.response_headers.set == (("X-Frame-Options", "DENY"),)
    assert not refused.response_headers


def test_what_is_counted_is_told_and_explaining_counts_nothing(app: Flask) -> None:
    caller = "192.0.2.50"
    exchange = parts.exchange(runtime_of(app), of=runtime_of(app).table.services["shop"], caller=caller)
    limited(parts.answering())(exchange)

    words = [
        next(step.words for step in asked(app, "GET", "/shop/", caller=caller).steps if step.part == "limited")
        for _ in range(3)
    ]

    each_limit = (
        f"default: 5 per 1 minute for address {caller}, 1 so far; "
        "address: 1000 per 60 second, 1 so far; "
        "burst: 100 per 1 second, 1 so far; "
        "global: 1000000 per 60 second, "
    )
    assert [told.startswith(each_limit) for told in words] == [True] * 3


def test_a_limit_that_is_used_up_is_a_refusal_when_one_may_look(app: Flask) -> None:
    caller = "192.0.2.51"
    for _ in range(5):
        exchange = parts.exchange(runtime_of(app), of=runtime_of(app).table.services["shop"], caller=caller)
        limited(parts.answering())(exchange)

    found = [asked(app, "GET", "/shop/", caller=caller, may_look=may_look) for may_look in (True, False)]

    assert [(each.status, each.decided_by) for each in found] == [(429, "limited"), (0, "")]


def test_an_answer_that_is_kept_is_told_when_one_may_look(app: Flask) -> None:
    runtime, fresh = runtime_of(app), [("Cache-Control", "max-age=60")]
    exchange = parts.exchange(runtime, "GET", "/shop/?kept", of=runtime.table.services["shop"])
    cached(parts.answering(203, fresh))(exchange)

    found = [asked(app, "GET", "/shop/?kept", may_look=may_look) for may_look in (True, False)]

    assert [(each.status, each.decided_by) for each in found] == [(203, "cached"), (0, "")]


def test_that_nothing_is_kept_is_a_refusal_where_only_that_was_asked_for(app: Flask) -> None:
    wish = {"Cache-Control": "only-if-cached"}

    found = [asked(app, "GET", "/shop/?nothing", wish, may_look=may_look) for may_look in (True, False)]

    assert [(each.status, each.code) for each in found] == [(504, "NOT_CACHED"), (0, "")]


def test_an_open_breaker_is_told_with_the_states_of_all_instances(file: Path) -> None:
    with parts.clean_environment():
        app = create_app(parts.settings(gateway_services=file, breaker_failures=1))
    first, second = runtime_of(app).table.backends["shop"].instances
    for instance in (first, second):
        one_open = asked(app, "GET", "/shop/", may_look=False)
        assert instance.breaker is not None
        with pytest.raises(ZeroDivisionError), instance.breaker.calling():
            raise ZeroDivisionError

    both_open = asked(app, "GET", "/shop/", may_look=False)

    assert (one_open.passes, one_open.instance) == (True, second.url)
    assert one_open.instances == ((first.url, "well, breaker open"), (second.url, "well"))
    assert (both_open.status, both_open.code, both_open.decided_by) == (503, "CIRCUIT_OPEN", "backend")
    assert b'outcome="breaker_open"' not in runtime_of(app).metrics.page()


@pytest.mark.parametrize(
    ("method", "status", "decided_by"),
    [("GET", 200, "fallback"), ("HEAD", 200, "fallback"), ("POST", 503, "backend")],
)
def test_a_fallback_stands_in_for_get(app: Flask, method: str, status: int, decided_by: str) -> None:
    found = asked(app, method, "/lame/x")

    told = app.test_client(use_cookies=False).open("/lame/x", method=method)
    assert (found.status, found.decided_by) == (status, decided_by)
    assert told.status_code == status


def test_a_fallback_that_may_have_nothing_is_told_beside_the_refusal(app: Flask) -> None:
    found = asked(app, "GET", "/stale/x")

    assert (found.status, found.code, found.decided_by) == (503, "NO_INSTANCE", "backend")
    assert found.steps[-1].words == "a kept answer would stand in, if there is one"


def test_a_mirror_is_told(app: Flask) -> None:
    assert asked(app, "GET", "/copied/x").steps[-1].words == "5 % of such requests are copied to other"


def test_offline_nobody_is_at_the_entrance(app: Flask) -> None:
    found = asked(app, "GET", "/other/", may_look=False)

    assert [step.part for step in found.steps] == ["edge", "router", "backend"]


def test_offline_instances_that_are_to_be_found_are_taken_for_there(app: Flask) -> None:
    found = asked(app, "GET", "/found/x", may_look=False)

    assert (found.passes, found.instance) == (True, "")
    assert found.steps[-1].words == "GET /found/x to one of dns:found.internal:80, registry"


def test_verdicts_in_words(app: Flask) -> None:
    found = [asked(app, "GET", url) for url in ("/other/", "/shop/7", "/shop/old/1", "/health")]

    assert [verdict(each) for each in found] == [
        "passes, to other",
        "401 TOKEN_REQUIRED, refused by require_jwt",
        "308, answered by redirected",
        "answered by page",
    ]


def test_what_is_printed_can_give_no_orders_to_a_terminal(app: Flask) -> None:
    found = explain(app, Rehearsal("GET", "/\x1b[31mx", (("Host", "h"),)), may_look=False)

    assert "\x1b" not in "\n".join(lines(found))


def silent(handler: Handler) -> Handler:
    @wraps(handler)
    def checked(exchange: Exchange) -> Answer:
        raise ServiceUnavailable("closed")

    return checked


def test_a_policy_that_tells_nothing_about_itself_is_listed(app: Flask) -> None:
    handler = silent(limited(silent(require_jwt(parts.answering()))))

    found = list(layers(handler))

    exchange = parts.exchange(runtime_of(app), of=parts.service())
    assert [each.name for each in found] == ["silent", "limited", "silent", "require_jwt"]
    assert found[0].judge(exchange, False) == UNMARKED


def test_a_handler_without_policies_has_no_layers() -> None:
    assert list(layers(layer("inner", lambda _exchange, _may_look: "")(parts.answering()))) == []
