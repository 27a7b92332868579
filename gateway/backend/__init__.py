"""A `Backend` is the live thing that talks to a service: a pooled session, time-outs, a breaker.

    Failure                             told as                     counts against the breaker
    no connection (tried twice)         502 SERVICE_UNREACHABLE     yes
    no answer in time                   504 SERVICE_TIMEOUT         yes
    reset, cut short, not HTTP          502 BAD_ANSWER              yes
    an answer with 5xx                  as it is                    yes
    breaker open                        503 CIRCUIT_OPEN            it is the breaker
    all connections of the pool in use  503 SERVICE_BUSY            no
    the caller cut its own body short   400 INCOMPLETE_BODY         no

An answer of up to 64 KB with a known length is read whole before the caller gets a byte, so that one which is cut short
becomes a clean 502; a longer one streams.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TypeVar

import requests
import structlog
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import ConnectTimeout, ReadTimeout, RequestException
from urllib3 import HTTPResponse
from urllib3.exceptions import EmptyPoolError, HTTPError, MaxRetryError, NewConnectionError, ReadTimeoutError

from common.http import tuned_session
from common.problems import BadGateway, GatewayTimeout, Problem, ServiceUnavailable
from gateway.backend.breaker import Breaker, BreakerOpen
from gateway.backend.transport import DoubtfulFraming, RawTargetAdapter, discard, prepare, raw_answer
from gateway.exchange import Answer, Body, CallerGone
from gateway.observability.metrics import Metrics
from gateway.services import Service
from gateway.settings import GatewaySettings

log = structlog.get_logger("backend")

E = TypeVar("E", bound=BaseException)

BUFFERED_BYTES = 64 << 10
PIECE_BYTES = 64 << 10


class _ServiceFailed(Exception):
    """Carries a 5xx through the breaker, which must see it, to the caller, who must get it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Backend:
    """Talks to the one instance of a service. Shared by the greenlets of a worker: the session remembers nothing but
    connections, and its pool hands each of them to one greenlet at a time."""

    def __init__(self, service: Service, settings: GatewaySettings, metrics: Metrics) -> None:
        self.service = service
        self._metrics = metrics
        self._timeout_s = (service.connect_timeout_s, service.timeout_s)
        self._adapter = RawTargetAdapter(
            pool_connections=1, pool_maxsize=settings.backend_pool_size, pool_block=True, max_retries=0
        )
        self._session = tuned_session(pool_size=settings.backend_pool_size, adapter=self._adapter)
        self.breaker = Breaker(
            service.name,
            service.url,
            metrics,
            failures=settings.breaker_failures,
            recovery_s=settings.breaker_recovery_s,
        )

    def send(self, method: str, target: str, headers: list[tuple[str, str]], body: Body) -> Answer:
        """The service's answer, whatever its status. Raises the problems listed on top, and `CallerGone`."""
        try:
            with self.breaker.calling():
                answer = self._call(method, target, headers, body)
                if answer.status >= 500:
                    raise _ServiceFailed(answer)
        except _ServiceFailed as failed:
            self._metrics.called(self.service.name, "5xx")
            return failed.answer
        except BreakerOpen as error:
            self._metrics.called(self.service.name, "breaker_open")
            raise ServiceUnavailable(
                f"The service {self.service.name} failed repeatedly and is being left alone for a moment.",
                code="CIRCUIT_OPEN",
                retry_after_s=error.retry_after_s,
            ) from None
        except EmptyPoolError:
            self._metrics.called(self.service.name, "busy")
            raise ServiceUnavailable(
                f"The service {self.service.name} is busy: too many requests are waiting for it.", code="SERVICE_BUSY"
            ) from None
        except (RequestException, HTTPError, DoubtfulFraming) as error:
            raise self._problem(error) from error
        self._metrics.called(self.service.name, "ok")
        return answer

    def _call(self, method: str, target: str, headers: list[tuple[str, str]], body: Body) -> Answer:
        request = prepare(method, self.service.url, target, headers, body)
        try:
            response = self._attempt(request, body)
        except NoConnection as error:
            if body.read_bytes or not is_connect_failure(error):
                raise
            response = self._attempt(request, body)  # nothing was sent yet, so trying again can't hurt
        return self._answer(method, raw_answer(response))

    def _attempt(self, request: requests.PreparedRequest, body: Body) -> requests.Response:
        try:
            return self._adapter.send(request, stream=True, timeout=self._timeout_s)
        except RequestException as error:
            if caller_gone := _cause(error, CallerGone):
                raise caller_gone from None
            raise

    def _answer(self, method: str, raw: HTTPResponse) -> Answer:
        headers = list(raw.headers.iteritems())
        length = raw.headers.get("Content-Length")
        if method == "HEAD" or raw.status in (204, 304):
            raw.drain_conn()
            raw.release_conn()
            return Answer(raw.status, headers, ())
        if length is not None and int(length) <= BUFFERED_BYTES:
            try:
                content = raw.read(decode_content=False)
            except BaseException:
                discard(raw)
                raise
            raw.release_conn()
            return Answer(raw.status, headers, (content,))
        return Answer(raw.status, headers, _Stream(self.service.name, raw))

    def _problem(self, error: Exception) -> Problem:
        name = self.service.name
        if isinstance(error, NoConnection) and is_connect_failure(error):
            outcome, problem = (
                "unreachable",
                BadGateway(f"The service {name} can't be reached just now.", code="SERVICE_UNREACHABLE"),
            )
        elif isinstance(error, ReadTimeout) or _cause(error, ReadTimeoutError) or _cause(error, TimeoutError):
            outcome, problem = (
                "timeout",
                GatewayTimeout(
                    f"The service {name} did not answer within {self.service.timeout_s:g} seconds.",
                    code="SERVICE_TIMEOUT",
                ),
            )
        else:
            outcome, problem = (
                "bad_answer",
                BadGateway(f"The service {name} broke off or gave an answer that is not HTTP.", code="BAD_ANSWER"),
            )
        self._metrics.called(name, outcome)
        log.warning("call_failed", to=name, instance=self.service.url, outcome=outcome, reason=_innermost(error))
        return problem


def is_connect_failure(error: NoConnection) -> bool:
    """Whether no connection came about, so that not a byte of the request can have reached the service."""
    if isinstance(error, ConnectTimeout):
        return True
    reason = error.args[0].reason if error.args and isinstance(error.args[0], MaxRetryError) else None
    return isinstance(reason, NewConnectionError)


def _cause(error: BaseException | None, kind: type[E]) -> E | None:
    """The first `kind` among the causes of `error` and the exceptions that it wraps, or None."""
    while error is not None:
        if isinstance(error, kind):
            return error
        wrapped = next((argument for argument in error.args if isinstance(argument, BaseException)), None)
        error = wrapped or error.__cause__ or error.__context__
    return None


def _innermost(error: BaseException) -> str:
    while error.__context__ is not None:
        error = error.__context__
    return type(error).__name__


class _Stream:
    """A long answer on its way through, piece by piece as it comes. An instance that breaks off breaks the caller's
    connection too: that is the only way left to say that the answer is not whole."""

    def __init__(self, service: str, raw: HTTPResponse) -> None:
        self._service, self._raw = service, raw
        self._is_whole = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._pieces()
        except (HTTPError, OSError) as error:
            log.warning("answer_cut_short", to=self._service, reason=_innermost(error))
            # with its number, else gunicorn takes it for a fault of its own and logs a stack trace
            raise ConnectionResetError(errno.ECONNRESET, "the service broke off in the middle of its answer") from error
        self._is_whole = True

    def _pieces(self) -> Iterator[bytes]:
        if self._raw.chunked and self._raw.supports_chunked_reads():
            yield from self._raw.read_chunked(decode_content=False)
            return
        while piece := self._raw.read1(PIECE_BYTES, decode_content=False):
            yield piece

    def close(self) -> None:
        if self._is_whole:
            self._raw.release_conn()
        else:
            discard(self._raw)  # an unread rest must not meet the next request on this connection
