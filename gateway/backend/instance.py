"""One instance of a service: its pooled session, its breaker and fitness, and what a balancer wants to know of it.

An answer of up to 64 KB with a known length is read whole before the caller gets a byte, so that one which is cut short
becomes a clean 502 (or another try); a longer one streams, as does any answer of a service that is not buffered.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from operator import attrgetter
from typing import cast

import structlog
from gevent import GreenletExit
from gevent.lock import BoundedSemaphore
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import ConnectTimeout, ReadTimeout, RequestException

from common import deadlines
from common.http import tuned_session
from common.problems import BadGateway, GatewayTimeout, Problem
from common.tls import trusting
from gateway.backend.balancing import PeakEwma
from gateway.backend.breaker import Breaker, NoVerdict
from gateway.backend.call import Call
from gateway.backend.countdown import Limit, OutOfTime
from gateway.backend.dialling import HandshakeFailed, Unreachable
from gateway.backend.fitness import Fitness
from gateway.backend.outgoing import Outgoing
from gateway.backend.retries import Failure
from gateway.backend.standing import Standing
from gateway.backend.transport import Incoming, RawTargetAdapter
from gateway.body import CallerGone
from gateway.exchange import Answer
from gateway.observability.metrics import Metrics
from gateway.services import Service
from gateway.settings import GatewaySettings

log = structlog.get_logger("backend")

PLACE_WAIT_S = 2.0
BUFFERED_BYTES = 64 << 10
_NO_BREAKER = nullcontext()
_rules = attrgetter(
    "key", "tls", "breaker", "connect_timeout_s", "try_timeout_s", "is_buffered", "check", "ejection", "slow_start_s"
)


class TryFailed(Exception):
    """A try brought no answer."""

    def __init__(self, failure: Failure, outcome: str, problem: Problem) -> None:
        super().__init__(outcome)
        self.failure, self.outcome = failure, outcome
        self._problem: Problem | None = problem

    def take_problem(self) -> Problem:
        """What the caller is told if there is no other try. Not kept: it is raised from this, and would lead back."""
        problem, self._problem = self._problem, None
        assert problem is not None
        return problem


class NoPlace(Exception):
    """All connections to the instance were in use for as long as one may wait."""


class _FailedWith(Exception):
    """Carries a 5xx through the breaker, which must see it, to the caller, who must get it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class _Excused(NoVerdict):
    """Carries a 5xx past the breaker: the caller's haste is its reason."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Instance:
    """Shared by the greenlets of a worker: the session remembers nothing but connections, and its pool hands each of
    them to one greenlet at a time; the counts change in single steps.

    There are as many places as connections, and a place is taken first. So the pool need not count, and nobody waits
    in there.
    """

    def __init__(
        self,
        service: Service,
        url: str,
        settings: GatewaySettings,
        metrics: Metrics,
        *,
        host: str = "",
        joined_at: float | None = None,
    ) -> None:
        """`host` is what it is called in requests and by its certificate, where `url` has only its IP address;
        `joined_at`, by the monotonic clock, is for an instance that joins others at work."""
        self.url, self.host = url, host
        self.share = 1.0
        self.in_flight = 0  # those who wait for a place included
        self._most_in_flight = settings.backend_pool_size
        self._places = BoundedSemaphore(settings.backend_pool_size)
        self._service, self._name, self._metrics = service, service.key, metrics
        self._latency = PeakEwma()
        tls = service.tls
        self._trust = trusting(tls.ca, tls.certificate, tls.key)
        self._server_name = tls.server_name or host.partition(":")[0]
        adapter = self.adapter(settings.backend_pool_size)
        self._session = tuned_session(pool_size=settings.backend_pool_size, adapter=adapter)
        # past Session.send, which would look for redirects, hooks and cookies in every answer
        self._adapter = cast("RawTargetAdapter", self._session.get_adapter(url))
        rule = service.breaker
        self.breaker = (
            Breaker(service.key, url, metrics, failures=rule.failures, recovery_s=rule.recovery_s) if rule else None
        )
        self.fitness = Fitness(service, url, metrics, joined_at=joined_at)
        if self.breaker:
            self.breaker.on_closed = self.fitness.returned

    def adapter(self, pool_size: int) -> RawTargetAdapter:
        """A new one, for connections to this instance."""
        return RawTargetAdapter(pool_size, server_name=self._server_name, trust=self._trust)

    def suits(self, service: Service) -> bool:
        """Whether a service that is described anew may keep this instance: all that an instance goes by is the same."""
        return _rules(self._service) == _rules(service)

    def close(self) -> None:
        """Nobody picks this instance any more: no connection is kept. Requests under way finish."""
        self._session.close()

    @property
    def weight(self) -> float:
        return self.share * self.fitness.share

    @property
    def standing(self) -> Standing:
        return self.fitness.standing

    @property
    def admits(self) -> bool:
        """Whether a call would be let through just now: by its breaker, and by the operator, who may be draining it."""
        return not self.standing.is_draining and (self.breaker is None or self.breaker.admits)

    @property
    def latency_s(self) -> float:
        return self._latency.value_s

    @property
    def has_place(self) -> bool:
        """Whether a call would get a connection without waiting."""
        return self.in_flight < self._most_in_flight

    @property
    def in_use(self) -> int:
        """Connections."""
        return min(self.in_flight, self._most_in_flight)

    @property
    def idle(self) -> int:
        """Connections that wait for a request."""
        return self._adapter.idle

    def is_ready(self, now: float) -> bool:
        """Whether a call would be let through and get a connection at once, and nothing speaks against the instance."""
        breaker = self.breaker
        return (
            self.in_flight < self._most_in_flight
            and (breaker is None or breaker.is_closed)
            and self.fitness.standing.is_good(now)
        )

    def call(self, call: Call, limit: Limit) -> Answer:
        """The instance's answer, whatever its status, if it comes within `limit`.

        Raises `TryFailed`, `BreakerOpen`, `CallerGone`, and `NoPlace` when all connections are in use.
        """
        self.in_flight += 1
        try:
            if not self._places.acquire(blocking=False):
                self._wait_for_place(call)
            try:
                answer = self._answer_within(limit, call)
            except BaseException:
                self._places.release()
                raise
        except BaseException:
            self.in_flight -= 1
            raise
        if isinstance(answer.body, _Stream):
            answer.body.on_close = self._ended
        else:
            self._ended()
        return answer

    def _wait_for_place(self, call: Call) -> None:
        if not self._places.acquire(timeout=min(PLACE_WAIT_S, call.time.left_s())):
            raise NoPlace

    def _ended(self) -> None:
        self._places.release()
        self.in_flight -= 1

    def _answer_within(self, limit: Limit, call: Call) -> Answer:
        began = time.monotonic()
        try:
            with limit, self.breaker.calling() if self.breaker else _NO_BREAKER:
                answer = self._judged_answer(limit, call)
        except (_FailedWith, _Excused) as carrier:
            answer = carrier.answer
        except OutOfTime as error:
            raise self._out_of_time(limit) from error
        except RequestException as error:
            raise self._failed(error, limit) from error
        except GreenletExit:  # another instance was faster; a balancer that goes by latency must know
            if time.monotonic() - began > self._latency.value_s:
                self._latency.observe(time.monotonic() - began, time.monotonic())
            raise
        now = time.monotonic()
        self._latency.observe(now - began, now)
        self._metrics.call_took(self._name, now - began)
        return answer

    def _judged_answer(self, limit: Limit, call: Call) -> Answer:
        """How the try ends is told to `fitness`."""
        try:
            answer = self._answer(self._exchange(call, limit))
            if answer.status >= 500:
                raise _Excused(answer) if limit.excuses(answer.status) else _FailedWith(answer)
        except _FailedWith as carrier:
            self.fitness.answered(carrier.answer.status)
            raise
        except BaseException as error:
            self.fitness.failed(error)
            raise
        self.fitness.answered(answer.status)
        return answer

    def _exchange(self, call: Call, limit: Limit) -> Incoming:
        headers = call.headers
        if call.tells_time:
            headers = [*headers, (deadlines.HEADER, deadlines.render(limit.given_s))]
        request = Outgoing(call.method, self.url, call.target, headers, call.body, host=self.host)
        request.is_timed = True  # by `limit`
        # never less by the caller's wish: what these say counts against the instance
        timeout_s = self._service.connect_timeout_s, call.try_timeout_s
        return self._adapter.send(request, stream=True, timeout=timeout_s).raw

    def _answer(self, raw: Incoming) -> Answer:
        length, body = raw.length, ()
        if raw.is_bodiless:
            pass
        elif length is None or length > BUFFERED_BYTES or not self._service.is_buffered:
            body = _Stream(self._name, raw)
        else:
            body = (raw.content if raw.is_here else _whole(raw),)
        return Answer(raw.status, raw.fields, body, self.url, raw.protocol)

    def _out_of_time(self, limit: Limit) -> TryFailed:
        name, outcome = self._name, "wish_over" if limit.is_by_wish else "timeout"
        log.warning("call_failed", to=name, instance=self.url, outcome=outcome, reason="OutOfTime")
        return TryFailed(Failure.TIMED_OUT, outcome, _timeout(name, limit))

    def _failed(self, error: RequestException, limit: Limit) -> TryFailed:
        name = self._name
        if isinstance(error, HandshakeFailed):
            log.warning("call_failed", to=name, instance=self.url, outcome="not_trusted", reason=error.args[0])
            text = f"No trusted connection to the service {name} comes about."
            return TryFailed(Failure.NOT_CONNECTED, "not_trusted", BadGateway(text, code="SERVICE_NOT_TRUSTED"))
        if isinstance(error, ConnectTimeout | Unreachable):
            failure, outcome = Failure.NOT_CONNECTED, "unreachable"
            problem: Problem = BadGateway(f"The service {name} can't be reached just now.", code="SERVICE_UNREACHABLE")
        elif isinstance(error, ReadTimeout):
            failure, outcome, problem = Failure.TIMED_OUT, "timeout", _timeout(name, limit)
        else:
            failure, outcome = Failure.BROKEN, "bad_answer"
            problem = BadGateway(f"The service {name} broke off or gave an answer that is not HTTP.", code="BAD_ANSWER")
        log.warning("call_failed", to=name, instance=self.url, outcome=outcome, reason=innermost(error))
        return TryFailed(failure, outcome, problem)


def _timeout(service: str, limit: Limit) -> Problem:
    return GatewayTimeout(f"The service {service} did not answer within {limit.words}.", code="SERVICE_TIMEOUT")


def _whole(raw: Incoming) -> bytes:
    try:
        return raw.read()
    except TimeoutError as error:
        raise ReadTimeout(error) from error
    except OSError as error:
        raise error if isinstance(error, RequestException) else NoConnection(error) from error


def innermost(error: BaseException) -> str:
    """The name of what lies at the bottom of an error that was wrapped: `ConnectionRefusedError`."""
    while error.__context__ is not None:
        error = error.__context__
    return type(error).__name__


class _Stream:
    """A long answer on its way through, piece by piece as it comes. An instance that breaks off breaks the caller's
    connection too: that is the only way left to say that the answer is not whole."""

    def __init__(self, service: str, raw: Incoming) -> None:
        self._service, self._raw = service, raw
        self.on_close: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._pieces()
        except (OSError, CallerGone) as error:  # or the caller has, while the service answered as it read
            log.warning("answer_cut_short", to=self._service, reason=innermost(error))
            # with its number, else gunicorn takes it for a fault of its own and logs a stack trace
            raise ConnectionResetError(errno.ECONNRESET, "the service broke off in the middle of its answer") from error

    def _pieces(self) -> Iterator[bytes]:
        yield b""  # the server sends the head now, not with the first piece
        while piece := self._raw.read1():
            yield piece

    def close(self) -> None:
        self._raw.close()
        if self.on_close is not None:
            self.on_close()
            self.on_close = None
