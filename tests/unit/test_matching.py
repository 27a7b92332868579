"""Which requests fulfil a route's conditions, what is said of those that don't, and which host goes first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.matching import (
    LONGEST_TEXT,
    MOST_QUERY_FIELDS,
    Condition,
    Conditions,
    check_host_pattern,
    host_matches,
    host_rank,
    query_values,
)


def header(expected: str, name: str = "X-Beta") -> Condition:
    return Condition("header", name, expected)


def query(expected: str, name: str = "beta") -> Condition:
    return Condition("query", name, expected)


# one condition


@pytest.mark.parametrize(
    ("expected", "values", "holds"),
    [
        ("1", ["1"], True),
        ("1", ["11"], False),
        ("1", ["1 "], False),
        ("1", [], False),
        ("a", ["A"], False),
        ("1", ["0", "1"], True),
        ("1", ["0", "2"], False),
        ("", [""], True),
        ("", ["1"], False),
        ("", [], False),
        ("*", ["anything"], True),
        ("*", [""], True),
        ("*", ["x" * 2 * LONGEST_TEXT], True),
        ("*", [], False),
        ("!", [], True),
        ("!", [""], False),
        ("!", ["!"], False),
        (r"~v\d+", ["v12"], True),
        (r"~v\d+", ["v"], False),
        (r"~v\d+", ["v12x"], False),
        (r"~v\d+", ["xv12"], False),
        (r"~v\d+", ["v12\n"], False),
        (r"~v\d+", ["x", "v1"], True),
        (r"~v\d+", [], False),
        ("~a|bc", ["bc"], True),
        ("~a|bc", ["ac"], False),
        ("~(?i)beta", ["BETA"], True),
        (r"~\*", ["*"], True),
        (r"~\*", ["a"], False),
        ("~!", ["!"], True),
        ("~", [""], True),
        ("*a", ["*a"], True),
        ("1, 2", ["1, 2"], True),
    ],
)
@pytest.mark.parametrize("kind", ["header", "query"])
def test_a_condition_holds(kind: Literal["header", "query"], expected: str, values: Sequence[str], holds: bool) -> None:
    condition = Condition(kind, "x", expected)

    assert condition.holds(values) is holds
    assert (condition.why_not(values) == "") is holds


def test_a_text_that_is_too_long_fits_no_expression() -> None:
    assert header("~a*").holds(["a" * LONGEST_TEXT])
    assert not header("~a*").holds(["a" * (LONGEST_TEXT + 1)])


@pytest.mark.parametrize("name", ["", "X Y", "X:", "Ü", "X\n"])
def test_a_header_needs_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="like X-Beta"):
        header("1", name)


def test_every_token_is_the_name_of_a_header() -> None:
    assert header("1", "!#$%&'*+.^_`|~09AZaz-").holds(["1"])


def test_a_parameter_may_have_any_name_but_none() -> None:
    assert query("1", "filter[é]").name == "filter[é]"
    with pytest.raises(ValueError, match="like X-Beta or beta"):
        query("1", "")


@pytest.mark.parametrize("expected", ["~(", "~[", "~*", "~a**", "~(?P<1>a)", "~\\", "~a{99999999999}"])
def test_a_malformed_expression_is_refused(expected: str) -> None:
    with pytest.raises(ValueError, match="regular expression"):
        header(expected)


@pytest.mark.parametrize("expected", ["!1", "!!", "! "])
def test_an_exclamation_mark_stands_alone(expected: str) -> None:
    with pytest.raises(ValueError, match="! alone"):
        header(expected)


TOO_MANY_WAYS = [
    "(a+)+",
    "(a*)*",
    "(?:a+)*b",
    "(a|a)*",
    "(a|aa)+",
    "((a+)b)+",
    "(a?){30}",
    "(a+){4}",
    "(?P<x>a+)+",
    "(?i)(a+)+",
    "(a{1,9}){1,9}",
    "([ab]+,)*",
    r"(\d+\.)+",
    "(a+?)+?",
    "(a++)+",
    "(?:a|b){,40}",
    ".*a.*b.*",
    "a*a*a*",
    "a{0,}a{1,}a{,900}",
    "a?" * 30,
    "(a|aa)" * 30,
    "(?=(a+)+)a",
    "b|(a+)+",
    r"\(+(a+)+",
    "[(]+(a+)+",
    "[]]+(a+)+",
    r"a*a*a{400}",
    "(a|b){20}",
    "a{,300}b{,300}c{,300}|d",
    "d|a{,300}b{,300}c{,300}",
]
FEW_ENOUGH = [
    r"v\d+",
    ".*Mobile.*",
    "(?:ab)*",
    "(ab){3,}",
    "de|fr|it|es|" + "|".join(f"x{number}" for number in range(100)),
    "(de|fr)(-[A-Z]{2})?",
    r"\d{1,3}(\.\d{1,3}){3}",
    r"\d{4}-\d{2}-\d{2}T.*",
    "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}",
    "([0-9a-f]{2}:){5}[0-9a-f]{2}",
    "[*+?()|{}]{3}",
    r"\*\+\?\(a+\)",
    "[]*+]",
    "[^]*+]a*",
    r"[\](a+)+]",
    "a{x}{y}",
    "{}",
    "(?P<year>[0-9]+)",
]


@pytest.mark.parametrize("pattern", TOO_MANY_WAYS)
def test_an_expression_that_may_take_long_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="might take too long"):
        header(f"~{pattern}")


@pytest.mark.parametrize("pattern", FEW_ENOUGH)
def test_an_expression_with_few_ways_is_taken(pattern: str) -> None:
    assert header(f"~{pattern}").expected == f"~{pattern}"


PATTERN_PIECES = [
    "a",
    "b",
    ".",
    "a?",
    "a*",
    ".*",
    "a+",
    "(a|aa)",
    "{1,3}",
    "{2}",
    "+",
    "*",
    "?",
    "(",
    ")",
    "|",
    r"\w",
    "*+",
]


@settings(deadline=None, max_examples=200)
@given(pattern=st.lists(st.sampled_from(PATTERN_PIECES), min_size=2, max_size=9).map("".join))
def test_no_expression_that_is_taken_holds_the_worker_up(pattern: str) -> None:
    try:
        condition = header(f"~{pattern}")
    except ValueError:
        return

    began = time.process_time()
    condition.holds(["a" * (LONGEST_TEXT - 1) + "!"])

    assert time.process_time() - began < 2


# why not


@pytest.mark.parametrize(
    ("condition", "values", "reason"),
    [
        (header("1"), ["no"], "header X-Beta is 'no', wanted '1'"),
        (header("1", "x-beta"), ["no"], "header X-Beta is 'no', wanted '1'"),
        (header("1"), [], "header X-Beta is absent, wanted '1'"),
        (header("*"), [], "header X-Beta is absent, wanted any value"),
        (header("!"), ["1"], "header X-Beta is '1', wanted none"),
        (header(r"~v\d"), ["no"], r"header X-Beta is 'no', wanted a match of 'v\\d'"),
        (query("1"), ["a", "b"], "query beta is 'a' and 'b', wanted '1'"),
        (query("1"), ["a", "b", "c", "d"], "query beta is 'a' and 'b' and 'c', wanted '1'"),
        (query("1"), ["x" * 100], f"query beta is '{'x' * 80}', wanted '1'"),
        (query("1"), ["a\nb é"], r"query beta is 'a\nb \xe9', wanted '1'"),
        (query(""), ["1"], "query beta is '1', wanted ''"),
        (header("Bearer s3cret", "Authorization"), ["x"], "header Authorization is not shown, wanted a certain value"),
        (header("~s3cret", "COOKIE"), [], "header Cookie is absent, wanted a certain value"),
        (header("!", "Cookie"), ["s3cret"], "header Cookie is not shown, wanted none"),
        (header("*", "Cookie"), [], "header Cookie is absent, wanted any value"),
    ],
)
def test_a_condition_tells_what_it_found_and_what_it_wanted(
    condition: Condition, values: Sequence[str], reason: str
) -> None:
    assert condition.why_not(values) == reason


@pytest.mark.parametrize("name", ["Authorization", "authorization", "Cookie", "Proxy-Authorization", "X-Api-Key"])
@pytest.mark.parametrize("expected", ["s3cret-wanted", "~s3cret-wanted", "!"])
def test_a_credential_is_never_shown(name: str, expected: str) -> None:
    for values in ([], ["s3cret-sent"]):
        assert "s3cret" not in header(expected, name).why_not(values)
        assert "s3cret" not in query(expected, "access_token").why_not(values)


# all of them


ALL = Conditions(
    hosts=("shop.example.org", "*.example.net"),
    headers=(header("1", "X-Beta"), header("!", "X-Old")),
    query=(query("2", "v"), query("*", "w")),
)


@pytest.mark.parametrize(
    ("host", "headers", "raw_query", "reason"),
    [
        ("shop.example.org", {"x-beta": "1"}, "v=2&w", ""),
        ("SHOP.example.org:8080", {"x-beta": "1", "x-other": "3"}, "w&v=1&v=2", ""),
        ("a.b.example.net", {"x-beta": "1"}, "v=%32&w=&x", ""),
        ("example.net", {"x-beta": "1"}, "v=2&w", "host is 'example.net', wanted shop.example.org or *.example.net"),
        ("a" * 90, {}, None, f"host is '{'a' * 80}', wanted shop.example.org or *.example.net"),
        ("", {"x-beta": "1"}, "v=2&w", "host is '', wanted shop.example.org or *.example.net"),
        ("shop.example.org", {}, "v=2&w", "header X-Beta is absent, wanted '1'"),
        ("shop.example.org", {"x-beta": "1, 1"}, "v=2&w", "header X-Beta is '1, 1', wanted '1'"),
        ("shop.example.org", {"x-beta": "1", "x-old": ""}, "v=2&w", "header X-Old is '', wanted none"),
        ("shop.example.org", {"x-beta": "1"}, "v=3&w", "query v is '3', wanted '2'"),
        ("shop.example.org", {"x-beta": "1"}, "V=2&w", "query v is absent, wanted '2'"),
        ("shop.example.org", {"x-beta": "1"}, "v=2", "query w is absent, wanted any value"),
        ("shop.example.org", {"x-beta": "1"}, None, "query v is absent, wanted '2'"),
    ],
)
def test_all_conditions_must_hold_and_the_first_that_does_not_is_told(
    host: str, headers: dict[str, str], raw_query: str | None, reason: str
) -> None:
    assert ALL.hold(host, headers, raw_query) is (reason == "")
    assert ALL.why_not(host, headers, raw_query) == reason


def test_without_conditions_every_request_is_taken() -> None:
    assert Conditions().hold("", {}, None)
    assert Conditions().why_not("any", {"x": "1"}, "a=1") == ""


def test_conditions_are_counted_with_all_hosts_as_one() -> None:
    counts = [len(Conditions()), len(Conditions(hosts=("a", "b"))), len(Conditions(headers=ALL.headers)), len(ALL)]

    assert counts == [0, 1, 2, 5]


# query


@pytest.mark.parametrize(
    ("raw", "values"),
    [
        (None, {}),
        ("", {}),
        ("a", {"a": [""]}),
        ("a=", {"a": [""]}),
        ("a=1&b=2&a=3", {"a": ["1", "3"], "b": ["2"]}),
        ("&&a=1&", {"a": ["1"]}),
        ("a=b=c", {"a": ["b=c"]}),
        ("a+b=c+d%2Be", {"a b": ["c d+e"]}),
        ("%61=%2520", {"a": ["%20"]}),
        ("a%3D1=%26", {"a=1": ["&"]}),
        ("a=1;b=2", {"a": ["1;b=2"]}),
        ("=1", {"": ["1"]}),
        ("a=%c3%a9&b=%ff&c=%zz", {"a": ["é"], "b": ["\ufffd"], "c": ["%zz"]}),
    ],
)
def test_a_query_is_decoded_once(raw: str | None, values: dict[str, list[str]]) -> None:
    assert query_values(raw) == values


def test_only_the_first_fields_of_a_query_are_looked_at() -> None:
    first = [f"a{number}=1" for number in range(MOST_QUERY_FIELDS)]

    assert len(query_values("&".join(first))) == MOST_QUERY_FIELDS
    assert query_values("&".join([*first, "late=1&later=1"])) == query_values("&".join(first))


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=8))
def test_a_query_that_was_encoded_is_read_as_it_was_meant(pairs: list[tuple[str, str]]) -> None:
    values = query_values(urlencode(pairs, quote_via=quote_plus))

    assert {name: [value for key, value in pairs if key == name] for name, _value in pairs} == values


# hosts


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("shop.example.org", "shop.example.org", True),
        ("shop.example.org", "SHOP.Example.ORG", True),
        ("Shop.example.org", "shop.example.org", True),
        ("shop.example.org", "shop.example.org.", True),
        ("shop.example.org.", "shop.example.org", True),
        ("shop.example.org", "shop.example.org..", False),
        ("shop.example.org", "shop.example.org:8443", True),
        ("shop.example.org", "shop.example.org.:8443", True),
        ("shop.example.org", "shop.example.org:", True),
        ("shop.example.org", "a.shop.example.org", False),
        ("shop.example.org", "xshop.example.org", False),
        ("shop.example.org", "shop.example.orgx", False),
        ("shop.example.org", "shopxexample.org", False),
        ("shop.example.org", "", False),
        ("shop.example.org:8443", "shop.example.org:8443", True),
        ("shop.example.org:8443", "shop.example.org:443", False),
        ("shop.example.org:8443", "shop.example.org", False),
        ("shop.example.org:8443", "shop.example.org:", False),
        ("*.example.org", "shop.example.org", True),
        ("*.example.org", "a.shop.EXAMPLE.org.:80", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", ".example.org", False),
        ("*.example.org", "..example.org", False),
        ("*.example.org", "a..example.org", False),
        ("*.example.org", "xexample.org", False),
        ("*.example.org", "shop-example.org", False),
        ("*.example.org", "shop.example.org.evil.example", False),
        ("*.example.org:8443", "shop.example.org:8443", True),
        ("*.example.org:8443", "shop.example.org", False),
        ("[2001:db8::1]", "[2001:db8::1]", True),
        ("[2001:db8::1]", "[2001:DB8:0::1]:8443", True),
        ("[2001:db8:0:0::1]", "[2001:db8::1]", True),
        ("[2001:db8::1]:80", "[2001:db8::1]:80", True),
        ("[2001:db8::1]:80", "[2001:db8::1]", False),
        ("[2001:db8::1]", "[2001:db8::2]", False),
        ("[2001:db8::1]", "2001:db8::1", False),
        ("[2001:db8::1]", "[2001:db8::1", False),
        ("[::1]", "[:]", False),
        ("192.0.2.1", "192.0.2.1:80", True),
        ("192.0.2.1", "[192.0.2.1]", False),
        ("shop.example.org", "user@shop.example.org", False),
        ("shop.example.org", "shop.example.org:80:80", False),
    ],
)
def test_a_host_fits_a_pattern(pattern: str, host: str, matches: bool) -> None:
    assert host_matches(pattern, host) is matches


LABELS = st.text("ab-_0", min_size=1, max_size=3)
HOSTS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)


@given(front=HOSTS, apex=HOSTS, port=st.sampled_from(["", ":80", ":"]), dot=st.sampled_from(["", "."]))
def test_a_wildcard_takes_every_name_below_and_not_the_name_itself(front: str, apex: str, port: str, dot: str) -> None:
    assert host_matches(f"*.{apex}", f"{front}.{apex}{dot}{port}".upper())
    assert host_matches(apex, f"{apex}{dot}{port}")
    assert not host_matches(f"*.{apex}", f"{apex}{dot}{port}")


@given(pattern=st.text(max_size=12), host=st.text("[]:.*a1", max_size=8) | st.text(max_size=12))
def test_no_host_is_an_error(pattern: str, host: str) -> None:
    assert host_matches(pattern, host) in (True, False)
    assert host_matches("*.a", host) in (True, False)


def test_the_more_telling_host_ranks_higher() -> None:
    patterns = [
        None,
        "*.org",
        "*.org:80",
        "*.example.org",
        "*.example.org:80",
        "*.shop.example.org",
        "org",
        "a.shop.example.org",
        "a.shop.example.org:80",
    ]

    assert sorted(set(patterns), key=host_rank) == patterns
    assert len({host_rank(pattern) for pattern in patterns}) == len(patterns)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("shop.example.org", "shop.example.org"),
        ("Shop.Example.ORG.", "shop.example.org"),
        ("*.Example.org", "*.example.org"),
        ("*.org", "*.org"),
        ("localhost:5001", "localhost:5001"),
        ("product_service", "product_service"),
        ("xn--caf-dma.example", "xn--caf-dma.example"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:DB8:0::1]:8443", "[2001:db8::1]:8443"),
        ("ab:1", "ab:1"),
        ("a:65535", "a:65535"),
        (".".join(["a" * 62] * 4) + ".a", ".".join(["a" * 62] * 4) + ".a"),  # 253 characters
        (f"{'a' * 63}.example", f"{'a' * 63}.example"),
    ],
)
def test_a_host_pattern_is_taken_in_one_spelling(text: str, pattern: str) -> None:
    assert check_host_pattern(text) == pattern
    assert check_host_pattern(pattern) == pattern


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "*",
        "*.",
        "*example.org",
        "a.*.org",
        "*.*.org",
        "shop.*",
        "shop..example.org",
        ".example.org",
        "-a.example",
        "a-.example",
        "http://shop.example.org",
        "shop.example.org/",
        "shop example.org",
        "user@shop.example.org",
        "shop.example.org:http",
        "shop.example.org:80:80",
        "café.example",
        "2001:db8::1",
        "[2001:db8::1",
        "[192.0.2.1]",
        "[]",
        "*.[::1]",
        "a\n",
        "a" * 64,
        ".".join(["a" * 62] * 4) + ".ab",  # 254 characters
    ],
)
def test_what_is_no_host_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match=r"like shop\.example\.org"):
        check_host_pattern(text)


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_port_is_one_that_exists(port: str) -> None:
    with pytest.raises(ValueError, match="1 to 65535"):
        check_host_pattern(f"a:{port}")
