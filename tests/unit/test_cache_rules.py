"""What a shared cache may keep, and for how long (RFC 9111), its groups (RFC 9875), and If-None-Match (RFC 9110)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache import rules
from gateway.cache.rules import LONGEST_S, Wish, directives, groups, invalidates, lifetime_s, matches, wish

DATE = "Wed, 01 Jan 2031 00:00:00 GMT"
A_MINUTE_LATER = "Wed, 01 Jan 2031 00:01:00 GMT"
BEFORE = "Tue, 31 Dec 2030 23:59:59 GMT"


def kept_s(
    cache_control: str | None = "max-age=60", *, status: int = 200, authorized: bool = False, **more: str
) -> int:
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    if cache_control is not None:
        headers["cache-control"] = cache_control
    return lifetime_s(status, headers, authorized=authorized)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, {}),
        ("", {}),
        (" , ,", {}),
        ("no-store", {"no-store": None}),
        ("No-Store , MAX-AGE=5", {"no-store": None, "max-age": "5"}),
        ('max-age="5"', {"max-age": "5"}),
        ("max-age = 5", {"max-age": "5"}),
        ("max-age=", {"max-age": ""}),
        ("=5", {}),
        ('private="a, b", public', {"private": "a, b", "public": None}),
        (r'ext="\"", no-store', {"ext": "\\", "no-store": None}),
        (r'ext="\\", no-store', {"ext": r"\\", "no-store": None}),
        ('ext="unfinished, no-store', {"ext": "unfinished", "no-store": None}),
        ("max-age=1, max-age=2", {"max-age": "1"}),
    ],
)
def test_cache_control_is_read_as_directives(value: str | None, expected: dict[str, str | None]) -> None:
    assert directives(value) == expected


@pytest.mark.parametrize(
    ("status", "headers", "authorized", "expected"),
    [
        (200, {}, False, 300),
        (404, {}, False, 300),
        (200, {"cache-control": "public"}, True, 300),
        (200, {}, True, 0),
        (500, {}, False, 0),
        (200, {"cache-control": "no-store"}, False, 0),
        (200, {"cache-control": "private"}, False, 0),
        (200, {"cache-control": "max-age=5"}, False, 5),
        (200, {"cache-control": "max-age=0"}, False, 0),
        (200, {"expires": "0"}, False, 0),
        (200, {"set-cookie": "a=b"}, False, 0),
        (200, {"vary": "*"}, False, 0),
    ],
)
def test_the_operators_word_is_for_answers_that_say_nothing_themselves(
    status: int, headers: dict[str, str], authorized: bool, expected: int
) -> None:
    assert lifetime_s(status, headers, authorized=authorized, default_s=300) == expected


@given(text=st.text())
def test_any_cache_control_can_be_read(text: str) -> None:
    lifetime_s(200, {"cache-control": text, "expires": text, "date": text, "vary": text}, authorized=False)
    wish("GET", {"cache-control": text, "pragma": text})
    groups(text)
    matches(text, text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0),
        ("60", 60),
        ("0060", 60),
        ("86401", LONGEST_S),
        ("9" * 30, LONGEST_S),
        ("9" * 5000, LONGEST_S),
        ("0" * 5000, 0),
        (None, None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1e3", None),
        (" 1", None),
        ("1s", None),
        ("٣", None),
        ("²", None),
    ],
)
def test_delta_seconds_are_digits_and_bounded(value: str | None, expected: int | None) -> None:
    assert rules.seconds(value) == expected


@pytest.mark.parametrize(
    ("cache_control", "expected"),
    [
        ("max-age=60", 60),
        ("max-age=60, public", 60),
        ("MAX-AGE=60", 60),
        ('max-age="60"', 60),
        ("s-maxage=60", 60),
        ("s-maxage=60, max-age=5", 60),
        ("max-age=60, s-maxage=5", 5),
        ("max-age=60, s-maxage=0", 0),
        ("max-age=60, s-maxage=soon", 0),  # malformed is stale (4.2.1)
        ("max-age=99999999", LONGEST_S),
        ("max-age=0", 0),
        ("max-age=-5", 0),
        ("max-age=soon", 0),
        ("max-age", 0),
        ("max-age=", 0),
        ("max-age=1, max-age=100", 1),
        ("no-store", 0),
        ("max-age=60, no-store", 0),
        ("max-age=60, NO-STORE", 0),
        ("max-age=60, private", 0),
        ('max-age=60, private="set-cookie"', 0),
        ("max-age=60, no-cache", 0),
        ('max-age=60, no-cache="set-cookie"', 0),
        ("max-age=60, must-revalidate", 60),
        ("max-age=60, immutable, unknown=1", 60),
        (r'max-age=60, x="\"", private', 0),
        ('max-age=60, x="a, private', 0),
        (r'max-age=60, x="\"", private, y="\""', 0),
        ("public", 0),  # no heuristic
        ("", 0),
        (None, 0),
    ],
)
def test_lifetime_is_what_cache_control_says(cache_control: str | None, expected: int) -> None:
    assert kept_s(cache_control) == expected


@pytest.mark.parametrize(
    ("cache_control", "expires", "date", "expected"),
    [
        (None, A_MINUTE_LATER, DATE, 60),
        ("public", A_MINUTE_LATER, DATE, 60),
        ("max-age=5", A_MINUTE_LATER, DATE, 5),
        ("max-age=soon", A_MINUTE_LATER, DATE, 0),
        ("no-store", A_MINUTE_LATER, DATE, 0),
        (None, DATE, DATE, 0),
        (None, BEFORE, DATE, 0),
        (None, "0", DATE, 0),
        (None, "", DATE, 0),
        (None, "soon", DATE, 0),
        (None, A_MINUTE_LATER, "soon", 0),
        (None, A_MINUTE_LATER, "Wed, 01 Jan 2031 00:00:00", 0),  # a zone is missing
        (None, "Wed, 01 Jan 9999 00:00:00 GMT", DATE, LONGEST_S),
    ],
)
def test_expires_counts_where_no_max_age_does(
    cache_control: str | None, expires: str, date: str, expected: int
) -> None:
    assert kept_s(cache_control, expires=expires, date=date) == expected


def test_expires_without_a_date_counts_from_now() -> None:
    with time_machine.travel(datetime(2031, 1, 1, tzinfo=UTC), tick=False):
        assert kept_s(None, expires=A_MINUTE_LATER) == 60


@pytest.mark.parametrize(
    ("cache_control", "expected"),
    [
        ("max-age=60", 0),
        ("max-age=60, public", 60),
        ("s-maxage=60", 60),
        ("max-age=60, must-revalidate", 60),
        ("max-age=60, public, private", 0),
        ("public", 0),
    ],
)
def test_answer_to_a_request_with_authorization_is_kept_only_if_it_says_so(cache_control: str, expected: int) -> None:
    assert kept_s(cache_control, authorized=True) == expected


@pytest.mark.parametrize("vary", ["*", " * ", "*, accept", "Accept, *", "accept,*"])
def test_answer_that_varies_by_anything_is_not_kept(vary: str) -> None:
    assert kept_s(vary=vary) == 0


def test_answer_that_varies_by_a_field_is_kept() -> None:
    assert kept_s(vary="Accept-Language") == 60


def test_answer_that_sets_a_cookie_is_not_kept() -> None:
    assert kept_s("public, max-age=60", set_cookie="a=1") == 0


@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, 60), (203, 60), (301, 60), (308, 60), (404, 60), (410, 60)]
    + [(status, 0) for status in (201, 204, 206, 302, 303, 304, 307, 400, 401, 403, 405, 429, 500, 502, 503, 504)],
)
def test_only_some_statuses_are_kept(status: int, expected: int) -> None:
    assert kept_s(status=status) == expected


ANYTHING = Wish(may_use=True, may_keep=True, only_if_cached=False, max_age_s=None, min_fresh_s=0)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, ANYTHING),
        ({"cache-control": "max-stale=60"}, ANYTHING),
        ({"content-length": "0"}, ANYTHING),
        ({"pragma": "x"}, ANYTHING),
        ({"cache-control": "no-cache"}, Wish(False, True, False, None, 0)),
        ({"cache-control": "NO-CACHE"}, Wish(False, True, False, None, 0)),
        ({"cache-control": "no-store"}, Wish(False, False, False, None, 0)),
        ({"cache-control": "only-if-cached"}, Wish(True, True, True, None, 0)),
        ({"cache-control": "max-age=0"}, Wish(True, True, False, 0, 0)),
        ({"cache-control": "max-age=5, min-fresh=7"}, Wish(True, True, False, 5, 7)),
        ({"cache-control": "max-age=x, min-fresh=y"}, ANYTHING),
        ({"cache-control": "max-age=" + "9" * 5000}, Wish(True, True, False, LONGEST_S, 0)),
        ({"pragma": "no-cache"}, Wish(False, True, False, None, 0)),
        ({"pragma": "No-Cache"}, Wish(False, True, False, None, 0)),
        ({"pragma": "no-cache", "cache-control": "max-age=5"}, Wish(True, True, False, 5, 0)),
        ({"pragma": "no-cache", "cache-control": ""}, ANYTHING),  # 5.4: only without Cache-Control
        ({"range": "bytes=0-1"}, Wish(False, False, False, None, 0)),
        ({"content-length": "5"}, Wish(False, False, False, None, 0)),
        ({"transfer-encoding": "chunked"}, Wish(False, False, False, None, 0)),
    ],
)
def test_a_request_says_what_it_wants_of_the_cache(headers: dict[str, str], expected: Wish) -> None:
    assert wish("GET", headers) == expected


def test_a_head_is_answered_from_the_cache_but_its_answer_is_not_kept() -> None:
    assert wish("HEAD", {}) == Wish(True, False, False, None, 0)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_other_methods_go_past_the_cache(method: str) -> None:
    assert wish(method, {}) == Wish(False, False, False, None, 0)


@pytest.mark.parametrize(
    ("vary", "expected"),
    [
        ("", ()),
        (" , ", ()),
        ("Accept", ("accept",)),
        ("Origin, accept-Encoding,ORIGIN", ("accept-encoding", "origin")),
    ],
)
def test_varying_fields_are_sorted_and_lower_case(vary: str, expected: tuple[str, ...]) -> None:
    assert rules.vary_names({"vary": vary}) == expected


@pytest.mark.parametrize(
    ("first", "second", "are_same"),
    [
        ({"accept": "a"}, {"accept": "a"}, True),
        ({"accept": "a"}, {"accept": "a", "cookie": "x"}, True),
        ({"accept": "a,b"}, {"accept": "a , b"}, True),
        ({"accept": " a"}, {"accept": "a"}, True),
        ({"accept": "a"}, {"accept": "b"}, False),
        ({"accept": "a"}, {}, False),
        ({"accept": "a, b"}, {"accept": "b, a"}, False),
        ({"accept": "A"}, {"accept": "a"}, False),
        ({"accept": "a\norigin:"}, {"accept": "a", "origin": "\norigin:"}, False),
    ],
)
def test_variants_are_told_apart_by_the_varying_fields(
    first: dict[str, str], second: dict[str, str], are_same: bool
) -> None:
    names = ("accept", "origin")

    assert (rules.variant_key(names, first) == rules.variant_key(names, second)) is are_same


def test_an_answer_that_does_not_vary_has_one_variant() -> None:
    assert rules.variant_key((), {"accept": "a"}) == ""


@pytest.mark.parametrize(
    ("if_none_match", "etag", "expected"),
    [
        ('"1"', '"1"', True),
        ('W/"1"', '"1"', True),
        ('"1"', 'W/"1"', True),
        ('W/"1"', 'W/"1"', True),
        ('"0", W/"1" ,"2"', '"1"', True),
        ('"a,b"', '"a,b"', True),
        ('"a\\", "b"', '"b"', True),
        ('"a\\", "b"', '"a\\"', True),
        ("*", '"1"', True),
        ('"2"', '"1"', False),
        ("1", '"1"', False),
        ('"1', '"1"', False),
        ('w/"1"', '"1"', False),
        ("", '"1"', False),
        (None, '"1"', False),
        ('"1"', None, False),
        ("*", None, False),
    ],
)
def test_entity_tags_are_compared_weakly(if_none_match: str | None, etag: str | None, expected: bool) -> None:
    assert matches(if_none_match, etag) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ()),
        ("", ()),
        ('"a"', ("a",)),
        (' "a" , "b c"', ("a", "b c")),
        ('"a";x=1, "b"; y', ("a", "b")),
        ('"a,b"', ("a,b",)),
        ('"a;b"', ("a;b",)),
        ('"a;b";x="c;d"', ("a;b",)),
        (r'"a\"b", "c\\"', ('a"b', "c\\")),
        ("a, b", ()),
        ("5", ()),
        ('("a" "b")', ()),
        ('"unfinished', ()),
        ('"a", nonsense, "b"', ("a", "b")),
        ('""', ()),
        ('"a', ()),
    ],
)
def test_groups_are_the_quoted_members_of_a_list(value: str | None, expected: tuple[str, ...]) -> None:
    assert groups(value) == expected


def test_groups_are_bounded() -> None:
    assert len(groups(", ".join(f'"{number}"' for number in range(100)))) == 32


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPPATCH"])
@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, True), (201, True), (204, True), (303, True), (400, False), (409, False), (500, False)],
)
def test_an_unsafe_request_that_succeeds_empties_the_cache(method: str, status: int, expected: bool) -> None:
    assert invalidates(method, status) is expected


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE"])
def test_a_safe_request_empties_nothing(method: str) -> None:
    assert not invalidates(method, 200)
