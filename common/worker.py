"""gunicorn's gevent worker with our own way through a connection.

Requests and answers are those of `messages`, and come at the pace that `incoming` asks for: who sends a head or a body
too slowly, or takes no more of an answer, is cut off; gunicorn itself would wait for ever. A connection has an end,
after so many requests or so much time. What gunicorn's parser refuses is answered in our error shape, not as HTML.

A worker that stops waits for connections that idle between two requests for two seconds, not for the whole keep-alive
time: a caller that is busy sends its next request by then, is answered with `Connection: close`, and so loses nothing.
A listener that has all the connections it may have ends the one that has waited longest for a request: else those who
only hold connections would keep everybody out, health checks first.
"""

from __future__ import annotations

import errno
import math
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeAlias, cast

import gevent
import structlog
from gunicorn import util
from gunicorn.http import errors, wsgi
from gunicorn.workers.ggevent import GeventWorker

from common import problems
from common.answers import Response
from common.incoming import Incoming, Pace
from common.logs import new_request_id
from common.messages import HEAD, TELL, IncomingBody, Request
from common.refusals import parser_problem, written
from common.tls import Renewing

log = structlog.get_logger("edge")

DISCARD_MAX_BYTES = 1 << 20
DISCARD_TIMEOUT_S = 1.0
IDLE_GRACE_S = 2.0

_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)

Environ: TypeAlias = dict[str, Any]
"""WSGI's."""


class _Ended(BaseException):
    """Thrown into a connection that waits for a request and is to wait no more."""


class ProblemWorker(GeventWorker):
    """`worker_class = "common.worker.ProblemWorker"`. The source named in its problems is `cfg.proc_name`."""

    pace: ClassVar[Pace] = Pace()
    """Set by `serving.gunicorn_settings`, before the workers are forked."""

    tls: ClassVar[Mapping[int, Renewing]] = {}
    """What the listener on a port speaks TLS with. Set by a component's `gunicorn.conf.py`, before the fork."""

    note: Callable[[problems.Problem, str, str, BaseException], None] | None = None
    """Is told of what the parser refused: the problem, the request id, the caller's address, the error. Set by the
    component's `post_worker_init`."""

    def handle(self, listener: Any, client: socket.socket, addr: Any) -> None:
        """Serve a connection until it ends."""
        self._open[listener] += 1
        if self._open[listener] >= self.worker_connections:  # nobody else is let in until somebody goes
            self._end_longest_waiting(listener)
        try:
            client = self._secured(listener, client, addr)
            self._serve(listener, client, addr)
        except (StopIteration, errors.NoMoreData, _Ended):
            pass
        except ssl.SSLError as error:
            self.log.debug("Connection lost: %s", error)
        except OSError as error:
            if error.errno not in _GONE:
                self.log.exception("Socket error processing request.")
        finally:
            self._open[listener] -= 1
            util.close(client)

    def _secured(self, listener: Any, client: socket.socket, addr: Any) -> socket.socket:
        """`client`, behind its handshake if the listener speaks TLS. Raises `StopIteration` when that fails."""
        tls = self.tls.get(listener.getsockname()[1])
        if tls is None:
            return client
        secured = tls.context().wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        try:
            with gevent.Timeout(self.pace.head_s, TimeoutError):
                secured.do_handshake()
        except OSError as error:
            reason = getattr(error, "reason", "") or type(error).__name__
            log.info("handshake_failed", caller=str(addr[0]), reason=reason)
            secured.close()
            raise StopIteration from None
        return secured

    def _serve(self, listener: Any, client: socket.socket, addr: Any) -> None:
        try:
            self._exchange(listener, client, addr)
        except (OSError, StopIteration, errors.NoMoreData, _Ended):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller is told
            self.handle_error(None, client, addr, error)

    def _exchange(self, listener: Any, client: socket.socket, addr: Any) -> None:
        """Requests and answers in turn. Raises `StopIteration` at the end."""
        name = listener.getsockname()
        incoming = Incoming(client, self.pace, self.cfg.keepalive)
        while True:
            request = self._next_request(listener, incoming, addr)
            self.handle_request(name, request, client, addr)

    def _next_request(self, listener: Any, incoming: Incoming, addr: Any) -> Request:
        """As gunicorn's parser reads it. Raises `StopIteration` when no other comes."""
        greenlet = gevent.getcurrent()
        incoming.await_request()
        self._waiting[greenlet] = listener, math.inf  # `incoming` sees to its time
        try:
            request = Request(self.cfg, incoming, addr)
        finally:
            del self._waiting[greenlet]
        incoming.await_body()
        if incoming.is_last:
            request.force_close()
        return request

    def handle_request(  # pyright: ignore[reportIncompatibleMethodOverride] - the base says bool and means nothing by it
        self, listener_name: Any, req: Any, sock: socket.socket, addr: Any
    ) -> None:
        """Answer one request. Raises `StopIteration` when the connection is to be closed."""
        create = cast("Callable[..., tuple[Response, Environ]]", wsgi.create)  # the stubs are older than gunicorn
        response, environ = create(req, sock, addr, listener_name, self.cfg, response_class=Response.to)
        environ |= {"wsgi.multithread": True, HEAD: req.head, TELL: response.tell}
        if isinstance(sock, ssl.SSLSocket):
            environ["wsgi.url_scheme"] = "https"  # gunicorn knows only of TLS on all listeners
        self._finish(self._answer(environ, response, sock), req.body, sock)

    def _finish(self, is_last: bool, body: IncomingBody, sock: socket.socket) -> None:
        """Find the place where the next request begins. Raises `StopIteration` when there is to be none."""
        if is_last or body.failed:
            if not body.is_at_end:
                _linger(sock)
            raise StopIteration
        if not body.is_at_end and not _discard(body, self.cfg.keepalive):
            raise StopIteration

    def _answer(self, environ: Environ, response: Response, sock: socket.socket) -> bool:
        """What the application answers, sent. Whether the connection ends with it."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        if not self.alive:
            response.force_close()
        try:
            pieces: Iterable[bytes] = self.wsgi(environ, response.start_response)
            try:
                for piece in pieces:
                    response.write(piece)
                response.close()
            finally:
                close = getattr(pieces, "close", None)
                if close is not None:
                    close()
        except TimeoutError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the caller paused for too long") from error
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
        self._open: Counter[object] = Counter()  # connections by listener
        self._waiting: dict[object, tuple[object, float]] = {}
        """Greenlets whose connections wait for a request, the longest first: its listener, and until when."""
        super().init_process()

    def run(self) -> None:
        gevent.spawn(self._end_idle_connections)
        super().run()

    def _end_longest_waiting(self, listener: object) -> None:
        longest = next((each for each, (of, _) in self._waiting.items() if of is listener), None)
        if longest is not None:
            gevent.get_hub().loop.run_callback(self._end, longest)

    def _end_idle_connections(self) -> None:
        while self.alive:
            gevent.sleep(0.1)
        gevent.sleep(IDLE_GRACE_S)
        while True:
            self._end_waiting_until(math.inf)
            gevent.sleep(0.1)

    def _end_waiting_until(self, now: float) -> None:
        for greenlet, (_, until) in list(self._waiting.items()):
            if until <= now:
                gevent.get_hub().loop.run_callback(self._end, greenlet, now)

    def _end(self, greenlet: Any, now: float = math.inf) -> None:
        """Runs in the hub, so that nothing can come between the look and the throw."""
        if greenlet in self._waiting and self._waiting[greenlet][1] <= now:
            greenlet.throw(_Ended)

    def handle_error(self, req: object, client: socket.socket, addr: object, exc: BaseException) -> None:
        problem = parser_problem(exc)
        request_id = new_request_id()
        if isinstance(problem, problems.InternalError):  # not every 5xx is our fault: 501 is what the caller asked for
            log.error("request_failed", request_id=request_id, exc_info=exc)
        else:
            log.info("request_refused", request_id=request_id, code=problem.code, reason=type(exc).__name__)
        if self.note is not None:
            self.note(problem, request_id, str(addr[0]) if isinstance(addr, tuple) else "", exc)
        try:
            client.settimeout(DISCARD_TIMEOUT_S)
            client.sendall(written(problem, request_id, str(self.cfg.proc_name)))
            _linger(client)
        except OSError:
            pass  # the caller has gone; nobody is left to tell


def _discard(body: IncomingBody, seconds: float) -> bool:
    """Take what the application left of a body, so that the next request can be found. Whether all of it came."""
    try:
        with gevent.Timeout(seconds, cast("None", False)):  # False: silent
            while body.read(65536):
                pass
    except Exception:  # noqa: BLE001 - torn, malformed or too slow: its request was answered long ago
        return False
    return body.is_at_end


def _linger(client: socket.socket) -> None:
    """Read a little of what is still coming, so that closing does not reset the answer away (RFC 9112, 9.6)."""
    client.shutdown(socket.SHUT_WR)
    left = DISCARD_MAX_BYTES
    with gevent.Timeout(DISCARD_TIMEOUT_S, cast("None", False)):  # False: silent
        while left > 0 and (data := client.recv(65536)):
            left -= len(data)
    util.close(client)
