"""Routes of the services file over real sockets: who gets a request, what becomes of it, and by whom it is answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from typing import Any, cast

import pytest

from tests.integration.conftest import ADMIN, Gateway, GatewayFactory, assert_problem, bearer, no_fault_in, ready
from tests.support.stub import StubService
from tests.support.wire import Pairs, RawAnswer

SERVICES = """
services:
  users:
    url: {{url}}
    aliases: [user]
  shop:
    url: {{url}}
    path: /
    public: true
    limits:
      tight: 2/hour
    routes:
      - path: /open
      - path: /members
        public: false
      - path: /staff
        roles: [teacher, admin]
      - path: /staff/any
        roles: []
      - path: /beta
      - path: /beta
        headers:
          X-Beta: "1"
        rewrite:
          path: /beta/new
      - path: /search
      - path: /search
        query:
          v: ~2|two
        rewrite:
          path: /search/v2
      - path: /front
      - path: /front
        hosts: ["*.shop.example"]
        rewrite:
          path: /front/any
      - path: /front
        hosts: [www.shop.example]
        rewrite:
          path: /front/www
      - path: /item/<id>/of/<path:rest>
        rewrite:
          path: /things/<id>/<path:rest>
      - path: /old/<path:rest>
        rewrite:
          strip_prefix: /old
          add_prefix: /new
      - path: /named
        rewrite:
          host: inner.example:81
      - path: /gone/<id>
        redirect:
          to: /shop/item/<id>
      - path: /moved/<path:rest>
        redirect:
          to: https://elsewhere.example/<path:rest>?from=shop
          status: 302
      - path: /hidden/<path:rest>
        roles: [admin]
        redirect:
          to: /shop/<path:rest>
      - path: /changed/<path:rest>
        request_headers:
          set:
            X-Team: shop
          add:
            X-Also: "2"
          remove: [X-Debug]
        response_headers:
          set:
            X-Served-By: shop
          add:
            Link: </4>; rel=last
          remove: [X-Public]
      - path: /brisk/<path:rest>
        timeout_s: 0.3
      - path: /small
        methods: [POST]
        max_body: 10B
      - path: /large
        methods: [POST]
        max_body: off
      - path: /counted
        limit: tight
      - path: /kept/<path:rest>
        cache: true
      - path: /methods
        methods: [GET, PURGE]
      - path: /methods
        methods: [POST]
        rewrite:
          path: /methods/posted
  brief:
    url: {{url}}
    path: /
    public: true
    timeout_s: 0.3
    max_body: 10B
    routes:
      - path: /long/<path:rest>
        timeout_s: 5
        max_body: 1KB
      - path: /<path:rest>
  stable:
    url: {{url}}
    path: /
    public: true
    hash_by: header:X-Client
    cache: true
    split:
      - service: canary
        percent: 30
    routes:
      - path: /<path:rest>
      - path: /all/<path:rest>
        split:
          - service: canary
            percent: 100
      - path: /none/<path:rest>
        split: []
      - path: /rewritten/<id>
        rewrite:
          path: /as/<id>
  mine:
    url: {{url}}
    path: /own
    split:
      - service: canary
        percent: 50
  canary:
    url: {canary}
    path: /next
    public: true
  versioned:
    url: {{url}}
    path: /
    public: true
    versions:
      2:
        url: {canary}
        path: /second
      3:
        url: {canary}
    split:
      - service: versioned@2
        percent: 50
  west:
    url: {{url}}
    prefixes: [/where]
    path: /west
    public: true
    hosts: [west.example]
  east:
    url: {{url}}
    prefixes: [/where]
    path: /east
    public: true
    hosts: ["*.east.example", east.example]
  anywhere:
    url: {{url}}
    prefixes: [/where, /there/and/back]
    path: /any
    public: true
"""


USERS = "services:\n  users:\n    url: {url}\n    aliases: [user]\n"


class Pair:
    """A gateway with one worker and its stub, and the stub to which splits and versions lead."""

    def __init__(self, gateway: Gateway, canary: StubService) -> None:
        self.gateway, self.canary = gateway, canary

    def get(self, target: str, *headers: tuple[str, str]) -> RawAnswer:
        return self.gateway.get(target, headers)

    def reached(self, target: str, *headers: tuple[str, str]) -> str:
        """What the service was asked for, after a GET that it answered with 200."""
        answer = self.get(target, *headers)
        assert answer.status == 200, answer.raw
        return str(answer.json()["target"])


@pytest.fixture(scope="module")
def started(start_gateway: GatewayFactory) -> Generator[Pair]:
    with StubService() as canary:
        gateway = start_gateway(services=SERVICES.format(canary=canary.url), WEB_CONCURRENCY="1")
        yield Pair(gateway, canary)


@pytest.fixture
def pair(started: Pair) -> Generator[Pair]:
    ready(started.gateway)
    started.canary.clear()
    with no_fault_in(started.gateway):
        yield started


@pytest.fixture
def gateway(pair: Pair) -> Gateway:
    return pair.gateway


TEACHER, CUSTOMER = bearer("t", ["teacher"]), bearer("c", ["customer"])


@pytest.mark.parametrize(
    ("path", "headers", "outcome"),
    [
        ("/shop/open", [], 200),
        ("/shop/members", [], "TOKEN_REQUIRED"),
        ("/shop/members", CUSTOMER, 200),
        ("/shop/staff", [], "TOKEN_REQUIRED"),
        ("/shop/staff", CUSTOMER, "ROLE_REQUIRED"),
        ("/shop/staff", TEACHER, 200),
        ("/shop/staff", ADMIN, 200),
        ("/shop/staff/any", [], "TOKEN_REQUIRED"),
        ("/shop/staff/any", CUSTOMER, 200),
        ("/shop/unknown", ADMIN, "ROUTE_NOT_FOUND"),
        ("/shop", ADMIN, "ROUTE_NOT_FOUND"),
    ],
)
@pytest.mark.parametrize("face", ["", "/api", "/api/v1"])
def test_each_route_says_who_may_come_in(
    gateway: Gateway, face: str, path: str, headers: Pairs, outcome: int | str
) -> None:
    answer = gateway.get(face + path, headers)

    seen = answer.status if answer.status == 200 else answer.json()["code"]
    assert seen == outcome
    assert len(gateway.arrived) == (outcome == 200)


@pytest.mark.parametrize(
    ("target", "headers", "reached"),
    [
        ("/shop/beta", [], "/beta"),
        ("/shop/beta", [("X-Beta", "1")], "/beta/new"),
        ("/shop/beta", [("x-beta", "1")], "/beta/new"),
        ("/shop/beta", [("X-Beta", "11")], "/beta"),
        ("/shop/beta?X-Beta=1", [], "/beta?X-Beta=1"),
        ("/shop/search?v=2", [], "/search/v2?v=2"),
        ("/shop/search?q=a&v=%74wo", [], "/search/v2?q=a&v=%74wo"),
        ("/shop/search?v=1&v=two", [], "/search/v2?v=1&v=two"),
        ("/shop/search?v=22", [], "/search?v=22"),
        ("/shop/search", [("v", "2")], "/search"),
        ("/shop/front", [], "/front"),
        ("/shop/front", [("Host", "www.shop.example")], "/front/www"),
        ("/shop/front", [("Host", "WWW.shop.EXAMPLE.:80")], "/front/www"),
        ("/shop/front", [("Host", "a.b.shop.example")], "/front/any"),
        ("/shop/front", [("Host", "shop.example")], "/front"),
    ],
)
def test_fields_parameters_and_hosts_tell_routes_apart(
    pair: Pair, target: str, headers: list[tuple[str, str]], reached: str
) -> None:
    assert pair.reached(target, *headers) == reached


@pytest.mark.parametrize(
    ("target", "reached"),
    [
        ("/shop/item/7/of/a/b", "/things/7/a/b"),
        ("/api/v1/shop/item/%20x%41/of/a%20/b;c=1?q=%41", "/things/%20x%41/a%20/b;c=1?q=%41"),
        ("/shop/item/7/of", "/things/7/"),
        ("/shop/item/7/of/a/", "/things/7/a/"),
        ("/shop/old/a/b?x", "/new/a/b?x"),
        ("/shop/%6fld/a", "/new/a"),
        ("/shop/old", "/new"),
    ],
)
def test_a_rewrite_changes_what_the_service_is_asked_for_and_keeps_what_the_caller_wrote(
    pair: Pair, target: str, reached: str
) -> None:
    assert pair.reached(target) == reached


def test_a_rewrite_may_change_the_host_that_the_service_is_told(gateway: Gateway) -> None:
    gateway.get("/shop/named")
    gateway.get("/shop/open")

    named, other = gateway.arrived
    assert named.header("Host") == "inner.example:81"
    assert other.header("Host") == f"127.0.0.1:{gateway.stub.port}"


@pytest.mark.parametrize(
    ("method", "target", "status", "location"),
    [
        ("GET", "/shop/gone/7", 308, "/shop/item/7"),
        ("POST", "/shop/gone/7?a=%41&b", 308, "/shop/item/7?a=%41&b"),
        ("GET", "/api/v1/shop/gone/%20x", 308, "/shop/item/%20x"),
        ("GET", "/shop/moved/a/b?mine=1", 302, "https://elsewhere.example/a/b?from=shop"),
        ("DELETE", "/shop/moved", 302, "https://elsewhere.example/?from=shop"),
    ],
)
def test_a_redirect_is_answered_without_the_service(
    gateway: Gateway, method: str, target: str, status: int, location: str
) -> None:
    answer = gateway.request(method, target, body=b"body" if method == "POST" else b"")

    assert (answer.status, answer.header("Location"), answer.body) == (status, location, b"")
    assert answer.header("Content-Length") == "0"
    assert gateway.arrived == []


def test_a_redirect_tells_nothing_to_those_who_may_not_come_in(gateway: Gateway) -> None:
    assert_problem(gateway.get("/shop/hidden/x"), 401, "TOKEN_REQUIRED")
    assert_problem(gateway.get("/shop/hidden/x", CUSTOMER), 403, "ROLE_REQUIRED")
    assert gateway.get("/shop/hidden/x", ADMIN).header("Location") == "/shop/x"


def test_a_route_changes_header_fields_in_both_directions(gateway: Gateway) -> None:
    answer = gateway.get("/shop/changed/hop", [("X-Team", "mine"), ("X-Debug", "1"), ("X-Also", "1")])
    gateway.get("/shop/open", [("X-Team", "mine"), ("X-Debug", "1")])

    changed, other = gateway.arrived
    assert changed.all("X-Team") == ["shop"]
    assert ", ".join(changed.all("X-Also")) == "1, 2"
    assert changed.all("X-Debug") == []
    assert (answer.all("X-Served-By"), answer.all("Link"), answer.all("X-Public")) == (["shop"], ["</4>; rel=last"], [])
    assert (other.all("X-Team"), other.all("X-Debug")) == (["mine"], ["1"])


def test_fields_are_changed_in_answers_of_any_status(gateway: Gateway) -> None:
    answer = gateway.get("/shop/changed/status/503")

    assert (answer.status, answer.header("X-Served-By")) == (503, "shop")


def test_a_route_may_have_a_shorter_or_a_longer_time_than_its_service(gateway: Gateway) -> None:
    assert_problem(gateway.get("/shop/brisk/slow/2"), 504, "SERVICE_TIMEOUT")
    assert_problem(gateway.get("/brief/slow/2"), 504, "SERVICE_TIMEOUT")
    assert gateway.get("/brief/long/slow/0.6").status == 200


@pytest.mark.parametrize(
    ("target", "size", "status"),
    [
        ("/shop/small", 10, 200),
        ("/shop/small", 11, 413),
        ("/shop/large", 100_000, 200),
        ("/brief/x", 11, 413),
        ("/brief/long/x", 1024, 200),
        ("/brief/long/x", 1025, 413),
    ],
)
def test_a_route_may_take_shorter_or_longer_bodies_than_its_service(
    gateway: Gateway, target: str, size: int, status: int
) -> None:
    answer = gateway.request("POST", target, body=b"x" * size)

    assert answer.status == status
    assert len(gateway.arrived) == (status == 200)


def test_a_limit_counts_for_the_routes_that_name_it(gateway: Gateway) -> None:
    seen = [gateway.get("/shop/counted").status for _ in range(3)]

    assert seen == [200, 200, 429]
    assert gateway.get("/shop/open").status == 200


def test_answers_are_kept_for_the_routes_that_say_so(gateway: Gateway) -> None:
    target = "cacheable?cc=max-age%3D60"
    kept = [gateway.get(f"/shop/kept/{target}").header("Cache-Status") for _ in range(2)]

    assert "fwd=miss; stored" in str(kept[0])
    assert "hit" in str(kept[1])
    assert len(gateway.arrived) == 1
    assert gateway.get("/shop/open").header("Cache-Status") is None


def test_routes_take_their_methods_and_the_others_are_told(gateway: Gateway) -> None:
    assert gateway.get("/shop/methods").json()["target"] == "/methods"
    assert gateway.request("PURGE", "/shop/methods").json()["method"] == "PURGE"
    assert gateway.request("POST", "/shop/methods").json()["target"] == "/methods/posted"
    refused = gateway.request("DELETE", "/shop/methods")
    assert_problem(refused, 405, "METHOD_NOT_ALLOWED")
    assert refused.header("Allow") == "GET, HEAD, OPTIONS, POST, PURGE"
    asked = gateway.request("OPTIONS", "/shop/methods")
    assert (asked.status, asked.header("Allow")) == (204, "GET, HEAD, OPTIONS, POST, PURGE")


def shares(pair: Pair, target: str, clients: int, rounds: int = 2) -> tuple[int, int]:
    """How many of `clients` the canary has, and how many were at both, each asking `rounds` times."""
    for number in range(clients * rounds):
        assert pair.get(target, ("X-Client", f"client-{number % clients}")).status == 200
    first = {request.header("X-Client") for request in pair.gateway.arrived}
    second = {request.header("X-Client") for request in pair.canary.requests}
    return len(second), len(first & second)


def test_a_split_gives_a_share_of_the_callers_to_another_service_and_each_stays_where_it_is(pair: Pair) -> None:
    moved, torn = shares(pair, "/stable/x", 300)

    # 90 are to be expected, with a standard deviation of 7.9; four of these are not by chance, and the names are fixed
    assert 58 <= moved <= 122
    assert torn == 0


def test_a_route_may_have_a_split_of_its_own(pair: Pair) -> None:
    assert shares(pair, "/stable/all/x", 10) == (10, 0)
    pair.canary.clear()
    assert shares(pair, "/stable/none/x", 10) == (0, 0)


def test_those_who_are_moved_ask_the_other_service_for_its_own_path(pair: Pair) -> None:
    for number in range(20):
        pair.get("/stable/a%20b/c?q=1", ("X-Client", f"client-{number}"))
        pair.get("/stable/rewritten/7", ("X-Client", f"client-{number}"))

    assert {request.target for request in pair.canary.requests} == {"/next/a%20b/c?q=1", "/as/7"}
    assert {request.target for request in pair.gateway.arrived} == {"/a%20b/c?q=1", "/as/7"}


def test_a_user_stays_where_it_is_whatever_address_or_connection_it_comes_from(pair: Pair) -> None:
    homes: dict[str, set[str]] = {}
    for number in range(60):
        user = f"user-{number % 20}"
        target = pair.reached("/mine/x", *bearer(user), ("X-Forwarded-For", f"192.0.2.{number}"))
        homes.setdefault(user, set()).add(target)

    assert all(len(home) == 1 for home in homes.values())
    assert Counter(next(iter(home)) for home in homes.values()).keys() == {"/own/x", "/next/x"}


def test_a_kept_answer_of_one_side_of_a_split_is_not_given_to_the_other_side(pair: Pair) -> None:
    target = "/stable/cacheable?cc=max-age%3D60&X-From="
    pair.gateway.stub.etag, pair.canary.etag = '"stable"', '"canary"'

    seen = [pair.get(target, ("X-Client", f"client-{number}")) for number in range(40)]

    assert {answer.header("ETag") for answer in seen} == {'"stable"', '"canary"'}
    assert (len(pair.gateway.arrived), len(pair.canary.requests)) == (1, 1)


@pytest.mark.parametrize(
    ("target", "host", "reached"),
    [
        ("/where/x", "west.example", "/west/x"),
        ("/api/v1/where/x", "WEST.example:8080", "/west/x"),
        ("/where/x", "east.example", "/east/x"),
        ("/where/x", "far.east.example", "/east/x"),
        ("/where/x", "other.example", "/any/x"),
        ("/there/and/back/x", "west.example", "/any/x"),
        ("/api/there/and/back", "h", "/any"),
    ],
)
def test_one_prefix_leads_to_several_services_by_the_host_that_is_named(
    pair: Pair, target: str, host: str, reached: str
) -> None:
    assert pair.reached(target, ("Host", host)) == reached


@pytest.mark.parametrize(
    ("target", "headers", "reached"),
    [
        ("/api/v2/versioned/x?q", [], "/second/x?q"),
        ("/versioned/x", [("API-Version", "2")], "/second/x"),
        ("/api/versioned/x", [("Accept-Version", "v2")], "/second/x"),
        ("/api/v2/versioned/x", [("API-Version", "2")], "/second/x"),
        ("/api/v3/versioned/x", [], "/x"),  # the path of the service, as this version says none
    ],
)
def test_a_version_in_the_path_or_in_a_field_leads_to_its_instances(
    pair: Pair, target: str, headers: list[tuple[str, str]], reached: str
) -> None:
    assert pair.reached(target, *headers) == reached
    assert len(pair.canary.requests) == 1
    assert pair.gateway.arrived == []


def test_a_version_keeps_the_share_that_its_service_gives_to_it(pair: Pair) -> None:
    callers = [("X-Forwarded-For", "192.0.2.1")]

    seen = Counter(pair.reached("/api/v2/versioned/x", *callers) for _ in range(5))

    assert seen == {"/second/x": 5}


@pytest.mark.parametrize(
    ("target", "headers", "status", "known"),
    [
        ("/api/v4/versioned/x", [], 404, "known: 1, 2, 3"),
        ("/versioned/x", [("API-Version", "4")], 400, "must be one of: 1, 2, 3"),
        ("/api/v2/versioned/x", [("API-Version", "3")], 400, "the path asks for 2"),
        ("/api/v2/shop/open", [], 404, "known: 1."),
        ("/shop/open", [("API-Version", "2")], 400, "must be one of: 1"),
        ("/api/v2/there/and/back", [], 404, "known: 1."),
    ],
)
def test_an_unknown_version_is_told_with_those_of_the_service(
    gateway: Gateway, target: str, headers: Pairs, status: int, known: str
) -> None:
    answer = gateway.get(target, headers)

    assert_problem(answer, status, "UNKNOWN_VERSION")
    assert known in str(answer.json()["detail"])
    assert gateway.arrived == []


def test_variables_override_and_add_services_with_several_addresses(start_gateway: GatewayFactory) -> None:
    with StubService() as one, StubService() as two:
        both = f"{one.url}, {two.url}/"
        gateway = start_gateway(
            services=f"{USERS}  known:\n    url: {{url}}\n    public: true\n",
            WEB_CONCURRENCY="1",
            KNOWN_SERVICE_URL=both,
            GRADE_BOOKS_SERVICE_URL=both,
        )

        known = [gateway.get("/known/x").status for _ in range(10)]
        added = [gateway.get("/grade-books/x", ADMIN).status for _ in range(10)]
        refused = gateway.get("/grade-books/x")

    assert (set(known), set(added)) == ({200}, {200})
    assert (len(one.requests), len(two.requests)) == (10, 10)
    assert gateway.arrived == []
    assert_problem(refused, 401, "TOKEN_REQUIRED")


def test_warnings_are_logged_once_when_the_gateway_starts(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(
        services=f"{USERS}  a:\n    url: {{url}}\n    hash_by: address\n",
        WEB_CONCURRENCY="2",
    )

    (line,) = gateway.events("services_file_warning")
    place = f"{gateway.services_file}:7:5: services.a.hash_by"
    assert cast("dict[str, Any]", line)["text"] == f"{place}: means nothing without balance: hash or a split"
    assert line["level"] == "warning"
