"""Cases: a file of requests and of what is to become of them, held against a configuration without a network."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from xml.etree import ElementTree

import pytest
from flask import Flask

from gateway import case_file, cases, create_app
from gateway.case_file import CaseEntry, CasesError, DefaultsEntry, ExpectEntry
from gateway.cases import Result
from gateway.commands import junit
from tests.unit import parts

ROOT = Path(__file__).resolve().parents[2]
SERVICES = """
services:
  users: {url: "http://u:1"}
  orders: {url: "http://o:1"}
  products: {url: "http://p:1"}
  shop:
    instances: ["dns:shop.internal:80", registry]
    cache: true
    limits: {default: 1/hour}
    request_headers: {set: {X-Team: shop}, remove: [X-Noise]}
    response_headers: {set: {X-Frame-Options: DENY}, remove: [X-Powered-By]}
    routes:
      - {path: "/<id>", public: true, rewrite: {path: "/items/<id>"}}
      - {path: "/old/<id>", public: true, redirect: {to: "/shop/<id>", status: 301}}
      - {path: "/", roles: [buyer]}
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    file = tmp_path_factory.mktemp("gateway") / "services.yaml"
    file.write_text(SERVICES)
    with parts.clean_environment():
        return create_app(parts.settings(gateway_services=file))


def run(app: Flask, directory: Path, text: str) -> list[Result]:
    file = directory / "cases.yaml"
    file.write_text(text)
    return list(cases.run(app, case_file.read(file, parts.settings())))


def failures(app: Flask, directory: Path, request: str, expect: str, more: str = "") -> list[str]:
    """Of one case."""
    text = f"cases:\n  - {{name: it, request: {request!r}, expect: {{{expect}}}{more}}}\n"
    (result,) = run(app, directory, text)
    return list(result.failures)


THEIRS = "(what the service says)"

GOOD = [
    ("GET /shop/7", "status: passes, route: shop./<id>, service: shop, path: /items/7, code: null, policy: null", ""),
    ("GET /shop/7", "request_headers: {x-team: shop, x-noise: null, X-Own: a}", ", headers: {X-Noise: 1, X-Own: a}"),
    ("GET /shop/7", "response_headers: {X-Frame-Options: DENY, X-Powered-By: null}", ""),
    ("GET /shop/old/7?a", "status: 301, location: '/shop/7?a', policy: redirected", ""),
    ("GET /shop", "status: 401, code: TOKEN_REQUIRED, policy: require_jwt, path: null", ""),
    ("GET /shop", "status: 403, code: ROLE_REQUIRED", ", as: {user: u1, roles: [seller]}"),
    ("GET /shop", "status: passes", ", as: {user: u1, roles: [buyer]}"),
    ("POST /orders", "status: passes", ", as: {user: u1, roles: [customer]}"),
    ("POST /orders", "status: passes", ", as: {user: u1, permissions: ['orders:write'], api_key: k1}"),
    ("POST /orders", "status: 403, code: PERMISSION_REQUIRED", ", as: {user: u1, roles: [customer], permissions: []}"),
    ("POST /shop/7", "status: 413, code: PAYLOAD_TOO_LARGE, policy: sized", ", body_bytes: 99999999"),
    ("GET http://shop.example/shop/7", "request_headers: {X-Forwarded-Host: shop.example}", ""),
    ("GET /shop/7", "request_headers: {X-Forwarded-For: 192.0.2.9}", ", caller: 192.0.2.9"),
    ("GET /nowhere", "status: 404, code: SERVICE_NOT_FOUND, service: null, route: null", ""),
    ("GET /health", "policy: page", ""),
]


@pytest.mark.parametrize(("request_line", "expect", "more"), GOOD)
def test_what_is_as_expected_fails_nothing(
    app: Flask, tmp_path: Path, request_line: str, expect: str, more: str
) -> None:
    assert failures(app, tmp_path, request_line, expect, more) == []


@pytest.mark.parametrize(
    ("request_line", "expect", "told"),
    [
        ("GET /shop/7", "status: 200", "status: expected 200, got passes"),
        ("GET /shop", "status: passes", "status: expected passes, got 401"),
        ("GET /health", "status: passes", "status: expected passes, got answered"),
        ("GET /shop", "status: 403", "status: expected 403, got 401"),
        ("GET /shop", "code: null", "code: expected none, got TOKEN_REQUIRED"),
        ("GET /shop", "policy: limited", "policy: expected limited, got require_jwt"),
        ("GET /shop/7", "policy: require_jwt", "policy: expected require_jwt, got none"),
        ("GET /shop/7", "route: shop.other", "route: expected shop.other, got shop./<id>"),
        ("GET /shop/7", "service: products", "service: expected products, got shop"),
        ("GET /shop/7", "path: /shop/7", "path: expected /shop/7, got /items/7"),
        ("GET /shop/old/7", "location: /old", "location: expected /old, got /shop/7"),
        ("GET /shop/7", "request_headers: {X-Team: other}", "request_headers.X-Team: expected other, got shop"),
        ("GET /shop/7", "request_headers: {X-Team: null}", "request_headers.X-Team: expected none, got shop"),
        ("GET /shop/7", "request_headers: {X-Absent: a}", "request_headers.X-Absent: expected a, got none"),
        ("GET /shop/7", "response_headers: {Vary: null}", f"response_headers.Vary: expected none, got {THEIRS}"),
        ("GET /shop/7", "response_headers: {X-Powered-By: a}", "response_headers.X-Powered-By: expected a, got none"),
        (
            "GET /shop",
            "response_headers: {X-Powered-By: null}",
            f"response_headers.X-Powered-By: expected none, got {THEIRS}",
        ),
    ],
)
def test_each_expectation_that_is_not_met_is_told(
    app: Flask, tmp_path: Path, request_line: str, expect: str, told: str
) -> None:
    assert failures(app, tmp_path, request_line, expect) == [told]


def test_all_that_fails_of_a_case_is_told(app: Flask, tmp_path: Path) -> None:
    assert len(failures(app, tmp_path, "GET /shop", "status: 200, code: X, policy: y, path: /z")) == 4


def test_defaults_hold_where_a_case_says_nothing(app: Flask, tmp_path: Path) -> None:
    text = """
defaults: {as: {user: u1, roles: [buyer]}, headers: {X-One: a, X-Two: b}, caller: 192.0.2.8}
cases:
  - name: defaults
    request: GET /shop
    expect: {status: passes, request_headers: {X-User-Id: u1, X-One: a, X-Forwarded-For: 192.0.2.8}}
  - name: own
    request: GET /shop/7
    as: anonymous
    headers: {x-two: c}
    caller: 192.0.2.7
    expect: {request_headers: {X-User-Id: null, X-One: a, X-Two: c, X-Forwarded-For: 192.0.2.7}}
"""

    assert [result.failures for result in run(app, tmp_path, text)] == [(), ()]


def test_nobody_outside_is_asked(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise AssertionError("a case has opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    text = "cases:\n" + "".join(
        f"  - {{name: n{number}, request: GET /shop/7, expect: {{status: passes}}, as: {{user: u{number}}}}}\n"
        for number in range(3)
    )

    assert [result.failures for result in run(app, tmp_path, text)] == [(), (), ()]


WELL = """\
cases:
  - name: a
    request: GET /x
    expect: {code: x}
"""


def faults_of(directory: Path, text: str) -> list[str]:
    file = directory / "cases.yaml"
    file.write_text(text)
    with pytest.raises(CasesError) as caught:
        case_file.read(file, parts.settings())
    return [problem.removeprefix(f"{file}:") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (WELL, "", "1:1: the file: must be a mapping"),
        (WELL, "cases: []", "1:1: cases: is empty"),
        (WELL, "cases: 7", "1:1: cases: must be a list"),
        ("    request: GET /x\n", "", "2:5: cases.0.request: is missing"),
        ("GET /x", "/x", "3:5: cases.0.request: must be a method and a path or URL, like GET /products?page=2"),
        ("GET /x", "GET /x y", "3:5: cases.0.request: must be a method and a path or URL, like GET /products?page=2"),
        ("name: a", "name: ''", "2:5: cases.0.name: is empty"),
        ("{code: x}", "{}", "4:5: cases.0.expect: is empty; say what is to come of the request"),
        ("{code: x}", "passes", "4:5: cases.0.expect: must be a mapping"),
        ("{code: x}", "{code: [x]}", "4:14: cases.0.expect.code: must be text"),
        ("{code: x}", "{status: 42}", "4:14: cases.0.expect.status: must be passes, or a status such as 403"),
        ("{code: x}", "{status: pass}", "4:14: cases.0.expect.status: must be passes, or a status such as 403"),
        ("{code: x}", "{status: yes}", "4:14: cases.0.expect.status: must be passes, or a status such as 403"),
        ("{code: x}", "{rute: x}", "4:14: cases.0.expect.rute: there is no key rute; did you mean route? known: code,"),
        ("name: a", "name: a\n    hedaers: {}", "3:5: cases.0.hedaers: there is no key hedaers; did you mean headers?"),
        ("cases:", "defaults: {ass: x}\ncases:", "1:12: defaults.ass: there is no key ass; did you mean as?"),
        ("cases:", "case: []\ncases:", "1:1: case: there is no key case; did you mean cases? known: cases, defaults"),
        ("name: a", "name: a\n    as: nobody", "3:5: cases.0.as: must be anonymous, or who calls: {user: u1, roles:"),
        ("name: a", "name: a\n    as: {roles: [x]}", "3:5: cases.0.as.user: is missing"),
        (
            "name: a",
            "name: a\n    headers: {authorization: x}",
            "3:5: cases.0.headers: must not bring a token; say who",
        ),
        ("name: a", "name: a\n    body_bytes: -1", "3:5: cases.0.body_bytes: must be greater than or equal to 0"),
        ("name: a", "name: a\n    name: b", "3:5: the key 'name' stands twice, first in line 2"),
        ("cases:", "cases: [", "2:3: "),
        ("{code: x}\n", "{code: x}\n" + WELL[7:], "5:5: cases.1.name: stands twice; a case is known by its name"),
    ],
)
def test_each_fault_of_the_file_is_told_with_its_place(tmp_path: Path, old: str, new: str, fault: str) -> None:
    (told,) = faults_of(tmp_path, WELL.replace(old, new))

    assert told.startswith(fault)


def test_all_faults_of_the_file_are_told_at_once(tmp_path: Path) -> None:
    assert len(faults_of(tmp_path, WELL.replace("name", "nam").replace("code", "cod"))) == 3


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CasesError) as caught:
        case_file.read(tmp_path / "none.yaml", parts.settings())

    assert caught.value.problems == [f"{tmp_path}/none.yaml: can't be read (No such file or directory)"]


def test_a_report_for_ci_counts_and_names_what_failed(app: Flask, tmp_path: Path) -> None:
    text = """
cases:
  - {name: good, request: GET /shop/7, expect: {status: passes}}
  - {name: "bad <&> \\x07", request: GET /shop, expect: {status: 403, code: X}}
"""
    results = run(app, tmp_path, text)

    suite = ElementTree.fromstring(junit.document("cases.yaml", results, 1.5))

    assert suite.attrib == {
        "name": "cases.yaml", "tests": "2", "failures": "1", "errors": "0", "skipped": "0", "time": "1.500",
    }  # fmt: skip
    good, bad = suite.findall("testcase")
    (failure,) = bad.findall("failure")
    assert (good.get("name"), good.findall("failure")) == ("good", [])
    assert (bad.get("name"), bad.get("classname")) == ("bad <&> \\x07", "cases.yaml")
    assert failure.get("message") == "status: expected 403, got 401; code: expected X, got TOKEN_REQUIRED"
    assert "require_jwt" in (failure.text or "")


def test_our_own_services_do_what_the_shipped_cases_say() -> None:
    settings = parts.settings()
    with parts.clean_environment():
        app = create_app(settings)

    results = list(cases.run(app, case_file.read(ROOT / "gateway/cases.yaml", settings)))

    assert [(result.case.name, result.failures) for result in results if result.failures] == []
    assert len(results) > 40


def test_the_case_that_the_documentation_shows_holds(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/commands.md").read_text(), re.DOTALL)
    with parts.clean_environment():
        app = create_app(parts.settings())

    (result,) = run(app, tmp_path, shown)

    assert result.failures == ()
    known = CaseEntry.model_fields.keys() | ExpectEntry.model_fields.keys() | DefaultsEntry.model_fields.keys()
    assert [name for name in known if not re.search(rf"\b{name.rstrip('_')}:", shown)] == []


def test_the_shipped_cases_reach_every_route_of_ours() -> None:
    settings = parts.settings()
    with parts.clean_environment():
        app = create_app(settings)

    results = list(cases.run(app, case_file.read(ROOT / "gateway/cases.yaml", settings)))

    routes = {result.explanation.route for result in results} - {""}
    assert routes == {
        "users.register",
        "users.login",
        "users.account",
        "users.refresh",
        "users.log_out",
        "orders.change",
        "orders.read",
        "products.browse",
        "products.change",
    }
