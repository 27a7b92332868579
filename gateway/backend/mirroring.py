"""Copies of requests for another service, to see how it fares with real traffic. Its answers go nowhere.

A copy is fired and forgotten: it is sent beside the original by a greenlet of its own, once, with low priority, and
whatever becomes of it the caller never notices. What can't be copied without cost isn't:

    outcome     why
    sent        the other service has answered, whatever it said
    failed      it has not
    dropped     too many copies of this worker were under way
    uncopied    the body streams, or is longer than is taken in
"""

from __future__ import annotations

import contextvars
import io
from dataclasses import replace

import gevent
import structlog

from common.problems import Problem
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.backend.countdown import Countdown
from gateway.body import TAKEN_IN_BYTES, Body
from gateway.observability.metrics import Metrics

log = structlog.get_logger("mirror")

MOST_UNDER_WAY = 100


class Mirroring:
    """Of one worker, shared by its greenlets. `copy` does not switch."""

    def __init__(self, metrics: Metrics, *, most: int = MOST_UNDER_WAY) -> None:
        self._metrics, self._most = metrics, most
        self._under_way = 0

    def copy(self, backend: Backend, call: Call, target: str) -> None:
        """Ask `backend` for `target` with all that `call` says besides. `call` must not have been sent yet."""
        service = backend.service
        body = _copied(call.body)
        if body is None:
            self._metrics.mirrored(service.key, "uncopied")
            return
        if self._under_way >= self._most:
            self._metrics.mirrored(service.key, "dropped")
            return
        copied = replace(
            call,
            target=target,
            body=body,
            time=Countdown(service.timeout_s),
            try_timeout_s=service.try_timeout_s,
            priority="low",
            tells_time=not service.is_verbatim,
            is_copy=True,
            notes={},
            stages=None,
        )
        self._under_way += 1
        # a greenlet begins with an empty context otherwise: no request id in its log lines
        gevent.spawn(contextvars.copy_context().run, self._send, backend, copied)

    def _send(self, backend: Backend, call: Call) -> None:
        outcome = "failed"
        try:
            backend.send(call).close()
            outcome = "sent"
        except Problem:
            pass  # the backend has logged it
        except Exception as error:
            log.error("mirror_failed", to=backend.service.key, exc_info=error)
        finally:
            self._under_way -= 1
            self._metrics.mirrored(backend.service.key, outcome)


def _copied(body: Body) -> Body | None:
    """Another body with the same bytes, both at their start; None where that would cost too much."""
    if body.length == 0:
        return Body(io.BytesIO(), 0, is_bounded=True)
    if not body.is_taken_in or body.length is None or body.length > TAKEN_IN_BYTES:
        return None
    content = body.read(body.length)
    body.rewind()
    return Body(io.BytesIO(content), len(content), is_bounded=True, is_taken_in=True)
