"""The fast lane: what routes serve is answered without Flask's contexts and dispatch.

A proxied request needs nothing that Flask has: its route stands in the router's table, with the very handler that the
blueprint composed. So the edge hands it over here. Flask serves the gateway's own pages, and decides where its map
might know the path, by the first segment; a request that is for no page after all comes from there to this place, too.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from flask import Flask

from common import problems
from common.problems import Problem
from gateway.exchange import SOURCE, Answer, Exchange
from gateway.policies.limited import count_unrouted

log = structlog.get_logger("problems")

DISPATCHER = "gateway.dispatcher"
"""In `app.extensions`: the one of the app."""

Note = Callable[[Problem, Exchange, BaseException], None]
"""Is told of each problem that a request is answered with, and of the error that it stands for."""


class Dispatcher:
    """Requests to routes. Shared by the worker's greenlets; nothing in it changes."""

    def __init__(self, app: Flask, note: Note) -> None:
        """`app` has all of its pages."""
        self._note = note
        self._of_pages = frozenset(rule.rule.split("/")[1] for rule in app.url_map.iter_rules() if not rule.build_only)

    def takes(self, exchange: Exchange) -> bool:
        """Whether Flask's map has nothing for the path."""
        segments = exchange.target.segments
        return bool(segments) and segments[0] not in self._of_pages

    def answer(self, exchange: Exchange) -> Answer:
        """What the route's handler answers, or the problem that it, or the router, refuses with. Never raises."""
        try:
            return self._routed(exchange)
        except Problem as problem:
            return self._refused(problem, exchange, problem)
        except Exception as error:
            log.error("unexpected_error", exc_info=error)
            return self._refused(problems.unexpected(), exchange, error)

    def _routed(self, exchange: Exchange) -> Answer:
        try:
            return exchange.table.router.dispatch(exchange)
        except Problem:
            if getattr(exchange, "route", None) is None:  # the router found none
                count_unrouted(exchange)
            raise

    def _refused(self, problem: Problem, exchange: Exchange, error: BaseException) -> Answer:
        self._note(problem, exchange, error)
        return refusal(problem, exchange.request_id)


def refusal(problem: Problem, request_id: str) -> Answer:
    """The problem as an answer."""
    body = problem.body(request_id, SOURCE)
    return Answer(problem.status, [*problems.fields(problem), ("Content-Length", str(len(body)))], (body,))
