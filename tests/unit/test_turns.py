"""Greenlets keep step: each stretch of the way is gone by all who can run, one right after the other."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gevent
import pytest
from gevent import get_hub
from werkzeug.test import EnvironBuilder

from common.answers import Response
from common.turns import keep_step
from gateway.backend.connection import Connection
from gateway.backend.outgoing import Outgoing
from gateway.backend.transport import RawTargetAdapter
from gateway.body import Body
from tests.support.stub import StubService
from tests.unit import parts


def run_three(work: Callable[[str], None]) -> None:
    gevent.joinall([gevent.spawn(work, name) for name in "abc"], timeout=10, raise_error=True)


def in_company(steps: list[str]) -> bool:
    """All three were ready before the first sent."""
    return [step[:4] for step in steps] == ["made"] * 3 + ["sent"] * 3


def test_greenlets_come_as_far_before_the_first_goes_on() -> None:
    steps = list[str]()

    def work(name: str) -> None:
        steps.append(f"made {name}")
        keep_step()
        steps.append(f"sent {name}")

    run_three(work)

    assert steps == ["made a", "made b", "made c", "sent a", "sent b", "sent c"]


def test_who_is_woken_by_somebody_else_waits_for_the_others_all_the_same() -> None:
    steps = list[str]()

    def work() -> None:
        keep_step()
        steps.append("went on")

    waiting = gevent.spawn(work)
    get_hub().loop.run_callback(waiting.switch)
    gevent.joinall([waiting, gevent.spawn(steps.append, "came")], timeout=10, raise_error=True)

    assert steps == ["came", "went on"]


def test_who_is_killed_meanwhile_is_not_switched_to_later() -> None:
    woken_by = list[object]()

    def work() -> None:
        try:
            keep_step()
        except gevent.GreenletExit:
            woken_by.append(get_hub().switch())

    waiting, loop = gevent.spawn(work), get_hub().loop
    loop.run_callback(waiting.throw, gevent.GreenletExit)
    timer = loop.timer(0.05)
    timer.start(waiting.switch, "us")
    waiting.join(timeout=10)
    timer.close()

    assert woken_by == ["us"]


def test_answers_go_out_together() -> None:
    steps = list[str]()

    class Sock:
        def send(self, data: bytes) -> int:
            steps.append("sent")
            return len(data)

    def work(name: str) -> None:
        response = Response(Sock(), is_head=False, must_close=False)
        response.start_response("200 OK", [("Content-Length", "1")])
        steps.append("made")
        response.write(name.encode())

    run_three(work)

    assert in_company(steps)


def test_requests_go_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, adapter = list[str](), RawTargetAdapter(3)
    send = Connection.send

    def noted(connection: Connection, data: bytes | memoryview) -> int:
        steps.append("sent")
        return send(connection, data)

    with StubService() as service:

        def work(name: str) -> None:
            request = Outgoing("GET", service.url, f"/echo/{name}", [], Body(io.BytesIO(), 0))
            steps.append("made")
            adapter.send(request, stream=True, timeout=5).raw.read()

        run_three(work)  # there are connections now
        monkeypatch.setattr(Connection, "send", noted)
        steps.clear()
        run_three(work)
        adapter.close()

    assert in_company(steps)


def test_a_request_keeps_step_at_six_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = list[str]()
    send = Connection.send

    class Sock:
        def send(self, data: bytes) -> int:
            steps.append("answer goes out")
            return len(data)

    def noted(connection: Connection, data: bytes | memoryview) -> int:
        steps.append("request goes out")
        return send(connection, data)

    for module in ("gateway.edge", "gateway.forwarding", "gateway.backend.transport", "common.answers"):
        monkeypatch.setattr(f"{module}.keep_step", partial(steps.append, module))
    monkeypatch.setattr(Connection, "send", noted)
    with StubService() as service:
        app = parts.app(tmp_path, {"things": {"url": service.url, "public": True}})
        environ = EnvironBuilder("/things/1").get_environ() | {"RAW_URI": "/things/1", "REMOTE_ADDR": parts.CALLER}
        response = Response(Sock(), is_head=False, must_close=False)
        for piece in app.wsgi_app(environ, response.start_response):
            response.write(piece)
        response.close()

    assert steps == [
        "gateway.edge",
        "gateway.forwarding",
        "gateway.backend.transport",
        "request goes out",
        "gateway.backend.transport",
        "common.answers",
        "answer goes out",
        "common.answers",
    ]
