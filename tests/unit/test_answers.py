"""The writer of answers, over a pair of sockets."""

# the stubs are older than gunicorn
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import socket
from collections.abc import Generator
from typing import cast

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import InvalidResponseHeader, InvalidResponseHeaderName
from gunicorn.http.unreader import IterUnreader

from common.answers import Response
from common.messages import IncomingBody, Request

BROKEN = ["x\r\nX-Injected: 1", "x\n", "x\ry", "\x00", "\x7f", "\u20ac"]
HOP_BY_HOP = ("Keep-Alive", "proxy-authenticate", "TE", "Trailers", "Transfer-Encoding", "Upgrade", "Connection")
EXPECTING = b"Expect: 100-continue\r\nContent-Length: 4\r\n"

Sockets = tuple[socket.socket, socket.socket]
"""The server's end of a connection and the caller's."""


@pytest.fixture
def sockets() -> Generator[Sockets]:
    ours, callers = socket.socketpair()
    callers.settimeout(0.2)
    with ours, callers:
        yield ours, callers


def request(fields: bytes = b"", *packets: bytes, method: bytes = b"POST", version: bytes = b"1.1") -> Request:
    head = b"%b / HTTP/%b\r\n%b\r\n" % (method, version, fields)
    return Request(Config(), IterUnreader([head, *packets]), ("127.0.0.1", 1))


def answering(ours: socket.socket, method: bytes = b"POST", version: bytes = b"1.1") -> Response:
    return Response.to(request(method=method, version=version), ours)


def pieces_of(asking: Request) -> list[bytes]:
    body = cast("IncomingBody", asking.body)
    return list(iter(lambda: body.read1(1 << 16), b""))


def heard(callers: socket.socket) -> bytes:
    try:
        return callers.recv(65536)
    except TimeoutError:
        return b""


def answer(response: Response, *headers: tuple[str, str], body: bytes = b"ok") -> None:
    response.start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
    response.write(body)
    response.close()


def test_answer_without_a_date_gets_one_and_names_no_server(sockets: Sockets) -> None:
    answer(answering(sockets[0]), ("Server", "theirs"))

    head = heard(sockets[1])
    assert head.count(b"Date: ") == 1
    assert b"Server" not in head
    assert b"theirs" not in head
    assert b"gunicorn" not in head


def test_answer_with_a_date_speaks_for_itself(sockets: Sockets) -> None:
    answer(answering(sockets[0]), ("X-A", "1"), ("dATE", "then"), ("X-B", "2"), ("sERVER", "theirs"))

    head = heard(sockets[1])
    assert b"\r\nX-A: 1\r\ndATE: then\r\nX-B: 2\r\nsERVER: theirs\r\nContent-Length: 2\r\n\r\nok" in head
    assert b"gunicorn" not in head
    assert head.lower().count(b"date:") == 1


@pytest.mark.parametrize("name", ["Date", "Server"])
def test_field_that_would_break_out_of_its_line_is_refused(sockets: Sockets, name: str) -> None:
    with pytest.raises(InvalidResponseHeader):
        answer(answering(sockets[0]), ("Date", "then"), (name, "x\r\nX-Injected: 1"))

    assert heard(sockets[1]) == b""


@pytest.mark.parametrize("value", ["close", "Close"])
def test_application_may_end_the_connection(sockets: Sockets, value: str) -> None:
    response = answering(sockets[0])

    answer(response, ("Connection", value))

    assert response.should_close()
    assert heard(sockets[1]).count(b"Connection: close\r\n") == 1


def test_caller_is_told_to_go_on_when_its_body_is_read(sockets: Sockets) -> None:
    asking = request(EXPECTING, b"bo", b"dy")
    response = Response.to(asking, sockets[0])
    before = heard(sockets[1])

    pieces = pieces_of(asking)
    told = heard(sockets[1])
    answer(response)

    assert before == b""
    assert (pieces, told) == ([b"bo", b"dy"], b"HTTP/1.1 100 Continue\r\n\r\n")
    assert not response.should_close()


def test_caller_is_not_told_twice(sockets: Sockets) -> None:
    asking = request(EXPECTING, b"body")

    Response.to(asking, sockets[0]).tell(100, ())
    pieces_of(asking)

    assert heard(sockets[1]).count(b"100 Continue") == 1


def test_connection_ends_with_an_answer_to_a_caller_who_was_not_told_to_go_on(sockets: Sockets) -> None:
    response = Response.to(request(EXPECTING), sockets[0])

    answer(response)

    assert response.should_close()
    head = heard(sockets[1])
    assert b"100 Continue" not in head
    assert b"Connection: close" in head


def test_interim_answer_is_sent_with_its_fields(sockets: Sockets) -> None:
    answering(sockets[0]).tell(103, [("Link", "</a>"), ("Link", "</b>")])

    assert heard(sockets[1]) == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\n"


def test_no_interim_answer_is_sent_after_the_final_one_has_begun(sockets: Sockets) -> None:
    response = answering(sockets[0])
    answer(response)
    heard(sockets[1])

    response.tell(103, ())

    assert heard(sockets[1]) == b""


def test_caller_of_http_1_0_gets_no_interim_answer(sockets: Sockets) -> None:
    answering(sockets[0], version=b"1.0").tell(103, ())

    assert heard(sockets[1]) == b""


@pytest.mark.parametrize("value", BROKEN, ids=ascii)
def test_no_field_of_an_interim_answer_breaks_out_of_its_line(sockets: Sockets, value: str) -> None:
    with pytest.raises(InvalidResponseHeader):
        answering(sockets[0]).tell(103, [("Link", value)])

    assert heard(sockets[1]) == b""


@pytest.mark.parametrize("value", [*BROKEN, "x\r\n y", "\x1b"], ids=ascii)
def test_field_that_is_not_one_line_is_refused_by_its_name(sockets: Sockets, value: str) -> None:
    with pytest.raises(InvalidResponseHeader, match="X-B") as refusal:
        answer(answering(sockets[0]), ("X-A", "1"), ("X-B", value), ("X-C", "2"))

    assert value not in str(refusal.value)
    assert heard(sockets[1]) == b""


@pytest.mark.parametrize("name", ["", "X A", "X:A", "X-A\r\n", "X-\xe9", "X(A)", " Date"], ids=ascii)
def test_name_that_is_no_token_is_refused(sockets: Sockets, name: str) -> None:
    with pytest.raises(InvalidResponseHeaderName):
        answer(answering(sockets[0]), (name, "1"))

    assert heard(sockets[1]) == b""


@pytest.mark.parametrize("status", ["", "20 OK", "2000 OK", "OK", "200 OK\r\nX-A: 1", "200\tOK"], ids=ascii)
def test_status_that_is_none_is_refused(sockets: Sockets, status: str) -> None:
    with pytest.raises(ValueError, match="Invalid status"):
        answering(sockets[0]).start_response(status, [])


@pytest.mark.parametrize("value", ["", "-1", "+2", "2, 2", "0x2", "\xb2", "2\r\n3"], ids=ascii)
def test_length_that_is_no_number_is_refused(sockets: Sockets, value: str) -> None:
    with pytest.raises(InvalidResponseHeader):
        answering(sockets[0]).start_response("200 OK", [("Content-Length", value)])


def test_two_lengths_that_differ_are_refused(sockets: Sockets) -> None:
    with pytest.raises(InvalidResponseHeader):
        answering(sockets[0]).start_response("200 OK", [("Content-Length", "2"), ("content-length", "3")])


def test_values_lose_white_space_and_keep_what_is_not_ascii(sockets: Sockets) -> None:
    answer(answering(sockets[0]), ("X-A", " \t1 \xe9\t"), ("X-B", "a\tb"))

    assert b"\r\nX-A: 1 \xe9\r\nX-B: a\tb\r\n" in heard(sockets[1])


@pytest.mark.parametrize("name", [*HOP_BY_HOP, "sERVER"])
def test_fields_of_a_connection_are_not_the_applications_to_send(sockets: Sockets, name: str) -> None:
    answer(answering(sockets[0]), (name, "theirs"), ("X-A", "1"))

    head = heard(sockets[1])
    assert b"theirs" not in head
    assert b"X-A: 1" in head


def test_short_answer_goes_out_in_one_send() -> None:
    sent: list[bytes] = []
    response = Response(Sending(sent), is_head=False, must_close=False)

    answer(response, body=b"x" * 1200)

    assert len(sent) == 1
    assert sent[0].endswith(b"\r\n\r\n" + b"x" * 1200)


def test_what_a_send_leaves_is_sent() -> None:
    sent: list[bytes] = []
    response = Response(Sending(sent, at_most=100), is_head=False, must_close=False)

    answer(response, body=b"x" * 70_000)

    assert b"".join(sent).endswith(b"\r\n\r\n" + b"x" * 70_000)


class Sending:
    """A socket that takes `at_most` bytes at once."""

    def __init__(self, sent: list[bytes], at_most: int = 1 << 20) -> None:
        self._sent, self._at_most = sent, at_most

    def send(self, data: bytes) -> int:
        self._sent.append(bytes(data[: self._at_most]))
        return len(self._sent[-1])

    def sendall(self, data: bytes) -> None:
        self._sent.append(bytes(data))


@pytest.mark.parametrize(
    ("status", "method", "has_length"),
    [
        ("204 No Content", b"GET", False),
        ("304 Not Modified", b"GET", True),
        ("200 OK", b"HEAD", True),
        ("204 No Content", b"HEAD", False),
    ],
)
def test_answer_that_has_no_body_is_sent_none_and_leaves_the_connection(
    sockets: Sockets, status: str, method: bytes, *, has_length: bool
) -> None:
    response = answering(sockets[0], method)

    response.start_response(status, [("Content-Length", "5"), ("X-A", "1")])
    response.write(b"hello")
    response.close()

    head = heard(sockets[1])
    assert head.endswith(b"\r\n\r\n")
    assert (b"Content-Length: 5\r\n" in head) is has_length
    assert b"Transfer-Encoding" not in head
    assert not response.should_close()


def test_answer_without_a_length_is_sent_in_chunks(sockets: Sockets) -> None:
    response = answering(sockets[0])

    response.start_response("200 OK", [])
    for piece in (b"one", b"", b"x" * 17):
        response.write(piece)
    response.close()

    head, _, body = heard(sockets[1]).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert body == b"3\r\none\r\n11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n"
    assert not response.should_close()


def test_answer_without_a_length_to_http_1_0_ends_with_the_connection(sockets: Sockets) -> None:
    response = answering(sockets[0], version=b"1.0")

    response.start_response("200 OK", [])
    response.write(b"one")
    response.close()

    said = heard(sockets[1])
    assert said.startswith(b"HTTP/1.0 200 OK\r\n")
    assert said.endswith(b"Connection: close\r\n\r\none")
    assert response.should_close()


def test_answer_is_not_longer_than_was_announced(sockets: Sockets) -> None:
    response = answering(sockets[0])

    response.start_response("200 OK", [("Content-Length", "4")])
    response.write(b"one")
    response.write(b"two")
    response.close()

    assert heard(sockets[1]).endswith(b"\r\n\r\nonet")
    assert not response.should_close()


def test_answer_that_is_shorter_than_was_announced_ends_the_connection(sockets: Sockets) -> None:
    response = answering(sockets[0])

    response.start_response("200 OK", [("Content-Length", "4")])
    response.write(b"one")
    response.close()

    assert response.should_close()


def test_answer_can_be_begun_anew_until_it_is_sent(sockets: Sockets) -> None:
    response = answering(sockets[0])
    error = ValueError("late")

    response.start_response("200 OK", [("X-First", "1"), ("Content-Length", "900")])
    with pytest.raises(AssertionError):
        response.start_response("200 OK", [])
    response.start_response("500 Oops", [("Content-Length", "2")], (ValueError, error, None))
    response.write(b"no")
    with pytest.raises(ValueError, match="late"):
        response.start_response("500 Oops", [], (ValueError, error, None))

    said = heard(sockets[1])
    assert said.startswith(b"HTTP/1.1 500 Oops\r\n")
    assert b"X-First" not in said


def test_application_that_starts_no_answer_is_wrong(sockets: Sockets) -> None:
    with pytest.raises(AssertionError, match="start_response"):
        answering(sockets[0]).close()
