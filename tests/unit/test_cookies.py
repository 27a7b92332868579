"""Sessions in cookies: how they are written, what a request must show besides, and what of them services see."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.callers import Forwarding
from gateway.cookies import Jar, csrf_token, is_from_our_pages, is_shown, jar_for
from gateway.cors import Cors
from gateway.headers import OUR_COOKIES, outgoing_headers, passed_request_fields, without_ours

SECURE, PLAIN = Jar(is_secure=True), Jar(is_secure=False)
HTTPS = Forwarding("192.0.2.1", "https", "api.example.com", ())


def test_tokens_are_out_of_reach_of_scripts_and_of_other_sites() -> None:
    assert SECURE.set("access", "t", max_age_s=900) == (
        "Set-Cookie",
        "__Host-access=t; Path=/; Max-Age=900; SameSite=Lax; Secure; HttpOnly",
    )
    assert SECURE.set("refresh", "t", path="/auth/refresh") == (
        "Set-Cookie",
        "__Secure-refresh=t; Path=/auth/refresh; SameSite=Strict; Secure; HttpOnly",
    )
    assert SECURE.set("csrf", "t", max_age_s=0) == (
        "Set-Cookie",
        "__Host-csrf=t; Path=/; Max-Age=0; SameSite=Lax; Secure",
    )


def test_on_this_machine_cookies_do_without_https_and_without_its_prefixes() -> None:
    assert PLAIN.set("access", "t") == ("Set-Cookie", "dev-access=t; Path=/; SameSite=Lax; HttpOnly")


@pytest.mark.parametrize(
    ("scheme", "host", "is_production", "expected"),
    [
        ("https", "api.example.com", True, SECURE),
        ("https", "localhost", False, SECURE),
        ("http", "localhost:5001", False, PLAIN),
        ("http", "LOCALHOST", False, PLAIN),
        ("http", "127.0.0.1:5001", False, PLAIN),
        ("http", "[::1]:5001", False, PLAIN),
        ("http", "localhost:5001", True, None),
        ("http", "api.example.com", False, None),
        ("http", "localhost.evil.example", False, None),
        ("http", "127.0.0.1.evil.example", False, None),
        ("http", "[::1].evil.example", False, None),
    ],
)
def test_cookies_never_travel_in_the_clear(
    scheme: str, host: str, expected: Jar | None, *, is_production: bool
) -> None:
    forwarding = Forwarding("192.0.2.1", scheme, host, ())

    assert jar_for(forwarding, is_production=is_production) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("__Host-access=t", "t"),
        ("a=1; __Host-access=t; b=2", "t"),
        ("a=1;__Host-access=t", "t"),
        ("bad cookie; [x]=y; __Host-access=t", "t"),
        ("__Host-accessx=t", ""),
        ("x__Host-access=t", ""),
        ("dev-access=t", ""),
        ("__host-access=t", ""),
        ("a=__Host-access=t", ""),
        ("", ""),
    ],
)
def test_cookie_is_read_by_its_whole_name(header: str, expected: str) -> None:
    assert SECURE.read("access", header) == expected


def test_csrf_token_is_of_one_session_and_one_secret() -> None:
    token = csrf_token(b"secret", "s1")

    assert is_shown(token, {"x-csrf-token": token})
    assert not is_shown(token, {})
    assert not is_shown("", {"x-csrf-token": ""})
    assert not is_shown(token, {"x-csrf-token": ""})
    assert not is_shown(token, {"x-csrf-token": csrf_token(b"secret", "s2")})
    assert not is_shown(token, {"x-csrf-token": csrf_token(b"other", "s1")})
    assert not is_shown(token, {"x-csrf-token": "\xe9"})
    assert len(token) >= 43


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"origin": "https://api.example.com"}, True),
        ({"origin": "https://app.example.com"}, True),
        ({"origin": "http://api.example.com"}, False),
        ({"origin": "https://api.example.com:8443"}, False),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "https://evil.example", "sec-fetch-site": "same-origin"}, False),
        ({"origin": "null"}, False),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({}, True),
    ],
)
def test_browser_says_whose_page_it_was(headers: dict[str, str], *, expected: bool) -> None:
    cors = Cors(("https://app.example.com",), takes_credentials=True)

    assert is_from_our_pages(headers, HTTPS, cors) is expected
    assert is_from_our_pages(headers, replace(HTTPS, host="API.example.com:443"), cors) is expected


def test_page_that_may_not_send_cookies_is_not_ours_though_it_may_read_answers() -> None:
    assert not is_from_our_pages({"origin": "https://a.example"}, HTTPS, Cors(("https://a.example",)))
    assert not is_from_our_pages({"origin": "https://a.example"}, HTTPS, Cors(("*",)))


def test_both_modules_mean_the_same_cookies() -> None:
    assert {jar.name(kind) for jar in (SECURE, PLAIN) for kind in ("access", "refresh", "csrf")} == OUR_COOKIES


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("a=1; b=2", "a=1; b=2"),
        ("a=1;b=2 ;odd", "a=1;b=2 ;odd"),
        ("a=1; __Host-access=t; b=2", "a=1; b=2"),
        ("__Host-access=t; __Secure-refresh=t; __Host-csrf=t", ""),
        ("dev-access=t;dev-csrf=t;x=y", "x=y"),
        ("note=__Host-access", "note=__Host-access"),
        ("__Host-access", ""),
    ],
)
def test_services_see_the_cookies_of_others_only(header: str, expected: str) -> None:
    kept = [("Cookie", expected)] if expected else []
    outgoing = outgoing_headers({"cookie": header}, HTTPS, [], "req-1")
    passed = passed_request_fields([("cOOKIE", header)], "1.1", None)

    assert without_ours(header) == expected
    assert [pair for pair in outgoing if pair[0] == "Cookie"] == kept
    assert [("Cookie", value) for name, value in passed if name == "cOOKIE"] == kept
