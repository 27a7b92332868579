"""Requests by which two ways through the gateway are compared: every route with good and bad input, and every fault.

A case is the bytes of one request. Its order matters: what is counted, cached or remembered is so by those before it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.support.wire import Pairs, request_bytes

HOST = "parity.example"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW", "TRACE", "CONNECT", "get")
JSON = ("Content-Type", "application/json")
CLOSES = ("Connection", "close")

TARGETS = (
    "/", "/health", "/ready", "/metrics", "/services", "/problems", "/problems/route-not-found", "/openapi/orders.json",
    "/nowhere", "/nowhere/x", "/healthy", "/health/x", "/%68ealth", "/health%2e", "//health", "/health/",
    "/open", "/open/", "/open//x", "/open/x/", "/open/%2e%2e/x", "/open/..%2fx", "/open/../users", "/open/a%20b",
    "/open/a;b", "/orders;x/1", "/orders/.", "/orders%2f1", "/api/v1/open/x?a=1&a=2&%ff", "/api/v2/open/x",
    "/api/open/x", "/open/x?", "/open/ä", "/open/x?a=b%20c#f", "/open/x%00", "/open/%252e%252e/x", "*", "http://parity.example/open/x",
    "http://elsewhere.example/open/x", "ftp://parity.example/", "open/x", "/open/" + "x" * 5000, "/open/" + "x" * 9000,
)  # fmt: skip
FIELDS: Sequence[Pairs] = (
    [("API-Version", "1")], [("API-Version", "7")], [("Accept-Version", "v1")],
    [("X-Forwarded-For", "192.0.2.7"), ("Forwarded", "for=192.0.2.8"), ("X-Real-IP", "192.0.2.9")],
    [("X-User-Id", "admin"), ("X-User-Roles", "admin")], [("X_User_Id", "admin")],
    [("Connection", "X-Secret, keep-alive"), ("X-Secret", "1"), ("Keep-Alive", "5")], [("Te", "trailers")],
    [("Cookie", "a=1; dev-access=x; b=2")], [("Cookie", "dev-access=x")], [("Accept", "a/b"), ("Accept", "c/d")],
    [("Authorization", "Bearer x"), ("Authorization", "Bearer y")], [("Authorization", "Basic eDp5")],
    [("Authorization", "ApiKey nope")], [("X-API-Key", "nope")], [("X-API-Key", "a"), ("Authorization", "Bearer x")],
    [("Origin", "https://a.example")], [("Origin", "https://a.example"), ("Access-Control-Request-Method", "PUT")],
    [("Expect", "100-continue")], [("Expect", "something")], [("Upgrade", "h2c"), ("Connection", "Upgrade")],
    [("Max-Forwards", "0")], [("X-Request-Timeout-Ms", "900")], [("X-Request-Timeout-Ms", "soon")],
    [("If-None-Match", '"1"')], [("Cache-Control", "only-if-cached")], [("Range", "bytes=0-1")],
    [("X-Latin", "caf\xe9")], [("Content-Length", "3")], [("Content-Length", "x")],
    [("Transfer-Encoding", "chunked"), ("Content-Length", "3")], [("Transfer-Encoding", "gzip")],
    [("Host", "")], [("Host", "a"), ("Host", "b")], [("Host", "a b")], [("Host", "other.example:80")], [CLOSES],
)  # fmt: skip
FAULTS = (
    "status/200", "status/404", "status/429", "status/500", "status/503/2", "long-status/502", "204", "304", "redirect",
    "slow/0.1", "slow-body/0.1", "refuse", "nothing", "reset", "garbage", "cut", "cut-chunked", "cut-head", "leave",
    "early-hints", "continue", "chunked", "chunked-empty", "trailers", "no-length", "two-lengths", "length-and-chunked",
    "bytes/0", "bytes/65536", "bytes/65537", "bytes/300000", "gzip", "stream/3/0.01", "repeated", "hop",
    "huge-header/9000", "huge-header/90000",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """`name` tells it in a report."""

    name: str
    raw: bytes
    method: str


def cases(templates: Sequence[str], credentials: Mapping[str, Pairs]) -> Iterator[Case]:
    """`templates` are those of all routes, `/orders/<id>`; `credentials` by who shows them."""
    paths = dict.fromkeys(re.sub("<path:[^>]*>", "some/where", text).replace("<id>", "7") for text in templates)
    for path, method, (who, shown) in itertools.product(paths, METHODS, credentials.items()):
        yield _case(f"{who}: {method} {path}", method, path, shown)
        if method in ("POST", "PUT", "PATCH"):
            for body in (b'{"a": 1}', b"{", b"x" * 2000):
                yield _case(f"{who}: {method} {path} with {body[:9]!r}", method, path, [*shown, JSON], body)
    for target, method in itertools.product(TARGETS, ("GET", "HEAD", "OPTIONS", "POST")):
        yield _case(f"{method} {target[:40]}", method, target)
    for fields, path in itertools.product(
        FIELDS, ("/open/echo", "/orders/1", "/kept/cacheable?cc=s-maxage%3D60", "/health")
    ):
        for method in ("GET", "POST", "OPTIONS"):
            yield _case(f"{method} {path} with {fields}", method, path, fields)
    for fault, method in itertools.product(FAULTS, ("GET", "HEAD", "POST")):
        yield _case(f"{method} to a service that does {fault}", method, f"/open/{fault}")
        yield _case(f"{method} through the cache to {fault}", method, f"/kept/{fault}")
    for service in ("absent", "brisk", "small"):
        for method, body in (("GET", b""), ("POST", b"x"), ("POST", b"x" * 1025)):
            yield _case(f"{method} to {service}, {len(body)} bytes", method, f"/{service}/slow/0.7", (), body)
    chunked = request_bytes("POST", "/open/echo", [("Transfer-Encoding", "chunked")], host=HOST)
    for name, rest in (
        ("whole", b"3\r\nabc\r\n0\r\n\r\n"),
        ("malformed", b"z\r\nabc\r\n"),
        ("trailers", b"0\r\nA: b\r\n\r\n"),
    ):
        yield Case(f"a chunked body, {name}", chunked + rest, "POST")
    for name, line in (
        ("no version", b"GET /open/x"),
        ("2.0", b"GET /open/x HTTP/2.0"),
        ("1.0", b"GET /open/x HTTP/1.0"),
    ):
        yield Case(f"a request line, {name}", line + b"\r\nHost: parity.example\r\n\r\n", "GET")
    for name, field in (("folded", b"A: b\r\n c"), ("bare LF", b"A: b\nB: c"), ("NUL", b"A: \0"), ("no colon", b"A")):
        yield Case(f"a field, {name}", b"GET /open/x HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n", "GET")


def _case(name: str, method: str, target: str, fields: Pairs = (), body: bytes = b"") -> Case:
    raw = request_bytes(method, target.encode().decode("latin-1"), fields, body, host=HOST)
    return Case(name, raw, method)
