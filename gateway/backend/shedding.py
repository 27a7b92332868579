"""A gate as requests meet it: who finds no place is told 503 with `Retry-After`, and everything is counted.

One stands before each service (`load` in the services file), one before all services of the worker (`MAX_IN_FLIGHT`).
What the gateway answers by itself, a kept answer or one of its own pages, passes neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from common.problems import ServiceUnavailable
from gateway.backend.admission import Gate, Shed
from gateway.backend.call import Call
from gateway.exchange import Answer
from gateway.observability.metrics import Metrics

WORKER_QUEUE = 200
WORKER_WAIT_S = 0.5


def worker_gate(in_flight: int) -> Gate:
    """For all services of a worker together."""
    return Gate(in_flight=in_flight, queue=WORKER_QUEUE, wait_s=WORKER_WAIT_S)


class Entrance:
    """Shared by the greenlets of a worker, as its gate is."""

    def __init__(self, name: str, gate: Gate, metrics: Metrics) -> None:
        """`name`: of the service, or `gateway` for all of them."""
        self._name, self._gate, self._metrics = name, gate, metrics

    def admit(self, call: Call, ask: Callable[[Call], Answer]) -> Answer:
        """What `ask` answers to `call`, asked from inside. The place is given back when the answer's body is closed.

        Raises `ServiceUnavailable`, and what `ask` raises.
        """
        if not self._gate.enter_at_once():
            self._wait_to_enter(call)
        try:
            answer = ask(call)
        except BaseException:
            self._gate.leave()
            raise
        if isinstance(answer.body, tuple):
            self._gate.leave()
        else:
            answer.body = _Inside(answer.body, self._gate.leave)
        return answer

    @property
    def crowd(self) -> str:
        """How full it is, in words."""
        gate, wait = self._gate, ", so one more would wait" if self._gate.is_full else ""
        return f"{self._name}: {gate.in_flight} in flight, {gate.waiting} waiting{wait}"

    def _wait_to_enter(self, call: Call) -> None:
        began = time.monotonic()
        self._metrics.waiting(self._name, 1)
        try:
            self._gate.enter(call.priority, wait_s=call.time.left_s())
        except Shed as shed:
            self._metrics.shed(self._name, shed.reason)
            raise self._overloaded(shed) from None
        finally:
            self._metrics.waiting(self._name, -1)
            waited_ms = round((time.monotonic() - began) * 1000)
            call.notes["waited_ms"] = int(call.notes.get("waited_ms", 0)) + waited_ms

    def _overloaded(self, shed: Shed) -> ServiceUnavailable:
        who = "The gateway" if self._name == "gateway" else f"The service {self._name}"
        return ServiceUnavailable(
            f"{who} has more requests than it can bear just now.",
            code="OVERLOADED",
            retry_after_s=shed.retry_after_s,
        )


class _Inside:
    """The body of a long answer, whose request stays inside until it is closed."""

    def __init__(self, body: Iterable[bytes], leave: Callable[[], None]) -> None:
        self._body, self._leave = body, leave
        self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._leave()

    def __del__(self) -> None:
        """A place that somebody forgot to give back would be lost for ever."""
        self.close()
