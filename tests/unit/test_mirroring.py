"""What a copy of a request takes along, and what not."""

from __future__ import annotations

import io
from typing import cast

import gevent

from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.backend.countdown import Countdown
from gateway.backend.mirroring import Mirroring
from gateway.body import Body
from gateway.exchange import Answer
from gateway.observability.metrics import Metrics
from gateway.observability.stages import Stages
from tests.unit import parts


def test_a_copy_is_no_part_of_what_the_caller_waits_for() -> None:
    class Shadow:
        service = parts.service()
        asked: tuple[Call, ...] = ()

        def send(self, call: Call) -> Answer:
            self.asked += (call,)
            return Answer(200, [], ())

    shadow = Shadow()
    call = Call("GET", "/x", [], Body(io.BytesIO(), 0), Countdown(30.0), 10.0, notes={"cache": "miss"}, stages=Stages())

    Mirroring(Metrics()).copy(cast("Backend", shadow), call, "/there")
    gevent.sleep(0)

    (copied,) = shadow.asked
    assert (copied.method, copied.target, copied.is_copy) == ("GET", "/there", True)
    assert (copied.notes, copied.stages) == ({}, None)
