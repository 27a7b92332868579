"""What browsers are told: headers of every answer, CORS, sessions in cookies."""

from __future__ import annotations

from collections.abc import Generator
from http.cookies import SimpleCookie

import pytest

from common.security_headers import FIELDS
from tests.integration.conftest import (
    ADMIN,
    KEYS,
    Gateway,
    GatewayFactory,
    assert_problem,
    bearer,
    honest,
    no_fault_in,
    ready,
)
from tests.support import wire
from tests.support.wire import RawAnswer

APP = "https://app.example.com"
EVIL = "https://evil.example"
HTTPS = ("X-Forwarded-Proto", "https")
JSON = ("Content-Type", "application/json")

SERVICES = """
services:
  users: {{url: "{url}", aliases: [auth], limits: {{login: 10000/minute, refresh: 10000/minute}}}}
  open: {{url: "{url}", public: true, path: /}}
  kept: {{url: "{url}", public: true, path: /, cache: true}}
  clear: {{url: "{url}", public: true, path: /, verbatim: true}}
"""


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/health"),
        ("GET", "/ready"),
        ("GET", "/health/startup"),
        ("GET", "/problems"),
        ("GET", "/problems/unsafe-path"),
        ("GET", "/problems/nothing"),
        ("HEAD", "/health"),
        ("GET", "/nowhere"),
        ("GET", "/metrics"),
        ("GET", "/orders"),
        ("GET", "/staff/x"),
        ("POST", "/products/5"),
        ("OPTIONS", "/products/5"),
        ("GET", "/open/../x"),
        ("GET", "/absent/x"),
        ("get", "/open/x"),
        ("TRACE", "/open/x"),
        ("POST", "/health"),
    ],
)
def test_every_answer_of_ours_tells_browsers_to_make_nothing_of_it(gateway: Gateway, method: str, target: str) -> None:
    answer = gateway.request(method, target)

    assert [(name, answer.header(name)) for name, _ in FIELDS] == list(FIELDS)
    assert_quiet(answer)


@pytest.mark.parametrize(
    "raw", [b"GET /health HTTP/1.1\r\nHost : a\r\n\r\n", b"GET / HTTP/3\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"], ids=repr
)
def test_so_does_what_the_parser_refuses(gateway: Gateway, raw: bytes) -> None:
    answer = wire.exchange(gateway.port, raw)

    assert [(name, answer.header(name)) for name, _ in FIELDS] == list(FIELDS)
    assert answer.header("Cache-Control") == "no-store"
    assert_quiet(answer)


def assert_quiet(answer: RawAnswer) -> None:
    assert answer.all("Server") == answer.all("X-Powered-By") == []
    for name in (b"gunicorn", b"werkzeug", b"gevent", b"python"):
        assert name not in answer.raw.lower()


def test_page_of_a_service_stays_as_the_service_made_it(gateway: Gateway) -> None:
    own = "Content-Security-Policy=script-src+x&X-Frame-Options=SAMEORIGIN&X-Content-Type-Options=other&Server=s/1"

    answer = gateway.get(f"/open/cacheable?cc=no-store&{own}")

    assert answer.header("Content-Security-Policy") == "script-src x"
    assert answer.header("X-Frame-Options") == "SAMEORIGIN"
    assert answer.header("X-Content-Type-Options") == "nosniff"
    for name in ("Referrer-Policy", "Permissions-Policy", "Cross-Origin-Opener-Policy", "Cross-Origin-Resource-Policy"):
        assert answer.all(name) == []
    assert_quiet(answer)


@pytest.fixture(scope="module")
def browsing(start_gateway: GatewayFactory) -> Gateway:
    return start_gateway(
        services=SERVICES,
        WEB_CONCURRENCY="1",
        TRUSTED_PROXIES="127.0.0.1",
        CORS_ORIGINS=f'["{APP}", "https://*.shop.example"]',
        CORS_CREDENTIALS="true",
        COOKIE_SESSIONS="true",
        SERVICE_SECRET="a secret of the test, longer than 32 bytes",
    )


@pytest.fixture
def site(browsing: Gateway) -> Generator[Gateway]:
    ready(browsing)
    with no_fault_in(browsing):
        yield browsing


@pytest.mark.parametrize("target", ["/health", "/nowhere", "/open/x", "/users/profile"])
def test_over_https_browsers_shall_use_nothing_else(site: Gateway, target: str) -> None:
    assert site.get(target, [HTTPS]).header("Strict-Transport-Security") == "max-age=31536000"
    assert site.get(target).all("Strict-Transport-Security") == []


def test_a_strangers_word_for_https_counts_for_nothing(gateway: Gateway) -> None:
    assert gateway.get("/health", [HTTPS]).all("Strict-Transport-Security") == []


def test_it_is_not_for_a_service_to_say(site: Gateway) -> None:
    answer = site.get("/open/cacheable?cc=no-store&Strict-Transport-Security=max-age%3D0", [HTTPS])

    assert answer.header("Strict-Transport-Security") == "max-age=31536000"


def preflight(gateway: Gateway, origin: str, target: str = "/users/profile", *more: tuple[str, str]) -> RawAnswer:
    fields = [("Origin", origin), ("Access-Control-Request-Method", "PATCH"), *more]
    return gateway.request("OPTIONS", target, fields)


@pytest.mark.parametrize("target", ["/users/profile", "/open/x", "/nowhere", "/health"])
def test_preflight_is_answered_without_a_token_or_the_service(site: Gateway, target: str) -> None:
    answer = preflight(site, APP, target, ("Access-Control-Request-Headers", "authorization"))

    assert (answer.status, answer.body) == (204, b"")
    assert answer.header("Access-Control-Allow-Origin") == APP
    assert answer.header("Access-Control-Allow-Credentials") == "true"
    assert "PATCH" in str(answer.header("Access-Control-Allow-Methods"))
    assert "Authorization" in str(answer.header("Access-Control-Allow-Headers"))
    assert answer.header("Access-Control-Max-Age") == "600"
    assert answer.header("Vary") == "Origin"
    assert site.arrived == []


def test_private_networks_are_not_granted(site: Gateway) -> None:
    answer = preflight(site, APP, "/open/x", ("Access-Control-Request-Private-Network", "true"))

    assert answer.status == 204
    assert answer.all("Access-Control-Allow-Private-Network") == []


@pytest.mark.parametrize("origin", [EVIL, "null", f"{APP}.evil.example", "https://a.b.shop.example", f"{APP},{EVIL}"])
def test_preflight_of_another_page_is_refused(site: Gateway, origin: str) -> None:
    answer = preflight(site, origin)

    assert_problem(answer, 403, "ORIGIN_REFUSED")
    assert no_admission(answer)
    assert answer.header("Vary") == "Origin"
    assert site.arrived == []


def no_admission(answer: RawAnswer) -> bool:
    return not any(name.lower().startswith("access-control-") for name, _ in answer.headers)


def test_two_origins_are_none(site: Gateway) -> None:
    answer = site.get("/open/x", [("Origin", APP), ("Origin", EVIL)])

    assert answer.status in (200, 400)
    assert no_admission(answer)


@pytest.mark.parametrize("target", ["/health", "/nowhere", "/users/profile", "/open/x", "/open/../x", "/problems"])
def test_answer_depends_on_the_origin_and_says_so(site: Gateway, target: str) -> None:
    listed, other, none = (site.get(target, fields) for fields in ([("Origin", APP)], [("Origin", EVIL)], []))

    assert [listed.header("Access-Control-Allow-Origin"), listed.header("Vary")] == [APP, "Origin"]
    assert "X-Request-ID" in str(listed.header("Access-Control-Expose-Headers"))
    for answer in (other, none):
        assert no_admission(answer)
        assert answer.header("Vary") == "Origin"


def test_what_a_service_says_about_it_does_not_count(site: Gateway) -> None:
    said = (
        "Access-Control-Allow-Origin=*&Access-Control-Allow-Credentials=true&Access-Control-Allow-Private-Network=true"
    )

    assert no_admission(site.get(f"/open/cacheable?cc=no-store&{said}", [("Origin", EVIL)]))
    assert (
        site.get(f"/open/cacheable?cc=no-store&{said}", [("Origin", APP)]).header("Access-Control-Allow-Origin") == APP
    )


def test_kept_answer_tells_each_origin_its_own(site: Gateway) -> None:
    said = "cc=max-age%3D60&Access-Control-Allow-Origin=https://first.example"
    origins = ([("Origin", APP)], [("Origin", EVIL)], [], [("Origin", "https://a.shop.example")], [("Origin", APP)])

    answers = [site.get(f"/kept/cacheable?{said}", fields) for fields in origins]

    assert len(site.arrived) == 1
    admitted = [answer.header("Access-Control-Allow-Origin") for answer in answers]
    assert admitted == [APP, None, None, "https://a.shop.example", APP]


def test_where_nothing_is_configured_a_service_speaks_for_itself(gateway: Gateway) -> None:
    answer = gateway.get("/open/cacheable?cc=no-store&Access-Control-Allow-Origin=*", [("Origin", EVIL)])
    asked = gateway.request("OPTIONS", "/open/x", [("Origin", EVIL), ("Access-Control-Request-Method", "PUT")])

    assert answer.header("Access-Control-Allow-Origin") == "*"
    assert answer.all("Vary") == []
    assert asked.status == 200
    assert gateway.arrived[-1].method == "OPTIONS"


@pytest.mark.parametrize("path", ["/", "/health", "/nowhere"])
def test_by_default_no_page_of_another_origin_is_admitted(gateway: Gateway, path: str) -> None:
    assert no_admission(gateway.get(path, [("Origin", APP)]))


def test_transparent_service_is_left_alone(site: Gateway) -> None:
    asked = preflight(site, EVIL, "/clear/x")
    answer = site.get("/clear/cacheable?cc=no-store&Access-Control-Allow-Origin=*&Date=then", [("Origin", EVIL), HTTPS])

    assert asked.status == 200
    assert answer.header("Access-Control-Allow-Origin") == "*"
    for name in ("Vary", "X-Content-Type-Options", "Strict-Transport-Security", "Referrer-Policy"):
        assert answer.all(name) == []


ACCESS = KEYS.sign(honest("u1") | {"sid": "session-1"})
OTHER = KEYS.sign(honest("u2") | {"sid": "session-2"})
GRANT: dict[str, object] = {
    "access_token": ACCESS,
    "token_type": "bearer",
    "expires_in": 900,
    "refresh_token": "refresh-1",
    "refresh_expires_in": 86_400,
}
COOKIE_MODE = ("X-Session-Mode", "cookie")


class Page:
    """A web page's browser: keeps the cookies, as one would."""

    def __init__(self, gateway: Gateway, grant: dict[str, object] | None = None) -> None:
        self._gateway = gateway
        gateway.stub.json |= {"/users/login": grant or GRANT, "/users/refresh": grant or GRANT}
        self.cookies: dict[str, str] = {}
        self.answer = self.send("POST", "/auth/login", [COOKIE_MODE, JSON], b"{}")

    def send(
        self, method: str, target: str, fields: wire.Pairs = (), body: bytes = b"", *, origin: str | None = APP
    ) -> RawAnswer:
        cookies = [("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))]
        shown = [("Origin", origin)] if origin else []
        fields = [HTTPS, *(cookies if self.cookies else []), *shown, *fields]
        answer = self._gateway.request(method, target, fields, body)
        for value in answer.all("Set-Cookie"):
            for name, morsel in SimpleCookie(value).items():
                self.cookies[name] = morsel.value
                if morsel["max-age"] == "0":
                    del self.cookies[name]
        return answer

    @property
    def csrf(self) -> tuple[str, str]:
        return ("X-CSRF-Token", self.cookies["__Host-csrf"])


def test_login_moves_the_tokens_into_cookies(site: Gateway) -> None:
    page = Page(site)

    assert page.answer.status == 200
    assert page.answer.json() == {"expires_in": 900, "refresh_expires_in": 86_400, "csrf_token": page.csrf[1]}
    assert sorted(page.answer.all("Set-Cookie")) == [
        f"__Host-access={ACCESS}; Path=/; Max-Age=900; SameSite=Lax; Secure; HttpOnly",
        f"__Host-csrf={page.csrf[1]}; Path=/; Max-Age=86400; SameSite=Lax; Secure",
        "__Secure-refresh=refresh-1; Path=/auth/refresh; Max-Age=86400; SameSite=Strict; Secure; HttpOnly",
    ]
    assert page.answer.header("Cache-Control") == "no-store"


def test_refresh_cookie_is_for_the_route_beside_the_login(site: Gateway) -> None:
    site.stub.json["/users/login"] = GRANT

    answer = site.request("POST", "/api/v1/%75sers/login", [HTTPS, COOKIE_MODE, JSON], b"{}")

    assert any("Path=/api/v1/users/refresh;" in value for value in answer.all("Set-Cookie"))


def test_who_asks_for_no_cookies_gets_the_tokens(site: Gateway) -> None:
    site.stub.json["/users/login"] = GRANT

    answer = site.request("POST", "/auth/login", [HTTPS, JSON], b"{}")

    assert answer.json() == GRANT
    assert answer.all("Set-Cookie") == []


def test_failed_login_sets_nothing(site: Gateway) -> None:
    site.stub.failing.add("/users/login")

    answer = site.request("POST", "/auth/login", [HTTPS, COOKIE_MODE, JSON], b"{}")

    assert answer.status == 503
    assert answer.all("Set-Cookie") == []


@pytest.mark.parametrize("origin", [EVIL, "null", "https://a.b.shop.example", "http://app.example.com"])
def test_page_of_another_site_logs_nobody_in(site: Gateway, origin: str) -> None:
    site.stub.json["/users/login"] = GRANT

    answer = site.request("POST", "/auth/login", [HTTPS, COOKIE_MODE, JSON, ("Origin", origin)], b"{}")

    assert_problem(answer, 403, "CSRF_REFUSED")
    assert site.arrived == []


def test_cookies_are_refused_over_plain_http_but_for_this_machine(site: Gateway) -> None:
    site.stub.json["/users/login"] = GRANT

    away = site.request("POST", "/auth/login", [("Host", "api.example.com"), COOKIE_MODE, JSON], b"{}")
    here = site.request("POST", "/auth/login", [("Host", f"localhost:{site.port}"), COOKIE_MODE, JSON], b"{}")

    assert_problem(away, 400, "NO_COOKIE_SESSIONS")
    assert here.status == 200
    assert all(value.startswith("dev-") and "Secure" not in value for value in here.all("Set-Cookie"))


def test_without_the_setting_there_are_no_sessions_in_cookies(gateway: Gateway) -> None:
    answer = gateway.request("POST", "/auth/login", [COOKIE_MODE, JSON], b"{}")

    assert_problem(answer, 400, "NO_COOKIE_SESSIONS")
    assert_problem(
        gateway.get("/orders", [("Cookie", f"dev-access={ACCESS}; __Host-access={ACCESS}")]), 401, "TOKEN_REQUIRED"
    )


def test_service_gets_a_token_and_none_of_our_cookies(site: Gateway) -> None:
    page = Page(site)
    page.cookies["theirs"] = "kept"

    answer = page.send("GET", "/users/profile")

    assert answer.status == 200
    received = site.arrived[-1]
    assert received.header("Authorization") == f"Bearer {ACCESS}"
    assert received.header("Cookie") == "theirs=kept"


@pytest.mark.parametrize("target", ["/open/x", "/clear/x", "/kept/x"])
def test_no_service_gets_our_cookies_whether_it_asks_who_calls_or_not(site: Gateway, target: str) -> None:
    page = Page(site)

    page.send("GET", target)

    assert site.arrived[-1].all("Cookie") == []


def test_answer_to_a_cookie_is_kept_for_nobody_else(site: Gateway) -> None:
    page = Page(site)
    target = "/kept/cacheable?cc=max-age%3D60&of=a-session"

    answers = [page.send("GET", target), site.get(target), Page(site).send("GET", target)]

    assert [answer.json()["times_seen"] for answer in answers] == [1, 2, 2]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_safe_method_needs_no_csrf_token(site: Gateway, method: str) -> None:
    assert Page(site).send(method, "/users/profile", origin=EVIL).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"])
@pytest.mark.parametrize("wrong", [None, "", "x", "of another session", "of the token"])
def test_unsafe_method_with_a_cookie_alone_is_refused(site: Gateway, method: str, wrong: str | None) -> None:
    page = Page(site)
    stranger = Page(site, GRANT | {"access_token": OTHER})
    text = {"of another session": stranger.csrf[1], "of the token": ACCESS}.get(wrong or "", wrong)
    before = len(site.arrived)

    answer = page.send(method, "/users/profile", [] if text is None else [("X-CSRF-Token", text)])

    assert_problem(answer, 403, "CSRF_REFUSED")
    assert len(site.arrived) == before


@pytest.mark.parametrize(("origin", "status"), [(APP, 200), (None, 200), (EVIL, 403), ("null", 403)])
def test_unsafe_method_with_the_csrf_token_passes_from_our_pages(
    site: Gateway, origin: str | None, status: int
) -> None:
    page = Page(site)

    answer = page.send("PATCH", "/users/profile", [page.csrf], origin=origin)

    assert answer.status == status


@pytest.mark.parametrize(("fetch_site", "status"), [("same-origin", 200), ("cross-site", 403), ("same-site", 403)])
def test_fetch_metadata_counts_where_there_is_no_origin(site: Gateway, fetch_site: str, status: int) -> None:
    page = Page(site)

    answer = page.send("PATCH", "/users/profile", [page.csrf, ("Sec-Fetch-Site", fetch_site)], origin=None)

    assert answer.status == status


def test_injected_csrf_cookie_does_not_help(site: Gateway) -> None:
    page = Page(site)
    page.cookies["__Host-csrf"] = "planted"

    assert_problem(page.send("POST", "/users/profile", [page.csrf]), 403, "CSRF_REFUSED")


def test_token_in_a_header_needs_no_csrf_token_and_counts_before_the_cookie(site: Gateway) -> None:
    page = Page(site)

    answer = page.send("POST", "/users/profile", bearer("u2"), origin=EVIL)

    assert answer.status == 200
    assert site.arrived[-1].header("X-User-Id") == "u2"


def test_bad_token_in_a_header_is_not_made_up_for_by_the_cookie(site: Gateway) -> None:
    answer = Page(site).send("GET", "/users/profile", [("Authorization", "Bearer bad")])

    assert_problem(answer, 401, "INVALID_TOKEN")


def test_operators_pages_want_the_csrf_token_too(site: Gateway) -> None:
    page = Page(site, GRANT | {"access_token": KEYS.sign(honest("boss", ["admin"]) | {"sid": "s"})})

    assert page.send("GET", "/services").status == 200
    assert site.get("/services", ADMIN).status == 200


def test_refresh_takes_the_token_from_the_cookie_and_gives_new_ones(site: Gateway) -> None:
    page = Page(site)
    renewed = KEYS.sign(honest("u1") | {"sid": "session-1", "jti": "second"})
    site.stub.json["/users/refresh"] = GRANT | {"access_token": renewed, "refresh_token": "refresh-2"}
    before = page.csrf

    answer = page.send("POST", "/auth/refresh", [page.csrf])

    assert answer.status == 200
    assert site.arrived[-1].body == b'{"refresh_token":"refresh-1"}'
    assert site.arrived[-1].header("Content-Type") == "application/json"
    assert site.arrived[-1].all("Cookie") == []
    assert page.cookies["__Host-access"] == renewed
    assert page.cookies["__Secure-refresh"] == "refresh-2"
    assert page.csrf == before
    assert "refresh-2" not in answer.body.decode()


@pytest.mark.parametrize(
    ("fields", "origin"), [([], APP), ([("X-CSRF-Token", "x")], APP), (None, EVIL)], ids=["none", "wrong", "elsewhere"]
)
def test_refresh_by_cookie_wants_the_csrf_token_and_our_page(
    site: Gateway, fields: list[tuple[str, str]] | None, origin: str
) -> None:
    page = Page(site)
    before = len(site.arrived)

    answer = page.send("POST", "/auth/refresh", [page.csrf] if fields is None else fields, origin=origin)

    assert_problem(answer, 403, "CSRF_REFUSED")
    assert len(site.arrived) == before


def test_refresh_without_a_csrf_cookie_is_refused_whatever_is_shown(site: Gateway) -> None:
    page = Page(site)
    del page.cookies["__Host-csrf"]

    for shown in ("", "none"):
        assert_problem(page.send("POST", "/auth/refresh", [("X-CSRF-Token", shown)]), 403, "CSRF_REFUSED")


def test_refresh_with_a_token_in_the_body_is_what_it_always_was(site: Gateway) -> None:
    page = Page(site)

    answer = page.send("POST", "/auth/refresh", [JSON], b'{"refresh_token": "mine"}')

    assert answer.json() == GRANT
    assert site.arrived[-1].body == b'{"refresh_token": "mine"}'


def test_logout_clears_the_cookies(site: Gateway) -> None:
    page = Page(site)
    site.stub.json["/users/logout"] = {}

    refused = page.send("POST", "/auth/logout")
    answer = page.send("POST", "/auth/logout", [page.csrf])

    assert_problem(refused, 403, "CSRF_REFUSED")
    assert answer.status == 200
    assert page.cookies == {}
    assert len(answer.all("Set-Cookie")) == 3


@pytest.mark.parametrize("grant", [{"access_token": "bad"}, {"nothing": 1}], ids=["token that is none", "no token"])
def test_answer_without_a_good_token_becomes_no_session(site: Gateway, grant: dict[str, object]) -> None:
    site.stub.json["/users/login"] = grant

    answer = site.request("POST", "/auth/login", [HTTPS, COOKIE_MODE, JSON], b"{}")

    assert answer.status >= 400
    assert answer.all("Set-Cookie") == []
