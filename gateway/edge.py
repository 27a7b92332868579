"""True of every request, whoever serves it: an id, a clock, the rules of request targets, one log line, metrics.

A WSGI middleware around the app. It makes the `Exchange` that the rest works on, and refuses what is malformed before
Flask sees it: what no service takes at once, the rest as soon as it is known that the service that it is for, if there
is one, does not take it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from common import logs, problems
from common.masking import truncated_address
from common.messages import FIELDS, HEAD, TELL
from common.problems import Problem, status_line
from common.turns import keep_step
from gateway.body import Body, Reader
from gateway.browser_fields import answers_preflight, completed
from gateway.callers import forwarding_of, is_trusted
from gateway.dispatch import Dispatcher, refusal
from gateway.exchange import EXCHANGE, Answer, Exchange, HeaderList
from gateway.headers import Fields
from gateway.observability.access import Line
from gateway.observability.stages import Stages
from gateway.router import Route
from gateway.runtime import Runtime
from gateway.targets import Target, check_host, other_reading, read_target

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

QUIET_PATHS = frozenset({"/health", "/ready", "/health/startup", "/metrics"})


class Edge:
    """`app.wsgi_app = Edge(app.wsgi_app, runtime)`."""

    def __init__(self, app: WSGIApplication, runtime: Runtime, dispatcher: Dispatcher) -> None:
        self._app, self._runtime, self._dispatcher = app, runtime, dispatcher

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self._runtime.metrics.began()
        line = _Line(self._runtime, environ)
        logs.bind_request(line.request_id)
        try:
            exchange = line.exchange = exchange_of(environ, self._runtime, line.request_id)
            check_target(exchange)
        except Problem as problem:
            self._runtime.incidents.note_malformed(problem, environ, line.request_id)
            return line.ended(_refuse(problem, line, start_response))
        try:
            if answers_preflight(exchange):
                line.begin(start_response, "204 No Content", [])
                return line.ended([])
        except Problem as problem:
            self._runtime.incidents.note(problem, exchange)
            return line.ended(_refuse(problem, line, start_response))
        if self._dispatcher.takes(exchange):
            keep_step()
            return line.ended(_pass_on(self._dispatcher.answer(exchange), line, start_response))
        environ[EXCHANGE] = exchange
        return line.ended(self._app(environ, line.starting(start_response)))


def exchange_of(environ: WSGIEnvironment, runtime: Runtime, request_id: str) -> Exchange:
    """The facts of a request, among them what is wrong with its target. Raises `BadRequest` for a malformed host."""
    headers: Mapping[str, str] = environ.get(FIELDS) or _fields_of(environ)
    host = headers.get("host")
    check_host(host, environ["SERVER_PROTOCOL"])
    method = environ["REQUEST_METHOD"]
    target = read_target(method, environ.get("RAW_URI") or environ["REQUEST_URI"], host)
    settings = runtime.settings
    forwarding = forwarding_of(
        environ["REMOTE_ADDR"],
        environ["wsgi.url_scheme"],
        target.authority or host or "",
        environ["SERVER_PROTOCOL"].removeprefix("HTTP/"),
        headers,
        settings.trusted_proxies,
    )
    return Exchange(
        method=method,
        target=target,
        headers=Fields(headers, environ.get(HEAD)),
        body=Body(cast("Reader", environ["wsgi.input"]), _body_length(headers), environ.get(TELL)),
        forwarding=forwarding,
        request_id=request_id,
        runtime=runtime,
        table=runtime.table,
        is_operations=environ["SERVER_PORT"] == str(settings.operations_port),
        stages=Stages() if settings.server_timing else None,
    )


def _fields_of(environ: WSGIEnvironment) -> dict[str, str]:
    """What a server tells that has not read them for us."""
    headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name[:5] == "HTTP_"}
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if value := environ.get(name):
            headers[name.replace("_", "-").lower()] = value
    return headers


def check_target(exchange: Exchange) -> None:
    """Raises what is wrong with the target, unless the service that claims its path takes that."""
    fault = exchange.target.fault
    if fault is not None:
        service = exchange.table.router.find_service(exchange)
        if service is None or not fault.passes(
            is_verbatim=service.is_verbatim, takes_slashes=service.passes_encoded_slashes
        ):
            raise copy(fault.problem)  # not itself: its traceback would lead back to it, and so to the exchange
    other = other_reading(exchange.target)
    if other is exchange.target:
        return
    route = _route_of(exchange, exchange.target)
    if route is None or route.service.is_verbatim:
        return
    if other is None or _route_of(exchange, other) is not route:
        text = "The path can be read in two ways, with different rules; leave out // ; %25 and dots at an end."
        raise problems.BadRequest(text, code="UNSAFE_PATH")


def _route_of(exchange: Exchange, target: Target) -> Route | None:
    """The route that serves `target`, None where the gateway itself answers."""
    try:
        return exchange.table.router.match(replace(exchange, target=target, answer_headers=[]))
    except Problem:
        return None


def _body_length(headers: Mapping[str, str]) -> int | None:
    """The announced length; 0 without one, None for a chunked body. gunicorn has refused what is not a number."""
    if "transfer-encoding" in headers:
        return None
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise problems.BadRequest("Content-Length is not a number.", code="MALFORMED_REQUEST")
    return int(length)


def _refuse(problem: Problem, line: _Line, start_response: StartResponse) -> Iterable[bytes]:
    return _pass_on(refusal(problem, line.request_id), line, start_response)


def _pass_on(answer: Answer, line: _Line, start_response: StartResponse) -> Iterable[bytes]:
    line.begin(start_response, status_line(answer.status), answer.headers)
    if line.environ["REQUEST_METHOD"] == "HEAD" or answer.status in (204, 304):
        answer.close()  # a body that nobody wants must give its connection back
        return ()
    return answer.body


class _Line:
    """The access line of one request, written when its last byte is sent or its connection is lost."""

    def __init__(self, runtime: Runtime, environ: WSGIEnvironment) -> None:
        self._runtime = runtime
        self.environ = environ
        self.exchange: Exchange | None = None
        self._began = time.perf_counter()
        self._status = 0
        self._body: Iterable[bytes] = ()
        self._is_written = False
        given = environ.get("HTTP_X_REQUEST_ID")
        if given is not None and not is_trusted(environ["REMOTE_ADDR"], runtime.settings.trusted_proxies):
            given = None
        self.request_id = logs.acceptable_request_id(given) or logs.new_request_id()

    def starting(self, start_response: StartResponse) -> StartResponse:
        """`begin`, for an application that Flask answers."""
        return cast("StartResponse", partial(self.begin, start_response))

    def begin(
        self, start_response: StartResponse, status: str, headers: HeaderList, exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        """`start_response`, with what is true of every answer but a verbatim one."""
        self._status = int(status[:3])
        if not self._is_verbatim(headers):
            headers = completed(headers, self.request_id, self.exchange)
        return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

    def _is_verbatim(self, headers: list[tuple[str, str]]) -> bool:
        """An answer that is passed on for a verbatim service has its own Date; one that we give instead has none."""
        route = getattr(self.exchange, "route", None)
        return route is not None and route.service.is_verbatim and any(name.lower() == "date" for name, _ in headers)

    def ended(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """`body`, with `close` called on it and the line written afterwards."""
        self._body = body
        return self

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        if self._is_written:
            return
        self._is_written = True
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._write()

    def _write(self) -> None:
        elapsed_s = time.perf_counter() - self._began
        exchange, environ = self.exchange, self.environ
        route = getattr(exchange, "route", None)
        service = route.service.name if route else "gateway"
        route_name = route.name if route else "page" if self._status < 400 else "refused"
        self._runtime.metrics.answered(service, route_name, environ["REQUEST_METHOD"], self._status, elapsed_s)
        path = exchange.target.path if exchange else environ.get("PATH_INFO", "")
        if route is None and path in QUIET_PATHS and self._status < 400:
            return
        identity = exchange.known_identity if route and exchange else None
        self._runtime.access.add(
            Line(
                time.time(),
                self.request_id,
                environ["REQUEST_METHOD"],
                path,
                self._status,
                elapsed_s,
                service,
                route_name,
                exchange.forwarding.network if exchange else truncated_address(environ["REMOTE_ADDR"]),
                identity.user_id if identity else "",
                exchange.notes if exchange else {},
            )
        )
