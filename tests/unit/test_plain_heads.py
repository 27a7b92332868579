"""The reader of plain heads against gunicorn's parser, which is the judge: what it takes, the parser takes, and in the
same way."""

# the stubs are older than gunicorn
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.body import LengthReader
from gunicorn.http.unreader import IterUnreader
from hypothesis import example, given
from hypothesis import strategies as st

from common.answers import Response
from common.messages import FIELDS, HEAD, IncomingBody, Request
from common.plain_heads import REMEMBERED_BYTES, HeadReader, PlainHead
from common.serving import PARSER
from tests.support import hostile
from tests.support.reflecting import fields_of
from tests.support.sound import SOUND

BEHIND = b"\r\nGET /behind HTTP/1.1\r\n\r\n"
OF_THE_PARSER_ALONE = {"wsgi.input", "wsgi.errors", "wsgi.early_hints", "gunicorn.socket"}


def settings(*, takes_any_method: bool) -> Config:
    config = Config()
    for name, value in PARSER.items():
        config.set(name, value)
    config.set("permit_unconventional_http_method", takes_any_method)
    return config


STRICT, OPEN = settings(takes_any_method=False), settings(takes_any_method=True)


def judged(raw: bytes, config: Config) -> tuple[Request, dict[str, Any]]:
    """What gunicorn makes of a request. Raises for one that it refuses."""
    request = Request(config, IterUnreader([raw]), ("127.0.0.1", 1))
    create = cast("Callable[..., tuple[Response, dict[str, Any]]]", wsgi.create)
    return request, create(request, None, ("127.0.0.1", 1), ("h", 80), config, response_class=Response.to)[1]


TEMPLATE = {
    key: value
    for key, value in judged(b"GET / HTTP/1.1\r\n\r\n", OPEN)[1].items()
    if key not in ("REQUEST_METHOD", "RAW_URI", "PATH_INFO", "QUERY_STRING", *OF_THE_PARSER_ALONE)
}


def read(raw: bytes, config: Config = STRICT) -> PlainHead | None:
    return HeadReader(config, TEMPLATE).read(raw)


def assert_as_the_parser(raw: bytes, head: PlainHead, config: Config) -> None:
    request, environ = judged(raw, config)
    reader = cast("IncomingBody", request.body).reader
    assert isinstance(reader, LengthReader)
    told, fields, size = head
    assert fields.length == reader.length
    assert fields.closes == request.should_close()
    assert raw[size:].startswith(request.unreader.read() or b"")
    expected = {key: value for key, value in environ.items() if key not in OF_THE_PARSER_ALONE}
    assert told == {**expected, HEAD: request.head, FIELDS: fields_of(environ)}


@pytest.mark.parametrize("raw", SOUND.values(), ids=SOUND)
def test_sound_head_is_left_to_the_parser_or_read_as_it_does(raw: bytes) -> None:
    for config in (STRICT, OPEN):
        head = read(raw + BEHIND, config)
        if head is not None:
            assert_as_the_parser(raw + BEHIND, head, config)


PLAIN = [
    *("as usual", "query", "empty query", "escapes", "two slashes", "odd signs", "line of 8190"),
    *("HEAD without a body", "POST without a body", "length", "length zero", "length of a GET", "body that is cut"),
    *("empty value", "white space around", "not ASCII", "odd name", "forwarded", "close", "keep-alive", "100 fields"),
]


@pytest.mark.parametrize("name", PLAIN)
def test_usual_head_is_plain(name: str) -> None:
    assert read(SOUND[name]) is not None


NOT_PLAIN = [
    *("no Host", "chunks", "expecting", "upgrade alone", "upgrade", "close among others", "repeated", "underscore"),
    *("fragment", "absolute", "star", "HTTP/1.0", "TRACE without a body", "get without a body", "empty media type"),
    *("empty lines before", "line of 8191", "field of 16381", "no field"),
]


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_asks_for_more_than_an_answer_or_is_odd_is_left_to_the_parser(name: str) -> None:
    assert read(SOUND[name]) is None


HOSTILE = {
    **hostile.DOUBTFUL_FRAMING,
    **{name: hostile.request(line=line) for name, line in hostile.DOUBTFUL_LINES.items()},
    **hostile.MALFORMED,
    **{name: raw for name, (raw, _status, _code) in hostile.OTHERWISE.items()},
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
def test_doubtful_head_is_never_plain_unless_the_parser_takes_it(raw: bytes) -> None:
    head = read(raw)
    if head is not None:
        assert_as_the_parser(raw, head, STRICT)


@pytest.mark.parametrize("size", range(len(SOUND["as usual"])))
def test_head_that_is_not_whole_is_not_read(size: int) -> None:
    assert read(SOUND["as usual"][:size]) is None


def test_limits_are_gunicorns() -> None:
    for name, limit in (("limit_request_line", 30), ("limit_request_fields", 3), ("limit_request_field_size", 60)):
        config = settings(takes_any_method=True)
        config.set(name, limit)
        within = {
            "limit_request_line": b"GET /" + b"x" * 16 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            "limit_request_fields": b"GET / HTTP/1.1\r\nHost: a\r\nB: 1\r\nC: 1\r\n\r\n",
            "limit_request_field_size": b"GET / HTTP/1.1\r\nHost: " + b"a" * 52 + b"\r\n\r\n",
        }[name]
        beyond = {
            "limit_request_line": within.replace(b"x ", b"xx "),
            "limit_request_fields": within.replace(b"C: 1", b"C: 1\r\nD: 1"),
            "limit_request_field_size": within.replace(b"a\r", b"aa\r"),
        }[name]

        assert read(within, config) is not None
        judged(within, config)
        assert read(beyond, config) is None


def test_fields_are_read_anew_only_when_they_differ() -> None:
    reader = HeadReader(STRICT, TEMPLATE)
    heads = [reader.read(hostile.get(b"X-A: 1\r\n", line=b"GET /%d HTTP/1.1" % number)) for number in range(2)]
    heads.append(reader.read(hostile.get(b"X-A: 2\r\n")))
    first, second, other = (head[0] for head in heads if head)

    assert first[FIELDS] is second[FIELDS]
    assert (first["PATH_INFO"], second["PATH_INFO"]) == ("/0", "/1")
    assert (first["HTTP_X_A"], other["HTTP_X_A"]) == ("1", "2")
    assert other[FIELDS] == {"host": "a", "x-a": "2"}


def test_application_that_changes_its_environment_changes_no_other() -> None:
    reader = HeadReader(STRICT, TEMPLATE)
    first = reader.read(hostile.get())
    assert first is not None
    first[0]["HTTP_HOST"] = first[0]["gateway.thing"] = "changed"

    second = reader.read(hostile.get())

    assert second is not None
    assert second[0]["HTTP_HOST"] == "a"
    assert "gateway.thing" not in second[0]


@pytest.mark.parametrize("size", [REMEMBERED_BYTES, 3 * REMEMBERED_BYTES])
def test_long_fields_are_read_and_not_remembered(size: int) -> None:
    reader = HeadReader(STRICT, TEMPLATE)
    raw = hostile.get(b"X-A: %b\r\n" % (b"x" * (size - len("Host: a\r\nX-A: "))))
    first, second = reader.read(raw), reader.read(raw)

    assert first is not None
    assert second is not None
    assert first[0] == second[0]
    assert (first[1] is second[1]) == (size <= REMEMBERED_BYTES)


@pytest.mark.parametrize(("length", "is_plain"), [(100, True), (101, False)])
def test_long_name_is_left_to_the_parser(length: int, *, is_plain: bool) -> None:
    assert (read(hostile.get(b"X" * length + b": 1\r\n")) is not None) == is_plain


def test_doubtful_fields_stay_doubtful() -> None:
    reader = HeadReader(STRICT, TEMPLATE)
    raw = hostile.get(b"Transfer-Encoding: chunked\r\n")

    assert [reader.read(raw), reader.read(raw)] == [None, None]


PIECES = [
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b":", b": ", b" ", b"\t", b"\x00", b"\x0b", b"\x0c", b"\x1f", b"\x7f",
    b"\x80", b"\x85", b"\xa0", b"\xff", b"#", b"?", b"%", b"%2f", b"//", b"*", b"http://", b"/", b",", b";",
    b"_", b"-", b"0", b"4", b"GET", b"get", b"HEAD", b"CONNECT", b" HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0",
    b"Host: a", b"Host", b"host: b", b"Content-Length: 4", b"content-length:5", b"Content-Length",
    b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Connection: close",
    b"Connection: keep-alive, close", b"connection: upgrade", b"Upgrade: h2c", b"Content-Type: a/b",
    b"Content-Type:", b"Authorization: x", b"Authorization: y", b"X-Same: 1", b"x-same: 2", b"X_Same: 3",
    b"chunked", b"\xb2",
]  # fmt: skip
SEEDS = [*SOUND.values(), *HOSTILE.values()]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A request, and it with some pieces put in, left out, doubled or put in another's place."""
    seed = raw = draw(st.sampled_from([seed[:2000] for seed in SEEDS]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, min(len(raw), 300)))
        end = start + draw(st.integers(0, 6))
        piece = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3), st.just(raw[start:end] * 2)))
        raw = raw[:start] + piece + raw[end:]
    return seed, raw


def after(fields: bytes) -> tuple[bytes, bytes]:
    """A plain request, and one that has these fields."""
    return hostile.get(b"X-A: 1\r\n"), hostile.get(fields)


@given(pair=mutated(), takes_any_method=st.booleans())
@example(pair=after(b": \r\n"), takes_any_method=False)
@example(pair=after(b"\x20X-A: 1\r\n"), takes_any_method=False)
@example(pair=after(b"Content-Length: \xb2\r\n"), takes_any_method=False)
@example(pair=after(b"X-A: 1\n\r\n"), takes_any_method=True)
@example(pair=after(b"X-A: 1\r\r\n"), takes_any_method=True)
@example(pair=after(b"X-A\r\n"), takes_any_method=True)
@example(pair=after(b"x-a: 1\r\n"), takes_any_method=True)
@example(pair=after(b"X-A: 2\r\nX-A: 3\r\n"), takes_any_method=True)
@example(pair=after(b"Host: b\r\n"), takes_any_method=True)
@example(pair=(hostile.get(), b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"), takes_any_method=True)
@example(pair=(SOUND["length"], SOUND["length"].replace(b": 4", b": 1")), takes_any_method=True)
@example(pair=(SOUND["length"], SOUND["length"].replace(b": 4", b": -")), takes_any_method=True)
@example(pair=(SOUND["keep-alive"], SOUND["close"]), takes_any_method=True)
def test_what_is_plain_is_taken_by_the_parser_too(pair: tuple[bytes, bytes], *, takes_any_method: bool) -> None:
    """Be it the first request of a connection or the second."""
    config = OPEN if takes_any_method else STRICT
    before, raw = pair
    reader = HeadReader(config, TEMPLATE)
    reader.read(before)

    for head in (read(raw, config), reader.read(raw)):
        if head is not None:
            assert_as_the_parser(raw, head, config)
