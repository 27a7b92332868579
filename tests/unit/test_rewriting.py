"""What a route may change, that captured texts pass byte for byte, and that a redirect never leaves its host."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.callers import Forwarding
from gateway.headers import HOP_BY_HOP, outgoing_headers
from gateway.rewriting import (
    HeaderChanges,
    PathTemplate,
    Redirect,
    Rewrite,
    capture,
    check_header_name,
    check_header_value,
    check_prefix,
    check_redirect,
)
from gateway.targets import parse_target

Pairs = list[tuple[str, str]]

PIECES = st.sampled_from(["a", "B", "0", ".", "..", "-_~", ";", ":", "@", "=", "&", "+", "%20", "%c3%A9", "%zz"])
SEGMENTS = st.lists(PIECES, max_size=4).map("".join).filter(lambda text: text.partition(";")[0] not in (".", ".."))
HOSTILE_PIECES = ["/", "//", "\\", "\r\n", "\n", "\t", " ", "?", "#", "@", ":", "..", "%2f", "evil.example", "é", "\0"]
HOSTILE = st.lists(st.sampled_from(HOSTILE_PIECES) | st.text(max_size=3), max_size=6).map("".join)


# header fields


@pytest.mark.parametrize(
    "name", ["X-Team", "x-team", "Cache-Control", "Set-Cookie", "X-Forwarded-Prefix", "!#$%&'*+.^_`|~09AZaz-"]
)
def test_a_token_that_nobody_else_sets_is_a_header_name(name: str) -> None:
    assert check_header_name(name) == name


@pytest.mark.parametrize(
    "name", ["", " X", "X ", "X Y", "X:Y", "X\r\nY", "X\n", "X\0", "X(Y", "Ünder", 'X"Y', "X/Y", "X,Y"]
)
def test_what_is_no_token_is_no_header_name(name: str) -> None:
    with pytest.raises(ValueError, match="like X-Team"):
        check_header_name(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Host", "use host"),
        ("content-length", "frames the message"),
        ("Transfer-Encoding", "frames the message"),
        ("Trailer", "frames the message"),
        ("Expect", "frames the message"),
        ("Connection", "one connection only"),
        ("TE", "one connection only"),
        ("Upgrade", "one connection only"),
        ("Keep-Alive", "one connection only"),
        ("Proxy-Connection", "one connection only"),
        ("Proxy-Whatever", "one connection only"),
        ("X-User-Id", "itself says it"),
        ("x_user_id", "itself says it"),
        ("Via", "itself says it"),
        ("Date", "web server"),
        ("Server", "web server"),
    ],
)
def test_a_name_that_only_the_gateway_sets_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        check_header_name(name)

    assert name in str(refused.value)


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_every_hop_by_hop_field_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="can't be set"):
        check_header_name(name)


def test_every_field_that_forwarding_adds_is_refused() -> None:
    added = outgoing_headers({}, Forwarding("192.0.2.1", "http", "h", ()), [("X-User-Name", "ann")], "1")

    for name, _value in added:
        with pytest.raises(ValueError, match="itself says it"):
            check_header_name(name)


@pytest.mark.parametrize("value", ["", "a", "a b", "a\tb", 'max-age=60, "x"', "~", "!"])
def test_a_line_of_ascii_text_is_a_header_value(value: str) -> None:
    assert check_header_value(value) == value


@pytest.mark.parametrize(
    "value", ["a\r\nX-Evil: 1", "a\n", "\na", "a\rb", "a\0b", " a", "a ", "\ta", "a\t", " ", "é", "a\x7fb", "a\x1fb"]
)
def test_a_header_value_of_another_kind_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="one line of plain ASCII"):
        check_header_value(value)


def test_a_header_value_that_is_refused_is_not_shown() -> None:
    with pytest.raises(ValueError, match="one line") as refused:
        check_header_value("secret\n")

    assert "secret" not in str(refused.value)


ONE, TWO = ("A", "1"), ("B", "2")
CHANGES: list[tuple[HeaderChanges, Pairs, Pairs]] = [
    (HeaderChanges(), [ONE, ("a", "2")], [ONE, ("a", "2")]),
    (HeaderChanges(remove=("a",)), [ONE, TWO, ("a", "3")], [TWO]),
    (HeaderChanges(remove=("X",)), [ONE], [ONE]),
    (HeaderChanges(set=(("a", "9"),)), [TWO, ONE, ("C", "3"), ("A", "4")], [TWO, ("a", "9"), ("C", "3")]),
    (HeaderChanges(set=(("A", "9"),)), [TWO], [TWO, ("A", "9")]),
    (HeaderChanges(set=(("A", "8"), ("B", "9"))), [("b", "1"), ("a", "2")], [("B", "9"), ("A", "8")]),
    (HeaderChanges(set=(("A", "8"), ("a", "9"))), [ONE], [("a", "9")]),
    (HeaderChanges(add=(("A", "9"),)), [ONE, TWO], [ONE, TWO, ("A", "9")]),
    (HeaderChanges(add=(("A", "8"), ("A", "9"))), [], [("A", "8"), ("A", "9")]),
    (HeaderChanges(set=(("A", "8"),), add=(("A", "9"),)), [ONE, TWO], [("A", "8"), TWO, ("A", "9")]),
    (HeaderChanges(set=(("A", "9"),), remove=("a",)), [ONE, TWO], [TWO, ("A", "9")]),
    (HeaderChanges(add=(("A", "9"),), remove=("A",)), [ONE, TWO], [TWO, ("A", "9")]),
]


@pytest.mark.parametrize(("changes", "before", "after"), CHANGES)
def test_fields_are_removed_then_set_then_added(changes: HeaderChanges, before: Pairs, after: Pairs) -> None:
    given_fields = list(before)

    assert changes.apply(given_fields) == after
    assert given_fields == before


def test_changes_are_true_when_there_is_one() -> None:
    field = (("A", ""),)

    assert [bool(HeaderChanges(field)), bool(HeaderChanges((), field)), bool(HeaderChanges((), (), ("A",)))] == [
        True
    ] * 3
    assert not HeaderChanges()


NAMES = st.sampled_from(["A", "a", "B", "b", "C"])
FIELDS = st.lists(st.tuples(NAMES, st.sampled_from("123")), max_size=5)


@given(headers=FIELDS, put=FIELDS, add=FIELDS, remove=st.lists(NAMES, max_size=2))
def test_after_changes_a_set_name_is_there_once_and_all_others_kept_their_order(
    headers: Pairs, put: Pairs, add: Pairs, remove: list[str]
) -> None:
    changed = HeaderChanges(tuple(put), tuple(add), tuple(remove)).apply(headers)

    kept = changed[: len(changed) - len(add)]
    said = {name.lower(): value for name, value in put}
    touched = said.keys() | {name.lower() for name in remove}
    assert changed[len(kept) :] == add
    assert {name.lower(): value for name, value in kept if name.lower() in touched} == said
    assert len([name for name, _value in kept if name.lower() in touched]) == len(said)
    assert [pair for pair in kept if pair[0].lower() not in touched] == [
        pair for pair in headers if pair[0].lower() not in touched
    ]


# templates


@pytest.mark.parametrize(
    ("template", "captured", "path"),
    [
        ("/", {}, "/"),
        ("/v2", {}, "/v2"),
        ("/v2/", {}, "/v2/"),
        ("/v2/<id>/reviews", {"id": "7"}, "/v2/7/reviews"),
        ("/<id>", {"id": ""}, "/"),
        ("/<id>/", {"id": "%7e;a=b%2F"}, "/%7e;a=b%2F/"),
        ("/<b>/<a>", {"a": "1", "b": "2"}, "/2/1"),
        ("/archive/<path:rest>", {"rest": "a//b%20c/"}, "/archive/a//b%20c/"),
        ("/archive/<path:rest>", {"rest": ""}, "/archive/"),
        ("/<path:rest>", {"rest": "a/b"}, "/a/b"),
        ("/a%20b;c/...", {"unused": "1"}, "/a%20b;c/..."),
        ("/<a>", {"a": "<b>", "b": "2"}, "/<b>"),
    ],
)
def test_a_template_is_filled_byte_for_byte(template: str, captured: Mapping[str, str], path: str) -> None:
    assert PathTemplate.parse(template).fill(captured) == path


@pytest.mark.parametrize(
    ("template", "advice"),
    [
        ("", "begin with a slash"),
        ("v2", "begin with a slash"),
        ("<id>", "begin with a slash"),
        ("//v2", "single ones"),
        ("/v2//x", "single ones"),
        ("/<id", "whole segment"),
        ("/id>", "whole segment"),
        ("/<>", "whole segment"),
        ("/<<id>>", "whole segment"),
        ("/<id>x", "whole segment"),
        ("/x<id>", "whole segment"),
        ("/<a><b>", "whole segment"),
        ("/<1>", "whole segment"),
        ("/<a b>", "whole segment"),
        ("/<int:id>", "whole segment"),
        ("/<path:>", "whole segment"),
        ("/<id>/<id>", "twice"),
        ("/<id>/<path:id>", "twice"),
        ("/<path:rest>/x", "last segment"),
        ("/<path:rest>/", "last segment"),
        ("/<path:a>/<path:b>", "last segment"),
        ("/a/..", "dot segment"),
        ("/./a", "dot segment"),
        ("/..;x/a", "dot segment"),
        ("/%2e%2E", "refused"),
        ("/a%2fb", "refused"),
        ("/a%5Cb", "refused"),
        ("/a%0d", "refused"),
        ("/a%00", "refused"),
        ("/a%10", "refused"),
        ("/a%1Fb", "refused"),
        ("/a%7f", "refused"),
        ("/a\\b", "refused"),
        ("/a?x=1", "refused"),
        ("/a#b", "refused"),
        ("/a b", "a%20b"),
        ("/a\r\nb", "a%20b"),
        ("/café", "a%20b"),
    ],
)
def test_a_malformed_template_is_refused_with_what_would_be_right(template: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        PathTemplate.parse(template)


@pytest.mark.parametrize("template", ["/a\r\nb", "/<é\n>", "/\0"])
def test_a_refusal_is_one_line_whatever_the_template_has(template: str) -> None:
    with pytest.raises(ValueError, match=r"segment|refused") as refused:
        PathTemplate.parse(template)

    assert re.fullmatch("[ -~]+", str(refused.value))


def test_a_template_tells_its_names_as_they_are_written() -> None:
    assert PathTemplate.parse("/v2/<id>/<path:rest>").names == {"id", "path:rest"}
    assert PathTemplate.parse("/v2/").names == frozenset()


def test_a_name_that_was_not_captured_is_an_error() -> None:
    with pytest.raises(KeyError):
        PathTemplate.parse("/<id>").fill({"other": "1"})


@pytest.mark.parametrize(
    ("template", "rest", "captured"),
    [
        ("/", "", {}),
        ("/", "/", {}),
        ("/reviews", "/reviews/", {}),
        ("/<id>/reviews", "/7%20a/reviews", {"id": "7%20a"}),
        ("/<id>/reviews", "/7/reviews/", {"id": "7"}),
        ("/<id>/", "/7", {"id": "7"}),
        ("/<id>", "//", {"id": ""}),
        ("/<a>/x/<b>", "/%7e/x/%7E", {"a": "%7e", "b": "%7E"}),
        ("/files/<path:rest>", "/files", {"rest": ""}),
        ("/files/<path:rest>", "/files/", {"rest": ""}),
        ("/files/<path:rest>", "/files//", {"rest": "/"}),
        ("/files/<path:rest>", "/files/a/b%20c", {"rest": "a/b%20c"}),
        ("/files/<path:rest>", "/files/a//b/", {"rest": "a//b/"}),
        ("/<id>/<path:rest>", "/1/2/3", {"id": "1", "rest": "2/3"}),
        ("/<path:rest>", "", {"rest": ""}),
    ],
)
def test_names_are_bound_to_what_the_caller_wrote(template: str, rest: str, captured: Mapping[str, str]) -> None:
    target = parse_target("GET", f"/things{rest}", "h")

    assert capture(template, target.after(1).split("/")[1:]) == captured


@given(segments=st.lists(SEGMENTS, min_size=1, max_size=5), slash=st.sampled_from(["", "/"]))
def test_a_template_filled_with_what_it_captured_is_the_raw_path(segments: list[str], slash: str) -> None:
    path = "/" + "/".join(segments) + slash
    first, _, rest = path[1:].partition("/")

    captured = capture("/<first>/<path:rest>", path.split("/")[1:])

    assert captured == {"first": first, "rest": rest}
    assert PathTemplate.parse("/<first>/<path:rest>").fill(captured) == (path if "/" in path[1:] else path + "/")


# rewriting


@pytest.mark.parametrize(
    ("rewrite", "rest", "path"),
    [
        (Rewrite(), "/a/b", "/a/b"),
        (Rewrite(), "", "/"),
        (Rewrite(strip="/v1"), "/v1/a//b%20c/", "/a//b%20c/"),
        (Rewrite(strip="/v1"), "/v1", "/"),
        (Rewrite(strip="/v1"), "/v1/", "/"),
        (Rewrite(strip="/v1/"), "/v1/a", "/a"),
        (Rewrite(strip="/v1"), "/v1x/a", "/v1x/a"),
        (Rewrite(strip="/v1"), "/a/v1", "/a/v1"),
        (Rewrite(strip="/v1"), "", "/"),
        (Rewrite(strip="/v1"), "/V1/a", "/V1/a"),
        (Rewrite(strip="/v1"), "/%76%31/%61", "/%61"),
        (Rewrite(strip="/caf%C3%A9"), "/caf%c3%a9/a", "/a"),
        (Rewrite(strip="/v1"), "/v1//a", "//a"),
        (Rewrite(strip="/v1/x"), "/v1/x/a", "/a"),
        (Rewrite(strip="/v1/x"), "/v1", "/v1"),
        (Rewrite(strip="/v1/x"), "/v1/xy", "/v1/xy"),
        (Rewrite(strip="/v1", put="/v2"), "/v1/a", "/v2/a"),
        (Rewrite(strip="/v1", put="/v2/"), "/v1", "/v2"),
        (Rewrite(strip="/v1", put="/v2"), "/v1/", "/v2/"),
        (Rewrite(strip="/v1", put="/v2"), "/v3/a", "/v3/a"),
        (Rewrite(put="/v2"), "/a", "/v2/a"),
        (Rewrite(put="/v2"), "", "/v2"),
        (Rewrite(put="/v2"), "/", "/v2/"),
        (Rewrite(template=PathTemplate.parse("/v2/<id>")), "/7/reviews/", "/v2/7"),
    ],
)
def test_a_path_is_rewritten(rewrite: Rewrite, rest: str, path: str) -> None:
    assert rewrite.path(rest, {"id": "7"}) == path


@pytest.mark.parametrize("more", [{"strip": "/v1"}, {"put": "/v2"}])
def test_a_rewrite_has_either_a_template_or_prefixes(more: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="would mean nothing"):
        Rewrite(template=PathTemplate.parse("/"), **more)


@pytest.mark.parametrize("prefix", ["v1", "/../v1", "/a//b", "/a?b", "/%2e%2e", "/<id>", "/<path:rest>"])
def test_a_prefix_is_a_plain_path(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"must|has a|refused"):
        check_prefix(prefix)
    with pytest.raises(ValueError, match=r"must|has a|refused"):
        Rewrite(strip=prefix)
    with pytest.raises(ValueError, match=r"must|has a|refused"):
        Rewrite(put=prefix)


@pytest.mark.parametrize(("prefix", "checked"), [("/v1", "/v1"), ("/v1/", "/v1"), ("/", ""), ("/a/b%20", "/a/b%20")])
def test_a_prefix_loses_its_last_slash(prefix: str, checked: str) -> None:
    assert check_prefix(prefix) == checked


REWRITES = st.sampled_from(
    [
        Rewrite(),
        Rewrite(strip="/a"),
        Rewrite(strip="/a", put="/new"),
        Rewrite(put="/new/x"),
        Rewrite(template=PathTemplate.parse("/new/<first>")),
        Rewrite(template=PathTemplate.parse("/<first>/new/<path:rest>")),
        Rewrite(template=PathTemplate.parse("/<path:rest>")),
    ]
)


@given(rewrite=REWRITES, segments=st.lists(SEGMENTS | st.just("a"), max_size=5))
def test_a_rewritten_path_begins_with_a_slash_and_has_only_segments_of_caller_and_configuration(
    rewrite: Rewrite, segments: list[str]
) -> None:
    raw = "".join(f"/{segment}" for segment in segments)
    captured = capture("/<first>/<path:rest>", segments or [""])

    path = rewrite.path(raw, captured)

    assert path.startswith("/")
    assert set(path[1:].split("/")) <= {*segments, "new", "x", ""}
    assert not any(unquote(segment).partition(";")[0] in (".", "..") for segment in path.split("/"))


@given(segments=st.lists(SEGMENTS, max_size=5))
def test_stripping_what_was_put_in_front_gives_the_path_back(segments: list[str]) -> None:
    raw = "".join(f"/{segment}" for segment in segments)

    assert Rewrite(strip="/new").path(Rewrite(put="/new").path(raw, {}), {}) == (raw or "/")


# redirects

CAPTURED = {"id": "7%20a&b=c+d", "rest": "x//y/"}


@pytest.mark.parametrize(
    ("to", "query", "location"),
    [
        ("/", None, "/"),
        ("/v2/<id>", None, "/v2/7%20a&b=c+d"),
        ("/v2/<path:rest>", None, "/v2/x//y/"),
        ("/v2", "a=1&b=%20?", "/v2?a=1&b=%20?"),
        ("/v2", "", "/v2?"),
        ("/v2?x=1", "a=1", "/v2?x=1"),
        ("/v2?", "a=1", "/v2?"),
        ("/v2#top", "a=1", "/v2?a=1#top"),
        ("/v2?x#a?b", "a=1", "/v2?x#a?b"),
        ("/v2?id=<id>&at=<path:rest>", None, "/v2?id=7%20a%26b%3Dc%2Bd&at=x//y/"),
        ("/<id>?id=<id>", None, "/7%20a&b=c+d?id=7%20a%26b%3Dc%2Bd"),
        ("https://shop.example.org", None, "https://shop.example.org/"),
        ("https://shop.example.org", "a=1", "https://shop.example.org/?a=1"),
        ("https://shop.example.org?x", "a=1", "https://shop.example.org/?x"),
        ("HTTP://[2001:db8::1]:8080/v2/<id>", "a", "HTTP://[2001:db8::1]:8080/v2/7%20a&b=c+d?a"),
        ("https://shop.example.org/<path:rest>", None, "https://shop.example.org/x//y/"),
    ],
)
def test_a_redirect_leads_to_its_filled_template_with_one_query(to: str, query: str | None, location: str) -> None:
    assert check_redirect(to) == to
    assert Redirect(308, to).location(CAPTURED, query) == location


@pytest.mark.parametrize(
    ("rest", "location"),
    [
        ("/evil.example", "/.//evil.example"),
        ("//evil.example", "/.///evil.example"),
        ("\\evil.example", "/%5Cevil.example"),
        ("\t/evil.example", "/%09/evil.example"),
        ("a\r\nSet-Cookie: x", "/a%0D%0ASet-Cookie:%20x"),
        ("a?b#c", "/a%3Fb%23c"),
        ("é", "/%C3%A9"),
        ("\ud800", "/%3F"),
        ("http://evil.example", "/http://evil.example"),
    ],
)
def test_what_could_lead_to_another_host_is_shielded(rest: str, location: str) -> None:
    assert Redirect(308, "/<path:rest>").location({"rest": rest}, None) == location


def test_an_empty_first_segment_does_not_lead_to_another_host() -> None:
    captured = capture("/<a>/<b>", ["", "evil.example"])

    assert Redirect(301, "/<a>/<b>").location(captured, None) == "/.//evil.example"


@pytest.mark.parametrize(
    ("to", "advice"),
    [
        ("", "a path like"),
        ("v2", "a path like"),
        ("//evil.example/", "an address like"),
        ("ftp://a.example/", "an address like"),
        ("https:/a.example/", "an address like"),
        ("javascript:alert(1)", "an address like"),
        ("<id>", "a path like"),
        ("?x", "a path like"),
        ("https://", "plain host"),
        ("https:///x", "plain host"),
        ("https://user@a.example/", "plain host"),
        ("https://<id>.example/", "plain host"),
        ("https://<id>", "plain host"),
        ("https://a.example\\b/", "plain host"),
        ("https://a.example:port/", "plain host"),
        ("https://a.example:/", "plain host"),
        ("https://a b/", "plain host"),
        ("/\\evil.example", "refused"),
        ("/a\r\nb", "a%20b"),
        ("/a/../b", "dot segment"),
        ("https://a.example/../b", "dot segment"),
        ("https://a.example//b", "single ones"),
        ("/<id", "whole segment"),
        ("/x-<id>", "whole segment"),
        ("/<id>/<id>", "twice"),
        ("/a?x=<id", "in its query"),
        ("/a?x=\r\n", "in its query"),
        ("/a?x=é", "in its query"),
        ("/a#<id>", "behind a #"),
        ("/a#\n", "behind a #"),
        ("/a#b#c", "behind a #"),
    ],
)
def test_a_redirect_to_elsewhere_is_refused_with_what_would_be_right(to: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        check_redirect(to)
    with pytest.raises(ValueError, match=advice):
        Redirect(308, to)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_has_one_of_five_statuses(status: int) -> None:
    assert Redirect(status, "/").status == status


@pytest.mark.parametrize("status", [200, 300, 304, 305, 306, 309, 404])
def test_another_status_is_no_redirect(status: int) -> None:
    with pytest.raises(ValueError, match="301, 302, 303, 307, 308"):
        Redirect(status, "/")


def test_a_redirect_tells_its_names_as_they_are_written() -> None:
    redirect = Redirect(308, "https://a.example/<id>?at=<path:rest>&x=<id>")

    assert redirect.names == {"id", "path:rest"}


def test_redirects_with_the_same_words_are_equal() -> None:
    assert Redirect(308, "/a") == Redirect(308, "/a")
    assert Redirect(308, "/a") != Redirect(308, "/b")


def as_browsers_read(base: str, location: str) -> str:
    """Where a browser goes: tabs and line ends don't count, and a backslash is a slash (WHATWG URL, 4.4)."""
    read = re.sub(r"[\t\r\n]", "", location.strip("".join(map(chr, range(33))))).replace("\\", "/")
    return urljoin(base, read)


@given(
    to=st.sampled_from(["/<path:rest>", "/<id>/<path:rest>", "/<id>", "/<id>/", "/x/<id>", "/?a=<id>", "/#x"]),
    one=SEGMENTS | HOSTILE,
    rest=st.lists(SEGMENTS, max_size=4).map("/".join) | HOSTILE,
    query=st.none() | HOSTILE,
)
def test_a_redirect_to_a_path_never_leaves_the_gateway(to: str, one: str, rest: str, query: str | None) -> None:
    location = Redirect(302, to).location({"id": one, "rest": rest}, query)

    assert location.startswith("/")
    assert re.fullmatch("[!-~]+", location)
    assert location[1:2] not in ("/", "\\")
    assert urlsplit(location)[:2] == ("", "")
    assert urlsplit(as_browsers_read("https://gateway.example/a/b", location))[:2] == ("https", "gateway.example")


@given(
    to=st.sampled_from(["", "/", "/<id>", "/x/<path:rest>", "/<path:rest>", "?a=<id>", "/?a=<path:rest>#x"]),
    one=SEGMENTS | HOSTILE,
    rest=st.lists(SEGMENTS, max_size=4).map("/".join) | HOSTILE,
    query=st.none() | HOSTILE,
)
def test_a_redirect_to_an_address_keeps_its_host(to: str, one: str, rest: str, query: str | None) -> None:
    location = Redirect(302, f"https://shop.example.org:8443{to}").location({"id": one, "rest": rest}, query)

    assert re.fullmatch("[!-~]+", location)
    assert location.startswith("https://shop.example.org:8443/")
    assert urlsplit(as_browsers_read("http://gateway.example/", location))[:2] == ("https", "shop.example.org:8443")


@given(
    segments=st.lists(SEGMENTS, min_size=1, max_size=4), query=st.none() | st.sampled_from(["", "a=1&b=%20", "?/\\"])
)
def test_what_the_gateway_accepts_goes_into_a_redirect_byte_for_byte(segments: list[str], query: str | None) -> None:
    raw = "/".join(segments)

    location = Redirect(307, "/new/<path:rest>").location({"rest": raw}, query)

    assert location == f"/new/{raw}" + ("" if query is None else f"?{query}")
