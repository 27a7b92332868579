"""Which origins are admitted, what an answer tells them, and which settings say something that nobody could mean."""

from __future__ import annotations

import pytest

from common.settings import SettingsError
from gateway.cors import Cors, check_origins, check_tokens, is_preflight, parse_list, without_cors
from tests.unit.parts import settings

EXACT = "https://app.example.com"
LISTED = Cors(
    (EXACT, "https://*.shop.example", "http://localhost:3000", "https://*.ports.example:8443"),
    takes_credentials=True,
    methods=("GET", "POST"),
    request_headers=("Authorization",),
    exposed=("ETag",),
    max_age_s=60,
)
OPEN = Cors(("*",), methods=("GET",), request_headers=("Authorization",))

ADMITTED = [
    EXACT,
    "http://localhost:3000",
    "https://a.shop.example",
    "https://a-b-1.shop.example",
    "https://xn--caf-dma.shop.example",
    "https://a.ports.example:8443",
]
STRANGERS = [
    "null",
    "",
    "*",
    "https://app.example.com.",
    "https://app.example.com/",
    "https://app.example.com:443",
    "https://app.example.com:8443",
    "https://app.example.com.evil.example",
    "https://app.example.comevil.example",
    "https://evil-app.example.com",
    "https://evil.example/https://app.example.com",
    "https://evil.example?https://app.example.com",
    "https://evil.example#app.example.com",
    "https://app.example.com@evil.example",
    "https://user@app.example.com",
    "https://app-example.com",
    "https://appXexample.com",
    "https://APP.example.com",
    "HTTPS://app.example.com",
    "http://app.example.com",
    "ws://app.example.com",
    "https://example.com",
    "https://x.app.example.com",
    " https://app.example.com",
    "https://app.example.com ",
    "https://app.example.com,https://evil.example",
    "https://evil.example, https://app.example.com",
    "https://app.example.com\x00",
    "https://app.examp\u217ce.com",
    "https://\u0430pp.example.com",
    "https://shop.example",
    "https://.shop.example",
    "https://a.b.shop.example",
    "https://evil.example/.shop.example",
    "https://evil.example?.shop.example",
    "https://evil.example:80.shop.example",
    "https://a@b.shop.example",
    "https://*.shop.example",
    "https://-.shop.example",
    "https://a.shop.example.evil.example",
    "https://a.shop.example:8443",
    "https://ashop.example",
    "https://a\u3002shop.example",
    "http://a.shop.example",
    "https://a.ports.example",
    "https://a.ports.example:84430",
    "http://localhost",
    "http://localhost:30001",
    "http://localhost:3000.evil.example",
    "http://127.0.0.1:3000",
    "file://",
    "chrome-extension://abc",
]


@pytest.mark.parametrize("origin", ADMITTED)
def test_listed_origin_is_told_that_it_may(origin: str) -> None:
    assert LISTED.answer_fields(origin) == [
        ("Vary", "Origin"),
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Expose-Headers", "ETag"),
    ]


@pytest.mark.parametrize("origin", STRANGERS, ids=ascii)
def test_any_other_origin_is_told_nothing_and_not_repeated(origin: str) -> None:
    assert not LISTED.admits(origin)
    assert LISTED.answer_fields(origin) == [("Vary", "Origin")]


def test_answer_without_an_origin_says_that_it_depends_on_it() -> None:
    assert LISTED.answer_fields(None) == [("Vary", "Origin")]


def test_null_is_no_origin_even_if_it_were_listed() -> None:
    assert not Cors(("null",)).admits("null")


@pytest.mark.parametrize("origin", [None, EXACT, "null", "https://evil.example"])
def test_open_rules_name_nobody_and_let_no_cookies_come(origin: str | None) -> None:
    assert OPEN.answer_fields(origin) == [("Access-Control-Allow-Origin", "*")]


def test_preflight_is_told_the_lists_and_no_private_network() -> None:
    assert LISTED.preflight_fields() == [
        ("Access-Control-Allow-Methods", "GET, POST"),
        ("Access-Control-Allow-Headers", "Authorization"),
        ("Access-Control-Max-Age", "60"),
    ]


@pytest.mark.parametrize(
    ("method", "names", "expected"),
    [
        ("OPTIONS", ("origin", "access-control-request-method"), True),
        ("OPTIONS", ("origin",), False),
        ("OPTIONS", ("access-control-request-method",), False),
        ("GET", ("origin", "access-control-request-method"), False),
    ],
)
def test_preflight_is_known_by_method_and_two_fields(method: str, names: tuple[str, ...], *, expected: bool) -> None:
    assert is_preflight(method, dict.fromkeys(names, "x")) is expected


def test_what_a_service_says_about_it_goes() -> None:
    headers = [("access-control-allow-origin", "*"), ("Access-Control-Max-Age", "1"), ("Vary", "Accept")]

    assert without_cors(headers) == [("Vary", "Accept")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("https://a.example", ("https://a.example",)),
        (" https://a.example , https://b.example,", ("https://a.example", "https://b.example")),
        ('["https://a.example", "https://b.example"]', ("https://a.example", "https://b.example")),
        ('["*"]', ("*",)),
        ("*", ("*",)),
        ("[]", ()),
    ],
)
def test_lists_are_written_in_two_ways(text: str, expected: tuple[str, ...]) -> None:
    assert parse_list(text) == expected


@pytest.mark.parametrize("text", ["[", '["a"', "[1]", '{"a": 1}x]', '[["a"]]', "[null]"])
def test_list_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be like|no origin"):
        check_origins(parse_list(text))


@pytest.mark.parametrize(
    "origin",
    [
        "null", "app.example.com", "//app.example.com", "https://", "https://app.example.com/", "https://app.example.com/x",
        "https://app.example.com:443", "http://app.example.com:80", "https://App.example.com", "https://app.example.com.",
        "https://caf\u00e9.example", "https://u@app.example.com", "https://*", "https://*.com", "https://*.*.example.com",
        "https://a*.example.com", "https://*a.example.com", "https://a.*.example.com", "*.example.com", "*://a.example",
        "https://app.example.com:*", "https://app..example.com", "https://app.example.com:0", "javascript:alert(1)",
    ],
)  # fmt: skip
def test_origin_that_no_browser_sends_or_that_says_too_much_stops_the_start(origin: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        check_origins((origin,))


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com", "http://localhost:3000", "http://127.0.0.1:8080", "http://[::1]:3000",
        "https://xn--caf-dma.example", "https://*.example.com", "https://*.a.example.com:8443", "capacitor://localhost",
        "http://app.example.com:443",
    ],
)  # fmt: skip
def test_origin_as_browsers_write_it_may_be_listed(origin: str) -> None:
    assert check_origins((origin,)) == (origin,)


def test_every_origin_and_some_besides_is_a_contradiction() -> None:
    with pytest.raises(ValueError, match="leave out the others"):
        check_origins(("*", EXACT))


@pytest.mark.parametrize("name", ["*", "X A", "", "X:A"])
def test_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        check_tokens((name,))


@pytest.mark.parametrize("environment", ["development", "production"])
@pytest.mark.parametrize("origins", ["*", '["*"]'])
def test_every_page_with_cookies_stops_the_start_wherever_it_is(environment: str, origins: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(cors_origins=origins, cors_credentials=True, environment=environment)

    assert any(problem.startswith("CORS_CREDENTIALS: must be off") for problem in refused.value.problems)


def test_without_a_setting_no_page_of_another_origin_may_do_anything() -> None:
    assert settings().browsers().cors.origins == ()
