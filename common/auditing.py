"""Auditing of one app's requests: each 401 and 403 leaves an entry by itself, and `note` makes one of anything else.

Entries go to the app's `Recorder`. gunicorn's workers store what is in it every second, and the rest when they end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flask import Flask, current_app, g, request

from common.audit import ANONYMOUS, Entry, Outcome, Recorder, Unstorable
from common.internal import InternalRefused, user_service
from common.logs import current_request_id
from common.masking import truncated_address
from common.problems import Problem
from common.settings import IdentitySettings
from common.tokens import Identity

_RECORDED = "audit_recorded"


def remote_recorder(source: str, settings: IdentitySettings) -> Recorder:
    """A recorder whose entries user_service stores."""
    internal = user_service(settings, me=source, timeout_s=5)

    def send(entries: Sequence[Entry]) -> None:
        try:
            internal.post("/internal/audit", {"entries": [entry.document() for entry in entries]})
        except InternalRefused as error:
            if error.status in (413, 422):  # others, such as 401, come from a setting that somebody may put right
                raise Unstorable(error.code) from error
            raise

    return Recorder(source, send)


def init_app(app: Flask, recorder: Recorder) -> None:
    app.extensions["recorder"] = recorder


def note(
    event: str, *, outcome: Outcome = "success", subject: str = "", details: Mapping[str, str] | None = None
) -> None:
    """Record what the current request did. Nothing is stored yet when this returns."""
    g.setdefault(_RECORDED, True)
    _recorder().record(
        Entry(
            event,
            outcome,
            actor=_actor(),
            subject=subject,
            address=truncated_address(caller_address()),
            request_id=current_request_id(),
            details={**_key(), **(details or {})},
        )
    )


def note_refusal(problem: Problem, _error: BaseException) -> None:
    """A `problems.Note`: the entry for a 401 or 403, unless the request has left one that says more."""
    if problem.status in (401, 403) and not g.get(_RECORDED):
        route = request.url_rule.rule if request.url_rule else ""
        _recorder().record_refusal(
            problem.status,
            problem.code,
            actor=_actor(),
            address=caller_address(),
            request_id=current_request_id(),
            route=f"{request.method} {route}",
        )


def mark_recorded() -> None:
    """This request has left its entry: a refusal needs no other."""
    g.setdefault(_RECORDED, True)


def caller_address() -> str:
    """The caller's address as the gateway tells it: it writes `X-Forwarded-For` anew, and no other way leads here."""
    first = request.headers.get("X-Forwarded-For", "").partition(",")[0].strip()
    return first or request.remote_addr or ""


def _identity() -> Identity | None:
    identity: Identity | None = g.get("identity")
    return identity


def _actor() -> str:
    identity = _identity()
    return identity.user_id if identity else ANONYMOUS


def _key() -> dict[str, str]:
    identity = _identity()
    return {"key": identity.key_id} if identity and identity.key_id else {}


def _recorder() -> Recorder:
    recorder: Recorder = current_app.extensions["recorder"]
    return recorder
