"""The chain of the audit log: how an entry is sealed, and what is wrong with a log whose seals don't fit.

Canonical is JSON (RFC 8259) with sorted keys, no white space, times in UTC with microseconds.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC

import orjson
from sqlalchemy import select
from sqlalchemy.orm import Session

from common.audit import Entry
from common.db import Database
from user_service.tables import AuditEntry, Counter

COUNTER = "audit"
PRUNED = "audit.pruned"
AT_ONCE = 1000
_KEPT = ("id", "event", "outcome", "actor", "subject", "source", "address", "request_id")


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry, to be noted where the database's owner can't write."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at the whole log has found. `fault` is "" for a good one, else says what is wrong at `seq`."""

    entries: int
    head: Head
    seq: int = 0
    fault: str = ""


class Chain:
    """Seals entries with a key derived from `secret`; those sealed with the `previous` one fit too."""

    def __init__(self, secret: str, previous: str | None = None) -> None:
        self._keys = [hmac.digest(text.encode(), b"audit log", "sha256") for text in (secret, previous) if text]

    def row(self, seq: int, entry: Entry, previous: str) -> AuditEntry:
        row = AuditEntry(
            seq=seq,
            at=entry.at,
            details=dict(entry.details),
            previous_hash=previous,
            **{name: getattr(entry, name) for name in _KEPT},
        )
        row.hash = _seal(row, self._keys[0])
        return row

    def fits(self, row: AuditEntry) -> bool:
        """Whether the row is as it was sealed."""
        return any(hmac.compare_digest(_seal(row, key), row.hash) for key in self._keys)

    def head(self, session: Session) -> Head:
        last = session.execute(
            select(AuditEntry.seq, AuditEntry.hash).order_by(AuditEntry.seq.desc()).limit(1)
        ).one_or_none()
        return Head(last.seq, last.hash) if last else Head(0, "")

    def verify(self, database: Database, expected: Head | None = None) -> Verdict:
        """Walk through the whole log as it stands at one moment. `expected` is a head that was noted earlier."""
        with database.read() as session:
            if session.get_bind().dialect.name == "postgresql":
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            return self._walk(session, expected)

    def _walk(self, session: Session, expected: Head | None) -> Verdict:
        promised = session.scalar(select(Counter.value).where(Counter.name == COUNTER)) or 0
        count, head = 0, Head(0, "")

        def bad(seq: int, fault: str) -> Verdict:
            return Verdict(count, head, seq, fault)

        for row in rows(session):
            fault = self._fault_of(session, row, head if count else None)
            if fault is not None:
                return bad(*fault)
            if expected is not None and row.seq == expected.seq and row.hash != expected.hash:
                return bad(row.seq, "it is not the one that was expected; the log was written anew")
            count, head = count + 1, Head(row.seq, row.hash)
        if head.seq < promised:
            return bad(head.seq + 1, f"it is missing, as are all up to {promised}")
        if head.seq > promised:
            return bad(promised + 1, "the counter was set back, or it was put in")
        return _against(expected, Verdict(count, head))

    def is_whole(self, session: Session, through: int) -> bool:
        """Whether the log is as it was written from its beginning to the entry `through`."""
        head: Head | None = None
        for row in rows(session, through):
            if self._fault_of(session, row, head) is not None:
                return False
            head = Head(row.seq, row.hash)
        return head is not None and head.seq == through

    def _fault_of(self, session: Session, row: AuditEntry, head: Head | None) -> tuple[int, str] | None:
        """What is wrong with `row`, which follows `head`, and where; None for `head` if it is the first one."""
        if head is None:
            if not self._begins_well(session, row):
                return row.seq, "what came before it is gone, and no pruning tells of that"
            head = Head(row.seq - 1, row.previous_hash)
        if row.seq != head.seq + 1:
            return head.seq + 1, "it is missing"
        if not self.fits(row):
            return row.seq, "it was changed, or does not belong there"
        if row.previous_hash != head.hash:
            return row.seq, "it does not follow the one before"
        return None

    def _begins_well(self, session: Session, first: AuditEntry) -> bool:
        """Whether the log begins with 1, or where an entry about pruning says."""
        if first.seq == 1:
            return first.previous_hash == ""
        told = {"through": str(first.seq - 1), "hash": first.previous_hash}
        prunings = session.scalars(select(AuditEntry).where(AuditEntry.event == PRUNED))
        return any(row.details == told and self.fits(row) for row in prunings)


def _seal(row: AuditEntry, key: bytes) -> str:
    document = {
        "seq": row.seq,
        "at": row.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "details": row.details,
        "previous_hash": row.previous_hash,
        **{name: getattr(row, name) for name in _KEPT},
    }
    return hmac.new(key, orjson.dumps(document, option=orjson.OPT_SORT_KEYS), hashlib.sha256).hexdigest()


def rows(session: Session, through: int = 2**62) -> Iterator[AuditEntry]:
    """The entries in order, up to `through`, a bounded number of them in memory."""
    seq = -(2**62)
    while batch := session.scalars(
        select(AuditEntry)
        .where(AuditEntry.seq > seq, AuditEntry.seq <= through)
        .order_by(AuditEntry.seq)
        .limit(AT_ONCE)
    ).all():
        yield from batch
        seq = batch[-1].seq
        session.expunge_all()


def _against(expected: Head | None, verdict: Verdict) -> Verdict:
    if expected is None or verdict.head.seq - verdict.entries < expected.seq <= verdict.head.seq:
        return verdict  # among those that were looked at
    if expected.seq > verdict.head.seq:
        fault = f"it is missing, as are all up to the expected {expected.seq}"
        return Verdict(verdict.entries, verdict.head, verdict.head.seq + 1, fault)
    fault = "it was expected and has been pruned since; note heads more often than the retention is long"
    return Verdict(verdict.entries, verdict.head, expected.seq, fault)


def parse_head(text: str) -> Head:
    """What `str(head)` made. Raises `ValueError`."""
    seq, _, digest = text.partition(":")
    if not seq.isdecimal() or len(digest) != 64:
        raise ValueError("must be SEQ:HASH, as `audit head` tells it")
    return Head(int(seq), digest.lower())
