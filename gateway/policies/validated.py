"""`@validated`: is a request what the service's OpenAPI document describes?

The services file says for a service or route what follows from that: nothing (`off`), a count and a line of the log
(`report`), or a refusal (`enforce`): 422 with the fields, 400 for a body that is missing or not JSON, 415 for one of
another media type, 413 for one that is too long to be looked at (`MOST_BYTES`), and 404 where a name in the path stands
for what can't be there.

What the document does not describe, or describes in a way that we don't understand, passes; the service decides. So
does everything while no document is known.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Collection
from functools import wraps
from typing import cast
from urllib.parse import parse_qsl

import orjson
import structlog

from common.problems import (
    BadRequest,
    FieldError,
    NotFound,
    PayloadTooLarge,
    Problem,
    UnprocessableContent,
    UnsupportedMediaType,
)
from gateway.body import TAKEN_IN_BYTES, CallerGone, refuse_torn_body
from gateway.exchange import Answer, Exchange, Handler
from gateway.openapi.faults import WHOLE
from gateway.openapi.operations import Operation
from gateway.openapi.parts import RequestBody, is_json
from gateway.outgoing import outgoing_target
from gateway.policies.layers import layer

log = structlog.get_logger("validation")

MOST_BYTES = TAKEN_IN_BYTES
_POSITION = re.compile(r"[0-9]{1,4}")


class _Unlike(Exception):
    """The request is not what the document describes; `problem` tells the caller."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def validated(handler: Handler) -> Handler:
    @layer("validated", _judge)
    @wraps(handler)
    def checked(exchange: Exchange) -> Answer:
        if exchange.service.validation:
            _check(exchange)
        return handler(exchange)

    return checked


def _check(exchange: Exchange) -> None:
    runtime, service, route = exchange.runtime, exchange.service.name, exchange.route.name
    operation = _operation(exchange)
    if operation is None:
        runtime.metrics.validated(service, route, "unknown")
        return
    try:
        _compare(exchange, *operation)
    except _Unlike as unlike:
        if exchange.service.validation == "enforce":
            runtime.metrics.validated(service, route, "refused")
            runtime.documents.doubt(exchange.backend)
            exchange.body.close()
            raise unlike.problem from None
        runtime.metrics.validated(service, route, "reported")
        _report(exchange, unlike.problem)
    else:
        runtime.metrics.validated(service, route, "passed")


def _judge(exchange: Exchange, _may_look: bool) -> str:
    mode = exchange.service.validation
    if mode is None:
        return "validate is off"
    if exchange.runtime.documents.contract(exchange.backend) is None:
        return f"no OpenAPI document of {exchange.backend} is known here yet"
    operation = _operation(exchange)
    if operation is None:
        return "the OpenAPI document knows nothing of this method and path"
    try:
        _compare(exchange, *operation, is_body_here=False)
    except _Unlike as unlike:
        if mode == "enforce":
            raise unlike.problem from None
        return f"would be refused, but is only reported: {unlike.problem.status} {unlike.problem.code}"
    return f"is like {operation[0].method} {operation[0].template}; the body's fields are not looked at beforehand"


def _report(exchange: Exchange, problem: Problem) -> None:
    route, documents = exchange.route.name, exchange.runtime.documents
    contract = documents.contract(exchange.backend)
    names = {_without_inventions(error.field, contract.names if contract else ()) for error in problem.errors} or {""}
    for name in sorted(names):
        if documents.may_report(route, name or problem.code):
            log.info("request_unlike_openapi", to=exchange.backend, route=route, code=problem.code, field=name)


def _without_inventions(name: str, known: Collection[str]) -> str:
    """The name of a field for the log, which repeats nothing that a caller has invented: `lines.0.*`."""
    parts = name.split(".")
    return ".".join(part if part in known or part == WHOLE or _POSITION.fullmatch(part) else "*" for part in parts)


Found = tuple[Operation, tuple[str, ...]]


def _operation(exchange: Exchange) -> Found | None:
    contract = exchange.runtime.documents.contract(exchange.backend)
    path = outgoing_target(exchange).partition("?")[0]
    return contract.find(exchange.method, path) if contract else None


def _compare(exchange: Exchange, operation: Operation, segments: tuple[str, ...], *, is_body_here: bool = True) -> None:
    """Raises `_Unlike`, and the problem of a body that is torn."""
    body = operation.body
    errors = list(_parameter_faults(exchange, operation))
    if body is not None and body.media_types:
        content = _body(exchange, body, is_here=is_body_here)
        errors += body.faults(content) if content is not _NOT_READ else ()
    if errors:
        raise _Unlike(UnprocessableContent("Some fields are wrong; `errors` names them.", errors=errors))
    values = dict(operation.path_values(segments))
    named = [parameter for parameter in operation.parameters if parameter.place == "path"]
    if any(parameter.faults([values[parameter.name]]) for parameter in named if parameter.name in values):
        raise _Unlike(NotFound("There is nothing at this address.", code="ROUTE_NOT_FOUND"))


def _parameter_faults(exchange: Exchange, operation: Operation) -> list[FieldError]:
    query: dict[str, list[str]] = {}
    for name, value in parse_qsl(exchange.target.query or "", keep_blank_values=True, max_num_fields=None):
        query.setdefault(name, []).append(value)
    found: list[FieldError] = []
    for parameter in operation.parameters:
        if parameter.place == "query":
            found += parameter.faults(query.get(parameter.name, ()))
        elif parameter.place == "header":
            value = exchange.headers.get(parameter.name.lower())
            found += parameter.faults(() if value is None else (value,))
    return found


_NOT_READ = object()


def _body(exchange: Exchange, described: RequestBody, *, is_here: bool) -> object:
    """What the body says, `_NOT_READ` where that is not to be known."""
    body = exchange.body
    if body.length != 0:
        media_type = exchange.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not described.takes(media_type):
            raise _Unlike(UnsupportedMediaType(f"The body must be {' or '.join(sorted(described.media_types))}."))
        if not is_json(media_type) or not is_here or not exchange.service.is_buffered:
            return _NOT_READ
        if exchange.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise _Unlike(UnsupportedMediaType("The body must not be compressed here."))
        content = _read(exchange)
        if content:
            return _parsed(content)
    if described.is_required:
        raise _Unlike(BadRequest("The body is missing; send a JSON document."))
    return _NOT_READ


def _read(exchange: Exchange) -> bytes:
    body, began = exchange.body, time.monotonic()
    if body.length is None or body.length <= MOST_BYTES:
        try:
            body.bound(exchange.service.max_body_bytes or sys.maxsize)
        except CallerGone as error:
            raise refuse_torn_body(error) from error
        body.waited_s += time.monotonic() - began
    length = cast("int", body.length)
    if length > MOST_BYTES:
        raise _Unlike(PayloadTooLarge(f"The body is larger than the {MOST_BYTES} bytes that are accepted here."))
    content = body.read(length)
    body.rewind()
    return content


def _parsed(content: bytes) -> object:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        raise _Unlike(BadRequest("The request could not be understood; is its JSON well-formed?")) from None
