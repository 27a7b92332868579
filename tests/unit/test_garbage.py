"""What belongs to a request is freed when it is over, by nobody's collecting garbage: also where it was refused.

An error that is kept where its own traceback leads makes a circle. Whoever sends bad requests, or meets a service that
is away, would have the worker look for such circles all the time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.test import EnvironBuilder

from gateway import create_app
from gateway.exchange import Exchange
from tests.unit import parts

FILE = """services:
  users: {url: "http://127.0.0.1:1"}
  orders: {url: "http://127.0.0.1:1"}
  products: {url: "http://127.0.0.1:1"}
  things: {url: "http://127.0.0.1:1", retries: 0}
  away: {url: "http://127.0.0.1:1", public: true, retries: 1, breaker: off}
  broken: {url: "http://127.0.0.1:1", public: true, retries: 0, breaker: {failures: 1, recovery_s: 60}}
  few: {url: "http://127.0.0.1:1", public: true, limits: {default: 1/hour}, breaker: off, retries: 0}
  small: {url: "http://127.0.0.1:1", public: true, max_body: 10B}
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    file: Path = tmp_path_factory.mktemp("gateway") / "services.yaml"
    file.write_text(FILE)
    with parts.clean_environment():
        return create_app(parts.settings(gateway_services=file))


@contextmanager
def nobody_collecting() -> Generator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def ask(app: Flask, method: str, target: str, token: str, body: bytes) -> str:
    """The status, once all that the answer consists of is let go."""
    environ: dict[str, object] = EnvironBuilder(target, method=method, data=body).get_environ()
    environ |= {"RAW_URI": target, "REMOTE_ADDR": parts.CALLER}
    if token:
        environ["HTTP_AUTHORIZATION"] = token
    statuses: list[str] = []

    def start_response(status: str, _headers: object, _error: object = None) -> Callable[[bytes], object]:
        statuses.append(status)
        return statuses.append  # pyright: ignore[reportReturnType] - nobody writes

    pieces = app.wsgi_app(environ, start_response)
    for _ in pieces:
        pass
    close = getattr(pieces, "close", None)
    if close is not None:
        close()
    return statuses[0]


@pytest.mark.parametrize(
    ("method", "target", "token", "body", "status"),
    [
        ("GET", "/things/1", "", b"", 401),
        ("GET", "/things/1", "Bearer a.b.c", b"", 401),
        ("GET", "/things/1", "Bearer a b", b"", 401),
        ("GET", "/nothing", "", b"", 404),
        ("GET", "/things/%00", "", b"", 400),
        ("GET", "/things/../x", "", b"", 400),
        ("POST", "/small/1", "", b"x" * 11, 413),
        ("GET", "/few/1", "", b"", 429),
        ("GET", "/away/1", "", b"", 502),
        ("POST", "/away/1", "", b"x", 502),
        ("GET", "/broken/1", "", b"", 503),
    ],
)
def test_what_was_refused_is_freed_at_once(
    app: Flask, method: str, target: str, token: str, body: bytes, status: int
) -> None:
    ask(app, method, target, token, body)  # what is remembered of the first stays

    with nobody_collecting():
        told = ask(app, method, target, token, body)
        left = [each for each in gc.get_objects() if type(each) is Exchange]

    assert told.startswith(f"{status} ")
    assert left == []
