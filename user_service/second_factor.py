"""The second factor: one-time codes of an authenticator app (TOTP, RFC 6238), and recovery codes for when it is lost.

    none ──enrol──> enrolled ──confirm, with a code──> active ──remove──> none

Enrolled is not asked for yet; enrolling again makes another secret. A code is of a time step of 30 s and taken one step
early or late, for clocks that differ. Once it was taken, it and older ones never are again (RFC 6238, 5.2): the step is
kept in the row by a conditional update, so that of two who come with one code at the same time one gets in.

The secret is kept sealed. A recovery code is random enough to be kept as a plain digest, and is good once.

SecondFactorError
├── AlreadyActive
└── NotEnrolled
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import structlog
from pyotp import random_base32
from pyotp.exceptions import OTPVerificationError
from pyotp.totp import TOTP
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from common.db import Database
from common.models import utc_now
from user_service.sealing import Sealer, Unreadable
from user_service.tables import RecoveryCode, User
from user_service.users import UserError, WrongCode

STEPS_APART = 1
RECOVERY_CODES = 10
RECOVERY_BYTES = 10  # 80 bits

Kind = Literal["totp", "recovery"]

log = structlog.get_logger("second_factor")


class SecondFactorError(UserError):
    """Against the present state."""


class AlreadyActive(SecondFactorError):
    def __init__(self) -> None:
        super().__init__("The second factor is active; remove it first to set up another.")


class NotEnrolled(SecondFactorError):
    def __init__(self) -> None:
        super().__init__("There is no second factor that this could be done with; enrol first.")


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What an authenticator app needs, in three forms; shown once."""

    secret: str  # base32
    uri: str  # otpauth://
    qr_svg: str


@dataclass(frozen=True, slots=True)
class Status:
    is_active: bool
    recovery_codes_left: int


class SecondFactor:
    """Of all users. Shared by greenlets: each method is a transaction of its own. Guessing is not stopped here."""

    def __init__(self, database: Database, sealer: Sealer, *, issuer: str) -> None:
        """`issuer` is the name that apps show beside the user's."""
        self._database = database
        self._sealer = sealer
        self._issuer = issuer

    def enrol(self, user: User) -> Enrolment:
        """A new secret, which is not asked for before it is confirmed. Raises `AlreadyActive`."""
        secret = random_base32()  # 160 bits (RFC 4226, 4)
        change = update(User).where(User.id == user.id, User.totp_confirmed_at.is_(None), User.erased_at.is_(None))
        change = change.values(totp_secret=self._sealer.seal(secret, user.id), totp_last_step=None)
        with self._database.write() as session:
            if session.scalar(change.returning(User.id)) is None:
                raise AlreadyActive
        uri = TOTP(secret).provisioning_uri(name=user.username, issuer_name=self._issuer)
        return Enrolment(secret, uri, _qr_svg(uri))

    def confirm(self, user: User, step: int, *, also: Callable[[Session], object]) -> list[str]:
        """Make it active for `user`, who has shown the code of a time step. The recovery codes. `also` is done in the
        same transaction. Raises `AlreadyActive` or `NotEnrolled`."""
        if user.totp_confirmed_at is not None:
            raise AlreadyActive
        if user.totp_secret is None:
            raise NotEnrolled
        # the secret too: meanwhile another one may have been made, which nobody has confirmed
        as_read = (User.id == user.id) & (User.totp_secret == user.totp_secret) & User.totp_confirmed_at.is_(None)
        change = update(User).where(as_read).values(totp_confirmed_at=utc_now(), totp_last_step=step)
        with self._database.write() as session:
            if session.scalar(change.returning(User.id)) is None:
                raise NotEnrolled
            also(session)
            return _new_codes(session, user.id)

    def use(self, user: User, code: str) -> Kind:
        """Take a one-time code or a recovery code, which then is used. Raises `WrongCode` or `NotEnrolled`."""
        if user.totp_confirmed_at is None:
            raise NotEnrolled
        if re.fullmatch(r"[0-9]{6}", _spelled(code)):
            self._use_step(user, self.step_of(user, code))
            return "totp"
        self._use_recovery(user, _spelled(code))
        return "recovery"

    def remove(self, user: User) -> bool:
        """Whether there was one, active or enrolled."""
        there = (User.id == user.id) & User.totp_secret.is_not(None)
        change = update(User).where(there).values(totp_secret=None, totp_confirmed_at=None, totp_last_step=None)
        with self._database.write() as session:
            was_there = session.scalar(change.returning(User.id)) is not None
            session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user.id))
        return was_there

    def renew_recovery_codes(self, user: User) -> list[str]:
        """Ten new ones; the old ones are void. Raises `NotEnrolled`."""
        with self._database.write() as session:
            present = session.get(User, user.id, with_for_update=True)
            if present is None or present.totp_confirmed_at is None:
                raise NotEnrolled
            return _new_codes(session, user.id)

    def status(self, user: User) -> Status:
        left = select(func.count()).where(RecoveryCode.user_id == user.id, RecoveryCode.used_at.is_(None))
        with self._database.read() as session:
            return Status(user.totp_confirmed_at is not None, session.scalar(left) or 0)

    def step_of(self, user: User, code: str) -> int:
        """The time step that `code` is of. Raises `WrongCode` or `NotEnrolled`."""
        totp = TOTP(self._secret_of(user))
        try:
            return totp.verify_and_get_timecode(_spelled(code), for_time=time.time(), valid_window=STEPS_APART)
        except OTPVerificationError:
            raise WrongCode from None

    def _secret_of(self, user: User) -> str:
        if user.totp_secret is None:
            raise NotEnrolled
        try:
            return self._sealer.open(user.totp_secret, user.id)
        except Unreadable:
            log.error("totp_secret_unreadable", user=user.id, way_out="is it of an older SERVICE_SECRET?")
            raise WrongCode from None

    def _use_step(self, user: User, step: int) -> None:
        is_newer = User.totp_last_step.is_(None) | (User.totp_last_step < step)
        change = update(User).where(User.id == user.id, User.totp_secret == user.totp_secret, is_newer)
        change = change.values(totp_last_step=step)
        if not self._sealer.is_current(user.totp_secret or ""):
            change = change.values(totp_secret=self._sealer.seal(self._secret_of(user), user.id))
        with self._database.write() as session:
            if session.scalar(change.returning(User.id)) is None:
                raise WrongCode

    def _use_recovery(self, user: User, code: str) -> None:
        unused = (RecoveryCode.user_id == user.id) & RecoveryCode.used_at.is_(None)
        change = update(RecoveryCode).where(unused, RecoveryCode.digest == _digest(code)).values(used_at=utc_now())
        with self._database.write() as session:
            if session.scalar(change.returning(RecoveryCode.user_id)) is None:
                raise WrongCode


def _new_codes(session: Session, user_id: str) -> list[str]:
    session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user_id))
    codes = [base64.b32encode(secrets.token_bytes(RECOVERY_BYTES)).decode() for _ in range(RECOVERY_CODES)]
    session.add_all(RecoveryCode(user_id=user_id, digest=_digest(code)) for code in codes)
    return ["-".join(re.findall("....", code)) for code in codes]


def _spelled(code: str) -> str:
    """As it is checked: people leave spaces and hyphens in, or out."""
    return re.sub(r"[\s-]", "", code).upper()


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode("utf-8", "surrogatepass")).hexdigest()


def _qr_svg(uri: str) -> str:
    import segno  # here: most workers never draw one, and it weighs some megabytes

    out = io.BytesIO()
    segno.make(uri, error="m", micro=False).save(out, kind="svg", scale=4, light="white", xmldecl=False, nl=False)
    return out.getvalue().decode()
