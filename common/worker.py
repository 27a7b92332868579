"""gunicorn's gevent worker with four changes.

Requests and answers are those of `messages`. What gunicorn's parser refuses is answered in our error shape, not as
HTML. A worker that stops waits for connections that idle between two requests for two seconds, not for the whole
keep-alive time: a caller that is busy sends its next request by then, is answered with `Connection: close`, and so
loses nothing. And a caller who pauses for too long in the middle of a body or an answer is cut off: gunicorn itself
would wait for ever.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, ClassVar, cast

import gevent
import structlog
from gunicorn import util
from gunicorn.http import errors, wsgi
from gunicorn.http.parser import RequestParser
from gunicorn.workers.ggevent import GeventWorker

from common import problems
from common.logs import new_request_id
from common.messages import HEAD, TELL, Request, Response

log = structlog.get_logger("edge")

# subclasses of ParseException in which the caller has no part
_OURS = (
    errors.ConfigurationProblem,
    errors.InvalidResponseHeader,  # pyright: ignore[reportAttributeAccessIssue] - the stubs are older than gunicorn
    errors.InvalidResponseHeaderName,  # pyright: ignore[reportAttributeAccessIssue] - as above
)

DISCARD_MAX_BYTES = 1 << 20
DISCARD_TIMEOUT_S = 1.0
IDLE_GRACE_S = 2.0

Waiting = dict["gevent.Greenlet[..., object]", gevent.Timeout]
"""The greenlets of idle connections, each with the time-out that will end its wait."""


class ProblemWorker(GeventWorker):
    """`worker_class = "common.worker.ProblemWorker"`. The source named in its problems is `cfg.proc_name`."""

    caller_timeout_s: ClassVar[float] = 30.0
    """Set by `serving.gunicorn_settings`, before the workers are forked."""

    note: Callable[[problems.Problem, str, str, BaseException], None] | None = None
    """Is told of what the parser refused: the problem, the request id, the caller's address, the error. Set by the
    component's `post_worker_init`."""

    def handle_request(  # pyright: ignore[reportIncompatibleMethodOverride] - the base says bool and means nothing by it
        self, listener_name: Any, req: Any, sock: socket.socket, addr: Any
    ) -> None:
        """Answer one request. Raises `StopIteration` when the connection is to be closed."""
        sock.settimeout(self.caller_timeout_s)
        try:
            is_last = self._answer(listener_name, req, sock, addr)
        except TimeoutError as error:
            # with a number that gunicorn knows, else it logs a stack trace
            raise ConnectionResetError(errno.ECONNRESET, "the caller paused for too long") from error
        finally:
            sock.settimeout(None)  # between two requests the keep-alive time counts
        if is_last or req.body.failed:
            if not req.body.is_at_end:
                _linger(sock)
            raise StopIteration

    def _answer(self, listener_name: Any, req: Any, sock: socket.socket, addr: Any) -> bool:
        """As gunicorn does, with our `Response` and without what we don't use. Whether the connection ends with it."""
        response, environ = wsgi.create(
            req,
            sock,
            addr,
            listener_name,
            self.cfg,
            response_class=Response,  # pyright: ignore[reportCallIssue] - newer
        )
        environ |= {"wsgi.multithread": True, HEAD: req.head, TELL: response.tell}
        if not self.alive:
            response.force_close()
        try:
            with ExitStack() as ending:
                pieces: Iterable[bytes] = self.wsgi(environ, response.start_response)
                ending.callback(getattr(pieces, "close", _nothing))
                for piece in pieces:
                    response.write(piece)
                response.close()
        except OSError:
            raise
        except (Exception, SystemExit):
            if not response.headers_sent:
                raise  # `handle_error` answers
            self.log.exception("Error handling request")
            sock.shutdown(socket.SHUT_RDWR)  # the only way left to say that the answer is not whole
            raise StopIteration from None
        return response.should_close()

    def init_process(self) -> None:
        self._idle: Waiting = {}
        RequestParser.mesg_class = Request
        super().init_process()

    def run(self) -> None:
        gevent.spawn(self._close_idle_connections)
        super().run()

    def timeout_ctx(self) -> _Idle:  # pyright: ignore[reportIncompatibleMethodOverride] - the base is untyped
        return _Idle(self._idle, self.cfg.keepalive)

    def _close_idle_connections(self) -> None:
        while self.alive:
            gevent.sleep(0.1)
        gevent.sleep(IDLE_GRACE_S)
        while True:
            for greenlet, timeout in list(self._idle.items()):
                greenlet.kill(timeout, block=False)  # as if its keep-alive time were over
            gevent.sleep(0.1)

    def handle_error(self, req: object, client: socket.socket, addr: object, exc: BaseException) -> None:
        problem = parser_problem(exc)
        request_id = new_request_id()
        if isinstance(problem, problems.InternalError):  # not every 5xx is our fault: 501 is what the caller asked for
            log.error("request_failed", request_id=request_id, exc_info=exc)
        else:
            log.info("request_refused", request_id=request_id, code=problem.code, reason=type(exc).__name__)
        if self.note is not None:
            self.note(problem, request_id, str(addr[0]) if isinstance(addr, tuple) else "", exc)
        body = problem.body(request_id, str(self.cfg.proc_name))
        head = (
            f"HTTP/1.1 {problem.status} {problem.title}\r\n"
            f"Content-Type: {problems.MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
            f"X-Request-ID: {request_id}\r\nX-Content-Type-Options: nosniff\r\n"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        try:
            client.settimeout(DISCARD_TIMEOUT_S)
            client.sendall(head.encode("latin-1") + body)
            _linger(client)
        except OSError:
            pass  # the caller has gone; nobody is left to tell


class _Idle:
    """Around the wait for a connection's next request; ends it silently, with no request, when its time is over."""

    def __init__(self, idle: Waiting, seconds: float) -> None:
        self._idle = idle
        self._timeout = gevent.Timeout(seconds, cast("None", False))  # False: silent

    def __enter__(self) -> None:
        self._timeout.start()
        self._idle[cast("gevent.Greenlet[..., object]", gevent.getcurrent())] = self._timeout

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self._idle.pop(cast("gevent.Greenlet[..., object]", gevent.getcurrent()), None)
        self._timeout.close()
        return error is self._timeout


def parser_problem(error: BaseException) -> problems.Problem:
    """What the caller is told about a request that gunicorn's parser refused. The offending bytes are not repeated."""
    if isinstance(error, errors.LimitRequestLine):
        return problems.UriTooLong("The request line is longer than this server accepts.")
    if isinstance(error, errors.LimitRequestHeaders):
        return problems.HeadersTooLarge("The request has more or longer header fields than this server accepts.")
    if isinstance(error, errors.ExpectationFailed):
        return problems.ExpectationFailed("The only expectation that can be met is 100-continue.")
    if isinstance(error, errors.UnsupportedTransferCoding):
        return problems.NotImplementedProblem("The only transfer coding that is understood is chunked.")
    if isinstance(error, errors.InvalidRequestMethod):
        return problems.BadRequest("The request method is malformed.", code="MALFORMED_REQUEST")
    if isinstance(error, errors.ParseException) and not isinstance(error, _OURS):
        return problems.BadRequest("The request is not well-formed HTTP/1.1.", code="MALFORMED_REQUEST")
    return problems.InternalError("Something went wrong on our side; the request id finds it in our logs.")


def _nothing() -> None:
    pass


def _linger(client: socket.socket) -> None:
    """Read a little of what is still coming, so that closing does not reset the answer away (RFC 9112, 9.6)."""
    client.shutdown(socket.SHUT_WR)
    left = DISCARD_MAX_BYTES
    with gevent.Timeout(DISCARD_TIMEOUT_S, cast("None", False)):  # False: silent
        while left > 0 and (data := client.recv(65536)):
            left -= len(data)
    util.close(client)
