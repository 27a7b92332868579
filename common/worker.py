"""gunicorn's gevent worker with one change: what its parser refuses is answered in our error shape, not as HTML."""

from __future__ import annotations

import socket

import structlog
from gunicorn import util
from gunicorn.http import errors
from gunicorn.workers.ggevent import GeventWorker

from common import problems
from common.logs import new_request_id

log = structlog.get_logger("edge")

DISCARD_MAX_BYTES = 1 << 20
DISCARD_TIMEOUT_S = 1.0


class ProblemWorker(GeventWorker):
    """`worker_class = "common.worker.ProblemWorker"`. The source named in its problems is `cfg.proc_name`."""

    def handle_error(self, req: object, client: socket.socket, addr: object, exc: BaseException) -> None:
        problem = parser_problem(exc)
        request_id = new_request_id()
        if problem.status >= 500:
            log.error("request_failed", request_id=request_id, exc_info=exc)
        else:
            log.info("request_refused", request_id=request_id, code=problem.code, reason=type(exc).__name__)
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
    if isinstance(error, errors.ParseException):
        return problems.BadRequest("The request is not well-formed HTTP/1.1.", code="MALFORMED_REQUEST")
    return problems.InternalError("Something went wrong on our side; the request id finds it in our logs.")


def _linger(client: socket.socket) -> None:
    """Read a little of what is still coming, so that closing does not reset the answer away (RFC 9112, 9.6)."""
    client.shutdown(socket.SHUT_WR)
    left = DISCARD_MAX_BYTES
    while left > 0 and (data := client.recv(65536)):
        left -= len(data)
    util.close(client)
