"""Logging in, and whatever else asks for a password or a code once more. All of it is guarded and recorded.

What an attempt to log in is told depends on nothing that a stranger may not know:

1. too many failures of late: `TooManyFailures`, whatever the password
2. nobody of that name, an erased account, the wrong password: `WrongCredentials`, after the same work
3. the right password, but the account has a second factor and no code came along: `SecondFactorRequired`
4. the right password and a wrong code: `WrongCredentials`
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.orm import Session

from common.audit import Outcome
from user_service.guard import Guard, TooManyFailures
from user_service.second_factor import Enrolment, SecondFactor
from user_service.sessions import Sessions
from user_service.tables import LoginSession, User
from user_service.users import SecondFactorRequired, Users, WrongCode, WrongCredentials, WrongSecret

PASSWORD, CODE = "pwd", "otp"
"""How somebody was recognised (RFC 8176, 2)."""


class Record(Protocol):
    """Takes an event for the audit log; never raises."""

    def __call__(
        self,
        event: str,
        *,
        outcome: Outcome,
        actor: str = "",
        subject: str = "",
        details: Mapping[str, str] | None = None,
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Authenticated:
    """Who it is, and how that was found out."""

    user: User
    amr: tuple[str, ...]


class Login:
    """Shared by greenlets; it keeps nothing. `address` is the caller's, `session` the id of the one that asks."""

    def __init__(
        self, users: Users, guard: Guard, second_factor: SecondFactor, sessions: Sessions, record: Record
    ) -> None:
        self._users, self._guard, self._second_factor = users, guard, second_factor
        self._sessions, self._record = sessions, record

    def authenticate(self, username: str, password: str, code: str | None, address: str) -> Authenticated:
        """Raises `TooManyFailures`, `WrongCredentials` or `SecondFactorRequired`, as above."""
        user = self._users.named(username)
        try:
            with self._guard.attempt(username, address):
                found = self._users.identify(user, password)
                amr = self._ask_second_factor(found, code)
        except (TooManyFailures, WrongCredentials, SecondFactorRequired) as error:
            event = "login.blocked" if isinstance(error, TooManyFailures) else "login.failed"
            self._record(event, outcome="failure", subject=user.id if user else "", details=_reason(error))
            raise
        self._done("login.succeeded", found, amr=" ".join(amr))
        return Authenticated(found, amr)

    def change_password(self, user: User, current: str, new: str, *, address: str, session: str) -> None:
        """All other sessions end. Raises `PasswordRefused`, `TooManyFailures`, or `WrongPassword` when `current` is
        not, or no longer, the password."""

        def other_sessions_end(db_session: Session) -> None:
            self._sessions.end_all_within(db_session, user.id, reason="password_changed", but=session)

        self._users.require_acceptable("new_password", new, user.username)
        with self._proof("password.changed", user, address):
            self._users.require_password(user, current)
        self._users.change_password(user, new, also=other_sessions_end)
        self._done("password.changed", user)

    def enrol(self, user: User, password: str, *, address: str) -> Enrolment:
        """Raises `TooManyFailures`, `WrongPassword` or `AlreadyActive`."""
        with self._proof("second_factor.enrolled", user, address):
            self._users.require_password(user, password)
        enrolment = self._second_factor.enrol(user)
        self._done("second_factor.enrolled", user)
        return enrolment

    def confirm_second_factor(self, user: User, code: str, *, address: str, session: str) -> list[str]:
        """The recovery codes. All other sessions end, for they have shown no second factor; this one has.

        Raises `TooManyFailures`, `WrongCode`, `AlreadyActive` or `NotEnrolled`.
        """

        def other_sessions_end(db_session: Session) -> None:
            self._sessions.end_all_within(db_session, user.id, reason="second_factor", but=session)
            if mine := db_session.get(LoginSession, session):
                mine.amr = [PASSWORD, CODE]

        with self._proof("second_factor.confirmed", user, address):
            step = self._second_factor.step_of(user, code)
        codes = self._second_factor.confirm(user, step, also=other_sessions_end)
        self._done("second_factor.confirmed", user)
        return codes

    def remove_second_factor(self, user: User, password: str, code: str, *, address: str) -> None:
        """Raises `TooManyFailures`, `WrongPassword`, `WrongCode` or `NotEnrolled`."""
        with self._proof("second_factor.removed", user, address):
            self._users.require_password(user, password)
            self._use(user, code)
        self._second_factor.remove(user)
        self._done("second_factor.removed", user)

    def renew_recovery_codes(self, user: User, code: str, *, address: str) -> list[str]:
        """Raises `TooManyFailures`, `WrongCode` or `NotEnrolled`."""
        with self._proof("recovery_codes.renewed", user, address):
            self._use(user, code)
        codes = self._second_factor.renew_recovery_codes(user)
        self._done("recovery_codes.renewed", user)
        return codes

    def _ask_second_factor(self, user: User, code: str | None) -> tuple[str, ...]:
        """How `user` was recognised, who has shown the password."""
        if user.totp_confirmed_at is None:
            return (PASSWORD,)
        if not code:
            raise SecondFactorRequired
        try:
            self._use(user, code)
        except WrongCode:
            raise WrongCredentials from None
        return PASSWORD, CODE

    def _use(self, user: User, code: str) -> None:
        if self._second_factor.use(user, code) == "recovery":
            self._done("recovery_code.used", user)

    @contextmanager
    def _proof(self, event: str, user: User, address: str) -> Generator[None]:
        """Within the block somebody who is logged in shows once more who they are."""
        try:
            with self._guard.attempt(user.username, address):
                yield
        except (TooManyFailures, WrongSecret) as error:
            self._record(event, outcome="failure", actor=user.id, subject=user.id, details=_reason(error))
            raise

    def _done(self, event: str, user: User, **details: str) -> None:
        self._record(event, outcome="success", actor=user.id, subject=user.id, details=details)


def _reason(error: Exception) -> dict[str, str]:
    return {"reason": type(error).__name__}
