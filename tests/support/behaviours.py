"""What a stub does, by path: the first segment that names a behaviour decides, whatever stands before it.

    /echo (and every unknown path)   the request as it arrived, as JSON
    /health                          200
    /status/CODE[/RETRY_AFTER_S]     that status and JSON; Retry-After (default 1) with 429 and 503
    /long-status/CODE                that status and a body in chunks
    /flaky/COUNT/CODE                that status for the first COUNT requests to this target, then 200
    /204  /304  /redirect            no content; not modified; 302 to an absolute, internal URL
    /slow/S  /slow-body/S            waits before the head; waits in the middle of the body
    /late/S/CODE                     waits, and then answers with that status
    /trickle-head/S  /trickle/S      the head, or a body of a hundred bytes, one byte at a time with a pause before each
    /refuse                          413 without having read the body, then closes
    /nothing  /reset  /garbage       closes without a byte; resets; answers what is not HTTP
    /cut  /cut-chunked  /cut-head    closes in the body, before the last chunk, in the head
    /stale                           answers a connection's first request, closes at its second without a byte
    /leave                           answers as if it kept the connection, then closes it
    /early-hints  /continue          a 103, or a 100 that nobody asked for, and then 200
    /chunked  /chunked-empty  /trailers  /no-length     framings of the body
    /two-lengths  /length-and-chunked                   framings that nobody may trust
    /bytes/N  /gzip  /stream/COUNT/DELAY_S              N bytes; encoded; COUNT events, a pause before each
    /repeated  /hop  /huge-header/N                     headers: repeated, hop-by-hop, one of N bytes
    /cacheable?cc=...&Name=value     Cache-Control is cc, other parameters are headers; ETag; a count

A HEAD is answered with the same head, and no body.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl

from tests.support.received import Received

SMALL_BODY_BYTES = 10_000
PIECE_BYTES = 65_536
REASONS = {200: "OK", 204: "No Content", 302: "Found", 304: "Not Modified"}


Wait = Callable[[float], None]


class End(Exception):
    """Close the connection now."""


class Reset(Exception):
    """Reset the connection now."""


class AnswerHead(bytes):
    """The head of the final answer; to a HEAD, nothing follows it."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, and what a behaviour may know and do beside it."""

    received: Received
    arguments: list[str]  # the path's segments after the one that names the behaviour
    times_seen: int  # how often this target was asked for, this time included
    is_first_on_connection: bool
    url: str
    etag: str
    wait: Wait  # seconds; ends the connection when the stub stops

    def number(self, position: int, default: float) -> float:
        """An argument as a number, or the default where the path has none."""
        try:
            return float(self.arguments[position])
        except (IndexError, ValueError):
            return default


Behaviour = Callable[[Call], Iterable[bytes]]
BEHAVIOURS: dict[str, Behaviour] = {}
READS_NO_BODY = frozenset({"refuse"})


def named(segment: str) -> Callable[[Behaviour], Behaviour]:
    """Register a behaviour: it gives the bytes of its answer, or raises End or Reset."""

    def register(behaviour: Behaviour) -> Behaviour:
        BEHAVIOURS[segment] = behaviour
        return behaviour

    return register


def behaviour_of(path: str) -> tuple[str, list[str]]:
    """The name of the behaviour that a path asks for, and its arguments."""
    segments = path.split("/")
    for index, segment in enumerate(segments):
        if segment in BEHAVIOURS:
            return segment, segments[index + 1 :]
    return "echo", []


def head(status: int, *headers: tuple[str, str]) -> AnswerHead:
    """The bytes of a final answer's head, and nothing that was not asked for."""
    start = f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}"
    fields = (f"{name}: {value}" for name, value in headers)
    return AnswerHead("\r\n".join([start, *fields, "", ""]).encode("latin-1"))


def whole(status: int, body: bytes, *headers: tuple[str, str]) -> list[bytes]:
    """A head with the body's length, and the body."""
    return [head(status, *headers, ("Content-Length", str(len(body)))), body]


def as_json(value: object, *headers: tuple[str, str], status: int = 200) -> list[bytes]:
    """An answer with a JSON body."""
    return whole(status, json.dumps(value).encode(), ("Content-Type", "application/json"), *headers)


def chunk(body: bytes) -> bytes:
    """One chunk of a chunked body; an empty one is the last."""
    return b"%x\r\n%b\r\n" % (len(body), body)


TEXT = ("Content-Type", "text/plain")
CHUNKED = ("Transfer-Encoding", "chunked")
CLOSE = ("Connection", "close")


@named("echo")
def echo(call: Call) -> list[bytes]:
    received = call.received
    is_small = len(received.body) <= SMALL_BODY_BYTES
    return as_json(
        {
            "method": received.method,
            "target": received.target,
            "headers": received.headers,
            "length": len(received.body),
            "sha256": hashlib.sha256(received.body).hexdigest(),
            "body": received.body.decode("latin-1") if is_small else None,
            "connection": received.connection,
        }
    )


@named("health")
def health(call: Call) -> list[bytes]:
    return as_json({"status": "ok"})


@named("status")
def status(call: Call) -> list[bytes]:
    code = int(call.number(0, 200))
    retry_after = [("Retry-After", f"{call.number(1, 1):g}")] if code in (429, 503) else []
    return as_json({"status": code}, *retry_after, status=code)


@named("long-status")
def long_status(call: Call) -> list[bytes]:
    return [head(int(call.number(0, 200)), TEXT, CHUNKED), chunk(b"x" * 100), chunk(b"")]


@named("flaky")
def flaky(call: Call) -> list[bytes]:
    code = int(call.number(1, 503)) if call.times_seen <= call.number(0, 1) else 200
    return as_json({"status": code, "times_seen": call.times_seen}, status=code)


@named("204")
def no_content(call: Call) -> list[bytes]:
    return [head(204)]


@named("304")
def not_modified(call: Call) -> list[bytes]:
    return [head(304, ("ETag", call.etag))]


@named("redirect")
def redirect(call: Call) -> list[bytes]:
    return whole(302, b"", ("Location", f"{call.url}/echo?from=redirect"))


@named("slow")
def slow(call: Call) -> Iterator[bytes]:
    call.wait(call.number(0, 1))
    yield from as_json({"waited_s": call.number(0, 1)})


@named("slow-body")
def slow_body(call: Call) -> Iterator[bytes]:
    yield head(200, TEXT, ("Content-Length", "10"))
    yield b"first"
    call.wait(call.number(0, 1))
    yield b"later"


@named("late")
def late(call: Call) -> Iterator[bytes]:
    call.wait(call.number(0, 0.01))
    yield from as_json({"waited_s": call.number(0, 0.01)}, status=int(call.number(1, 503)))


@named("trickle-head")
def trickle_head(call: Call) -> Iterator[bytes]:
    for byte in head(200, TEXT, ("X-Slow", "x" * 100), ("Content-Length", "0")):
        call.wait(call.number(0, 0.001))
        yield bytes([byte])


@named("trickle")
def trickle(call: Call) -> Iterator[bytes]:
    yield head(200, TEXT, ("Content-Length", "100"))
    for _ in range(100):
        call.wait(call.number(0, 0.001))
        yield b"x"


@named("refuse")
def refuse(call: Call) -> list[bytes]:
    return whole(413, b"too large", TEXT, CLOSE)


@named("nothing")
def nothing(call: Call) -> list[bytes]:
    raise End


@named("reset")
def reset(call: Call) -> list[bytes]:
    raise Reset


@named("garbage")
def garbage(call: Call) -> Iterator[bytes]:
    yield b"\x16\x03\x01 this is not HTTP\r\n\r\n"
    raise End


@named("cut")
def cut(call: Call) -> Iterator[bytes]:
    yield head(200, TEXT, ("Content-Length", "100"))
    yield b"x" * 40
    raise End


@named("cut-chunked")
def cut_chunked(call: Call) -> Iterator[bytes]:
    yield head(200, TEXT, CHUNKED)
    yield chunk(b"x" * 40)
    raise End


@named("cut-head")
def cut_head(call: Call) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Ty"
    raise End


@named("stale")
def stale(call: Call) -> list[bytes]:
    if not call.is_first_on_connection:
        raise End
    return as_json({"connection": call.received.connection})


@named("leave")
def leave(call: Call) -> Iterator[bytes]:
    yield from as_json({"connection": call.received.connection}, ("Connection", "keep-alive"))
    raise End


@named("early-hints")
def early_hints(call: Call) -> Iterator[bytes]:
    yield b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
    yield from whole(200, b"hinted", TEXT)


@named("continue")
def unasked_continue(call: Call) -> Iterator[bytes]:
    yield b"HTTP/1.1 100 Continue\r\n\r\n"
    yield from whole(200, b"continued", TEXT)


@named("chunked")
def chunked(call: Call) -> list[bytes]:
    return [head(200, TEXT, CHUNKED), chunk(b"first,"), chunk(b"second"), chunk(b"")]


@named("chunked-empty")
def chunked_empty(call: Call) -> list[bytes]:
    return [head(200, TEXT, CHUNKED), chunk(b"")]


@named("trailers")
def trailers(call: Call) -> list[bytes]:
    trailing = b"0\r\nX-Checksum: 42\r\n\r\n"
    return [head(200, TEXT, CHUNKED, ("Trailer", "X-Checksum")), chunk(b"trailed"), trailing]


@named("no-length")
def no_length(call: Call) -> list[bytes]:
    return [head(200, TEXT, CLOSE), b"until the end"]


@named("two-lengths")
def two_lengths(call: Call) -> list[bytes]:
    return [head(200, TEXT, ("Content-Length", "5"), ("Content-Length", "6"), CLOSE), b"12345"]


@named("length-and-chunked")
def length_and_chunked(call: Call) -> list[bytes]:
    return [head(200, TEXT, ("Content-Length", "3"), CHUNKED, CLOSE), chunk(b"smuggled"), chunk(b"")]


@named("bytes")
def some_bytes(call: Call) -> Iterator[bytes]:
    count = int(call.number(0, 0))
    yield head(200, ("Content-Type", "application/octet-stream"), ("Content-Length", str(count)))
    piece = bytes(range(256)) * (PIECE_BYTES // 256)
    for start in range(0, count, PIECE_BYTES):
        yield piece[: min(PIECE_BYTES, count - start)]


@named("gzip")
def gzipped(call: Call) -> list[bytes]:
    body = gzip.compress(json.dumps({"text": "packed " * 20}).encode(), mtime=0)
    return whole(200, body, ("Content-Type", "application/json"), ("Content-Encoding", "gzip"))


@named("stream")
def stream(call: Call) -> Iterator[bytes]:
    yield head(200, ("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache"), CHUNKED)
    for number in range(int(call.number(0, 3))):
        call.wait(call.number(1, 0))
        yield chunk(f"id: {number}\ndata: event {number}\n\n".encode())
    yield chunk(b"")


@named("repeated")
def repeated(call: Call) -> list[bytes]:
    cookies = [("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2; Expires=Wed, 01 Jan 2031 00:00:00 GMT")]
    links = [("Link", "</1>; rel=prev"), ("Link", "</3>; rel=next")]
    return whole(200, b"repeated", TEXT, *cookies, *links)


@named("hop")
def hop(call: Call) -> list[bytes]:
    """Everything that must not pass an intermediary (RFC 9110, 7.6.1), and one field that must."""
    fields = [
        ("Connection", "keep-alive, X-Secret"),
        ("Keep-Alive", "timeout=5"),
        ("X-Secret", "for the next hop only"),
        ("Proxy-Authenticate", 'Basic realm="inner"'),
        ("Proxy-Authentication-Info", "x=1"),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "trailers"),
        ("Trailer", "X-Checksum"),
        ("Upgrade", "h2c"),
        ("X-Public", "for everybody"),
    ]
    return whole(200, b"hop", TEXT, *fields)


@named("huge-header")
def huge_header(call: Call) -> list[bytes]:
    return whole(200, b"huge", TEXT, ("X-Huge", "h" * int(call.number(0, 0))))


@named("cacheable")
def cacheable(call: Call) -> list[bytes]:
    query = parse_qsl(call.received.target.partition("?")[2], keep_blank_values=True)
    headers = [("Cache-Control" if name == "cc" else name, value) for name, value in query]
    headers.append(("ETag", call.etag))
    if call.etag in call.received.all("If-None-Match"):
        return [head(304, *headers)]
    return as_json({"times_seen": call.times_seen, "etag": call.etag}, *headers)
