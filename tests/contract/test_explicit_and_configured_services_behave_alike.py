"""A service with a blueprint (products) and one that stands only in the file (students) look the same from outside."""

from __future__ import annotations

import gzip
import json

import pytest

from tests.integration.conftest import ADMIN, Gateway, assert_problem
from tests.support import wire

pytestmark = [
    pytest.mark.parametrize("service", ["products", "students"]),
    pytest.mark.parametrize("face", ["", "/api", "/api/v1"]),
]

ACCEPTED = [
    "",
    "/",
    "?",
    "?x=1",
    "/5",
    "/5/",
    "/5?",
    "/a%20b",
    "/%7euser",
    "/%7Euser",
    "/~user",
    "/caf%c3%a9",
    "/%C3%a9",
    "/%ff%FE",
    "/a;v=1,b",
    "/a:b@c!$&'()*+=",
    "/...",
    "/.well-known",
    "/a..b",
    "/a%25b%3fc%23d",
    "/*",
    "/5?x=1&x=2&&y=&=z",
    "/5??a=?b/../c",
    "/5?q=%2e%2e%2f%5c%23&p=%7e%c3%A9%0a",
    '/5?[x]={y}|^`"<z>\\',
]

REFUSED = [
    "/..",
    "/.",
    "/./5",
    "/5/..",
    "/5/../../users",
    "/../users/profile",
    "//../users",
    "/%2e%2e/users",
    "/.%2e/users",
    "/%2E",
    "/%252e%252e",
    "/%25252E%25252e",
    "/5%252f..%252f..%252fusers",
    "/%c0%ae%c0%ae/users",
    "/5%e0%80%af6",
    "/5%2ejson",
    "/..;/users",
    "/.;x=y/users",
    "/5%2f6",
    "/5%2F..%2F6",
    "/5%5c6",
    "/5\\..\\6",
    "/5%00",
    "/5%0a",
    "/5%0d%0aX-Injected:%201",
    "/5%1f",
    "/5%7f",
    "/5#fragment",
    "/5?x=1#fragment",
    "/5?x=%00",
]


@pytest.mark.parametrize("rest", ACCEPTED)
def test_accepted_target_reaches_the_service_byte_for_byte(
    gateway: Gateway, face: str, service: str, rest: str
) -> None:
    answer = gateway.get(f"{face}/{service}{rest}", ADMIN)

    (received,) = gateway.arrived
    assert answer.status == 200
    assert received.target == f"/{service}{rest}"


@pytest.mark.parametrize("rest", REFUSED)
def test_ambiguous_target_is_refused_before_the_service(gateway: Gateway, face: str, service: str, rest: str) -> None:
    answer = gateway.get(f"{face}/{service}{rest}", ADMIN)

    assert_problem(answer, 400, "UNSAFE_PATH")
    assert gateway.arrived == []


def test_absolute_form_is_sent_on_in_origin_form(gateway: Gateway, face: str, service: str) -> None:
    answer = gateway.get(f"http://127.0.0.1:{gateway.port}{face}/{service}/5?x=%7e", ADMIN)

    (received,) = gateway.arrived
    assert answer.status == 200
    assert received.target == f"/{service}/5?x=%7e"
    assert received.header("Host") == f"127.0.0.1:{gateway.stub.port}"


@pytest.mark.parametrize(
    ("method", "rest"), [("GET", "/5"), ("HEAD", "/5"), ("POST", ""), ("PUT", "/5"), ("PATCH", "/5"), ("DELETE", "/5")]
)
def test_every_method_of_an_administrator_is_forwarded(
    gateway: Gateway, face: str, service: str, method: str, rest: str
) -> None:
    answer = gateway.request(method, f"{face}/{service}{rest}", ADMIN)

    (received,) = gateway.arrived
    assert answer.status == 200
    assert (received.method, received.target) == (method, f"/{service}{rest}")


def test_post_body_and_media_type_arrive_unchanged(gateway: Gateway, face: str, service: str) -> None:
    body = bytes(range(256))

    gateway.request("POST", f"{face}/{service}", [*ADMIN, ("Content-Type", "Text/X-Odd; a=B")], body)

    (received,) = gateway.arrived
    assert received.body == body
    assert received.header("Content-Type") == "Text/X-Odd; a=B"
    assert received.header("Content-Length") == "256"
    assert received.all("Transfer-Encoding") == []


def test_hop_by_hop_and_spoofed_fields_never_arrive(gateway: Gateway, face: str, service: str) -> None:
    spoofed = [
        ("Connection", "keep-alive, X-Private"),
        ("X-Private", "1"),
        ("TE", "trailers"),
        ("Upgrade", "h2c"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("X-User-Id", "evil"),
        ("X_User_Roles", "admin"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Request-ID", "mine"),
    ]

    answer = gateway.get(f"{face}/{service}/5", [*ADMIN, *spoofed])

    (received,) = gateway.arrived
    names = {name.lower() for name, _ in received.headers}
    assert names.isdisjoint({"x-private", "te", "upgrade", "proxy-authorization", "connection", "x_user_roles"})
    assert received.header("X-User-Id") == "boss"
    assert received.header("X-User-Roles") == "admin"
    assert received.header("X-Forwarded-For") == "127.0.0.1"
    assert received.header("X-Request-ID") == answer.header("X-Request-ID") != "mine"


@pytest.mark.parametrize(
    ("behaviour", "status", "body"),
    [
        ("204", 204, b""),
        ("304", 304, b""),
        ("redirect", 302, b""),
        ("chunked", 200, b"first,second"),
        ("chunked-empty", 200, b""),
        ("trailers", 200, b"trailed"),
        ("no-length", 200, b"until the end"),
        ("early-hints", 200, b"hinted"),
        ("continue", 200, b"continued"),
        ("repeated", 200, b"repeated"),
        ("leave", 200, None),
    ],
)
def test_answer_of_any_framing_arrives_whole(
    gateway: Gateway, face: str, service: str, behaviour: str, status: int, body: bytes | None
) -> None:
    answer = gateway.get(f"{face}/{service}/{behaviour}", ADMIN)

    assert answer.status == status
    assert answer.is_complete
    assert answer.interim == []
    assert body is None or answer.body == body


@pytest.mark.parametrize(
    "behaviour", ["cut", "cut-head", "nothing", "reset", "garbage", "two-lengths", "length-and-chunked"]
)
def test_answer_that_nobody_may_trust_is_a_502(gateway: Gateway, face: str, service: str, behaviour: str) -> None:
    answer = gateway.get(f"{face}/{service}/{behaviour}", ADMIN)

    assert_problem(answer, 502, "BAD_ANSWER")


def test_repeated_fields_stay_apart(gateway: Gateway, face: str, service: str) -> None:
    answer = gateway.get(f"{face}/{service}/repeated", ADMIN)

    assert answer.all("Set-Cookie") == ["a=1; Path=/", "b=2; Expires=Wed, 01 Jan 2031 00:00:00 GMT"]
    assert answer.all("Link") == ["</1>; rel=prev", "</3>; rel=next"]


def test_hop_by_hop_fields_of_the_answer_stay_here(gateway: Gateway, face: str, service: str) -> None:
    answer = gateway.get(f"{face}/{service}/hop", ADMIN)

    names = {name.lower() for name, _ in answer.headers}
    assert answer.header("X-Public") == "for everybody"
    assert names.isdisjoint(
        {"x-secret", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "upgrade"}
    )
    assert answer.header("Connection") == "keep-alive"


def test_compressed_body_is_passed_on_as_it_is(gateway: Gateway, face: str, service: str) -> None:
    answer = gateway.get(f"{face}/{service}/gzip", [*ADMIN, ("Accept-Encoding", "gzip")])

    assert answer.header("Content-Encoding") == "gzip"
    assert answer.header("Content-Length") == str(len(answer.body))
    assert json.loads(gzip.decompress(answer.body)) == {"text": "packed " * 20}


def test_location_of_the_instance_is_made_relative(gateway: Gateway, face: str, service: str) -> None:
    answer = gateway.get(f"{face}/{service}/redirect", ADMIN)

    assert answer.header("Location") == "/echo?from=redirect"


def test_head_has_the_fields_of_get_and_no_body(gateway: Gateway, face: str, service: str) -> None:
    with gateway.connect() as connection:
        raw = wire.request_bytes("HEAD", f"{face}/{service}/repeated", ADMIN)
        answer = connection.exchange(raw)
        after = connection.exchange(wire.request_bytes("GET", f"{face}/{service}/repeated", ADMIN))

    assert (answer.status, answer.header("Content-Length")) == (200, "8")
    assert len(answer.all("Set-Cookie")) == 2
    assert after.body == b"repeated"


@pytest.mark.parametrize("behaviour", ["chunked", "no-length", "chunked-empty"])
def test_head_of_an_answer_without_length_claims_none(
    gateway: Gateway, face: str, service: str, behaviour: str
) -> None:
    answer = gateway.request("HEAD", f"{face}/{service}/{behaviour}", ADMIN)

    assert answer.status == 200
    assert answer.all("Content-Length") == []


def test_bad_token_is_refused_alike(gateway: Gateway, face: str, service: str) -> None:
    answer = gateway.request("POST", f"{face}/{service}", [("Authorization", "Bearer nonsense")])

    assert_problem(answer, 401, "INVALID_TOKEN")
    assert gateway.arrived == []


def test_too_large_a_body_is_refused_alike(gateway: Gateway, face: str, service: str) -> None:
    answer = gateway.request("POST", f"{face}/{service}", [*ADMIN, ("Content-Length", str((10 << 20) + 1))])

    assert_problem(answer, 413, "PAYLOAD_TOO_LARGE")
    assert gateway.arrived == []
