"""A WSGI application that tells what it was told, for tests of what stands between it and a socket.

The path says how it answers; everything else answers with the environment as JSON.

    /chunked    without a length, in three pieces           /unread     without reading the body
    /empty      204                                         /lines      the body's lines
    /big        a megabyte                                  /closes     16 of them; a line of the log when it is closed
    /ends       with Connection: close                      /hints      103 before the answer
    /breaks     an exception before the answer              /tears      an exception within it
    /injects    a field with a line break                   /short      less than it announces
    /number     the number of this answer in this process
    /way        which way the request came, fast or stock, and the two ports
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from common.messages import FIELDS, HEAD, TELL

Start = Callable[..., Any]

PORTS = ("REMOTE_PORT", "SERVER_PORT")
"""Left out of what is told: they are others each time."""

_numbers = itertools.count()


def fields_of(environ: dict[str, Any]) -> dict[str, str]:
    """What `FIELDS` promises, as the environment has it."""
    fields = {key[5:].replace("_", "-").lower(): value for key, value in environ.items() if key.startswith("HTTP_")}
    others = {key.replace("_", "-").lower(): environ.get(key) for key in ("CONTENT_TYPE", "CONTENT_LENGTH")}
    return {**fields, **{name: value for name, value in others.items() if value}}


def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    answer = _ANSWERS.get(environ["PATH_INFO"], _reflect)
    return answer(environ, start_response)


def _text(start_response: Start, body: bytes, *fields: tuple[str, str]) -> list[bytes]:
    start_response("200 OK", [("Content-Length", str(len(body))), *fields])
    return [body]


def _reflect(environ: dict[str, Any], start_response: Start) -> list[bytes]:
    body: bytes = environ["wsgi.input"].read()
    plain = {key: value for key, value in environ.items() if isinstance(value, str | int | tuple) and key not in PORTS}
    told = {
        "environ": plain,
        "keys": sorted(environ.keys() - {FIELDS}),
        "fields": dict(environ.get(FIELDS) or fields_of(environ)),
        "head": environ[HEAD].decode("latin-1"),
        "body": body.decode("latin-1"),
    }
    return _text(start_response, json.dumps(told, sort_keys=True).encode(), ("Content-Type", "application/json"))


def _chunked(_environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield from (b"one", b"", b"two" * 100)


def _empty(_environ: dict[str, Any], start_response: Start) -> list[bytes]:
    start_response("204 No Content", [("Content-Length", "0")])
    return []


def _big(_environ: dict[str, Any], start_response: Start) -> list[bytes]:
    return _text(start_response, b"x" * (1 << 20))


class _Closing:
    def __iter__(self) -> Iterator[bytes]:
        yield b"x" * (16 << 20)

    def close(self) -> None:
        logging.getLogger("reflecting").warning("closed")


def _closes(_environ: dict[str, Any], start_response: Start) -> _Closing:
    start_response("200 OK", [("Content-Length", str(16 << 20))])
    return _Closing()


def _ends(_environ: dict[str, Any], start_response: Start) -> list[bytes]:
    return _text(start_response, b"over", ("Connection", "close"))


def _unread(_environ: dict[str, Any], start_response: Start) -> list[bytes]:
    return _text(start_response, b"unread")


def _lines(environ: dict[str, Any], start_response: Start) -> list[bytes]:
    body = environ["wsgi.input"]
    told = [body.readline(), body.read1(3), *body, body.read(5)]
    return _text(start_response, repr(told).encode())


def _hints(environ: dict[str, Any], start_response: Start) -> list[bytes]:
    environ[TELL](103, [("Link", "</a>")])
    environ["wsgi.early_hints"]([("Link", "</b>")])
    return _text(start_response, b"final")


def _breaks(_environ: dict[str, Any], _start_response: Start) -> list[bytes]:
    raise RuntimeError("broken")


def _tears(_environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Length", "100")])
    yield b"half"
    raise RuntimeError("torn")


def _injects(_environ: dict[str, Any], start_response: Start) -> list[bytes]:
    return _text(start_response, b"", ("X-A", "1\r\nX-Injected: 2"))


def _short(_environ: dict[str, Any], start_response: Start) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "100")])
    return [b"short"]


def _number(_environ: dict[str, Any], start_response: Start) -> list[bytes]:
    return _text(start_response, b"%d" % next(_numbers))


def _way(environ: dict[str, Any], start_response: Start) -> list[bytes]:
    told = ["fast" if FIELDS in environ else "stock", *(environ[name] for name in PORTS)]
    return _text(start_response, " ".join(told).encode())


_ANSWERS: dict[str, Callable[[dict[str, Any], Start], Iterable[bytes]]] = {
    "/chunked": _chunked,
    "/empty": _empty,
    "/big": _big,
    "/closes": _closes,
    "/ends": _ends,
    "/unread": _unread,
    "/lines": _lines,
    "/hints": _hints,
    "/breaks": _breaks,
    "/tears": _tears,
    "/injects": _injects,
    "/short": _short,
    "/number": _number,
    "/way": _way,
}
