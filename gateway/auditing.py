"""What the gateway puts into the audit log: each 401 and 403 of its own, and what operators do.

Entries wait in the worker's `Recorder` and go to user_service; no request waits for that.
"""

from __future__ import annotations

from collections.abc import Mapping

from flask import Flask, current_app, request

from common.audit import ANONYMOUS, Entry, Outcome, Recorder
from common.auditing import remote_recorder
from common.masking import truncated_address
from common.problems import Problem
from gateway.dispatch import Note
from gateway.exchange import EXCHANGE, SOURCE, Exchange
from gateway.settings import GatewaySettings


def init_app(app: Flask, settings: GatewaySettings) -> Recorder:
    recorder = app.extensions["recorder"] = remote_recorder(SOURCE, settings)
    return recorder


def noting(recorder: Recorder, then: Note) -> Note:
    """A note for the dispatcher that records refusals, and tells `then` of all problems."""

    def note(problem: Problem, exchange: Exchange, error: BaseException) -> None:
        if problem.status in (401, 403):
            record_refusal(recorder, problem, exchange)
        then(problem, exchange, error)

    return note


def record_refusal(recorder: Recorder, problem: Problem, exchange: Exchange) -> None:
    identity, route = exchange.known_identity, getattr(exchange, "route", None)
    recorder.record_refusal(
        problem.status,
        problem.code,
        actor=identity.user_id if identity else "",
        address=exchange.forwarding.caller,
        request_id=exchange.request_id,
        route=f"{exchange.method} {route.name if route else _page()}",
    )


def note(
    event: str,
    *,
    by: str = "",
    subject: str = "",
    outcome: Outcome = "success",
    details: Mapping[str, str] | None = None,
) -> None:
    """Record what somebody does to the gateway with the current request. `by` is who, where no token says so."""
    exchange: Exchange = request.environ[EXCHANGE]
    recorder: Recorder = current_app.extensions["recorder"]
    identity = exchange.known_identity
    recorder.record(
        Entry(
            event,
            outcome,
            actor=identity.user_id if identity else by or ANONYMOUS,
            subject=subject,
            address=truncated_address(exchange.forwarding.caller),
            request_id=exchange.request_id,
            details=details or {},
        )
    )


def _page() -> str:
    return request.url_rule.rule if request.url_rule else "page"
