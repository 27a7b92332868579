"""A path that is protected is protected in all its spellings: none of them reaches a service without a token, unless
even the most forgiving server would read another path in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

import pytest

from tests.integration.conftest import ADMIN, Gateway, GatewayFactory, ready
from tests.support import wire

SERVICES = """
services:
  users: {{url: "{url}", aliases: [auth]}}
  orders: {{url: "{url}"}}
  products: {{url: "{url}"}}
  academy: &academy
    url: "{url}"
    path: /
    public: true
    routes:
      - {{path: /admin, roles: [admin]}}
      - {{path: /admin/<path:rest>, roles: [admin]}}
      - {{path: /grades/<id>/secret, roles: [admin]}}
      - {{path: /<path:rest>}}
  lenient: {{<<: *academy, encoded_slashes: true}}
  fallback:
    url: "{url}"
    path: /
    roles: [admin]
    routes:
      - {{path: /open/<path:rest>, public: true}}
      - {{path: /<path:rest>}}
"""

# the public path, and what a service calls what is protected
PROTECTED = {
    "GET /orders": r"/orders",
    "GET /orders/5": r"/orders/5",
    "POST /orders/5/cancel": r"/orders/5/cancel",
    "GET /users/profile": r"/users/profile",
    "GET /auth/profile": r"/users/profile",
    "GET /users/sessions": r"/users/sessions",
    "DELETE /products/5": r"/products/5",
    "POST /products": r"/products",
    "GET /academy/admin": r"/admin",
    "GET /academy/admin/keys": r"/admin/keys",
    "GET /academy/grades/7/secret": r"/grades/7/secret",
    "GET /lenient/admin": r"/admin",
    "GET /lenient/admin/keys": r"/admin/keys",
    "GET /lenient/grades/7/secret": r"/grades/7/secret",
    "GET /fallback/keys": r"/keys",
}
SEPARATORS = (
    "%2f", "%2F", "%5c", "\\", "%252f", "%252F", "%25252f", "%255c", "%c0%af", "%e0%80%af", "%u2215", "%u002f",
)  # fmt: skip
WITHIN = (
    "//", "///", "/./", "/%2e/", "/x/../", "/x/%2e%2e/", "/x/%252e%252e/", "/.;/", "/;/", "/;x/", "/%20/../", "/x/..;/",
)  # fmt: skip
BEHIND = (
    "/", "//", "/.", "/./", ";", ";x", ";x=1/", "%3b", "%3Bx", "%253bx", ".", "..", "%20", "%09", "%00", "%2500", "%0a",
    "?", "?x", "#", "#/open", "%23", "%3f", "%253f", "/x/..", "/x/%2e%2e", "/x/%252e%252e", "/..;/admin", "%c0%80",
)  # fmt: skip


def spellings(path: str) -> Iterator[str]:
    """Ways to write `path`, among them such as mean another path, or none."""
    yield path
    yield from (f"{face}{path}" for face in ("/api", "/api/v1", "/%61pi", "/api/%76%31", "//api", "/api/"))
    yield f"/{path}"
    yield f"/.{path}"
    yield f"/;{path}"
    yield f"http://127.0.0.1{path}"
    for place in (index for index, letter in enumerate(path) if letter.isalnum()):
        before, letter, after = path[:place], path[place], path[place + 1 :]
        code = ord(letter)
        for escape in (f"%{code:02x}", f"%{code:02X}", f"%25{code:02x}", f"%2525{code:02x}", f"%u00{code:02x}"):
            yield f"{before}{escape}{after}"
        yield f"{before}%{0xC0 | code >> 6:02x}%{0x80 | code & 63:02x}{after}"
        yield f"{before}{letter.upper()}{after}"
    yield "".join(f"%{ord(letter):02x}" if letter != "/" else "/" for letter in path)
    for place in (index for index, letter in enumerate(path) if letter == "/" and index):
        for separator in SEPARATORS + WITHIN:
            yield path[:place] + separator + path[place + 1 :]
        for mark in (";x", ";x=1", "%3bx", ".", "%20"):
            yield path[:place] + mark + path[place:]
    yield from (path + behind for behind in BEHIND)
    for elsewhere in ("academy", "lenient", "fallback/open", "products", "users/login"):
        for climb in ("/..", "/%2e%2e", "/%252e%252e", "/..;", "%2f..", "%5c..", "%252f..", "/x/..%2f.."):
            yield f"/{elsewhere}{climb}{path}"


def forgivingly(target: str) -> str:
    """The path that the most forgiving server may see in a target."""
    path = target.partition("?")[0]
    for _ in range(5):
        path = re.sub(r"%u00([0-9a-f]{2})", r"%\1", path, flags=re.IGNORECASE)
        path = unquote(path, "latin-1")
    path = re.sub("[\xc0\xc1][\x80-\xbf]", lambda two: chr((ord(two[0][0]) & 31) << 6 | ord(two[0][1]) & 63), path)
    path = path.partition("\0")[0].replace("\\", "/")
    seen: list[str] = []
    for segment in path.split("/"):
        name = segment.partition(";")[0]
        if name == "..":
            del seen[-1:]
        elif name not in ("", "."):
            seen.append(name.rstrip(". ") or name)
    return "/" + "/".join(seen)


@pytest.fixture(scope="module")
def guarded(start_gateway: GatewayFactory) -> Gateway:
    return start_gateway(services=SERVICES, WEB_CONCURRENCY="1")


@pytest.mark.parametrize("protected", PROTECTED)
def test_no_spelling_of_a_protected_path_reaches_a_service_without_a_token(guarded: Gateway, protected: str) -> None:
    ready(guarded)
    method, _, path = protected.partition(" ")
    written = list(dict.fromkeys(spellings(path)))

    answers = {spelling: status_of(guarded, method, spelling) for spelling in written}

    assert len(written) > 100
    assert answers[path] == 401
    through = [received.target for received in guarded.arrived if forgivingly(received.target) == PROTECTED[protected]]
    assert through == []
    assert guarded.stub.malformed == []


def status_of(gateway: Gateway, method: str, target: str) -> int:
    return wire.exchange(gateway.port, wire.request_bytes(method, target, host="127.0.0.1")).status


@pytest.mark.parametrize("spelling", ["/%6frders/5", "/orders/%35", "/api/%6f%72ders/5", "/orders/5?x", "/orders//5"])
def test_lawful_spelling_is_the_same_path_for_who_has_a_token(guarded: Gateway, spelling: str) -> None:
    ready(guarded)

    answer = guarded.get(spelling, ADMIN)

    assert answer.status == 200
    assert forgivingly(guarded.arrived[0].target) == "/orders/5"


@pytest.mark.parametrize(
    "rest", ["/a//b", "/a;v=1/b", "/a.", "/100%25", "/a%252fb", "/x/", "/adminx", "/.well-known/x"]
)
def test_unusual_path_that_cannot_be_taken_for_a_protected_one_is_served(guarded: Gateway, rest: str) -> None:
    ready(guarded)

    answer = guarded.get(f"/academy{rest}")

    assert answer.status == 200
    assert guarded.arrived[0].target == rest


@pytest.mark.parametrize("path", ["/metrics", "/services", "/api/services", "/api/v1/services", "/health/services"])
def test_no_spelling_of_an_operators_page_opens_it(guarded: Gateway, path: str) -> None:
    for spelling in dict.fromkeys(spellings(path)):
        answer = wire.exchange(guarded.port, wire.request_bytes("GET", spelling, host="127.0.0.1"))

        assert answer.status in (400, 401, 404), spelling
