"""Requests with a deadline, and a clock that a test puts forward: `with serving(250) as clock: ...; clock.now += 1`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from flask import Flask

from common import deadlines


class Clock:
    """Stands still until `now`, in seconds, is changed."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def serving(left_ms: int) -> Generator[Clock]:
    """Inside, a request is being served whose caller waits so long by the clock."""
    app, clock = Flask("served"), Clock()
    deadlines.init_app(app, clock=clock)
    with app.test_request_context(headers={deadlines.HEADER: str(left_ms)}):
        app.preprocess_request()
        yield clock
