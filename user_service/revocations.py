"""The log of revocations: which tokens are void before they expire. Whoever verifies tokens reads it on and on.

A line of kind `session` makes void all tokens of that session, one of kind `user` all tokens of that user with a lower
generation. Numbers are in the order of commits (`counters`), so that who has read up to a number has missed nothing
below it. A line is in force until the last token that it can concern has expired; then it is deleted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Literal

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from common.db import Database
from common.models import utc_now
from user_service import counters
from user_service.tables import Counter, Revocation, User

NAME = "revocations"
MARGIN_S = 60  # for clocks that differ, and for tokens that were being made meanwhile
POLL_S = 0.25
MOST_AT_ONCE = 5000

_GIVEN = select(Counter.value).where(Counter.name == NAME)


class Revocations:
    """Writes to the log and reads from it. Shared by greenlets and threads: those who wait share one look at the
    database in `POLL_S`, under a lock, and hold no connection in between."""

    def __init__(self, database: Database, access_token_ttl: int) -> None:
        """`access_token_ttl`: the most seconds for which any access token is valid."""
        self._database = database
        self._kept_for = timedelta(seconds=access_token_ttl + MARGIN_S)
        self._lock = threading.Lock()
        self._last = 0
        self._looked_at = float("-inf")

    def revoke_session(self, db_session: Session, sid: str) -> None:
        """Make all tokens of the session `sid` void, once the caller's transaction commits."""
        self.revoke_sessions(db_session, [sid])

    def revoke_sessions(self, db_session: Session, sids: Iterable[str]) -> None:
        """`revoke_session` for many."""
        self._append(db_session, "session", [(sid, 0) for sid in sids])

    def revoke_user(self, db_session: Session, user: User) -> None:
        """Make all tokens of `user` void, once the caller's transaction commits: the next generation begins."""
        self.revoke_users(db_session, [user.id])
        if user in db_session:
            db_session.refresh(user, ["generation"])

    def revoke_users(self, db_session: Session, user_ids: Iterable[str]) -> None:
        """`revoke_user` for many. Those who are not there are left out."""
        wanted = select(User.id).where(User.id.in_(list(user_ids))).order_by(User.id).with_for_update()
        ids = list(db_session.scalars(wanted))  # locked in one order, else two such transactions wait for each other
        raised = update(User).where(User.id.in_(ids)).values(generation=User.generation + 1)
        raised = raised.returning(User.id, User.generation).execution_options(synchronize_session=False)
        self._append(db_session, "user", [(row.id, row.generation) for row in db_session.execute(raised)])

    def entries_after(self, seq: int) -> tuple[list[Revocation], int]:
        """The lines after number `seq` that are in force, the oldest `MOST_AT_ONCE` of them, and the number to ask
        after next. 0 asks for all, and so does a number that was never given: the database is another one."""
        with self._database.read() as session:
            given = session.scalar(_GIVEN) or 0  # before the lines: so all up to it can be seen
            numbered = Revocation.seq.between(seq + 1 if seq <= given else 1, given)
            lines = select(Revocation).where(numbered, Revocation.until > utc_now())
            entries = list(session.scalars(lines.order_by(Revocation.seq).limit(MOST_AT_ONCE)))
        if len(entries) == MOST_AT_ONCE:
            return entries, entries[-1].seq
        return entries, given

    def wait_for_more(self, seq: int, seconds: float, is_going_on: Callable[[], bool] = lambda: True) -> bool:
        """Whether there is something else than up to `seq`; waits for it no longer than `seconds`, and only as long
        as `is_going_on()`, which is asked every `POLL_S`."""
        give_up_at = time.monotonic() + seconds
        while (last := self._look(seq)) == seq:
            left_s = give_up_at - time.monotonic()
            if left_s <= 0 or not is_going_on():
                break
            stale_in_s = self._looked_at + POLL_S - time.monotonic()
            time.sleep(min(left_s, max(stale_in_s, 0.01)))
        return last != seq

    def _look(self, known: int) -> int:
        """The last number given, as it was not longer than `POLL_S` ago; `known` came from another process, maybe."""
        with self._lock:
            if self._last < known or time.monotonic() - self._looked_at >= POLL_S:
                with self._database.read() as session:
                    self._last = session.scalar(_GIVEN) or 0
                self._looked_at = time.monotonic()
            return self._last

    def _append(self, db_session: Session, kind: Literal["session", "user"], whom: list[tuple[str, int]]) -> None:
        if not whom:
            return
        db_session.flush()  # the number comes last, so that its lock is held for a moment only
        now = utc_now()
        first = counters.take(db_session, NAME, len(whom)) - len(whom) + 1
        db_session.execute(delete(Revocation).where(Revocation.until <= now))
        db_session.add_all(
            Revocation(
                seq=seq, kind=kind, subject=subject, generation=generation, made_at=now, until=now + self._kept_for
            )
            for seq, (subject, generation) in enumerate(whom, first)
        )
