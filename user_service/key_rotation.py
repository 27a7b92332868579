"""Making, withdrawing and deleting signing keys. The states are told in `signing_keys`.

Whoever changes the keys holds all their rows, so that two rotations at once make one new key.

RotationError
├── UnknownKey       there is no key of this name in use
└── NextKeyWaits     another new key is published already and does not sign yet
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.db import Database
from common.models import utc_now
from user_service.signing_keys import State, new_key, states
from user_service.tables import StoredKey


class RotationError(Exception):
    """The text may be told to the operator."""


class UnknownKey(RotationError):
    def __init__(self) -> None:
        super().__init__("There is no key of this name in use; `keys list` shows those that there are.")


class NextKeyWaits(RotationError):
    def __init__(self, key: StoredKey) -> None:
        super().__init__(f"The key {key.kid} is published already and signs from {key.signs_from:%Y-%m-%d %H:%M:%S}Z.")


@dataclass(frozen=True, slots=True)
class KeyState:
    """A line of `keys list`."""

    kid: str
    state: State
    created_at: datetime
    signs_from: datetime


class KeyRotation:
    """Shared by greenlets: it keeps nothing but what it was made from."""

    def __init__(self, database: Database, *, lead_s: float, kept_s: float) -> None:
        """A new key is published for `lead_s` before it signs, and for `kept_s` after."""
        self._database = database
        self._lead = timedelta(seconds=lead_s)
        self._kept_s = kept_s

    def list(self) -> list[KeyState]:
        """The keys, in the order in which they were made."""
        with self._database.read() as session:
            rows = session.scalars(select(StoredKey).order_by(StoredKey.number)).all()
        found = states(rows, utc_now(), self._kept_s)
        return [KeyState(row.kid, found[row.kid], row.created_at, row.signs_from) for row in rows]

    def rotate(self) -> KeyState:
        """A new key, which signs once it was published long enough. Raises `NextKeyWaits`."""
        with self._database.write() as session:
            rows, found = self._held(session)
            if waiting := [row for row in rows if found[row.kid] == "next"]:
                raise NextKeyWaits(waiting[0])
            return _made(session, rows, utc_now() + (self._lead if rows else timedelta()))

    def rotate_when_older(self, days: int) -> int:
        """`rotate`, if the key that signs will have done so for `days` by then, and none waits; how many were made."""
        begin = utc_now() + self._lead - timedelta(days=days)
        if any(key.signs_from > begin for key in self.list() if key.state in ("next", "signing")):
            return 0
        try:
            self.rotate()
        except NextKeyWaits:  # another process was faster
            return 0
        return 1

    def retire(self, kid: str) -> KeyState | None:
        """Take a key out of use now; its tokens are void. Where it was the one that signs, the key that does so from
        now on: the one that waited, or a new one. Raises `UnknownKey`."""
        now = utc_now()
        with self._database.write() as session:
            rows, found = self._held(session)
            retired = next((row for row in rows if row.kid == kid and found[kid] not in ("withdrawn", "gone")), None)
            if retired is None:
                raise UnknownKey
            retired.withdrawn_at = now
            if found[kid] != "signing":
                return None
            for row in rows:
                if found[row.kid] == "next":
                    row.signs_from = now
                    return KeyState(row.kid, "signing", row.created_at, now)
            return _made(session, rows, now)

    def sweep(self) -> int:
        """Delete the keys that are published no longer; how many those were."""
        now = utc_now()
        with self._database.write() as session:
            rows, found = self._held(session)
            for row in (gone := [row for row in rows if found[row.kid] == "gone" or self._is_forgotten(row, now)]):
                session.delete(row)
            return len(gone)

    def _held(self, session: Session) -> tuple[Sequence[StoredKey], dict[str, State]]:
        in_order = select(StoredKey).order_by(StoredKey.number)
        session.scalars(in_order.with_for_update()).all()
        rows = session.scalars(in_order).all()  # again: one that was made while we waited is not among those
        return rows, states(rows, utc_now(), self._kept_s)

    def _is_forgotten(self, row: StoredKey, now: datetime) -> bool:
        """Withdrawn so long ago that `keys list` need not tell of it any more."""
        return row.withdrawn_at is not None and row.withdrawn_at + timedelta(seconds=self._kept_s) < now


def _made(session: Session, rows: Sequence[StoredKey], signs_from: datetime) -> KeyState:
    key = new_key(max((row.number for row in rows), default=0) + 1, signs_from=signs_from)
    session.add(key)
    session.flush()
    state: State = "next" if signs_from > utc_now() else "signing"
    return KeyState(key.kid, state, key.created_at, key.signs_from)
