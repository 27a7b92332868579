"""Faults of a services file: told all at once, in words that help, each with its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway import EXPLICIT
from gateway.advice import allowed
from gateway.services_file import CODED
from tests.unit.advised import faults, of_things, read, warnings

ROOT = Path(__file__).resolve().parents[2]


def of_route(entry: str) -> str:
    """A file in which the route of `things` says this, besides `path: /<id>`, in line 5; the first column is 9."""
    return (
        "services:\n  things:\n    url: http://t\n    routes:\n      - "
        f"{entry}\n        path: /<id>\n    limits: {{login: 5/minute}}\n  others: {{url: http://o}}\n"
    )


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("cache: yess", "must be true or false (here: 'yess')"),
        ("cache: 'true'", "must be true or false (here: 'true')"),
        ("cache: 1", "must be true or false (here: 1)"),
        ("cache: [true]", "must be true or false (here: a list)"),
        ("cache: {a: 1}", "must be true or false (here: a mapping)"),
        ("cache:", "is empty; write what it is to be, or leave the key out"),
        ("retries: 9", "must be a whole number from 0 to 5 (here: 9)"),
        ("retries: 2.5", "must be a whole number from 0 to 5 (here: 2.5)"),
        ("retries: two", "must be a whole number from 0 to 5 (here: 'two')"),
        ("timeout_s: 0", "must be a number above 0, at most 3600 (here: 0)"),
        ("timeout_s: .nan", "must be a number above 0, at most 3600 (here: .nan)"),
        ("timeout_s: .inf", "must be a number above 0, at most 3600 (here: .inf)"),
        ("timeout_s: '5'", "must be a number above 0, at most 3600 (here: '5')"),
        ("host: 5", "must be text; put it in quotes (here: 5)"),
        ("host: off", "must be text; put it in quotes (here: off)"),
        ("roles: admin", "must be a list (here: 'admin')"),
        ("limits: 5/minute", "must be a mapping or off (here: '5/minute')"),
        ("limits:", "is empty; write off, or what it is to be"),
        ("max_body:", "is empty; write off, or what it is to be"),
        ("breaker: on", "must be a mapping with keys of failures, recovery_s, fallback or off (here: on)"),
        (
            "balance: roundrobin",
            "must be one of round-robin, least-requests, peak-ewma, hash; did you mean round-robin? "
            "(here: 'roundrobin')",
        ),
        ("priority: urgent", "must be one of high, normal, low (here: 'urgent')"),
        ("hash_by: header", "must be user, address, header:NAME or cookie:NAME (here: 'header')"),
        ("max_body: 10XB", "must be a size like 10MB, 512KB or 4096 (here: '10XB')"),
        ("prefixes: shop", "must be a list (here: 'shop')"),
        ("try_timeout_s: 31", "one try can't take longer than all, which is REQUEST_TIMEOUT: 30"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_what_could(entry: str, words: str) -> None:
    key = entry.partition(":")[0]

    assert faults(of_things(entry)) == [f"3:5: {key}: {words}"]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            "cach: true",
            "3:5: cach: unknown key; did you mean cache? allowed here: url, instances, path",
        ),
        ("zzz: true", "3:5: zzz: unknown key; allowed here: url, instances, path"),
        (
            "unhealthy_after: 3",
            "3:5: unhealthy_after: unknown key; did you mean services.NAME.health_check.unhealthy_after",
        ),
        (
            "breaker: {failure: 3}",
            "3:15: breaker.failure: unknown key; did you mean failures? allowed here: failures, recovery_s, fallback",
        ),
        (
            "breaker: {fallback: {stale: true, code: 200}}",
            "3:39: breaker.fallback.code: unknown key; allowed here: stale, status, content_type, body",
        ),
        (
            "mirror: {service: others, persent: 5}",
            "3:31: mirror.persent: unknown key; did you mean percent? allowed here: service, percent",
        ),
        (
            "instances: [{url: 'http://x', wieght: 5}]",
            "3:35: instances.0.wieght: unknown key; did you mean weight? allowed here: url, weight",
        ),
        (
            "versions: {2: {url: 'http://x', cache: true}}",
            "3:37: versions.2.cache: unknown key; did you mean services.NAME.cache or "
            "services.NAME.routes.cache? allowed here: url, instances, path",
        ),
    ],
)
def test_an_unknown_key_is_told_with_the_keys_of_its_place(entry: str, told: str) -> None:
    assert told in "\n".join(faults(of_things(entry)))


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("breaker: {failures: 0}", "3:15: breaker.failures: must be a whole number of 1 or more (here: 0)"),
        ("breaker: {fallback: {}}", "3:15: breaker.fallback: needs a status, or stale: true"),
        ("versions: {v2: {url: http://x}}", "3:16: versions.v2: must be a whole number from 2, like 2"),
        (
            "aliases: [A]",
            "3:15: aliases.0: must be a name of lower-case letters, digits and hyphens, like grade-books (here: 'A')",
        ),
    ],
)
def test_the_value_is_shown_where_it_is_the_fault_and_not_where_the_key_or_the_whole_is(entry: str, told: str) -> None:
    assert faults(of_things(entry)) == [told]


def test_what_is_known_is_listed_but_not_without_end() -> None:
    names = [f"s{number}" for number in range(51)]
    services = ", ".join(f"{name}: {{url: http://h}}" for name in names)

    alone = faults("services: {things: {url: http://h, mirror: {service: zzz}}}")
    few, many = (
        faults(f"services: {{things: {{url: http://h, mirror: {{service: zzz}}}}, {text}}}")
        for text in (services.partition(", s50")[0], services)
    )

    assert alone == ["1:45: mirror.service: there is no service zzz; known: none"]
    assert few[0].endswith("known: " + ", ".join(names[:50]))
    assert many[0].endswith("known: " + ", ".join(names[:50]) + ", ...")


def test_an_unknown_key_of_a_route_is_told_with_the_keys_of_routes() -> None:
    (told,) = faults(of_route("method: [GET]"))

    assert told.startswith("5:9: routes.0.method: unknown key; did you mean methods? allowed here: public,")
    assert "retries" not in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "services: {}\npage: public\n",
            "2:1: page: unknown key; did you mean pages? allowed here: pages, plans, services",
        ),
        ("services: {}\npages: privat\n", "2:1: pages: must be one of public, operations (here: 'privat')"),
        ("text\n", "1:1: the file: must be a mapping with keys of pages, plans, services (here: 'text')"),
        ("", "1:1: the file: is empty; must be a mapping with keys of pages, plans, services"),
        ("services: []\n", "1:1: services: must be a mapping (here: a list)"),
        (
            "services: {Shop: {url: http://h}}\n",
            "1:12: services.Shop: must be a name of lower-case letters, digits and",
        ),
        ("services: {docs: {url: http://h}}\n", "1:12: services.docs: the gateway itself uses the name docs; call the"),
        ("services: {a: }\n", "1:12: services.a: is empty; must be a mapping with keys of url, instances, path"),
        ("services: {a: {url: http://h, url: http://i}}\n", "1:31: the key 'url' stands twice, first in line 1"),
        ("services: {a: {}}\n", "1:12: services.a: needs either url or instances"),
    ],
)
def test_a_fault_of_the_whole_is_told(text: str, told: str) -> None:
    (fault,) = faults(text)

    assert fault.startswith(told)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            "split: [{service: others, percent: 60}, {service: others@2, percent: 40.5}]",
            "3:5: split: the shares are 100.5 % together, of 100",
        ),
        (
            "split: [{service: other, percent: 60}]",
            "3:14: split.0.service: there is no service other; did you mean others? known: others, others@2",
        ),
        (
            "split: [{service: others@3, percent: 60}]",
            "3:14: split.0.service: there is no service others@3; did you mean others@2 or others? known: others,",
        ),
        (
            "split: [{service: things, percent: 1}]",
            "3:14: split.0.service: things is this service itself",
        ),
        (
            "split: [{service: others, percent: 1}, {service: others, percent: 1}]",
            "3:5: split: others stands twice; add its shares up",
        ),
        (
            "split: [{service: x y, percent: 1}]",
            "3:14: split.0.service: must be a service like products, or a version of it like products@2 (here: 'x y')",
        ),
        ("split: [{service: others}]", "3:13: split.0.percent: is missing"),
        ("mirror: {service: things}", "3:14: mirror.service: things is this service itself"),
        (
            "mirror: {service: ohters}",
            "3:14: mirror.service: there is no service ohters; did you mean others? known: others, others@2",
        ),
        (
            "{public: true, roles: [admin]}".strip("{}").replace(", ", "\n    "),
            "4:5: roles: mean nothing beside public: true; leave one of both out",
        ),
        (
            "breaker: {fallback: {stale: true}}",
            "3:26: breaker.fallback.stale: wants cache: true, else there is no kept answer",
        ),
        ("breaker: {fallback: {}}", "3:15: breaker.fallback: needs a status, or stale: true"),
        (
            "breaker: {fallback: {status: 204, body: x}}",
            "3:15: breaker.fallback: has a body, which an answer with 204 can't have",
        ),
        (
            "ejection: {period_s: 600}",
            "3:16: ejection.period_s: the first time can't be longer than longest_s: 300",
        ),
        (
            "request_headers: {set: {X-A: a, x-a: b}}",
            "3:23: request_headers.set: x-a stands twice; case",
        ),
        (
            "response_headers: {remove: [X-A, x-a]}",
            "3:24: response_headers.remove: x-a stands twice; case",
        ),
        (
            "request_headers: {set: {Host: x}}",
            "3:29: request_headers.set.Host: Host can't be set or removed: use host, which says by what",
        ),
        (
            "versions: {1: {url: http://x}}",
            "3:16: versions.1: the service itself is version 1; further",
        ),
        ("versions: {v2: {url: http://x}}", "3:16: versions.v2: must be a whole number from 2, like 2"),
        ("versions: {2: {}}", "3:16: versions.2: needs either url or instances"),
        ("aliases: [others]", "3:15: aliases.0: others is the name of a service already"),
        (
            "aliases: [Things]",
            "3:15: aliases.0: must be a name of lower-case letters, digits and hyphens",
        ),
        (
            "prefixes: [/docs/x]",
            "3:16: prefixes.0: the gateway itself answers below /docs, unless pages:",
        ),
        (
            "prefixes: [/api/v1/shop]",
            "3:16: prefixes.0: every prefix is reachable below /api and /api/v1 anyway; write /shop",
        ),
        ("prefixes: [/x, /x/]", "3:5: prefixes: /x stands twice"),
        ("prefixes: [/x, /others]", "5:3: services.others: /others is claimed by things already"),
        ("hosts: [A.example, a.example.]", "3:5: hosts: a.example stands twice"),
        ("hosts: ['a b']", "3:13: hosts.0: must be a host like shop.example.org, *.example.org or"),
    ],
    ids=lambda text: text[:40],
)
def test_values_of_a_service_that_do_not_go_together_are_told(entry: str, told: str) -> None:
    (fault,) = faults(of_things(entry))

    assert fault.startswith(told)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            "limit: logn",
            "5:9: routes.0.limit: the service has no limit logn; did you mean login? known: ",
        ),
        (
            "rewrite: {path: /x/<idd>}",
            "5:19: routes.0.rewrite.path: the route's path has no <idd>; did you mean <id>? known: <id>",
        ),
        (
            "rewrite: {path: /x/<path:id>}",
            "5:19: routes.0.rewrite.path: the route's path has no <path:id>",
        ),
        ("rewrite: {path: /x/<id}", "5:19: routes.0.rewrite.path: '<id': a name is a whole segment"),
        ("rewrite: {path: /x, add_prefix: /y}", "5:9: routes.0.rewrite: has a path; strip_prefix and"),
        (
            "rewrite: {strip_prefix: /}",
            "5:19: routes.0.rewrite.strip_prefix: must be more than a slash",
        ),
        (
            "rewrite: {add_prefix: /<id>}",
            "5:19: routes.0.rewrite.add_prefix: must be a path without names",
        ),
        ("rewrite: {}", "5:9: routes.0.rewrite: needs path, strip_prefix, add_prefix or host"),
        (
            "redirect: {to: /x/<ix>}",
            "5:20: routes.0.redirect.to: the route's path has no <ix>; did you",
        ),
        (
            "redirect: {to: /x?id=<no>}",
            "5:20: routes.0.redirect.to: the route's path has no <no>; known:",
        ),
        ("redirect: {to: x}", "5:20: routes.0.redirect.to: must be a path like /v2/<id> or an address"),
        (
            "redirect: {to: /x, status: 300}",
            "5:28: routes.0.redirect.status: must be one of 301, 302, 303, 307, 308 (here: 300)",
        ),
        ("redirect: {status: 301}", "5:9: routes.0.redirect.to: is missing"),
        (
            "methods: [get]",
            "5:19: routes.0.methods.0: methods are told apart by case; did you mean GET?",
        ),
        ("methods: [GET, GET]", "5:24: routes.0.methods.1: GET stands twice"),
        ("methods: []", "5:9: routes.0.methods: must be a list that is not empty (here: a list)"),
        (
            "methods: ['G T']",
            "5:19: routes.0.methods.0: must be a method like GET, or * for any (here:",
        ),
        ("headers: {X-A: '1', x-a: '2'}", "5:9: routes.0.headers: x-a stands twice; case makes no"),
        ("headers: {'X A': '1'}", "5:19: routes.0.headers.X A: must name a header field or a query"),
        (
            "query: {a: ~(}",
            "5:17: routes.0.query.a: must have a regular expression behind ~: missing ),",
        ),
        (
            "mirror: {service: zzz}",
            "5:18: routes.0.mirror.service: there is no service zzz; known:",
        ),
        (
            "split: [{service: things, percent: 1}]",
            "5:18: routes.0.split.0.service: things is this service",
        ),
        (
            "name: a b",
            "5:9: routes.0.name: must be a name of up to 64 letters, digits, dots, hyphens and",
        ),
        ("timeout_s: -1", "5:9: routes.0.timeout_s: must be a number above 0, at most 3600 (here: -1)"),
        ("hosts: ['x/y']", "5:17: routes.0.hosts.0: must be a host like"),
    ],
    ids=lambda text: text[:40],
)
def test_what_a_route_cannot_be_is_told(entry: str, told: str) -> None:
    fault = faults(of_route(entry))[0]

    assert fault.startswith(told)


def test_a_path_that_is_no_template_is_told() -> None:
    assert faults("services: {a: {url: http://h, routes: [{path: '/x/<y'}, {path: '/<path:r>/x'}]}}") == [
        "1:41: services.a.routes.0.path: '<y': a name is a whole segment, like <id> or <path:rest> (here: '/x/<y')",
        "1:58: services.a.routes.1.path: has more behind <path:...>, which takes all that follows and must be the last "
        "segment (here: '/<path:r>/x')",
    ]


def test_rewrite_beside_redirect_is_told() -> None:
    told = faults(of_route("rewrite: {path: /x}\n        redirect: {to: /y}"))

    assert told == ["5:9: routes.0.rewrite: means nothing beside redirect; leave one of both out"]


def test_roles_beside_public_are_told_for_a_route_and_not_where_the_route_differs_from_its_service() -> None:
    assert faults(of_route("public: true\n        roles: [a]")) == [
        "6:9: routes.0.roles: mean nothing beside public: true; leave one of both out"
    ]
    assert read("services: {a: {url: http://h, public: true, routes: [{path: /, roles: [x]}]}}").warnings == ()


@pytest.mark.parametrize(
    "second",
    [
        "{path: '/<b>', methods: [PUT, GET]}",
        "{path: '/<b>/', methods: [GET]}",
        "{path: '/<b>', methods: [GET], name: other}",
    ],
)
def test_two_routes_for_the_same_requests_are_told(second: str) -> None:
    text = f"services:\n  a:\n    url: http://h\n    routes:\n    - {{path: /<a>, methods: [GET]}}\n    - {second}\n"

    (told,) = faults(text)

    assert re.fullmatch(r"6:7: services\.a\.routes\.1: GET /<b>/? is there already, as routes\.0", told)


def test_two_routes_with_the_same_conditions_in_another_order_are_told() -> None:
    first = "{path: /, headers: {X-A: '1', X-B: '2'}, hosts: [a.example, b.example]}"
    second = "{path: /, headers: {x-b: '2', x-a: '1'}, hosts: [b.example, a.example]}"

    (told,) = faults(f"services: {{a: {{url: http://h, routes: [{first}, {second}]}}}}")

    assert told.endswith("services.a.routes.1: * / is there already, as routes.0")


@pytest.mark.parametrize(
    "key", ["public: true", "roles: [a]", "prefixes: [/x]", "hosts: [a.example]", "routes: [{path: /}]"]
)
@pytest.mark.parametrize("name", ["users", "products", "orders"])
def test_what_is_written_in_code_cannot_be_written_in_the_file(name: str, key: str) -> None:
    (told,) = faults(f"services:\n  {name}:\n    {key}\n    url: http://h\n")

    words = f"who may do what in {name} is written in gateway/blueprints/{name}.py"
    assert told == f"3:5: services.{name}.{key.partition(':')[0]}: {words}"


def test_the_services_that_are_written_in_code_are_those_of_the_blueprints() -> None:
    prefixes = {name: tuple(f"/{bp.name}" for bp in EXPLICIT if bp.service_name == name) for name in CODED}

    assert {bp.service_name for bp in EXPLICIT} == set(CODED)
    assert {name: set(known) for name, known in CODED.items()} == {name: set(known) for name, known in prefixes.items()}
    assert all((ROOT / f"gateway/blueprints/{name}.py").exists() for name in CODED)


@pytest.mark.parametrize(
    ("first", "second", "is_fault"),
    [
        ("hosts: [a.example, b.example]", "hosts: [c.example, b.example]", True),
        ("hosts: [a.example]", "hosts: [A.example.]", True),
        ("hosts: [a.example]", "hosts: ['*.example']", False),
        ("hosts: [a.example]", "cache: true", False),
        ("hosts: [a.example]", "hosts: ['a.example:8443']", False),
        ("cache: true", "cache: false", True),
    ],
)
def test_one_prefix_is_for_one_service_on_each_host(first: str, second: str, *, is_fault: bool) -> None:
    entries = f"  a: {{url: http://a, prefixes: [/x], {first}}}\n  b: {{url: http://b, prefixes: [/x], {second}}}\n"
    text = f"services:\n{entries}"

    if is_fault:
        assert faults(text)[0].startswith("3:33: services.b.prefixes.0: /x is claimed by a already")
    else:
        assert warnings(text) == []


def test_a_face_that_two_services_have_is_told() -> None:
    text = "pages: operations\nservices: {a: {url: http://a, prefixes: [/v1/x]}, b: {url: http://b, prefixes: [/x]}}\n"

    (told,) = faults(text)

    assert told.endswith("services.b.prefixes.0: /api/v1/x is claimed by a already")


def test_all_faults_of_all_kinds_are_told_at_once_in_the_order_of_the_file() -> None:
    text = """
services:
  a:
    url: http://a
    url: http://b
    cach: true
    timeout_s: 0
    split: [{service: nope, percent: 96}, {service: a, percent: 5}]
    versions: {2: {}, x: {url: http://x}}
    routes:
      - {path: /, limit: nope}
      - {path: /x, methods: 5}
      - {path: /, methods: [GET]}
      - {path: /}
  A: {url: http://a}
  b: {cache: 5}
  c: []
  users: {url: http://u, routes: []}
pages: nowhere
"""

    told = faults(text, {"d": "ftp://x"})

    assert [line.partition(": ")[0] for line in told] == [
        "5:5", "6:5", "7:5", "8:5", "8:14", "8:44", "9:16", "9:23", "11:19", "12:20", "14:9",
        "15:3", "16:3", "16:7", "17:3", "18:26", "19:1", "D_SERVICE_URL",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "services: {a: {url: http://a, cach: 1, mirror: {service: b}}, b: {url: 5}}",
        "services: {a: {url: http://a, mirror: {service: b}}, b: []}",
        "services: {a: {url: http://a, mirror: {service: b@2}}, b: {url: http://b, versions: {2: {url: 5}}}}",
        "services: {a: {url: http://a, limits: {x: fast}, routes: [{path: /, limit: x}]}}",
        "services: {a: {url: http://a, cache: 5, breaker: {fallback: {stale: true}}}}",
        "services: {a: {url: http://a, timeout_s: x, try_timeout_s: 60}}",
        "services: {a: {url: http://a, prefixes: [x]}, b: {url: http://a, prefixes: [/a]}}",
        "services: {a: {url: http://a, routes: [{path: /, headers: 5}, {path: /}]}}",
        "pages: x\nservices: {a: {url: http://a, prefixes: [/docs]}}",
    ],
)
def test_what_is_left_out_because_it_is_wrong_brings_up_no_other_fault(text: str) -> None:
    told = faults(text)

    assert all("must be" in line or "unknown key" in line for line in told), told


@pytest.mark.parametrize(
    "entry",
    [
        "url: http://user:hunter2@h",
        "url: user:hunter2@h",
        "instances: ['http://user:hunter2@h', 'http://user:hunter2@h']",
        "instances: {'http://user:hunter2@h': 1}",
        "'http://user:hunter2@h': {}",
        "{url: http://h, request_headers: {set: {Authorization: [hunter2]}}}",
        "{url: http://h, request_headers: {set: {Authorization: 'hunter2 '}}}",
        "{url: http://h, request_headers: {set: hunter2}}",
        "{url: http://h, routes: [{path: /, headers: {Authorization: '!hunter2'}}]}",
        "{url: http://h, routes: [{path: /, query: {token: '~hunter2('}}]}",
        "{url: http://h, routes: [{path: /, redirect: {to: 'https://user:hunter2@h/'}}]}",
        "{url: http://h, routes: [{path: /, headers: {Authorization: !hunter2}}]}",
        "{url: http://h, routes: [{path: /, headers: {Authorization: *hunter2}}]}",
        "{url: http://h, url: http://h, 'http://user:hunter2@h': 1, 'http://user:hunter2@h': 2}",
        "[http://user:hunter2@h]",
        "http://user:hunter2@h",
    ],
)
def test_no_password_is_told(entry: str) -> None:
    text = f"services: {{a: {entry if entry[0] in '{[h' else '{' + entry + '}'}}}\n"

    told = faults(text)

    assert told
    assert "hunter2" not in "\n".join(told)


def test_where_a_key_may_stand_is_known_for_every_key_of_the_file() -> None:
    assert allowed.elsewhere("after_ms") == ("services.NAME.hedge.after_ms",)
    assert allowed.elsewhere("pages") == ("pages",)
    assert allowed.elsewhere("nothing") == ()
