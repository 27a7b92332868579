"""Sessions over HTTP: refresh, log out, and see where one is logged in. Through the gateway also below `/auth`."""

from __future__ import annotations

from uuid import UUID

from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app

from common import problems
from common.auditing import caller_address
from common.defaults import problems_source
from common.problems import NotFound, Problem, Unauthorized
from common.tokens import current_identity, signed_in
from user_service.schemas import RefreshRequest, SessionList, SessionView, TokenPair
from user_service.sessions import Grant, InvalidRefreshToken, RefreshReused, SessionError, Sessions, UnknownSession

bp = APIBlueprint("sessions", __name__, tag="sessions")


@bp.post("/users/refresh")
@bp.input(RefreshRequest)
@bp.output(TokenPair)
@bp.doc(summary="New tokens for a refresh token, which is used up", responses=[400, 401, 413, 415, 422, 503])
def refresh(json_data: RefreshRequest) -> TokenPair:
    return pair(_sessions().refresh(json_data.refresh_token, address=caller_address()))


@bp.post("/users/logout")
@signed_in(session=True)
@bp.doc(summary="Log out: end this session", security="bearer", responses=[204, 401, 403, 404, 503])
def log_out() -> tuple[str, int]:
    identity = current_identity()
    _sessions().end(identity.user_id, identity.session)
    return "", 204


@bp.post("/users/logout-all")
@signed_in(session=True)
@bp.doc(summary="Log out everywhere: end all my sessions", security="bearer", responses=[204, 401, 403, 503])
def log_out_everywhere() -> tuple[str, int]:
    _sessions().end_all(current_identity().user_id)
    return "", 204


@bp.get("/users/sessions")
@signed_in(session=True)
@bp.output(SessionList)
@bp.doc(summary="Where I am logged in", security="bearer", responses=[401, 403, 503])
def browse() -> SessionList:
    identity = current_identity()
    return SessionList(
        items=[
            SessionView(
                id=session.id,
                device=session.device,
                address=session.address,
                created_at=session.created_at,
                last_used_at=session.last_used_at,
                expires_at=session.expires_at,
                current=session.id == identity.session,
            )
            for session in _sessions().of(identity.user_id)
        ]
    )


@bp.delete("/users/sessions/<uuid:session_id>")
@signed_in(session=True)
@bp.doc(summary="End one of my sessions", security="bearer", responses=[204, 401, 403, 404, 503])
def end(session_id: UUID) -> tuple[str, int]:
    _sessions().end(current_identity().user_id, str(session_id), reason="ended_by_user")
    return "", 204


@bp.delete("/users/sessions")
@signed_in(session=True)
@bp.doc(summary="End all my sessions but this one", security="bearer", responses=[204, 401, 403, 503])
def end_others() -> tuple[str, int]:
    identity = current_identity()
    _sessions().end_all(identity.user_id, reason="ended_by_user", but=identity.session)
    return "", 204


@bp.errorhandler(SessionError)
def on_session_error(error: SessionError) -> Response:
    return problems.response(_problem(error), problems_source())


def pair(grant: Grant) -> TokenPair:
    return TokenPair(
        access_token=grant.access_token,
        expires_in=grant.expires_in,
        refresh_token=grant.refresh_token,
        refresh_expires_in=grant.refresh_expires_in,
    )


def _problem(error: SessionError) -> Problem:
    text = str(error)
    match error:
        case InvalidRefreshToken():
            return Unauthorized(text, code="INVALID_REFRESH_TOKEN")
        case RefreshReused():
            return Unauthorized(text, code="REFRESH_REUSED")
        case UnknownSession():
            return NotFound(text, code="SESSION_NOT_FOUND")
        case _:
            raise error


def _sessions() -> Sessions:
    sessions: Sessions = current_app.extensions["sessions"]
    return sessions


def init_app(app: APIFlask, sessions: Sessions) -> None:
    app.extensions["sessions"] = sessions
    app.register_blueprint(bp)
