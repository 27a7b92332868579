"""Which fields of a caller's request arrive at a service, and which the gateway writes itself."""

from __future__ import annotations

import re

import pytest

from common.masking import truncated_address
from tests.integration.conftest import ADMIN, KEYS, Gateway, GatewayFactory, bearer, carrying, honest, ready
from tests.support import wire


@pytest.fixture(scope="module")
def behind_proxies(start_gateway: GatewayFactory) -> Gateway:
    """A gateway whose peers on loopback, and 10/8 behind them, are proxies of ours."""
    return start_gateway(TRUSTED_PROXIES="127.0.0.1, 10.0.0.0/8", WEB_CONCURRENCY="1")


@pytest.fixture
def proxied(behind_proxies: Gateway) -> Gateway:
    ready(behind_proxies)
    return behind_proxies


@pytest.mark.parametrize(
    "name",
    [
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "TE",
        "Trailer",
        "Upgrade",
        "X-User-Email",
        "X-User-Role",
        "x-USER-anything",
        "X-Real-IP",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X_User_Id",
        "X_Api_Key",
        "Content_Length",
        "X_Forwarded_For",
        "X-User_Roles",
        "Transfer_Encoding",
    ],
)
def test_field_that_is_not_the_callers_to_set_never_arrives(gateway: Gateway, name: str) -> None:
    answer = gateway.get("/open/x", [(name, "spoofed")])

    (received,) = gateway.arrived
    assert answer.status == 200
    assert "spoofed" not in [value for _, value in received.headers]


@pytest.mark.parametrize(
    "connection", ["X-Private", "close, x-private", "keep-alive,X-PRIVATE , x-other", "X-Private, , "]
)
def test_what_connection_names_stays_on_the_connection(gateway: Gateway, connection: str) -> None:
    gateway.get("/open/x", [("Connection", connection), ("X-Private", "1"), ("X-Public", "2")])

    (received,) = gateway.arrived
    assert received.all("X-Private") == []
    assert received.all("Connection") == []
    assert received.header("X-Public") == "2"


def test_connection_cannot_make_the_gateway_drop_what_it_writes_itself(gateway: Gateway) -> None:
    named = "X-Forwarded-For, X-User-Id, X-Request-ID, Via, Forwarded, X-User-Roles"

    gateway.get("/staff/x", [*ADMIN, ("Connection", named)])

    (received,) = gateway.arrived
    assert received.header("X-User-Id") == "boss"
    assert received.header("X-Forwarded-For") == "127.0.0.1"
    assert received.header("Via") == "1.1 gateway"


def test_service_sees_who_called_by_which_way(gateway: Gateway) -> None:
    spoofed = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "bank.example"),
        ("Forwarded", "for=203.0.113.9"),
        ("Via", "1.1 elsewhere"),
    ]

    gateway.get("/open/x", [("Host", "shop.example"), *spoofed])

    (received,) = gateway.arrived
    assert received.header("X-Forwarded-For") == "127.0.0.1"
    assert received.header("X-Forwarded-Proto") == "http"
    assert received.header("X-Forwarded-Host") == "shop.example"
    assert received.header("Forwarded") == 'for=127.0.0.1;proto=http;host="shop.example"'
    assert received.header("Via") == "1.1 gateway"


@pytest.mark.parametrize("given", [None, "mine", "x" * 200, "bad id\x01".replace("\x01", ";")])
def test_request_id_is_ours_and_the_same_for_caller_and_service(gateway: Gateway, given: str | None) -> None:
    answer = gateway.get("/open/x", [("X-Request-ID", given)] if given else [])

    request_id = answer.header("X-Request-ID") or ""
    assert re.fullmatch(r"req-[0-9a-f]{24}", request_id)
    assert gateway.arrived[0].header("X-Request-ID") == request_id


def test_ordinary_fields_arrive_as_they_are(gateway: Gateway) -> None:
    fields = [
        ("Accept", "text/html;q=0.9, */*"),
        ("Accept-Encoding", "br, gzip;q=0"),
        ("User-Agent", "tester/1 (x; y)"),
        ("Cookie", "a=b; c=d"),
        ("If-None-Match", 'W/"x", "y"'),
        ("Range", "bytes=0-1"),
        ("Authorization", "Basic eDp5"),
        ("X-Odd", "\xe9\x80 tab\tinside"),
        ("X-Empty", ""),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ]

    gateway.get("/open/x", fields)

    (received,) = gateway.arrived
    for name, value in fields:
        assert received.header(name) == value


def test_nothing_is_added_that_the_caller_did_not_say(gateway: Gateway) -> None:
    gateway.get("/open/x")

    (received,) = gateway.arrived
    assert {name.lower() for name, _ in received.headers} == {
        "host", "x-request-id", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "via",
        "x-request-timeout-ms",
    }  # fmt: skip


def test_repeated_fields_are_joined_in_their_order(gateway: Gateway) -> None:
    gateway.get(
        "/open/x", [("Accept-Language", "de"), ("X-List", "1"), ("Accept-Language", "en;q=0.5"), ("X-List", "2")]
    )

    (received,) = gateway.arrived
    assert [part.strip() for part in (received.header("Accept-Language") or "").split(",")] == ["de", "en;q=0.5"]
    assert [part.strip() for part in (received.header("X-List") or "").split(",")] == ["1", "2"]


def test_identity_is_told_for_a_valid_token_on_a_public_route_too(gateway: Gateway) -> None:
    gateway.get("/open/x", bearer("u7", ["customer", "beta"]))

    (received,) = gateway.arrived
    assert received.header("X-User-Id") == "u7"
    assert received.header("X-User-Name") == "u7"
    assert received.header("X-User-Roles") == "beta,customer"


@pytest.mark.parametrize("token", [[], [("Authorization", "Bearer nonsense")]])
def test_no_identity_is_told_without_a_valid_token(gateway: Gateway, token: list[tuple[str, str]]) -> None:
    gateway.get("/open/x", [*token, ("X-User-Id", "admin"), ("X-User-Roles", "admin")])

    (received,) = gateway.arrived
    assert [name for name, _ in received.headers if name.lower().startswith("x-user")] == []


ODD = ["Zoë", "x\r\nX-User-Roles: admin", "tab\there", "\x7f"]


@pytest.mark.parametrize("name", ODD)
def test_name_that_is_not_plain_text_is_left_out(gateway: Gateway, name: str) -> None:
    answer = gateway.get("/staff/x", carrying(KEYS.sign({**honest("u7", ["admin"]), "username": name})))

    (received,) = gateway.arrived
    assert answer.status == 200
    assert received.header("X-User-Id") == "u7"
    assert received.all("X-User-Name") == []
    assert received.header("X-User-Roles") == "admin"


@pytest.mark.parametrize("subject", ODD)
def test_subject_that_is_not_plain_text_is_nobody(gateway: Gateway, subject: str) -> None:
    answer = gateway.get("/staff/x", bearer(subject, ["admin"]))

    assert answer.status == 401
    assert gateway.arrived == []


@pytest.mark.parametrize(
    ("forwarded_for", "caller", "chain"),
    [
        (None, "127.0.0.1", "127.0.0.1"),
        ("203.0.113.9", "203.0.113.9", "203.0.113.9, 127.0.0.1"),
        ("198.51.100.1, 203.0.113.9", "203.0.113.9", "203.0.113.9, 127.0.0.1"),
        ("203.0.113.9, 10.1.2.3", "203.0.113.9", "203.0.113.9, 10.1.2.3, 127.0.0.1"),
        ("203.0.113.9, nonsense, 10.1.2.3", "10.1.2.3", "10.1.2.3, 127.0.0.1"),
        ("2001:db8::1", "2001:db8::1", "2001:db8::1, 127.0.0.1"),
        ("10.9.9.9, 10.1.2.3", "10.9.9.9", "10.9.9.9, 10.1.2.3, 127.0.0.1"),
    ],
)
def test_trusted_proxies_are_believed_as_far_as_they_go(
    proxied: Gateway, forwarded_for: str | None, caller: str, chain: str
) -> None:
    answer = proxied.get("/open/x", [("X-Forwarded-For", forwarded_for)] if forwarded_for else [])

    (received,) = proxied.arrived
    (line,) = [line for line in proxied.log_of(answer) if line["event"] == "request"]
    assert received.header("X-Forwarded-For") == chain
    assert line["caller"] == truncated_address(caller)


def test_trusted_proxy_says_scheme_host_and_way(proxied: Gateway) -> None:
    proxied.get(
        "/open/x",
        [
            ("X-Forwarded-For", "2001:db8::1"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "shop.example"),
            ("Via", "1.1 front"),
            ("X-Request-ID", "from-the-front.1"),
        ],
    )

    (received,) = proxied.arrived
    assert received.header("X-Forwarded-Proto") == "https"
    assert received.header("X-Forwarded-Host") == "shop.example"
    assert received.header("Forwarded") == 'for="[2001:db8::1]";proto=https;host="shop.example", for=127.0.0.1'
    assert received.header("Via") == "1.1 front, 1.1 gateway"
    assert received.header("X-Request-ID") == "from-the-front.1"


@pytest.mark.parametrize("request_id", ["a b", "x" * 129, "a;b", "<x>"])
def test_request_id_of_a_trusted_proxy_that_is_not_safe_to_log_is_replaced(proxied: Gateway, request_id: str) -> None:
    answer = proxied.get("/open/x", [("X-Request-ID", request_id)])

    assert (answer.header("X-Request-ID") or "").startswith("req-")


@pytest.mark.parametrize("name", ['evil.example";for=203.0.113.9;x="', "a b", "a, b", ""])
def test_malformed_forwarded_host_cannot_forge_the_forwarded_field(proxied: Gateway, name: str) -> None:
    proxied.get("/open/x", [("Host", "shop.example"), ("X-Forwarded-Host", name)])

    (received,) = proxied.arrived
    assert received.header("Forwarded") == 'for=127.0.0.1;proto=http;host="shop.example"'
    assert received.header("X-Forwarded-Host") == "shop.example"


def test_identity_fields_of_a_trusted_proxy_are_not_believed_either(proxied: Gateway) -> None:
    proxied.get("/open/x", [("X-User-Id", "admin"), ("X-User-Roles", "admin")])

    (received,) = proxied.arrived
    assert received.all("X-User-Id") == received.all("X-User-Roles") == []


def test_expect_is_answered_here_and_not_sent_on(gateway: Gateway) -> None:
    raw = wire.request_bytes("POST", "/open/x", [("Expect", "100-continue")], b"body")

    answer = wire.exchange(gateway.port, raw)

    assert answer.interim == [100]
    assert gateway.arrived[0].all("Expect") == []
    assert gateway.arrived[0].body == b"body"
