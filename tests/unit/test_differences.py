"""What two services files mean differently, whatever they look like."""

from __future__ import annotations

import pytest

from common.yaml_file import parse
from gateway.differences import differences, words_of
from gateway.services import Configuration, configuration_of
from tests.unit import parts

SHOP = """
services:
  shop:
    instances: ["http://a:1", "http://b:1"]
    prefixes: [/shop, /store]
    roles: [buyer, seller]
    limits: {login: 3/minute}
    routes:
      - {path: /x, methods: [GET, HEAD]}
      - {path: /x, methods: [POST], roles: [seller]}
      - {path: /y, headers: {X-A: "1"}, query: {beta: "*"}}
      - {path: /y, headers: {X-B: "1"}, query: {beta: "*"}}
  users: {url: "http://u:1"}
"""

SAME_IN_OTHER_WORDS = """
# the same, by somebody else
pages: public
services:
  users:
    instances: [{url: "http://u:1", weight: 1}]
    timeout_s: 30.0
    breaker: {failures: 5}
    retry_on: [504, 503, 502]
  shop:
    limits:
      login: 3 per 1 minute
    roles: &both [seller, buyer]
    prefixes:
      - /store
      - /shop
    instances:
      - http://b:1
      - http://a:1
    routes:
      - {path: /x, methods: [POST], roles: [seller]}
      - {path: /x, methods: [HEAD, GET], roles: *both}
      - {path: /y, query: {beta: "*"}, headers: {X-A: "1"}}
      - {path: /y, query: {beta: "*"}, headers: {X-B: "1"}}
"""


def configuration(text: str) -> Configuration:
    return configuration_of(parse(text, "services.yaml"), parts.settings(), {})


def told(before: str, after: str) -> list[str]:
    return [str(each) for each in differences(configuration(before), configuration(after))]


def test_order_comments_anchors_and_spelled_out_defaults_make_no_difference() -> None:
    assert told(SHOP, SAME_IN_OTHER_WORDS) == []


@pytest.mark.parametrize("key", ["headers", "query"])
def test_the_order_of_a_routes_conditions_makes_no_difference(key: str) -> None:
    one, other = (
        SHOP.replace("    routes:", f"    routes:\n      - {{path: /v, {key}: {{{conditions}}}}}")
        for conditions in ("a: '1', b: '2'", "b: '2', a: '1'")
    )

    assert told(one, other) == []


def test_a_configuration_does_not_differ_from_itself() -> None:
    assert told(SHOP, SHOP) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("services:\n", "pages: operations\nservices:\n", ["file: pages: public -> operations"]),
        ('url: "http://u:1"', 'url: "http://u:2"', ["users: sources: http://u:1 -> http://u:2"]),
        ('"http://u:1"}', '"http://u:1", path: /}', ['users: path: none -> ""']),
        (
            '"http://b:1"]',
            "{url: 'http://b:1', weight: 2}]",
            ["shop: sources: http://a:1, http://b:1 -> http://a:1, http://b:1 (weight 2)"],
        ),
        ('"http://b:1"]', "registry]", ["shop: sources: http://a:1, http://b:1 -> http://a:1, registry"]),
        ('"http://b:1"]', "'dns:b:1']", ["shop: sources: http://a:1, http://b:1 -> dns:b:1, http://a:1"]),
        ("[/shop, /store]", "[/shop]", ["shop: prefixes: /shop, /store -> /shop"]),
        ("login: 3/minute", "login: 4/minute", ["shop: limits.login: 3 per 1 minute -> 4 per 1 minute"]),
        (
            "limits: {login: 3/minute}",
            "limits: {login: 3/minute, other: 1/second}",
            ["shop: limits.other: none -> 1 per 1 second"],
        ),
        (
            "roles: [buyer, seller]",
            "public: true",
            ["shop: is_public: false -> true", "shop: roles: buyer, seller -> none"],
        ),
        (
            '"http://u:1"}',
            '"http://u:1", timeout_s: 5}',
            ["users: timeout_s: 30 -> 5", "users: try_timeout_s: 30 -> 5"],
        ),
        ('"http://u:1"}', '"http://u:1", timeout_s: 30, try_timeout_s: 2.5}', ["users: try_timeout_s: 30 -> 2.5"]),
        ('"http://u:1"}', '"http://u:1", max_body: off}', ["users: max_body_bytes: 10485760 -> none"]),
        (
            '"http://u:1"}',
            '"http://u:1", breaker: off}',
            ["users: breaker.failures: 5 -> none", "users: breaker.recovery_s: 10 -> none"],
        ),
        (
            '"http://u:1"}',
            '"http://u:1", mirror: {service: shop, percent: 5}}',
            ["users: mirror.service: none -> shop", "users: mirror.percent: none -> 5"],
        ),
        ('"http://u:1"}', '"http://u:1", split: [{service: shop, percent: 5}]}', ["users: split: none -> 5% to shop"]),
        (
            '"http://u:1"}',
            '"http://u:1", response_headers: {set: {X-A: b}, remove: [X-C]}}',
            ["users: response_headers.set.X-A: none -> b", "users: response_headers.remove: none -> X-C"],
        ),
        ('  users: {url: "http://u:1"}\n', "", ["users: removed"]),
        ("  users:", '  carts: {url: "http://c:1"}\n  users:', ["carts: added"]),
        ('"http://u:1"}', '"http://u:1", versions: {2: {url: "http://u:2"}}}', ["users@2: added"]),
        (
            "methods: [POST], roles: [seller]",
            "methods: [POST], roles: [buyer]",
            ["shop POST /x: roles: seller -> buyer"],
        ),
        ("methods: [POST], roles: [seller]", "methods: [POST]", ["shop POST /x: roles: seller -> buyer, seller"]),
        ("methods: [GET, HEAD]", "methods: [GET, HEAD], limit: login", ["shop GET,HEAD /x: limit: none -> login"]),
        (
            "methods: [GET, HEAD]",
            "methods: [GET, HEAD], redirect: {to: /z}",
            ["shop GET,HEAD /x: redirect.status: none -> 308", "shop GET,HEAD /x: redirect.to: none -> /z"],
        ),
        (
            "methods: [GET, HEAD]",
            "methods: [GET, HEAD], rewrite: {path: /z}",
            [
                "shop GET,HEAD /x: rewrite.template: none -> /z",
                'shop GET,HEAD /x: rewrite.strip: none -> ""',
                'shop GET,HEAD /x: rewrite.put: none -> ""',
            ],
        ),
        ("methods: [GET, HEAD]", "methods: [GET]", ["shop GET,HEAD /x: removed", "shop GET /x: added"]),
        (
            '{X-A: "1"}',
            '{X-A: "2"}',
            ["shop * /y if header x-a=1 if query beta=*: removed", "shop * /y if header x-a=2 if query beta=*: added"],
        ),
    ],
)
def test_each_change_is_told_by_service_and_value(old: str, new: str, expected: list[str]) -> None:
    assert SHOP.count(old) == 1

    assert sorted(told(SHOP, SHOP.replace(old, new))) == sorted(expected)


def test_what_a_route_has_from_its_service_is_told_once() -> None:
    assert told(SHOP, SHOP.replace("roles: [buyer, seller]", "roles: [buyer]")) == [
        "shop: roles: buyer, seller -> buyer"
    ]


def test_a_route_that_stays_as_it_is_while_its_service_changes_is_not_told() -> None:
    own = SHOP.replace("methods: [GET, HEAD]", "methods: [GET, HEAD], timeout_s: 5")
    both = own.replace("prefixes:", "timeout_s: 5\n    prefixes:")

    assert told(own, both) == ["shop: timeout_s: 30 -> 5", "shop: try_timeout_s: 30 -> 5"]


def test_the_order_of_routes_counts_where_it_decides_who_is_asked_first() -> None:
    swapped = SHOP.replace("X-A", "?").replace("X-B", "X-A").replace("?", "X-B")

    assert told(SHOP, swapped) == [
        "shop: first of * /y if header x-a=1 if query beta=* and * /y if header x-b=1 if query beta=*: "
        "* /y if header x-a=1 if query beta=* -> * /y if header x-b=1 if query beta=*"
    ]


def test_the_order_of_routes_that_differ_in_precedence_counts_for_nothing() -> None:
    routes = ['      - {path: /v, headers: {X-A: "1"}}', "      - {path: /v}", "      - {path: /v, methods: [GET]}"]
    one, other = (SHOP.replace("    routes:", "\n".join(["    routes:", *order])) for order in (routes, routes[::-1]))

    assert told(one, other) == []


def test_the_order_is_told_beside_other_changes() -> None:
    swapped = SHOP.replace("X-A", "?").replace("X-B", "X-A").replace("?", "X-B")

    found = told(SHOP, swapped.replace("    routes:", "    routes:\n      - {path: /z}"))

    assert [line.partition(":")[0] for line in found] == ["shop * /z", "shop"]


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key", "X-Auth-Token", "Cookie"])
def test_values_that_may_be_credentials_are_compared_but_not_shown(name: str) -> None:
    before = SHOP.replace('"http://u:1"}', f'"http://u:1", request_headers: {{set: {{{name}: one}}}}}}')
    after = before.replace("one", "two")

    assert told(before, after) == [f"users: request_headers.set.{name}: (not shown) -> (not shown)"]
    assert told(SHOP, before) == [f"users: request_headers.set.{name}: none -> (not shown)"]


def test_a_limit_is_no_credential_whatever_its_name() -> None:
    before = SHOP.replace("login:", "token:")

    assert told(before, before.replace("3/", "4/")) == ["shop: limits.token: 3 per 1 minute -> 4 per 1 minute"]


def test_conditions_in_words_keep_credentials_to_themselves() -> None:
    guarded = SHOP.replace("X-A:", "X-Api-Key:").replace("path: /x, methods: [POST]", "path: /x, hosts: [a.example]")
    routes = configuration(guarded).routes["shop"]

    assert [words_of(route.conditions) for route in routes] == [
        [],
        ["a.example"],
        ["header x-api-key=(not shown)", "query beta=*"],
        ["header x-b=1", "query beta=*"],
    ]


def test_a_long_text_is_cut() -> None:
    before = SHOP.replace(
        '"http://u:1"}', '"http://u:1", breaker: {fallback: {status: 200, body: "' + "x" * 500 + '"}}}'
    )

    assert f"users: fallback.body: none -> {'x' * 80}..." in told(SHOP, before)
