"""Erasure: forgetting a user in all services (GDPR, article 17). docs/privacy.md tells what stays, and why.

    asked ---here, at once---> forgotten by user_service ---each service in turn---> finished

1. One transaction: the row of `erasures`, the account without all that is personal, sessions, keys and codes deleted,
   all tokens void. From its commit on the user can't come back, and the name may be taken anew. Or nothing happened.
2. Each other service is told, and noted as done when it has answered. It may be told again: it does the same.
3. When all have done, the row is finished.

Whatever goes wrong in 2, a service that is away or a process that is killed, is taken up again by `resume`, which every
worker calls every `ERASURE_INTERVAL` seconds, and the command `erasures resume`. Each round in vain is a warning.

The row of the account stays, without anything that leads to a person: orders and audit entries name its id.

ErasureError
└── LastAdministrator    nobody could administer the system any more
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Text, cast, delete, or_, select, update
from sqlalchemy.orm import Session

from common.db import Database
from common.internal import Internal, InternalError
from common.models import utc_now
from common.permissions import ADMIN
from user_service.audit import Audit
from user_service.revocations import Revocations
from user_service.tables import ApiKey, Erasure, LoginSession, RecoveryCode, User
from user_service.users import UnknownUser

HERE = "user_service"

log = structlog.get_logger("erasure")


class ErasureError(Exception):
    """A rule was broken; the text may be told to the caller."""


class LastAdministrator(ErasureError):
    def __init__(self) -> None:
        super().__init__("You are the last administrator; make somebody else one first.")


class Erasures:
    """Shared by greenlets and processes: a row is claimed before others are told, and telling twice does no harm."""

    def __init__(
        self,
        database: Database,
        revocations: Revocations,
        audit: Audit,
        services: Mapping[str, Internal],
        *,
        forget_name: Callable[[str], object],
    ) -> None:
        """`services`: who else holds something about users. `forget_name` forgets failed log-ins under a name."""
        self._database, self._revocations, self._audit = database, revocations, audit
        self._services, self._forget_name = services, forget_name

    def begin(self, user: User) -> None:
        """Forget `user` here. Raises `LastAdministrator`, and `UnknownUser` for one who is erased already."""
        self._forget_name(user.username)
        with self._database.write() as session:
            found = _locked(session, user.id)
            now = utc_now()
            session.add(Erasure(user_id=found.id, asked_at=now, tried_at=now, done=[HERE]))
            for table in (LoginSession, ApiKey, RecoveryCode):  # refresh tokens go with their sessions
                session.execute(delete(table).where(table.user_id == found.id))
            _anonymise(found, now)
            self._revocations.revoke_user(session, found)
            self._audit.append(session, "erasure.asked", actor=found.id, subject=found.id)

    def finish(self, user_id: str) -> Erasure:
        """Tell the services that don't know yet; how far it has come."""
        with self._database.read() as session:
            erasure = session.get_one(Erasure, user_id)
        for name in self.missing(erasure):
            try:
                self._services[name].post(f"/internal/users/{user_id}/erasure", {})
            except InternalError as error:
                log.warning("erasure_unfinished", user=user_id, missing=name, reason=str(error))
            else:
                erasure = self._note_done(user_id, name)
        return erasure

    def resume(self, *, older_than_s: float = 0.0) -> int:
        """Take up what is unfinished and was not tried for so long; how many are unfinished still."""
        now = utc_now()
        due = or_(Erasure.tried_at.is_(None), Erasure.tried_at <= now - timedelta(seconds=older_than_s))
        claim = update(Erasure).where(Erasure.finished_at.is_(None), due).values(tried_at=now)
        with self._database.write() as session:
            claimed = session.scalars(claim.returning(Erasure.user_id)).all()
        return sum(self.finish(user_id).finished_at is None for user_id in claimed)

    def all(self) -> Sequence[Erasure]:
        """The newest first."""
        with self._database.read() as session:
            return session.scalars(select(Erasure).order_by(Erasure.asked_at.desc())).all()

    def missing(self, erasure: Erasure) -> list[str]:
        """The services that have not forgotten yet."""
        return [name for name in self._services if name not in erasure.done]

    def _note_done(self, user_id: str, name: str) -> Erasure:
        with self._database.write() as session:
            erasure = session.get_one(Erasure, user_id, with_for_update=True)
            erasure.done = sorted({*erasure.done, name})  # a new list: changes inside one go unseen
            if not self.missing(erasure) and erasure.finished_at is None:
                erasure.finished_at = utc_now()
                self._audit.append(session, "erasure.finished", actor=HERE, subject=user_id)
        return erasure


def resume(erasures: Erasures, interval_s: float) -> None:
    """One round of a worker. Whatever goes wrong is one warning, and the next round tries again."""
    try:
        erasures.resume(older_than_s=interval_s / 2)
    except Exception as error:  # noqa: BLE001 - the rounds must go on
        log.warning("erasures_failed", reason=type(error).__name__)


def _locked(session: Session, user_id: str) -> User:
    """The user, and all administrators, locked: of the last two who go at the same time only one may."""
    is_admin = cast(User.roles, Text).contains(f'"{ADMIN}"', autoescape=True)
    both = select(User).where(or_(User.id == user_id, is_admin), User.erased_at.is_(None))
    users = session.scalars(both.order_by(User.id).with_for_update()).all()
    user = next((user for user in users if user.id == user_id), None)
    if user is None:
        raise UnknownUser
    if ADMIN in user.roles and len(users) == 1:
        raise LastAdministrator
    return user


def _anonymise(user: User, now: datetime) -> None:
    user.username = f"erased-{user.id[:8]}"
    user.username_key = f"erased:{user.id}"  # nobody's name can have a colon
    user.email = None
    user.password_hash = ""  # no password fits
    user.roles = []
    user.totp_secret = user.totp_confirmed_at = user.totp_last_step = None
    user.erased_at = now
