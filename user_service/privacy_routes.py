"""What one may ask about one's own data: a copy of all of it, and to be forgotten."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import orjson
from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app
from pydantic import Field

from common import problems
from common.auditing import caller_address
from common.defaults import problems_source
from common.models import Schema
from common.problems import Conflict, ServiceUnavailable
from common.tokens import signed_in
from user_service.audit import Audit
from user_service.erasure import ErasureError, Erasures
from user_service.export import Export, ExportError
from user_service.login import Login
from user_service.routes import myself, on_user_error
from user_service.schemas import AnyPassword
from user_service.users import UserError, WrongCredentials, WrongPassword

bp = APIBlueprint("privacy", __name__, tag="privacy")
bp.register_error_handler(UserError, on_user_error)

BODY = (400, 413, 415, 422)
AWAY = 503
NO_STORE = {"Cache-Control": "no-store"}


class Farewell(Schema):
    """The password, and a code where there is a second factor: a token alone must not be enough."""

    password: AnyPassword
    otp: str | None = Field(None, max_length=64)


class ErasureStatus(Schema):
    status: Literal["unfinished"] = "unfinished"
    asked_at: datetime
    waiting_for: list[str] = Field(description="Services that are told again until they have forgotten.")


@bp.get("/users/me/export")
@signed_in(session=True)
@bp.doc(summary="All that is held about me", security="bearer", responses=[200, 401, 403, AWAY])
def export() -> Response:
    me = myself()
    document = _export().of(me)
    _audit().record("export.taken", outcome="success", actor=me.id, subject=me.id)
    body = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    headers = NO_STORE | {"Content-Disposition": f'attachment; filename="export-{me.id}.json"'}
    return Response(body, content_type="application/json", headers=headers)


@bp.delete("/users/me")
@signed_in(session=True)
@bp.input(Farewell)
@bp.output(ErasureStatus, 202)
@bp.doc(summary="Forget me", security="bearer", responses=[204, *BODY, 401, 403, 409, 429, AWAY])
def erase(json_data: Farewell) -> tuple[ErasureStatus, int, dict[str, str]] | Response:
    me = myself()
    try:
        _login().authenticate(me.username, json_data.password, json_data.otp, caller_address())
    except WrongCredentials:
        raise WrongPassword from None  # 403: the token is good, and a client need not ask for another one
    _erasures().begin(me)
    erasure = _erasures().finish(me.id)
    if erasure.finished_at is not None:
        return Response(status=204, headers=NO_STORE)
    return ErasureStatus(asked_at=erasure.asked_at, waiting_for=_erasures().missing(erasure)), 202, NO_STORE


@bp.errorhandler(ErasureError)
def on_erasure_error(error: ErasureError) -> Response:
    return problems.response(Conflict(str(error), code="LAST_ADMINISTRATOR"), problems_source())


@bp.errorhandler(ExportError)
def on_export_error(error: ExportError) -> Response:
    problem = ServiceUnavailable(str(error), code="EXPORT_UNAVAILABLE", retry_after_s=5)
    return problems.response(problem, problems_source())


def _audit() -> Audit:
    audit: Audit = current_app.extensions["audit"]
    return audit


def _login() -> Login:
    login: Login = current_app.extensions["login"]
    return login


def _export() -> Export:
    export: Export = current_app.extensions["export"]
    return export


def _erasures() -> Erasures:
    erasures: Erasures = current_app.extensions["erasures"]
    return erasures


def init_app(app: APIFlask, export: Export, erasures: Erasures) -> None:
    app.extensions["export"] = export
    app.extensions["erasures"] = erasures
    app.register_blueprint(bp)
