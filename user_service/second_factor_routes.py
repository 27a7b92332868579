"""The second factor over HTTP, for people who are logged in: an API key can't set it up, nor take it away."""

from __future__ import annotations

from apiflask import APIBlueprint, APIFlask
from flask import current_app
from pydantic import Field

from common.auditing import caller_address
from common.models import Schema
from common.tokens import current_identity, signed_in
from user_service.login import Login
from user_service.routes import AWAY, BODY, myself, on_user_error
from user_service.schemas import AnyPassword, OneTimeCode
from user_service.second_factor import Enrolment, SecondFactor, Status
from user_service.users import UserError

bp = APIBlueprint("second_factor", __name__, tag="second factor")
bp.register_error_handler(UserError, on_user_error)


class EnrolmentRequest(Schema):
    password: AnyPassword


class EnrolmentView(Schema):
    """What an authenticator app needs, in three forms. It is not shown again."""

    secret: str = Field(description="Base32, to be typed.")
    uri: str = Field(description="`otpauth://totp/...`, to be opened on the device itself.")
    qr_svg: str = Field(description="The URI as a QR code: the text of an SVG image.")


class Confirmation(Schema):
    otp: OneTimeCode


class Removal(Schema):
    password: AnyPassword
    otp: OneTimeCode


class RecoveryCodes(Schema):
    recovery_codes: list[str] = Field(description="Each is good once in place of a one-time code. Not shown again.")


class StatusView(Schema):
    is_active: bool
    recovery_codes_left: int


@bp.get("/users/second-factor")
@signed_in(session=True)
@bp.output(StatusView)
@bp.doc(summary="Whether my second factor is active", security="bearer", responses=[401, 403, AWAY])
def status() -> Status:
    return _second_factor().status(myself())


@bp.post("/users/second-factor")
@signed_in(session=True)
@bp.input(EnrolmentRequest)
@bp.output(EnrolmentView)
@bp.doc(
    summary="Set up a second factor; it is active once confirmed",
    security="bearer",
    responses=[*BODY, 401, 403, 409, 429, AWAY],
)
def enrol(json_data: EnrolmentRequest) -> Enrolment:
    return _login().enrol(myself(), json_data.password, address=caller_address())


@bp.post("/users/second-factor/confirm")
@signed_in(session=True)
@bp.input(Confirmation)
@bp.output(RecoveryCodes)
@bp.doc(
    summary="Confirm it with a code: from now on it is asked for, and all my other sessions end",
    security="bearer",
    responses=[*BODY, 401, 403, 409, 429, AWAY],
)
def confirm(json_data: Confirmation) -> RecoveryCodes:
    session = current_identity().session
    codes = _login().confirm_second_factor(myself(), json_data.otp, address=caller_address(), session=session)
    return RecoveryCodes(recovery_codes=codes)


@bp.post("/users/second-factor/recovery-codes")
@signed_in(session=True)
@bp.input(Confirmation)
@bp.output(RecoveryCodes)
@bp.doc(
    summary="New recovery codes; the old ones are void",
    security="bearer",
    responses=[*BODY, 401, 403, 409, 429, AWAY],
)
def renew_recovery_codes(json_data: Confirmation) -> RecoveryCodes:
    codes = _login().renew_recovery_codes(myself(), json_data.otp, address=caller_address())
    return RecoveryCodes(recovery_codes=codes)


@bp.delete("/users/second-factor")
@signed_in(session=True)
@bp.input(Removal)
@bp.doc(
    summary="Remove my second factor",
    security="bearer",
    responses=[204, *BODY, 401, 403, 409, 429, AWAY],
)
def remove(json_data: Removal) -> tuple[str, int]:
    _login().remove_second_factor(myself(), json_data.password, json_data.otp, address=caller_address())
    return "", 204


def _login() -> Login:
    login: Login = current_app.extensions["login"]
    return login


def _second_factor() -> SecondFactor:
    second_factor: SecondFactor = current_app.extensions["second_factor"]
    return second_factor


def init_app(app: APIFlask, login: Login, second_factor: SecondFactor) -> None:
    app.extensions["login"] = login
    app.extensions["second_factor"] = second_factor
    app.register_blueprint(bp)
