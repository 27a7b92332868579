"""What a service takes besides the usual, it alone gets: strict services beside it stay strict."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.integration.conftest import ADMIN, Gateway, GatewayFactory, assert_problem, no_fault_in, ready
from tests.support import wire
from tests.support.processes import wait_until
from tests.support.scripted import Peer, Scripted

SERVICES = """
services:
  site: {{url: "{url}", prefixes: [/], verbatim: true, buffered: false, public: true, limits: off}}
  named: {{url: "{url}", prefixes: [/], hosts: [named.example], path: /named, verbatim: true, public: true}}
  shop: {{url: "{url}", path: /}}
  raw: {{url: "{url}", path: /inner, verbatim: true, public: true}}
  slashes: {{url: "{url}", path: /, encoded_slashes: true, public: true}}
  passing: {{url: "{url}", path: /, buffered: false, public: true}}
  brief: {{url: "{url}", path: /, buffered: false, public: true, max_body: 1KB, breaker: {{failures: 1}}}}
"""
THINGS = """
services:
  things: {{instances: ["%s", "{url}"], path: /, buffered: false, public: true, breaker: off, ejection: off}}
"""
CHUNKED = ("Transfer-Encoding", "chunked")


@pytest.fixture(scope="module")
def started(start_gateway: GatewayFactory) -> Gateway:
    return start_gateway(services=SERVICES, WEB_CONCURRENCY="1")


@pytest.fixture
def gateway(started: Gateway) -> Generator[Gateway]:
    ready(started)
    with no_fault_in(started):
        yield started


STRICT = [
    ("GET", "/shop/%2e%2e/x", 400, "UNSAFE_PATH"),
    ("GET", "/shop/../x", 400, "UNSAFE_PATH"),
    ("GET", "/shop/..", 400, "UNSAFE_PATH"),
    ("GET", "/shop/a/..;/b", 400, "UNSAFE_PATH"),
    ("GET", "/shop/a%2fb", 400, "UNSAFE_PATH"),
    ("GET", "/shop/a%5Cb", 400, "UNSAFE_PATH"),
    ("GET", "/shop/a\\b", 400, "UNSAFE_PATH"),
    ("GET", "/shop/a#b", 400, "UNSAFE_PATH"),
    ("GET", "/shop/%00", 400, "UNSAFE_PATH"),
    ("GET", "/shop/x?a=%00", 400, "UNSAFE_PATH"),
    ("GET", "/%73hop/../x", 400, "UNSAFE_PATH"),
    ("GET", "/api/v1/shop/../x", 400, "UNSAFE_PATH"),
    ("GET", "http://elsewhere.example/shop/x", 400, "MALFORMED_HOST"),
    ("TRACE", "/shop/x", 501, "METHOD_NOT_IMPLEMENTED"),
    ("get", "/shop/x", 400, "MALFORMED_REQUEST"),
    ("GO", "/shop/x", 400, "MALFORMED_REQUEST"),
    ("M" * 21, "/shop/x", 400, "MALFORMED_REQUEST"),
    ("A#B", "/shop/x", 400, "MALFORMED_REQUEST"),
    # and so do the gateway's own pages
    ("TRACE", "/health", 501, "METHOD_NOT_IMPLEMENTED"),
    ("get", "/health", 400, "MALFORMED_REQUEST"),
    ("get", "/metrics", 400, "MALFORMED_REQUEST"),
    ("post", "/problems", 400, "MALFORMED_REQUEST"),
    ("GET", "/problems/%2e%2e", 400, "UNSAFE_PATH"),
    ("GET", "http://elsewhere.example/health", 400, "MALFORMED_HOST"),
]


@pytest.mark.parametrize(("method", "target", "status", "code"), STRICT)
def test_strict_service_stays_strict_beside_one_that_takes_everything(
    gateway: Gateway, method: str, target: str, status: int, code: str
) -> None:
    answer = gateway.request(method, target, ADMIN)

    assert_problem(answer, status, code)
    assert gateway.arrived == []


def test_odd_method_ends_the_connection_as_anything_malformed_does(gateway: Gateway) -> None:
    answer = gateway.request("get", "/shop/x", ADMIN)

    assert answer.header("Connection") == "close"
    assert answer.closed


@pytest.mark.parametrize(
    "target",
    [
        "/x/../shop/1",
        "/./shop/1",
        "/%2e/shop/1",
        "/..;/shop/1",
        "/shop%2f1",
        "/shop%5c1",
        "/shop\\1",
        "/SHOP/../shop",
        "//shop/../1",
        "/api%2fv1/shop/1",
        "/api/v1/../v1/shop/1",
        "/health/..",
        "/%00/shop",
    ],
)
def test_path_that_only_looks_like_a_strict_services_goes_where_its_segments_lead(
    gateway: Gateway, target: str
) -> None:
    answer = gateway.get(target, ADMIN)

    (received,) = gateway.arrived
    assert answer.status == 200
    assert received.target == target
    assert received.all("X-Forwarded-For") == []  # shop would get one


@pytest.mark.parametrize(
    ("target", "arrives"), [("/raw/../x", "/inner/../x"), ("/raw/%2f?%00", "/inner/%2f?%00"), ("/raw", "/inner")]
)
def test_verbatim_service_may_have_a_prefix_of_its_own(gateway: Gateway, target: str, arrives: str) -> None:
    gateway.request("x", target)

    (received,) = gateway.arrived
    assert (received.method, received.target) == ("x", arrives)


def test_host_of_an_absolute_form_chooses_the_service(gateway: Gateway) -> None:
    gateway.get("http://named.example/x")

    (received,) = gateway.arrived
    assert received.target == "/named/x"


@pytest.mark.parametrize("rest", ["/a%2fb", "/%2F%5C%5c", "/a%2f", "/%2f", "/a%2fb/c%2fd?x=%2f", "/a%2f.b%2fc.."])
def test_encoded_slashes_pass_where_the_service_takes_them(gateway: Gateway, rest: str) -> None:
    answer = gateway.get(f"/slashes{rest}")

    (received,) = gateway.arrived
    assert answer.status == 200
    assert received.target == rest


@pytest.mark.parametrize(
    "rest",
    [
        "/..%2fetc",
        "/a%2f..%2fb",
        "/%252e%252e%2f",
        "/a%5c..%5cb",
        "/a%2f..",
        "/a%2f..;x",
        "/a%2f.%2fb",
        "/%2e%2e%2fa",
        "/a%2f%2e%2e",
        "/a%2f/../b",
        "/a%2fb\\c",
        "/a%2f%00",
        "/a%2f#",
        "/a%2fb?%00",
    ],
)
def test_nothing_else_passes_with_them(gateway: Gateway, rest: str) -> None:
    answer = gateway.get(f"/slashes{rest}")

    assert_problem(answer, 400, "UNSAFE_PATH")
    assert gateway.arrived == []


def test_encoded_slash_does_not_make_a_method_pass(gateway: Gateway) -> None:
    answer = gateway.request("TRACE", "/slashes/a%2fb")

    assert_problem(answer, 501, "METHOD_NOT_IMPLEMENTED")


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


@pytest.mark.parametrize("size", [0, 1, 1000, 200_000])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_unbuffered_body_arrives_in_the_framing_in_which_it_came(
    gateway: Gateway, size: int, *, is_chunked: bool
) -> None:
    body = b"x" * size
    fields = [CHUNKED] if is_chunked else [("Content-Length", str(size))]

    answer = gateway.request("POST", "/passing/x", fields, chunks(*([body] if body else [])) if is_chunked else body)

    (received,) = gateway.arrived
    assert answer.json()["length"] == size
    assert received.all("Transfer-Encoding") == (["chunked"] if is_chunked else [])
    assert received.all("Content-Length") == ([] if is_chunked else [str(size)])
    assert received.header("X-Request-ID") == answer.header("X-Request-ID")


def test_interim_answers_of_a_service_that_is_not_verbatim_are_skipped(gateway: Gateway) -> None:
    answer = gateway.get("/passing/early-hints")

    assert (answer.interim, answer.body) == ([], b"hinted")


def test_unbuffered_body_at_the_limit_passes(gateway: Gateway) -> None:
    answer = gateway.request("POST", "/brief/x", [CHUNKED], chunks(b"x" * 1000, b"x" * 24))

    assert answer.json()["length"] == 1024


def test_unbuffered_body_over_the_limit_is_refused_and_never_taken_for_a_whole_one(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        connection.send(wire.request_bytes("POST", "/brief/x", [CHUNKED]) + b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        wait_until(lambda: gateway.stub.open_connections > 0, "the beginning to arrive")
        connection.send(b"19\r\n" + b"x" * 25)
        answer = connection.answer(to="POST")

    assert_problem(answer, 413, "PAYLOAD_TOO_LARGE")
    wait_until(lambda: len(gateway.stub.malformed) == 1, "the service to notice")
    assert gateway.arrived == []
    assert gateway.get("/brief/x").status == 200  # the breaker knows whose fault it was


def test_announced_length_over_the_limit_does_not_touch_the_service(gateway: Gateway) -> None:
    answer = gateway.request("POST", "/brief/x", [("Content-Length", "1025")])

    assert_problem(answer, 413, "PAYLOAD_TOO_LARGE")
    assert gateway.arrived == gateway.stub.malformed == []


def test_body_that_streamed_is_not_sent_again(start_gateway: GatewayFactory) -> None:
    """Of two instances one takes the body and breaks off; PUT might be tried again, if its body were still there."""

    def act(peer: Peer) -> None:
        peer.request()  # and no answer

    with Scripted() as broken:
        broken.act = act
        gateway = start_gateway(services=THINGS % broken.url, WEB_CONCURRENCY="1")
        ready(gateway)

        answers = [gateway.request("PUT", "/things/x", [CHUNKED], chunks(b"body")) for _ in range(6)]

    assert sorted({answer.status for answer in answers}) == [200, 502]
    assert len(gateway.arrived) == [answer.status for answer in answers].count(200)
    assert {received.body for received in gateway.arrived} == {b"body"}


def test_body_that_streams_goes_to_another_instance_if_the_first_cannot_be_reached(
    start_gateway: GatewayFactory,
) -> None:
    services = THINGS % "http://127.0.0.1:{closed_port}"
    gateway = start_gateway(services=services, WEB_CONCURRENCY="1")
    ready(gateway)

    answers = [gateway.request("POST", "/things/x", [CHUNKED], chunks(b"body")) for _ in range(4)]

    assert {answer.status for answer in answers} == {200}
    assert [received.body for received in gateway.arrived] == [b"body"] * 4
