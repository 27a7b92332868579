"""The raw client."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.support import wire
from tests.support.stub import StubService

GET = b"GET /204 HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture(scope="module")
def service() -> Generator[StubService]:
    with StubService() as running:
        yield running


def test_everything_that_comes_is_read(service: StubService) -> None:
    answers = wire.send_and_read_all(service.port, GET + GET, quiet_s=0.05)

    assert answers == b"HTTP/1.1 204 No Content\r\n\r\n" * 2


def test_raw_is_the_answer_byte_for_byte(service: StubService) -> None:
    answer = wire.get(service.port, "/early-hints")

    assert answer.raw == (
        b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhinted"
    )


def test_closed_tells_whether_the_server_kept_the_connection(service: StubService) -> None:
    assert not wire.get(service.port, "/echo").closed
    assert wire.get(service.port, "/no-length").closed


def test_answers_of_one_connection_are_told_apart(service: StubService) -> None:
    with wire.Connection(service.port) as connection:
        connection.send(GET + b"GET /status/201 HTTP/1.1\r\nHost: h\r\n\r\n")

        assert [connection.answer().status, connection.answer().status] == [204, 201]


def test_waiting_for_an_answer_is_bounded(service: StubService) -> None:
    with pytest.raises(TimeoutError):
        wire.get(service.port, "/slow/5", timeout=0.05)


def test_what_the_caller_gives_is_not_doubled() -> None:
    raw = wire.request_bytes("POST", "/x", [("host", "a"), ("content-length", "1")], b"b")

    assert raw == b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nb"


def test_a_repeated_header_is_not_taken_for_one(service: StubService) -> None:
    with pytest.raises(ValueError, match="2 times"):
        wire.get(service.port, "/repeated").header("Set-Cookie")
