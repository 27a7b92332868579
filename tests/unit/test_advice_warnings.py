"""Warnings of a services file: what works, but was hardly meant, and routes that nobody gets to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway import create_app
from gateway.advice.reach import samples
from gateway.matching import Condition, Conditions
from tests.unit import parts
from tests.unit.advised import of_things, read, warnings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("hash_by: address", "3:5: hash_by: means nothing without balance: hash or a split"),
        (
            "verbatim: true\n    encoded_slashes: true",
            "4:5: encoded_slashes: means nothing beside verbatim: true, with which any path passes",
        ),
        (
            "hedge: {}",
            "3:5: hedge: means nothing with one instance: the second try goes to another one",
        ),
        ("retries: 0\n    retry_on: [503]", "4:5: retry_on: means nothing with retries: 0"),
        ("retries: 0\n    retry_budget: 1", "4:5: retry_budget: means nothing with retries: 0"),
        ("load: off\n    priority: high", "4:5: priority: means nothing with load: off"),
        (
            "timeout_s: 1\n    connect_timeout_s: 2",
            "4:5: connect_timeout_s: is longer than a whole try may take: 1",
        ),
        ("limits: {login: 5/minute}", "3:14: limits.login: no route has limit: login"),
        (
            "prefixes: [/]",
            "3:16: prefixes.0: /, /health, /ready, /metrics, /services, /problems, /openapi are the "
            "gateway's own; pages: operations hides these",
        ),
        (
            "routes: [{path: /, redirect: {to: /things}}]",
            "3:35: routes.0.redirect.to: leads back to this route",
        ),
        (
            "routes: [{path: /, redirect: {to: /x}, cache: true}]",
            "3:44: routes.0.cache: means nothing beside redirect, with which the service is not asked",
        ),
        (
            "hosts: [a.example]\n    routes: [{path: /, hosts: [b.example]}, {path: /x}]",
            "4:14: routes.0: is",
        ),
    ],
    ids=lambda text: text[:40],
)
def test_what_works_but_was_hardly_meant_is_warned_of(entry: str, told: str) -> None:
    (warning,) = warnings(of_things(entry))

    assert warning.startswith(told)


@pytest.mark.parametrize(
    "entry",
    [
        "hash_by: address\n    balance: hash",
        "hash_by: address\n    split: [{service: others, percent: 1}]",
        "hash_by: address\n    routes: [{path: /, split: [{service: others, percent: 1}]}]",
        "retry_on: [503]",
        "connect_timeout_s: 2",
        "prefixes: [/others/deeper]",
        "limits: {default: 5/minute}",
        "routes: [{path: /, redirect: {to: /x}}]",
        "routes: [{path: /, hosts: [a.example], redirect: {to: /things}}]",
        "split: [{service: others@2, percent: 100}]",
    ],
    ids=lambda text: text[:40],
)
def test_what_was_meant_is_not_warned_of(entry: str) -> None:
    assert warnings(of_things(entry)) == []


@pytest.mark.parametrize(("prefix", "is_below"), [("/users/photos", True), ("/usersx", False), ("/photos", False)])
def test_a_prefix_below_one_whose_rules_are_in_code_is_warned_of(prefix: str, *, is_below: bool) -> None:
    text = f"services: {{users: {{url: http://u}}, things: {{prefixes: [{prefix}], url: http://t}}}}"

    words = f"takes {prefix} from users, whose rules are in gateway/blueprints/users.py"
    assert warnings(text) == ([f"1:56: prefixes.0: {words}"] if is_below else [])


def test_the_same_prefix_is_free_where_the_service_in_code_is_not_in_the_file() -> None:
    assert warnings(of_things("prefixes: [/users/photos]")) == []


def test_hedging_with_more_than_one_instance_is_not_warned_of() -> None:
    entries = ("instances: [http://a, http://b]", "url: dns:a:80", "url: registry")

    assert [warnings(f"services: {{a: {{hedge: {{}}, {entry}}}}}") for entry in entries] == [[], [], []]


def test_the_gateways_own_pages_hide_nothing_when_they_are_hidden() -> None:
    assert warnings("pages: operations\nservices: {a: {url: http://a, prefixes: [/, /docs, /api]}}") == []


def routed(*routes: str, more: str = "", others: str = "") -> str:
    """A file whose service `a` has these routes, from line 5 on, one a line."""
    lines = "".join(f"    - {{{route}}}\n" for route in routes)
    return f"services:\n  a:\n    url: http://a\n    routes:\n{lines}{more}  {others}\n"


def unreached(*routes: str, more: str = "", others: str = "") -> list[int]:
    """The positions of the routes that are said never to be asked."""
    told = warnings(routed(*routes, more=more, others=others))
    return [int(re.findall(r"routes\.(\d+): is never asked", line)[0]) for line in told if "never asked" in line]


@pytest.mark.parametrize(
    ("routes", "positions"),
    [
        # one takes the other's requests before it is asked
        (["path: /x", "path: /x, methods: [GET], headers: {A: '1'}", "path: /x, headers: {A: '*'}"], []),
        (["path: /x, headers: {A: '1'}", "path: /x, headers: {A: '*'}"], []),
        (["path: /x, headers: {A: '*'}", "path: /x, headers: {A: '1'}"], [1]),
        (["path: /x, headers: {A: '*'}", "path: /x, headers: {A: ~b+}"], [1]),
        (["path: /x, headers: {A: ~b+}", "path: /x, headers: {A: bbb}"], [1]),
        (["path: /x, headers: {A: ~b+}", "path: /x, headers: {A: abc}"], []),
        (["path: /x, headers: {A: ~b+}", "path: /x, headers: {A: ~b}"], []),  # not looked into
        (["path: /x, headers: {A: '!'}", "path: /x, headers: {A: '*'}"], []),
        (["path: /x, headers: {A: '*'}", "path: /x, headers: {A: '!'}"], []),
        (["path: /x, headers: {A: '*'}", "path: /x, query: {A: '1'}"], []),
        (["path: /x, query: {a: '*'}", "path: /x, query: {a: '1'}"], [1]),
        (["path: /x, query: {a: '*'}", "path: /x, query: {A: '1'}"], []),  # parameters are told apart by case
        (["path: /x, headers: {A: '*'}", "path: /x, headers: {a: '1'}"], [1]),  # fields are not
        (["path: /x, headers: {A: '*'}", "path: /x, headers: {A: '1'}, query: {b: '1'}"], []),  # more conditions
        (["path: /x, headers: {A: '*'}, methods: [GET]", "path: /x, headers: {A: '1'}"], []),
        (["path: /x, headers: {A: '*'}", "path: /x, headers: {A: '1'}, methods: [GET]"], []),  # a named method first
        (["path: /x, headers: {A: '*'}, methods: [PUT, GET]", "path: /x, headers: {A: '1'}, methods: [GET]"], [1]),
        (["path: /x, headers: {A: '*'}, methods: [PUT]", "path: /x, headers: {A: '1'}, methods: [GET]"], []),
        (["path: /x, headers: {A: '*'}, methods: [GET]", "path: /x, headers: {A: '1'}, methods: [HEAD]"], []),
        # hosts
        (["path: /x, hosts: ['*.example']", "path: /x, hosts: [a.example]"], []),  # the more telling host goes first
        (["path: /x, hosts: [a.example, b.example]", "path: /x, hosts: [a.example]"], [1]),
        (["path: /x, hosts: [a.example]", "path: /x, hosts: [a.example, b.example]"], []),
        (["path: /x, hosts: ['*.example', b.b]", "path: /x, hosts: ['*.a.example']"], []),
        (["path: /x, hosts: [a.example]", "path: /x, headers: {A: '1'}"], []),
        # templates
        (["path: /<path:all>", "path: /x", "path: /<id>"], []),
        (["path: /<path:all>", "path: /<a>/<path:rest>", "path: /"], [0]),
        (["path: /<path:all>", "path: /<a>/<path:rest>"], []),
        (["path: /<path:b>, methods: [GET]", "path: /<a>/<path:b>, methods: [GET]", "path: /, methods: [GET]"], [0]),
        (["path: /<path:all>", "path: /<a>/<path:rest>, methods: [GET]", "path: /"], []),
        (["path: /<path:all>", "path: /<a>/<path:rest>, headers: {A: '1'}", "path: /"], []),
        (["path: /<path:all>", "path: /", "path: /<a>", "path: /<a>/<b>"], []),
        (["path: /x/<path:all>", "path: /x/y/<path:rest>", "path: /x"], []),
        (["path: /<a>/<b>/c/<path:d>", "path: /<a>/<b>/c/<d>/<path:e>", "path: /<x>/<y>/c"], [0]),
    ],
    ids=str,
)  # fmt: skip
def test_a_route_that_is_never_asked_is_found(routes: list[str], positions: list[int]) -> None:
    assert unreached(*routes) == positions


def test_a_route_that_is_never_asked_is_told_with_those_that_are() -> None:
    told = warnings(routed("path: /<path:all>", "path: /<a>/<path:rest>", "path: /"))

    words = "routes.2 (/) and routes.1 (/<a>/<path:rest>) take all that it could"
    assert told == [f"5:7: services.a.routes.0: is never asked: {words}"]


def test_a_route_on_hosts_that_the_service_is_not_on_is_never_asked() -> None:
    routes = ["path: /x, hosts: [b.example]", "path: /x, hosts: [a.example]", "path: /x, hosts: ['*.example']"]

    assert unreached(*routes, more="    hosts: [a.example]\n") == [0]
    assert unreached(*routes, more="    hosts: ['*.example']\n") == []
    assert unreached(*routes, more="    hosts: [c.org]\n") == [0, 1, 2]


def test_conditions_that_hold_on_all_hosts_of_the_service_do_not_tell_routes_apart() -> None:
    routes = ["path: /x", "path: /x, hosts: [a.example]"]

    assert unreached(*routes, more="    hosts: [a.example]\n") == [0]
    assert unreached(*routes, more="    hosts: [a.example, b.example]\n") == []


@pytest.mark.parametrize(
    ("more", "others", "positions"),
    [
        ("", "b: {url: http://b, prefixes: [/a/x]}", [0, 1]),
        ("", "b: {url: http://b, prefixes: [/a/x/y]}", [1]),
        ("", "b: {url: http://b, prefixes: [/a/x/y/z]}", []),
        ("    prefixes: [/a, /c]\n", "b: {url: http://b, prefixes: [/a/x]}", []),  # still reachable as /c/x
        ("", "b: {url: http://b, prefixes: [/a/x], hosts: [b.example]}", []),  # on other hosts
        ("    hosts: [a.example]\n", "b: {url: http://b, prefixes: [/a/x]}", []),  # a.example is asked first
        ("    hosts: [b.example]\n", "b: {url: http://b, prefixes: [/a/x], hosts: [b.example]}", [0, 1]),
        (
            "",
            "b: {url: http://b, prefixes: [/a/x]}\n  c: {url: http://c}",
            [0, 1],
        ),
    ],
)
def test_routes_below_the_longer_prefix_of_another_service_are_never_asked(
    more: str, others: str, positions: list[int]
) -> None:
    routes = ["path: /x/<path:rest>", "path: /x/y, methods: [GET]", "path: /<id>", "path: /"]

    assert unreached(*routes, more=more, others=others) == positions


def test_a_service_that_nothing_reaches_is_told() -> None:
    told = warnings(routed("path: /x", "path: /x/y", others="b: {url: http://b, prefixes: [/a/x]}"))

    assert told[0] == "2:3: services.a: nothing reaches it: none of its routes is ever asked"


def test_a_face_that_another_service_has_for_a_prefix_is_told() -> None:
    entries = "  a: {url: http://a, prefixes: [/x, /shop]}\n  b: {url: http://b, prefixes: [/api/shop]}\n"
    text = f"pages: operations\nservices:\n{entries}"

    assert warnings(text) == ["3:37: services.a.prefixes.1: /api/shop leads to b, which has it for a prefix"]


def test_samples_of_a_template_have_none_to_many_segments_where_it_takes_the_rest() -> None:
    assert [len(sample) for sample in samples("/a/<b>/<path:rest>", 3)] == [2, 3, 4, 5, 6]
    assert list(samples("/a/b", 5)) == [["a", "b"]]


def test_the_shipped_files_have_neither_faults_nor_warnings() -> None:
    for path in ("gateway/services.yaml", "tests/e2e/services.yaml", "tests/unit/sample.yaml"):
        assert warnings((ROOT / path).read_text()) == [], path


def test_conditions_of_a_route_are_those_that_the_router_has() -> None:
    routes = read("services: {a: {url: http://h, routes: [{path: /, headers: {X-A: '1'}, query: {b: '*'}}]}}").routes

    assert routes["a"][0].conditions == Conditions(
        (), (Condition("header", "x-a", "1"),), (Condition("query", "b", "*"),)
    )


def test_warnings_do_not_keep_a_gateway_from_starting(tmp_path: Path) -> None:
    file = tmp_path / "services.yaml"
    file.write_text("services: {a: {url: http://a, hash_by: address}}")

    with parts.clean_environment():
        app = create_app(parts.settings(gateway_services=file))

    assert app.extensions["gateway"].table.configuration.warnings == (
        f"{file}:1:31: services.a.hash_by: means nothing without balance: hash or a split",
    )
