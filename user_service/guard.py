"""Against guessing: failures to prove who one is are counted, and after the first few further attempts have to wait.

    counted together    free                       what comes next waits   one is forgotten every
    a name              `LOGIN_FAILURES_FREE`      1 s, 2, 4, 8 ... up to  `LOGIN_LOCK_MAX_S`
    a name, from where  the same                   `LOGIN_LOCK_MAX_S`      `LOGIN_LOCK_MAX_S`
    it has succeeded
    an address          `LOGIN_FAILURES_ADDRESS`                           minute

An attempt that has to wait is refused without a look at the password, the right one too. Names that nobody has are
counted like others. An IPv6 address stands for its /64, all of which one caller can have.

Who can guess can also lock out. So whoever comes from an address from which the name has succeeded within `KNOWN_FOR`
is judged by the failures of this name from this address alone, whatever others do elsewhere, or do from there with
other names. Success clears the count by which it was judged.

An attempt is judged before it and once more after: many at the same time learn no more than one after another. What is
stored are digests, since people type passwords into the field for the name.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import bindparam, delete, select, text
from sqlalchemy.orm import Session

from common.db import Database
from common.models import UtcDateTime, utc_now
from user_service.sealing import derived_key
from user_service.tables import LoginFailures
from user_service.users import SecondFactorRequired, UserError, WrongSecret, key_of

FREE, ADDRESS_FREE, LONGEST_S = 5, 50, 900
KEPT_FOR = timedelta(days=1)
KNOWN_FOR = timedelta(days=30)
CLEANED_EVERY, MOST_CLEANED = timedelta(minutes=1), 1000

# makes the row if there is none, and holds it until the commit
_HOLD = text(
    "INSERT INTO login_failures (subject, count, as_of, expires_at) VALUES (:subject, 0, :now, :expires_at)"
    " ON CONFLICT (subject) DO UPDATE SET subject = excluded.subject"
).bindparams(bindparam("now", type_=UtcDateTime), bindparam("expires_at", type_=UtcDateTime))


class TooManyFailures(UserError):
    """`retry_after_s`: whole seconds, at least one."""

    def __init__(self, wait: timedelta) -> None:
        self.retry_after_s = max(1, -(-wait // timedelta(seconds=1)))
        super().__init__(f"This failed too often; try again in {self.retry_after_s} s.")


@dataclass(frozen=True, slots=True)
class _Subjects:
    """By what an attempt can be judged. In the order of these names rows are held, so that nobody waits in a circle."""

    address: str
    name: str
    name_there: str

    def judges(self, is_known: bool) -> tuple[str, ...]:
        return (self.name_there,) if is_known else (self.address, self.name)

    def counted(self, is_known: bool) -> tuple[str, ...]:
        return self.address, self.name_there if is_known else self.name


class Guard:
    """Shared by greenlets; what it knows is in the database, so that all workers know it."""

    def __init__(
        self,
        database: Database,
        secret: str,
        *,
        free: int = FREE,
        address_free: int = ADDRESS_FREE,
        longest_s: int = LONGEST_S,
    ) -> None:
        """`secret` makes the digests."""
        self._database = database
        self._key = derived_key(secret, "login failures")
        self._free, self._address_free, self._longest_s = free, address_free, longest_s
        self._next_cleaning = datetime.min.replace(tzinfo=UTC)

    @contextmanager
    def attempt(self, username: str, address: str) -> Generator[None]:
        """Within the block somebody at `address` tries to prove to be `username`. Nothing else may happen in there.

        `WrongSecret` is counted, the end of the block is a success, anything else neither. Raises `TooManyFailures`,
        before the block or in place of what came of it.
        """
        subjects = self._subjects(username, address)
        self._admit(subjects)
        try:
            yield
        except WrongSecret:
            self._count(subjects)
            raise
        except SecondFactorRequired:
            self._admit(subjects)
            raise
        self._succeed(subjects)

    def forget(self, username: str) -> int:
        """Forget all about a name: its failures, and from where it has succeeded. How many counts that were."""
        name = self._subjects(username, "").name
        of_name = (LoginFailures.subject == name) | LoginFailures.subject.startswith(f"{name}@", autoescape=True)
        with self._database.write() as session:
            return len(session.scalars(delete(LoginFailures).where(of_name).returning(LoginFailures.subject)).all())

    def _admit(self, subjects: _Subjects) -> None:
        with self._database.read() as session:
            is_known = _is_known(session, subjects)
            rows = session.scalars(select(LoginFailures).where(LoginFailures.subject.in_(subjects.judges(is_known))))
            _require_unblocked(rows.all())

    def _count(self, subjects: _Subjects) -> None:
        with self._database.write() as session:
            is_known, now = _is_known(session, subjects), utc_now()
            rows = {subject: _held(session, subject) for subject in subjects.counted(is_known)}
            waits = [_wait(rows[subject], now) for subject in subjects.judges(is_known)]
            for subject, row in rows.items():
                self._add(row, now, is_address=subject == subjects.address)
                if subject != subjects.name_there:  # else only success prolongs it
                    row.expires_at = now + KEPT_FOR
        self._clean(now)
        if wait := max(waits):
            raise TooManyFailures(wait)

    def _add(self, row: LoginFailures, now: datetime, *, is_address: bool) -> None:
        free = self._address_free if is_address else self._free
        forgets_one_every = timedelta(seconds=60 if is_address else self._longest_s)
        forgotten = max(0, (now - row.as_of) // forgets_one_every)
        if forgotten >= row.count:
            row.count, row.as_of = 1, now
        else:
            row.count, row.as_of = row.count - forgotten + 1, row.as_of + forgotten * forgets_one_every
        if row.count >= free:
            row.blocked_until = now + timedelta(seconds=min(2 ** min(row.count - free, 30), self._longest_s))

    def _succeed(self, subjects: _Subjects) -> None:
        with self._database.write() as session:
            is_known, now = _is_known(session, subjects), utc_now()
            judges = LoginFailures.subject.in_(subjects.judges(is_known))
            _require_unblocked(session.scalars(select(LoginFailures).where(judges)).all())
            if not is_known:
                session.execute(delete(LoginFailures).where(LoginFailures.subject == subjects.name))
            row = _held(session, subjects.name_there)
            row.count, row.as_of, row.blocked_until, row.expires_at = 0, now, None, now + KNOWN_FOR

    def _clean(self, now: datetime) -> None:
        """Once in a while; in a transaction of its own that waits for nobody, so that nobody waits in a circle."""
        if now < self._next_cleaning:
            return
        self._next_cleaning = now + CLEANED_EVERY
        old = select(LoginFailures.subject).where(LoginFailures.expires_at <= now).limit(MOST_CLEANED)
        with self._database.write() as session:
            free = session.scalars(old.with_for_update(skip_locked=True)).all()
            session.execute(delete(LoginFailures).where(LoginFailures.subject.in_(free)))

    def _subjects(self, username: str, address: str) -> _Subjects:
        name, place = self._digest("name", key_of(username)), self._digest("address", network_of(address))
        return _Subjects(f"address:{place}", f"user:{name}", f"user:{name}@{place}")

    def _digest(self, kind: str, text: str) -> str:
        return hmac.digest(self._key, f"{kind} {text}".encode("utf-8", "surrogatepass"), "sha256").hex()[:40]


def network_of(address: str) -> str:
    """What counts as one caller: an IPv4 address, the /64 of an IPv6 address; what is neither, as it is."""
    try:
        parsed = ipaddress.ip_address(address.strip("[]").partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def _is_known(session: Session, subjects: _Subjects) -> bool:
    row = session.get(LoginFailures, subjects.name_there)
    return row is not None and row.expires_at > utc_now()


def _held(session: Session, subject: str) -> LoginFailures:
    now = utc_now()
    session.execute(_HOLD, {"subject": subject, "now": now, "expires_at": now + KEPT_FOR})
    return session.get_one(LoginFailures, subject, populate_existing=True)


def _wait(row: LoginFailures, now: datetime) -> timedelta:
    return max(row.blocked_until - now, timedelta()) if row.blocked_until else timedelta()


def _require_unblocked(rows: Sequence[LoginFailures]) -> None:
    now = utc_now()
    if wait := max((_wait(row, now) for row in rows), default=timedelta()):
        raise TooManyFailures(wait)
