"""Which request targets and hosts are accepted, and that accepted ones pass byte for byte."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.problems import BadRequest, NotImplementedProblem, Problem
from gateway.targets import Target, check_host, parse_target, read_target

HOST = "api.example.org:5001"


class Parsed(NamedTuple):
    raw: str
    path: str
    query: str | None
    segments: tuple[str, ...]


ACCEPTED = [
    Parsed("/", "/", None, ()),
    Parsed("/a/b", "/a/b", None, ("a", "b")),
    Parsed("/a/b/", "/a/b/", None, ("a", "b")),
    Parsed("/a?", "/a", "", ("a",)),
    Parsed("/a?x=1&x=2?y", "/a", "x=1&x=2?y", ("a",)),
    Parsed("/?x", "/", "x", ()),
    Parsed("//a", "//a", None, ("", "a")),
    Parsed("/a//b", "/a//b", None, ("a", "", "b")),
    Parsed("/a//", "/a//", None, ("a", "")),
    Parsed("/%61%4a%4A", "/%61%4a%4A", None, ("aJJ",)),
    Parsed("/%7euser/~user", "/%7euser/~user", None, ("~user", "~user")),
    Parsed("/a;v=1/b;c", "/a;v=1/b;c", None, ("a;v=1", "b;c")),
    Parsed("/%zz/%/%4", "/%zz/%/%4", None, ("%zz", "%", "%4")),
    Parsed("/caf%c3%a9/caf%C3%A9", "/caf%c3%a9/caf%C3%A9", None, ("café", "café")),
    Parsed("/a%20b+c", "/a%20b+c", None, ("a b+c",)),
    Parsed("/%252e%252e/%252f", "/%252e%252e/%252f", None, ("%2e%2e", "%2f")),
    Parsed("/.hidden/..two/three...", "/.hidden/..two/three...", None, (".hidden", "..two", "three...")),
    Parsed("/.../a..", "/.../a..", None, ("...", "a..")),
    Parsed("/a:b@c!$&'()*,=", "/a:b@c!$&'()*,=", None, ("a:b@c!$&'()*,=",)),
    Parsed('/"<>^`{|}', '/"<>^`{|}', None, ('"<>^`{|}',)),
    Parsed("/a?../%2e%2e/%2f%5c\\%0d%0a", "/a", "../%2e%2e/%2f%5c\\%0d%0a", ("a",)),
    Parsed("/a?%zz&%7E&caf%c3%A9&%ff", "/a", "%zz&%7E&caf%c3%A9&%ff", ("a",)),
]

DOT_SEGMENTS = [".", "..", ".;", "..;", "..;x", ".;x=1", "%2e", "%2E", "%2e%2e", "%2E%2e", ".%2e", "%2E.", "..%2f"]
AMBIGUOUS = ["%2f", "%2F", "%5c", "%5C", "\\", "#", "#a", "a%2eb", "%2e%2fa"]
CONTROL = ["%00", "%01", "%0a", "%0A", "%0d", "%1F", "%1f", "%7f", "%7F", "\x00", "\t", "\n", "\r", " ", "\x1f", "\x7f"]
NOT_ASCII = ["\x80", "é", "ÿ", "Ā", "\uffff"]


@pytest.mark.parametrize("expected", ACCEPTED, ids=lambda expected: ascii(expected.raw))
def test_accepted_target_is_kept_byte_for_byte(expected: Parsed) -> None:
    target = parse_target("GET", expected.raw, HOST)

    assert target.raw == expected.raw
    assert (target.path, target.query, target.segments) == (expected.path, expected.query, expected.segments)


@pytest.mark.parametrize("template", ["/{}", "/{}/", "/a/{}", "/a/{}/b", "//{}"])
@pytest.mark.parametrize("segment", DOT_SEGMENTS + AMBIGUOUS + CONTROL + NOT_ASCII, ids=ascii)
def test_unsafe_segment_is_refused_wherever_it_stands(template: str, segment: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_target("GET", template.format(segment), HOST)

    assert refused.value.code == "UNSAFE_PATH"


@pytest.mark.parametrize("character", CONTROL + NOT_ASCII, ids=ascii)
def test_unsafe_character_in_the_middle_of_a_segment_is_refused(character: str) -> None:
    with pytest.raises(BadRequest, match="path"):
        parse_target("GET", f"/a{character}b", HOST)


@pytest.mark.parametrize(
    "query", ["%00", "a=%00b", "\x00", " ", "\t", "\n", "\r", "\x1f", "\x7f", "\x80", "é", "#", "a#b"]
)
def test_unsafe_character_in_the_query_is_refused(query: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_target("GET", f"/a?{query}", HOST)

    assert refused.value.code == "UNSAFE_PATH"


@pytest.mark.parametrize("text", ["%2e%2e", "\\", "é"])
def test_refusal_does_not_repeat_what_was_sent(text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_target("GET", f"/secret-{text}", HOST)

    assert "secret" not in refused.value.detail


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
@pytest.mark.parametrize("raw", ["/", "*", HOST, f"http://{HOST}/"])
def test_connect_and_trace_are_not_offered_for_any_target(method: str, raw: str) -> None:
    with pytest.raises(NotImplementedProblem) as refused:
        parse_target(method, raw, HOST)

    assert refused.value.code == "METHOD_NOT_IMPLEMENTED"


@pytest.mark.parametrize("method", ["", "G T", "GET\n", "GÉT", "G(T", "G/T", "G\x00"])
def test_malformed_method_is_refused(method: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_target(method, "/", HOST)

    assert refused.value.code == "MALFORMED_REQUEST"


@pytest.mark.parametrize("method", ["GET", "PUT", "PROPFIND", "M-SEARCH", "X!$%&'*+.^_`|~9", "M" * 20])
def test_method_may_be_a_token_of_the_usual_kind(method: str) -> None:
    assert parse_target(method, "/", HOST).path == "/"


@pytest.mark.parametrize("method", ["get", "Get", "GEt", "GO", "X", "A#B", "M" * 21])
def test_odd_method_is_refused_and_ends_the_connection(method: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_target(method, "/", HOST)

    assert refused.value.code == "MALFORMED_REQUEST"
    assert refused.value.headers == (("Connection", "close"),)


@pytest.mark.parametrize("raw", ["*", "", HOST, "a/b", "?x", "api.example.org", "ftp://h/", "http:/x", "https:"])
def test_target_in_another_form_is_refused(raw: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_target("OPTIONS", raw, HOST)

    assert refused.value.code == "UNSUPPORTED_TARGET"


@pytest.mark.parametrize(
    ("raw", "origin"),
    [
        (f"http://{HOST}/a//%7e?x", "/a//%7e?x"),
        (f"HTTPS://{HOST}/a", "/a"),
        ("http://API.example.ORG:5001/a", "/a"),
        (f"http://{HOST}", "/"),
        (f"http://{HOST}?x", "/?x"),
        (f"http://{HOST}?", "/?"),
    ],
)
def test_absolute_form_with_the_same_host_is_taken_as_origin_form(raw: str, origin: str) -> None:
    assert parse_target("GET", raw, HOST).raw == origin


@pytest.mark.parametrize(
    "raw",
    [
        "http://other.example.org/",
        "http://api.example.org/",  # without the port it is another authority
        f"http://user@{HOST}/",
        f"http://{HOST}@other.example.org/",
        "http:///a",
    ],
)
def test_absolute_form_with_another_host_is_refused(raw: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_target("GET", raw, HOST)

    assert refused.value.code == "MALFORMED_HOST"


def test_absolute_form_without_a_host_field_is_refused() -> None:
    with pytest.raises(BadRequest, match="different hosts"):
        parse_target("GET", "http://h/", None)


@pytest.mark.parametrize("rest", ["/a/../b", "/%2e%2e/a", "#a", "/a\\b", "?%00"])
def test_absolute_form_follows_the_same_rules_for_its_path(rest: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_target("GET", f"http://{HOST}{rest}", HOST)

    assert refused.value.code == "UNSAFE_PATH"


VERBATIM_ONLY = [
    ("GET", "/a/../b"),
    ("GET", "/%2e"),
    ("GET", "/a\\b"),
    ("GET", "/a#b"),
    ("GET", "/%00"),
    ("GET", "/?%00"),
    ("GET", "/a%2fb?#"),
    ("GET", "/..%2fb"),
    ("GET", "/a%2f..;b"),
    ("GET", "/%2e%2f"),
    ("TRACE", "/a%2fb"),
    ("TRACE", "/"),
    ("get", "/a%5cb"),
    ("OPTIONS", "*"),
    ("GET", "http://other.example/a%2fb"),
    ("GET", "http://other.example"),
]


@pytest.mark.parametrize(("method", "raw"), VERBATIM_ONLY)
def test_what_the_parser_takes_passes_a_verbatim_service_only(method: str, raw: str) -> None:
    fault = read_target(method, raw, HOST).fault

    assert fault is not None
    assert fault.passes(is_verbatim=True, takes_slashes=False)
    assert not fault.passes(is_verbatim=False, takes_slashes=True)
    assert not fault.passes(is_verbatim=False, takes_slashes=False)


@pytest.mark.parametrize("path", ["/%2f", "/a%2Fb", "/%5c%5C", "/a%2fb/c%5cd", "/a%2f.b", "/a%2f%252e"])
def test_encoded_slashes_alone_pass_a_service_that_takes_them(path: str) -> None:
    fault = read_target("GET", path, HOST).fault

    assert fault is not None
    assert fault.passes(is_verbatim=False, takes_slashes=True)
    assert not fault.passes(is_verbatim=False, takes_slashes=False)


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        ("CONNECT", "/"),
        ("CONNECT", HOST),
        ("CONNECT", "/a%2fb"),
        ("G T", "/"),
        ("", "/"),
        ("GET", "ftp://h/"),
        ("GET", "a/b"),
        ("GET", ""),
        ("GET", f"http://user@{HOST}/"),
        ("GET", "http:///a%2fb"),
    ],
)
def test_what_can_not_be_passed_on_at_all_passes_nowhere(method: str, raw: str) -> None:
    fault = read_target(method, raw, HOST).fault

    assert fault is not None
    assert not fault.passes(is_verbatim=True, takes_slashes=True)


@pytest.mark.parametrize(
    ("method", "raw", "code"),
    [
        ("TRACE", "/../%2f?%00", "METHOD_NOT_IMPLEMENTED"),
        ("get", "*", "MALFORMED_REQUEST"),
        ("GET", "http://other.example/..", "MALFORMED_HOST"),
    ],
)
def test_of_several_faults_the_first_is_told(method: str, raw: str, code: str) -> None:
    fault = read_target(method, raw, HOST).fault

    assert fault is not None
    assert fault.problem.code == code


@pytest.mark.parametrize(
    ("raw", "path", "segments"),
    [
        ("/x/../shop", "/x/../shop", ("x", "..", "shop")),
        ("/shop/%2e%2e/x", "/shop/%2e%2e/x", ("shop", "..", "x")),
        ("/shop%2fx", "/shop%2fx", ("shop/x",)),
        ("/shop\\x", "/shop\\x", ("shop\\x",)),
        ("*", "*", ()),
        ("http://other.example/a/..", "/a/..", ("a", "..")),
    ],
)
def test_odd_path_has_the_segments_between_its_raw_slashes(raw: str, path: str, segments: tuple[str, ...]) -> None:
    target = read_target("OPTIONS", raw, HOST)

    assert (target.path, target.segments) == (path, segments)


@pytest.mark.parametrize(
    ("raw", "authority"),
    [
        ("/x", None),
        (f"http://{HOST}/x", None),
        (f"http://{HOST.upper()}/x", None),
        ("http://other.example:81/x", "other.example:81"),
        ("http://user@other.example/x", None),
    ],
)
def test_host_that_an_absolute_form_names_counts_where_it_may_pass(raw: str, authority: str | None) -> None:
    assert read_target("GET", raw, HOST).authority == authority


@pytest.mark.parametrize(
    ("method", "raw", "expected"),
    [
        ("OPTIONS", "*", True),
        ("OPTIONS", f"http://{HOST}", True),
        ("OPTIONS", f"http://{HOST}/", False),
        ("OPTIONS", f"http://{HOST}?", False),
        ("OPTIONS", "/", False),
        ("GET", f"http://{HOST}", False),
    ],
)
def test_options_may_ask_about_the_whole_server(method: str, raw: str, *, expected: bool) -> None:
    assert read_target(method, raw, HOST).is_server_wide is expected


HARMLESS = st.text(alphabet="aZ0-._~;=:@!$&'()*+,", max_size=5) | st.sampled_from(["", "%41", "%7e", "%c3%A9", "%zz"])
HARMLESS_SEGMENT = st.lists(HARMLESS, max_size=3).map("".join).filter(lambda s: s.partition(";")[0] not in (".", ".."))
PATHS = st.lists(HARMLESS_SEGMENT, min_size=1, max_size=6).map(lambda segments: "/" + "/".join(segments))


@given(path=PATHS, count=st.integers(0, 8))
def test_what_is_after_a_prefix_and_the_prefix_make_the_path(path: str, count: int) -> None:
    target = parse_target("GET", path, HOST)

    after = target.after(count)

    prefix = path[: len(path) - len(after)]
    assert prefix + after == path
    assert after == "" or after.startswith("/")
    assert parse_target("GET", after or "/", HOST).segments == target.segments[count:]


@given(raw=st.text(st.characters(codec="ascii", min_codepoint=0x21, max_codepoint=0x7E), max_size=20))
def test_path_is_kept_byte_for_byte_whatever_its_fault(raw: str) -> None:
    target = read_target("GET", f"/{raw}", HOST)

    assert target.raw == f"/{raw}"
    assert target.segments == tuple(unquote(part) for part in target.path.removesuffix("/").split("/")[1:])


PIECES = st.sampled_from(
    [*DOT_SEGMENTS, *AMBIGUOUS, *CONTROL, "/", "/", "/", "?", "%", "2", "e", "f", ";", "a", "é", "\uffff"]
)


@given(raw=(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=20)).map(lambda rest: "/" + rest))
def test_nothing_that_is_accepted_can_be_read_in_two_ways(raw: str) -> None:
    try:
        target = parse_target("GET", raw, HOST)
    except Problem:
        return

    assert target.raw == raw
    for segment in target.segments:
        assert segment.partition(";")[0] not in (".", "..")
        assert not any(character in "/\\\x7f" or character < " " for character in segment)


@given(
    name=st.text(
        st.characters(codec="utf-8", min_codepoint=0x20, exclude_characters="/\\.\x7f"), min_size=1, max_size=10
    )
)
def test_a_segment_that_was_encoded_is_decoded_for_routing(name: str) -> None:
    assert parse_target("GET", f"/{quote(name, safe='')}", HOST).segments == (name,)


def test_the_path_behind_a_prefix_keeps_its_double_slashes_and_escapes() -> None:
    target = Target("/api//%7e/b/", None, ("api", "", "~", "b"))

    assert [target.after(count) for count in range(6)] == ["/api//%7e/b/", "//%7e/b/", "/%7e/b/", "/b/", "/", ""]


@pytest.mark.parametrize(
    "host",
    [
        "h",
        "H.example.org",
        "h:5001",
        "h:",
        "127.0.0.1",
        "127.0.0.1:80",
        "[::1]",
        "[::1]:5001",
        "[2001:DB8::1]",
        "under_score",
        "xn--caf-dma.example",
        "h.",
        "a%41b",
    ],
)
def test_well_formed_host_is_accepted(host: str) -> None:
    check_host(host, "HTTP/1.1")


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        " ",
        "a,b",
        "a, b",
        "a b",
        " h",
        "h ",
        "h\t",
        "h\n",
        "user@h",
        "user:password@h",
        "h:port",
        "h:123456",
        "h:-1",
        "h:80:80",
        ":80",
        "::1",
        "[::1",
        "::1]",
        "[::1]x",
        "[::1%25eth0]",
        "[]",
        "[h]",
        "h/a",
        "h?a",
        "h#a",
        "h\\a",
        'h"',
        "http://h",
        "é",
        "h\x00",
        "<h>",
    ],
)
def test_missing_repeated_or_malformed_host_is_refused(host: str | None) -> None:
    with pytest.raises(BadRequest) as refused:
        check_host(host, "HTTP/1.1")

    assert refused.value.code == "MALFORMED_HOST"


def test_http_1_0_may_leave_the_host_out_but_not_send_a_bad_one() -> None:
    check_host(None, "HTTP/1.0")

    for host in ("", "a,b", "user@h"):
        with pytest.raises(BadRequest):
            check_host(host, "HTTP/1.0")
