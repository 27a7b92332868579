"""Sessions and their refresh tokens, which rotate (RFC 9700, 4.14.2).

A log-in begins a session. It is the family of refresh tokens T1, T2, ...: each is good once and gives the next, so that
one of them is good at any time. Whoever steals one and the owner can't both go on: the second of the two shows a token
that was used before, and then the session ends, for nobody can tell which of them is the thief.

    live ---refresh---> live, with the next token, for `refresh_ttl_s` more, but no longer than `session_ttl_s` in all
      |---a used token shown---> ended (reused)       |---logout, a new password, more than `most_per_user`---> ended
      '---expires_at---> gone; deleted a day later

Two tabs that refresh at once, or a caller who lost the answer, show a used token in all honesty. `grace_s` forgives
that: for so long the token that was used last gives *the same* next token again, as long as that one is unused
(`refresh_tokens`). There is still one branch only; a thief who comes in time gains no more than that the theft shows
one refresh later.

The row of the session is the family's lock. All rows are locked in the order users, sessions, counters.

SessionError
├── InvalidRefreshToken    unknown or expired, or its session has ended
├── RefreshReused          it was used before; the session has been ended for that
└── UnknownSession         there is none of this id, or it is somebody else's
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, delete, select
from sqlalchemy.orm import Session

from common.db import Database
from common.models import new_id, utc_now
from user_service import refresh_tokens
from user_service.access_tokens import AccessTokens
from user_service.audit import Audit
from user_service.revocations import Revocations
from user_service.tables import LoginSession, RefreshToken, User
from user_service.users import UnknownUser

KEPT_FOR = timedelta(days=1)


class SessionError(Exception):
    """The text may be told to the caller."""


class InvalidRefreshToken(SessionError):
    def __init__(self) -> None:
        super().__init__("The refresh token is not valid, or its session has ended; log in again.")


class RefreshReused(SessionError):
    def __init__(self) -> None:
        super().__init__("The refresh token was used before. For safety its session has ended; log in again.")


class UnknownSession(SessionError):
    def __init__(self) -> None:
        super().__init__("There is no such session.")


@dataclass(frozen=True, slots=True)
class Terms:
    """For how long, and how many."""

    refresh_ttl_s: int = 30 * 86_400
    session_ttl_s: int = 90 * 86_400
    grace_s: float = 0
    most_per_user: int = 20


@dataclass(frozen=True, slots=True)
class Grant:
    """What a log-in or a refresh gives. Times in seconds."""

    access_token: str
    expires_in: int
    refresh_token: str
    refresh_expires_in: int


class Sessions:
    """All sessions. Shared by greenlets: each method is a transaction of its own. Needs the app's context to mint."""

    def __init__(
        self,
        database: Database,
        revocations: Revocations,
        audit: Audit,
        tokens: AccessTokens,
        *,
        permissions_of: Callable[[User], Iterable[str]],
        terms: Terms,
    ) -> None:
        self._database, self._revocations, self._audit, self._tokens = database, revocations, audit, tokens
        self._permissions_of = permissions_of
        self._terms = terms

    def begin(self, user: User, amr: Sequence[str], *, device: str = "", address: str = "") -> Grant:
        """A new session of `user`, who was recognised by `amr` just now. Where there are too many, the least recently
        used ends. Raises `UnknownUser` for one who has gone since."""
        now = utc_now()
        session = LoginSession(
            id=new_id(),
            user_id=user.id,
            amr=list(amr),
            device=_shortened(device, 120),
            address=_shortened(address, 64),
            created_at=now,
            last_used_at=now,
            expires_at=self._end_of(now, now),
        )
        with self._database.write() as db_session:
            owner = db_session.get(User, user.id, with_for_update=True)  # one log-in of a user at a time
            if owner is None or owner.erased_at is not None:
                raise UnknownUser
            displaced = _live_of(user.id).order_by(LoginSession.last_used_at.desc())
            displaced = displaced.offset(self._terms.most_per_user - 1)
            self._end(db_session, db_session.scalars(displaced).all(), "displaced")
            db_session.add(session)
            db_session.flush()
            token = refresh_tokens.issue(db_session, session.id)
        return self._grant(owner, session, token)

    def refresh(self, token: str, *, address: str = "") -> Grant:
        """New tokens for the one that was not used yet. Raises `InvalidRefreshToken` or `RefreshReused`."""
        with self._database.write() as db_session:
            session = _family_of(db_session, token)
            user = db_session.get_one(User, session.user_id)
            if user.erased_at is not None:
                raise InvalidRefreshToken
            terms = self._terms
            next_token = refresh_tokens.rotate(
                db_session, session.id, token, grace_s=terms.grace_s, kept_s=terms.refresh_ttl_s
            )
            if next_token:
                session.last_used_at = utc_now()
                session.expires_at = self._end_of(session.created_at, session.last_used_at)
                session.address = _shortened(address, 64)
            else:
                self._end(db_session, [session], "reused")
        if next_token is None:
            raise RefreshReused
        return self._grant(user, session, next_token)

    def of(self, user_id: str) -> Sequence[LoginSession]:
        """The sessions of a user that go on, the one used last first."""
        with self._database.read() as db_session:
            return db_session.scalars(_live_of(user_id).order_by(LoginSession.last_used_at.desc())).all()

    def end(self, user_id: str, sid: str, *, reason: str = "logged_out") -> None:
        """End the session `sid` of this user. Raises `UnknownSession`."""
        with self._database.write() as db_session:
            chosen = db_session.scalars(_live_of(user_id).where(LoginSession.id == sid).with_for_update()).all()
            self._end(db_session, chosen, reason)
        if not chosen:
            raise UnknownSession

    def end_all(self, user_id: str, *, reason: str = "logged_out", but: str = "") -> int:
        """End all sessions of a user, or all but the one with the id `but`; how many those were."""
        with self._database.write() as db_session:
            return self.end_all_within(db_session, user_id, reason=reason, but=but)

    def end_all_within(self, db_session: Session, user_id: str, *, reason: str, but: str = "") -> int:
        """`end_all`, in the caller's transaction."""
        chosen = _live_of(user_id).where(LoginSession.id != but).order_by(LoginSession.id).with_for_update()
        ended = db_session.scalars(chosen).all()
        self._end(db_session, ended, reason)
        return len(ended)

    def sweep(self) -> int:
        """Delete sessions that ended or expired a day ago, with their refresh tokens; how many those were."""
        gone = delete(LoginSession).where(LoginSession.expires_at < utc_now() - KEPT_FOR).returning(LoginSession.id)
        with self._database.write() as db_session:
            return len(db_session.scalars(gone).all())

    def _end(self, db_session: Session, ended: Sequence[LoginSession], reason: str) -> None:
        for session in ended:
            session.ended_at = session.expires_at = utc_now()
            session.end_reason = reason
            self._audit.append(
                db_session,
                "session.ended",
                outcome="denied" if reason == "reused" else "success",
                actor=session.user_id,
                subject=session.user_id,
                details={"session": session.id, "reason": reason},
            )
        self._revocations.revoke_sessions(db_session, [session.id for session in ended])

    def _grant(self, user: User, session: LoginSession, token: str) -> Grant:
        left_s = int((session.expires_at - session.last_used_at).total_seconds())
        lifetime_s = min(self._tokens.lifetime_s, left_s)  # no access token outlives its session
        access_token = self._tokens.mint(
            user,
            session=session.id,
            amr=session.amr,
            permissions=self._permissions_of(user),
            auth_time=session.created_at,
            lifetime_s=lifetime_s,
        )
        return Grant(access_token, lifetime_s, token, left_s)

    def _end_of(self, created_at: datetime, now: datetime) -> datetime:
        terms = self._terms
        return min(now + timedelta(seconds=terms.refresh_ttl_s), created_at + timedelta(seconds=terms.session_ttl_s))


def _live(whose: ColumnElement[bool]) -> Select[LoginSession]:
    # not by time alone: one may have waited for the row while it was being ended
    return select(LoginSession).where(whose, LoginSession.ended_at.is_(None), LoginSession.expires_at > utc_now())


def _live_of(user_id: str) -> Select[LoginSession]:
    return _live(LoginSession.user_id == user_id)


def _family_of(db_session: Session, token: str) -> LoginSession:
    """The session of a refresh token, locked, if it goes on."""
    sid = select(RefreshToken.session_id).where(RefreshToken.digest == refresh_tokens.digest(token)).scalar_subquery()
    session = db_session.scalar(_live(LoginSession.id == sid).with_for_update())
    if session is None:
        raise InvalidRefreshToken
    return session


def _shortened(text: str, length: int) -> str:
    return "".join(letter for letter in text if letter.isprintable())[:length]
