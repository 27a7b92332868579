"""Answers as they come from instances: whatever the framing, however they are cut, and none that is doubtful.

What the standard library refuses, with strict checks on top, is never accepted; where both accept, they agree."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.backend.connection import Connection
from gateway.backend.parsing import MOST_HEAD_BYTES, AnswerParser, DoubtfulFraming
from gateway.backend.transport import CutShort, Incoming, await_head
from gateway.body import Body
from tests.support.stdlib_answers import ReadAnswer, read_answer

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH_2 = b"Content-Length: 2\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass
class Told:
    """A connection on which these pieces come, and then the end; and the pool that it would go back to."""

    pieces: list[bytes]
    answers: AnswerParser = field(default_factory=AnswerParser)
    is_closed: bool = False
    is_kept: bool = False

    def receive(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        self.is_closed = True

    def put(self, connection: Connection) -> None:
        self.is_kept = True


def incoming(told: Told, method: str = "GET") -> Incoming:
    """The answer whose head comes next. Raises `DoubtfulFraming` and `CutShort`."""
    told.answers.begin(method)
    await_head(told, Body(io.BytesIO(), 0), None)  # pyright: ignore[reportArgumentType]
    return Incoming(told, told, None)  # pyright: ignore[reportArgumentType]


def whole(told: Told, method: str = "GET") -> ReadAnswer | None:
    """The answer that comes next, None where it is none."""
    try:
        answer = incoming(told, method)
        return ReadAnswer(answer.status, answer.fields, answer.read())
    except (DoubtfulFraming, CutShort):
        return None


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    """`raw` in pieces that end at these places; none is empty."""
    ends = sorted({place % len(raw) for place in places} - {0}) if raw else []
    return [raw[start:end] for start, end in zip([0, *ends], [*ends, len(raw)], strict=True) if start < end]


SOUND = {
    "length": (OK + LENGTH_2 + b"\r\nok", b"ok"),
    "length 0": (OK + b"Content-Length: 0\r\n\r\n", b""),
    "long length": (OK + b"Content-Length: 200000\r\n\r\n" + b"x" * 200_000, b"x" * 200_000),
    "chunks": (CHUNKED + b"1\r\no\r\n00001;a=b;c\r\nk\r\n0\r\n\r\n", b"ok"),
    "trailers": (CHUNKED + b"2\r\nok\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\n", b"ok"),
    "coding in capitals": (OK + b"transfer-ENCODING: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"),
    "chunks in 1.0": (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"),
    "until the end": (OK + b"\r\nok", b"ok"),
    "nothing until the end": (OK + b"\r\n", b""),
    "version 1.0": (b"HTTP/1.0 200 OK\r\n\r\nok", b"ok"),
    "no reason": (b"HTTP/1.1 200\r\n" + LENGTH_2 + b"\r\nok", b"ok"),
    "empty value": (OK + b"X-A:\r\nX-B:  \r\n" + LENGTH_2 + b"\r\nok", b"ok"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "204 that announces a body": (b"HTTP/1.1 204 No Content\r\n" + LENGTH_2 + b"\r\n", b""),
    "304 that announces a body": (b"HTTP/1.1 304 Not Modified\r\n" + LENGTH_2 + b"\r\n", b""),
    "interim": (b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\n" + OK + LENGTH_2 + b"\r\nok", b"ok"),
    "99 fields": (OK + b"X-A: 1\r\n" * 98 + LENGTH_2 + b"\r\nok", b"ok"),
}


@pytest.mark.parametrize(("raw", "body"), SOUND.values(), ids=SOUND)
@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
def test_sound_answer_is_read_however_it_is_cut(raw: bytes, body: bytes, size: int) -> None:
    step = max(size, len(raw) // 5000)

    answer = whole(Told([raw[start : start + step] for start in range(0, len(raw), step)]))

    assert answer is not None
    assert answer.body == body
    assert answer == read_answer("GET", raw)


HEAD = b"".join([OK, b"X-A: 1\r\n", LENGTH_2, b"\r\nok"])
DOUBTFUL = {
    "bare LF": HEAD.replace(b"1\r\n", b"1\n", 1),
    "bare LF throughout": HEAD.replace(b"\r\n", b"\n"),
    "bare CR": HEAD.replace(b"1\r\n", b"1\r2\r\n"),
    "CR twice": HEAD.replace(b"1\r\n", b"1\r\r\n"),
    "NUL in a value": HEAD.replace(b"1\r\n", b"\0\r\n"),
    "NUL in a name": HEAD.replace(b"X-A", b"X\0A"),
    "NUL in the reason": HEAD.replace(b"OK", b"O\0"),
    "control character in the reason": HEAD.replace(b"OK", b"\x1e"),
    "control character": HEAD.replace(b": 1", b": \x01"),
    "DEL": HEAD.replace(b": 1", b": \x7f"),
    "folded line": HEAD.replace(b"1\r\n", b"1\r\n 2\r\n"),
    "folded with a tab": HEAD.replace(b"1\r\n", b"1\r\n\t2\r\n"),
    "folded first line": HEAD.replace(b"X-A", b" X-A"),
    "space before the colon": HEAD.replace(b"X-A", b"X-A "),
    "space in a name": HEAD.replace(b"X-A", b"X A"),
    "name that is no token": HEAD.replace(b"X-A", b"X(A)"),
    "name not ASCII": HEAD.replace(b"X-A", b"X-\xe9"),
    "no name": HEAD.replace(b"X-A", b""),
    "no colon": HEAD.replace(b"X-A: 1", b"X-A"),
    "empty line first": b"\r\n" + HEAD,
    "LF first": b"\n" + HEAD,
    "empty line behind an interim answer": b"HTTP/1.1 103 E\r\n\r\n\r\n" + HEAD,
    "no status": HEAD.replace(b"200", b"2xx"),
    "status of two digits": HEAD.replace(b"200", b"20"),
    "status of four digits": HEAD.replace(b"200", b"2000"),
    "status below 100": HEAD.replace(b"200", b"099"),
    "no space behind the status": HEAD.replace(b"200 ", b"200"),
    "two spaces before the status": HEAD.replace(b"200", b" 200"),
    "tab before the status": HEAD.replace(b" 200", b"\t200"),
    "version 2": HEAD.replace(b"HTTP/1.1", b"HTTP/2"),
    "version 2.0": HEAD.replace(b"HTTP/1.1", b"HTTP/2.0"),
    "version 0.9": HEAD.replace(b"HTTP/1.1", b"HTTP/0.9"),
    "version 1.2": HEAD.replace(b"HTTP/1.1", b"HTTP/1.2"),
    "version in lower case": HEAD.replace(b"HTTP", b"http"),
    "ICE": HEAD.replace(b"HTTP/1.1", b"ICE/1.0"),
    "RTSP": HEAD.replace(b"HTTP/1.1", b"RTSP/1.0"),
    "101": HEAD.replace(b"200 OK", b"101 Switching Protocols"),
    "101 with an upgrade": b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nxyz",
    "two lengths": HEAD.replace(LENGTH_2, LENGTH_2 + b"Content-Length: 3\r\n"),
    "the same length twice": HEAD.replace(LENGTH_2, LENGTH_2 + LENGTH_2),
    "lengths in a list": HEAD.replace(b": 2", b": 2, 2"),
    "length with a sign": HEAD.replace(b": 2", b": +2"),
    "length below 0": HEAD.replace(b": 2", b": -2"),
    "length in hexadecimal": HEAD.replace(b": 2", b": 0x2"),
    "length and a space": HEAD.replace(b": 2", b": 2 "),
    "length with a space inside": HEAD.replace(b": 2", b": 2 2"),
    "no length": HEAD.replace(b": 2", b":"),
    "endless length": HEAD.replace(b": 2", b": " + b"2" * 5000),
    "length before chunks": OK + LENGTH_2 + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "length behind chunks": OK + b"Transfer-Encoding: chunked\r\n" + LENGTH_2 + b"\r\n2\r\nok\r\n0\r\n\r\n",
    "coding below chunks": CHUNKED.replace(b"chunked", b"gzip, chunked") + b"2\r\nok\r\n0\r\n\r\n",
    "coding above chunks": CHUNKED.replace(b"chunked", b"chunked, gzip") + b"2\r\nok\r\n0\r\n\r\n",
    "chunked twice": CHUNKED.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"0\r\n\r\n",
    "chunked twice in a list": CHUNKED.replace(b"chunked", b"chunked, chunked") + b"0\r\n\r\n",
    "chunked and a space": CHUNKED.replace(b"chunked", b"chunked ") + b"0\r\n\r\n",
    "identity": OK + b"Transfer-Encoding: identity\r\n\r\nok",
    "unknown coding": OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "no coding": OK + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "coding of a bodiless answer": b"HTTP/1.1 304 N\r\nTransfer-Encoding: gzip\r\n\r\n",
    "chunk with a sign": CHUNKED + b"+2\r\nok\r\n0\r\n\r\n",
    "chunk with a prefix": CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n",
    "chunk and a space": CHUNKED + b"2 \r\nok\r\n0\r\n\r\n",
    "chunk of no size": CHUNKED + b"\r\nok\r\n0\r\n\r\n",
    "chunk of endless size": CHUNKED + b"1" * 17 + b"\r\nok",
    "chunk with LF": CHUNKED + b"2\nok\r\n0\r\n\r\n",
    "chunk that is longer than it says": CHUNKED + b"1\r\nok\r\n0\r\n\r\n",
    "chunk without its line break": CHUNKED + b"2\r\nok0\r\n\r\n",
    "chunk extension with NUL": CHUNKED + b"2;\0\r\nok\r\n0\r\n\r\n",
    "trailer with NUL": CHUNKED + b"2\r\nok\r\n0\r\nX: \0\r\n\r\n",
    "trailer that is folded": CHUNKED + b"2\r\nok\r\n0\r\nX: 1\r\n 2\r\n\r\n",
    "length in a trailer": CHUNKED + b"2\r\nok\r\n0\r\nContent-Length: 2\r\n\r\n",
    "100 fields": OK + b"X-A: 1\r\n" * 99 + LENGTH_2 + b"\r\nok",
    "long head": OK + b"X-A: " + b"x" * MOST_HEAD_BYTES + b"\r\n\r\n",
    "long head in many fields": OK + (b"X-A: " + b"x" * 1000 + b"\r\n") * 70 + b"\r\n",
    "head without end": OK + b"X-A: " + b"x" * MOST_HEAD_BYTES,
    "chunk extension without end": CHUNKED + b"2;" + b"x" * 3 * MOST_HEAD_BYTES,
    "trailers without end": CHUNKED + b"0\r\n" + b"X-A: 1\r\n" * 30_000,
    "malformed interim answer": b"HTTP/1.1 103 E\r\nX A: 1\r\n\r\n" + HEAD,
    "interim answer with a doubtful length": b"HTTP/1.1 103 E\r\nContent-Length: 2, 2\r\n\r\n" + HEAD,
}


@pytest.mark.parametrize("raw", DOUBTFUL.values(), ids=DOUBTFUL)
@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_doubtful_answer_is_refused_and_its_connection_closed(raw: bytes, size: int) -> None:
    step = max(size, len(raw) // 2000)
    told = Told([raw[start : start + step] for start in range(0, len(raw), step)])

    assert whole(told) is None

    assert not told.is_kept


@pytest.mark.parametrize(
    "raw", [b"ICY 200 OK\r\n", b"\r\n", b"HTTP/2", b"HTTP/1.1 200 OK\nX", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000]
)
def test_head_that_can_not_become_one_is_refused_before_it_ends(raw: bytes) -> None:
    parser = AnswerParser()
    parser.begin("GET")

    with pytest.raises(DoubtfulFraming):
        parser.feed(raw)


@pytest.mark.parametrize(("raw", "body"), SOUND.values(), ids=SOUND)
def test_answer_that_ends_early_is_not_taken_for_a_whole_one(raw: bytes, body: bytes) -> None:
    until_end = b"200" in raw and b"ontent-" not in raw and b"hunked" not in raw
    head_bytes = raw.rindex(b"\r\n\r\n") + 4 if until_end else len(raw)

    for end in {random.Random(end).randrange(min(head_bytes, len(raw))) for end in range(200)}:
        assert whole(Told([raw[:end]] if end else [])) is None, raw[:end]


@pytest.mark.parametrize(
    ("raw", "is_kept"),
    [
        (OK + LENGTH_2 + b"\r\nok", True),
        (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 204 N\r\n\r\n", True),
        (OK + LENGTH_2 + b"Connection: keep-alive\r\n\r\nok", True),
        (OK + LENGTH_2 + b"Connection: close\r\n\r\nok", False),
        (OK + LENGTH_2 + b"Connection: Keep-Alive, CLOSE\r\n\r\nok", False),
        (b"HTTP/1.0 200 OK\r\n" + LENGTH_2 + b"\r\nok", False),
        (b"HTTP/1.0 200 OK\r\n" + LENGTH_2 + b"Connection: keep-alive\r\n\r\nok", False),
        (OK + b"\r\nok", False),
        (OK + LENGTH_2 + b"\r\nok and more", False),
        (OK + LENGTH_2 + b"\r\nokHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", False),
        (OK + LENGTH_2 + b"\r\nokHTTP/1.1 1", False),
        (CHUNKED + b"2\r\nok\r\n0\r\n\r\n3\r\nbad\r\n0\r\n\r\n", False),
        (CHUNKED + b"2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\nbad", False),
        (b"HTTP/1.1 204 N\r\nContent-Length: 2\r\n\r\nok", False),
        (b"HTTP/1.1 304 N\r\n\r\nHTTP/1.1 200 \x7f\r\n", False),
    ],
)
def test_connection_is_used_again_only_where_nothing_speaks_against_it(raw: bytes, is_kept: bool) -> None:
    told = Told([raw])

    answer = whole(told)

    assert answer is not None
    assert answer.body in (b"ok", b"")
    assert (told.is_kept, told.is_closed) == (is_kept, not is_kept)


def test_answers_follow_each_other_on_a_connection() -> None:
    told = Told([])
    bodies = list[bytes]()

    for number in range(20):
        body = b"%d" % number * number
        framed = CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if number % 3 and body else b""
        told.pieces = [framed or OK + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)]
        if number % 5 == 0:
            told.pieces = [OK + b"Content-Length: 1000\r\n\r\n"]
        answer = whole(told, "HEAD" if number % 5 == 0 else "GET")
        assert answer is not None
        bodies.append(answer.body)

    assert bodies == [b"" if number % 5 == 0 else b"%d" % number * number for number in range(20)]


@pytest.mark.parametrize("behind", [b"", b"x", OK])
def test_answer_to_head_has_no_body_whatever_it_announces(behind: bytes) -> None:
    told = Told([OK + LENGTH_2 + b"\r\n" + behind])

    assert whole(told, "HEAD") == ReadAnswer(200, [("Content-Length", "2")], b"")

    assert told.is_kept is not bool(behind)


def test_piece_of_a_body_can_be_read_before_the_next_has_come() -> None:
    told = Told([CHUNKED + b"3\r\none\r\n", b"5\r\nth", b"ree\r\n0", b"\r\n\r\n"])
    answer = incoming(told)

    pieces = [answer.read1(2), answer.read1(), answer.read1(), answer.read1(), answer.read1()]

    assert pieces == [b"on", b"e", b"th", b"ree", b""]


# what nobody thought of

LINES = [
    b"Content-Length: 2",
    b"Content-Length: 5",
    b"content-length:0",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip",
    b"Connection: close",
    b"X-A: 1",
    b"X-B:\t \xe9 x ",
    b"Set-Cookie: a=b",
    b" folded",
    b"X A: 1",
    b"",
]
STARTS = [b"HTTP/1.1 200 OK", b"HTTP/1.0 404 Not Found", b"HTTP/1.1 204 N", b"HTTP/1.1 304", b"HTTP/1.1 103 E"]
BODIES = [
    b"",
    b"ok",
    b"hello",
    b"2\r\nok\r\n0\r\n\r\n",
    b"1;x\r\no\r\n1\r\nk\r\n0\r\nX: y\r\n\r\n",
    OK + b"\r\n",
]
NOISE = [b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b"0", b"1", b",", b";", b"\x7f", b"\xff", b"chunked"]


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Something like an answer, or two, perhaps spoilt at a few places."""
    raw = b""
    for _ in range(draw(st.integers(1, 2))):
        lines = [draw(st.sampled_from(STARTS)), *draw(st.lists(st.sampled_from(LINES), max_size=4))]
        raw += b"\r\n".join(lines) + b"\r\n\r\n" + draw(st.sampled_from(BODIES))
    for _ in range(draw(st.integers(0, 3))):
        start, end = sorted((draw(st.integers(0, len(raw))), draw(st.integers(0, len(raw)))))
        match draw(st.sampled_from(["insert", "delete", "repeat", "byte"])):
            case "insert":
                raw = raw[:start] + draw(st.sampled_from(NOISE)) + raw[start:]
            case "delete":
                raw = raw[:start] + raw[min(end, start + 4) :]
            case "repeat":
                raw = raw[:end] + raw[start:end][:40] + raw[end:]
            case _:
                raw = raw[:start] + draw(st.binary(min_size=1, max_size=1)) + raw[start + 1 :]
    return raw


@given(raw=answers(), places=st.lists(st.integers(0, 400), max_size=6), method=st.sampled_from(["GET", "HEAD", "POST"]))
@example(raw=b"\r\n" + HEAD, places=[], method="GET")
@example(raw=b"HTTP/1.1 103 E\r\n\r\n\r\n" + HEAD, places=[20], method="GET")
@example(raw=HEAD.replace(b"HTTP/1.1", b"HTTP/2.0"), places=[], method="GET")
@example(raw=HEAD.replace(b"HTTP/1.1", b"RTSP/1.0"), places=[3], method="GET")
@example(raw=b"HTTP/1.1 204 \x1e\r\n\r\n", places=[], method="HEAD")
@example(raw=HEAD.replace(b"200", b"099"), places=[], method="GET")
@example(raw=HEAD.replace(b": 2", b": 2 "), places=[], method="GET")
@example(raw=DOUBTFUL["coding below chunks"], places=[], method="GET")
@example(
    raw=CHUNKED.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"0\r\n\r\n", places=[], method="GET"
)
@example(raw=b"HTTP/1.1 304 N\r\nTransfer-Encoding: gzip\r\n\r\n", places=[], method="GET")
@example(raw=OK + b"Transfer-Encoding: gzip\r\n\r\n", places=[], method="HEAD")
@settings(max_examples=1500, deadline=None)
def test_nothing_is_accepted_that_the_standard_library_refuses_and_both_agree(
    raw: bytes, places: list[int], method: str
) -> None:
    expected = read_answer(method, raw)

    answer = whole(Told(cut(raw, places)), method)

    assert answer is None or answer == expected
