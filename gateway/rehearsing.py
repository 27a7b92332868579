"""A request that nobody sent, read as if it had come over the wire: by the server's own parser.

What the parser and the edge make of it is therefore what they would make of a real one, limits of lengths included.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from gunicorn.config import Config
from gunicorn.http import errors, wsgi
from gunicorn.http.unreader import IterUnreader

from common.answers import Response
from common.messages import HEAD, TELL, Request
from common.problems import BadRequest
from common.serving import PARSER
from common.tokens import Identity
from common.worker import parser_problem
from gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIEnvironment

HOST = "localhost"
"""What a request that names no host is sent to."""

HeaderPairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The request in question."""

    method: str
    target: str  # as it stands in the request line
    headers: HeaderPairs = ()
    caller: str = "127.0.0.1"  # the address that the connection comes from
    body_bytes: int = 0
    identity: Identity | None = None  # taken for verified, instead of a token
    is_operations: bool = False  # comes in on the operations listener


def rehearsal_of(
    method: str,
    url: str,
    headers: HeaderPairs,
    settings: GatewaySettings,
    *,
    caller: str = "127.0.0.1",
    body_bytes: int = 0,
    identity: Identity | None = None,
) -> Rehearsal:
    """`url` is a request target, or a whole URL, which names host and listener too."""
    target, host, is_operations = url, HOST, False
    if url.lower().startswith(("http://", "https://")):
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        target = url.partition("://")[2].partition("#")[0].removeprefix(parts.netloc)
        target = target if target.startswith("/") else f"/{target}"
        is_operations = host.rpartition(":")[2] == str(settings.operations_port)
    if not any(name.lower() == "host" for name, _value in headers):
        headers = (("Host", host), *headers)
    return Rehearsal(method, target, headers, caller, body_bytes, identity, is_operations)


def environ_of(rehearsal: Rehearsal, settings: GatewaySettings) -> WSGIEnvironment:
    """What the server would hand to the application. Raises the `Problem` that it would answer with instead."""
    port = settings.operations_port if rehearsal.is_operations else settings.gateway_port
    config, peer = _parser_config(), cast("Any", (rehearsal.caller, 0))
    make = cast("Callable[..., tuple[Response, WSGIEnvironment]]", wsgi.create)  # the stubs are older than gunicorn
    try:
        read = Request(config, IterUnreader([_raw(rehearsal)]), peer)
        response, environ = make(read, None, peer, (HOST, port), config, response_class=Response.to)
    except (errors.ParseException, errors.NoMoreData) as error:
        raise parser_problem(error) from error
    environ |= {"wsgi.multithread": True, HEAD: read.head, TELL: response.tell}
    return environ


def _raw(rehearsal: Rehearsal) -> bytes:
    length = (("Content-Length", str(rehearsal.body_bytes)),) if rehearsal.body_bytes else ()
    fields = [f"{name}: {value}" for name, value in (*rehearsal.headers, *length)]
    lines = [f"{rehearsal.method} {rehearsal.target} HTTP/1.1", *fields]
    if any("\r" in line or "\n" in line for line in lines):
        raise BadRequest("The request is not well-formed HTTP/1.1.", code="MALFORMED_REQUEST")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


@cache
def _parser_config() -> Config:
    config = Config()
    for name, value in PARSER.items():
        config.set(name, value)
    config.set("permit_unconventional_http_method", True)  # as gunicorn.conf.py has it
    return config
