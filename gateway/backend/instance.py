"""One instance of a service: its pooled session, its breaker, and what a balancer wants to know of it.

An answer of up to 64 KB with a known length is read whole before the caller gets a byte, so that one which is cut short
becomes a clean 502 (or another try); a longer one streams.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import TypeVar

import requests
import structlog
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import ConnectTimeout, ReadTimeout, RequestException
from urllib3 import HTTPResponse
from urllib3.exceptions import EmptyPoolError, HTTPError, MaxRetryError, NewConnectionError, ReadTimeoutError

from common.http import tuned_session
from common.problems import BadGateway, GatewayTimeout, Problem
from gateway.backend.balancing import PeakEwma
from gateway.backend.breaker import Breaker
from gateway.backend.retries import Failure
from gateway.backend.transport import DoubtfulFraming, RawTargetAdapter, discard, prepare, raw_answer
from gateway.body import Body, CallerGone
from gateway.exchange import Answer
from gateway.observability.metrics import Metrics
from gateway.services import Service
from gateway.settings import GatewaySettings

log = structlog.get_logger("backend")

E = TypeVar("E", bound=BaseException)

BUFFERED_BYTES = 64 << 10
PIECE_BYTES = 64 << 10


class TryFailed(Exception):
    """A try brought no answer. `problem` is what the caller is told if there is no other."""

    def __init__(self, failure: Failure, outcome: str, problem: Problem) -> None:
        super().__init__(outcome)
        self.failure, self.outcome, self.problem = failure, outcome, problem


class _FailedWith(Exception):
    """Carries a 5xx through the breaker, which must see it, to the caller, who must get it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Instance:
    """Shared by the greenlets of a worker: the session remembers nothing but connections, and its pool hands each of
    them to one greenlet at a time; the counts change in single steps."""

    def __init__(self, service: Service, url: str, settings: GatewaySettings, metrics: Metrics) -> None:
        self.url = url
        self.share = 1.0
        self.in_flight = 0
        self._service = service
        self._latency = PeakEwma()
        adapter = RawTargetAdapter(
            pool_connections=1, pool_maxsize=settings.backend_pool_size, pool_block=True, max_retries=0
        )
        self._session = tuned_session(pool_size=settings.backend_pool_size, adapter=adapter)
        rule = service.breaker
        self.breaker = (
            Breaker(service.key, url, metrics, failures=rule.failures, recovery_s=rule.recovery_s) if rule else None
        )

    def suits(self, service: Service) -> bool:
        """Whether a service that is described anew may keep this instance: the same breaker and patience."""
        own = self._service
        return (own.key, own.breaker, own.connect_timeout_s, own.try_timeout_s) == (
            service.key,
            service.breaker,
            service.connect_timeout_s,
            service.try_timeout_s,
        )

    @property
    def weight(self) -> float:
        return self.share

    @property
    def admits(self) -> bool:
        """Whether its breaker would let a call through just now."""
        return self.breaker is None or self.breaker.admits

    @property
    def latency_s(self) -> float:
        return self._latency.value_s

    def call(
        self, method: str, target: str, headers: list[tuple[str, str]], body: Body, time_left_s: float, *, is_only: bool
    ) -> Answer:
        """The instance's answer, whatever its status. An `is_only` one is connected to again if that fails.

        Raises `TryFailed`, `BreakerOpen`, `CallerGone`, and `EmptyPoolError` when all connections are in use.
        """
        self.in_flight += 1
        began = time.monotonic()
        try:
            with self.breaker.calling() if self.breaker else nullcontext():
                answer = self._answer(method, self._exchange(method, target, headers, body, time_left_s, is_only))
                if answer.status >= 500:
                    raise _FailedWith(answer)
        except _FailedWith as failed:
            answer = failed.answer
        except EmptyPoolError:
            raise
        except (RequestException, HTTPError, DoubtfulFraming) as error:
            raise self._failed(error) from error
        finally:
            self.in_flight -= 1
        now = time.monotonic()
        self._latency.observe(now - began, now)
        if isinstance(answer.body, _Stream):
            self.in_flight += 1  # until the stream ends
            answer.body.on_close = self._ended
        return answer

    def _ended(self) -> None:
        self.in_flight -= 1

    def _exchange(
        self, method: str, target: str, headers: list[tuple[str, str]], body: Body, time_left_s: float, is_only: bool
    ) -> HTTPResponse:
        request = prepare(method, self.url, target, headers, body)
        service = self._service
        timeout_s = (min(service.connect_timeout_s, time_left_s), min(service.try_timeout_s, time_left_s))
        try:
            response = self._attempt(request, timeout_s)
        except NoConnection as error:
            if not body.is_at_start or not is_only or not is_connect_failure(error):
                raise
            response = self._attempt(request, timeout_s)  # nothing was sent yet, so trying again can't hurt
        return raw_answer(response)

    def _attempt(self, request: requests.PreparedRequest, timeout_s: tuple[float, float]) -> requests.Response:
        try:
            # past Session.send, which would look for redirects, hooks and cookies in every answer
            return self._session.get_adapter(self.url).send(request, stream=True, timeout=timeout_s)
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
            return Answer(raw.status, headers, (), self.url)
        if length is not None and int(length) <= BUFFERED_BYTES:
            try:
                content = raw.read(decode_content=False)
            except BaseException:
                discard(raw)
                raise
            raw.release_conn()
            return Answer(raw.status, headers, (content,), self.url)
        return Answer(raw.status, headers, _Stream(self._service.key, raw), self.url)

    def _failed(self, error: Exception) -> TryFailed:
        name = self._service.key
        if isinstance(error, NoConnection) and is_connect_failure(error):
            failure, outcome = Failure.NOT_CONNECTED, "unreachable"
            problem: Problem = BadGateway(f"The service {name} can't be reached just now.", code="SERVICE_UNREACHABLE")
        elif isinstance(error, ReadTimeout) or _cause(error, ReadTimeoutError) or _cause(error, TimeoutError):
            failure, outcome = Failure.TIMED_OUT, "timeout"
            problem = GatewayTimeout(
                f"The service {name} did not answer within {self._service.timeout_s:g} seconds.", code="SERVICE_TIMEOUT"
            )
        else:
            failure, outcome = Failure.BROKEN, "bad_answer"
            problem = BadGateway(f"The service {name} broke off or gave an answer that is not HTTP.", code="BAD_ANSWER")
        log.warning("call_failed", to=name, instance=self.url, outcome=outcome, reason=_innermost(error))
        return TryFailed(failure, outcome, problem)


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
        self.on_close: Callable[[], None] | None = None

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
        if self.on_close is not None:
            self.on_close()
            self.on_close = None
