"""The audit log: who did what, from where, with which outcome. Entries are only ever appended.

Each entry carries `hash`, an HMAC-SHA-256 over the entry and the hash before it. Its key is derived from
`AUDIT_SECRET`, or from `SERVICE_SECRET` where there is none, so that whoever can write the table alone can't make the
chain anew. The numbers come from the row `audit` of `counters`, which a transaction holds until it commits: the order
of the numbers is the order of the commits, without gaps, and its value tells that the last entries were cut off.

    seq 1          seq 2                   seq 3
    previous ""    previous = hash of 1    previous = hash of 2
    hash 1         hash 2                  hash 3          counters('audit') = 3

Retention takes entries away from the beginning only. The entry `audit.pruned` that it appends names the last one that
went, with its hash; `audit_chain` wants one that fits what the log begins with.

What it does not show: a rewriting by somebody who has the database and the secret, and a cut at the end by somebody who
sets the counter back too. A head (`SEQ:HASH`) that was noted elsewhere shows both; the keeper logs one every hour.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import cast

import structlog
from flask import has_request_context
from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from common import auditing
from common.audit import ANONYMOUS, Entry, Outcome, clean
from common.db import Database
from common.logs import current_request_id
from common.masking import truncated_address
from common.models import utc_now
from user_service import counters
from user_service.audit_chain import COUNTER, PRUNED, Chain, Head, rows
from user_service.tables import AuditEntry

SOURCE = "user_service"
MOST_PRUNED = 1000
KEEP_INTERVAL_S = 3600.0

log = structlog.get_logger("audit")


class Audit:
    """Writes to the log and reads from it. Shared by greenlets: it keeps nothing but what it was made from."""

    def __init__(
        self, database: Database, secret: str, *, previous_secret: str | None = None, retention_days: int = 365
    ) -> None:
        self._database = database
        database.before_commit(self._write_waiting)
        self.chain = Chain(secret, previous_secret)
        self._retention = timedelta(days=retention_days)

    def record(
        self,
        event: str,
        *,
        outcome: Outcome,
        actor: str = "",
        subject: str = "",
        details: Mapping[str, str] | None = None,
    ) -> None:
        """Store an entry in a transaction of its own. It never raises: a log that is away must not turn a refused
        log-in into a failure of ours. What must not happen unrecorded goes through `append`."""
        entry = _entry(event, outcome, actor, subject, details)
        try:
            self.store([entry])
        except Exception as error:  # noqa: BLE001 - see above
            log.error("audit_entry_lost", audit_event=event, outcome=outcome, reason=type(error).__name__)

    def append(
        self,
        db_session: Session,
        event: str,
        *,
        outcome: Outcome = "success",
        actor: str = "",
        subject: str = "",
        details: Mapping[str, str] | None = None,
    ) -> None:
        """Store an entry within the caller's transaction: both happen or neither. May be called at any place of it;
        the chain is held just before the commit only, so that no two transactions wait for each other in a ring."""
        waiting: list[Entry] = db_session.info.setdefault(self, [])
        waiting.append(_entry(event, outcome, actor, subject, details))

    def store(self, entries: Sequence[Entry]) -> int:
        """Store those of `entries` whose ids are not in the log yet, in order; how many those were."""
        with self._database.write() as session:
            return self._write(session, entries)

    def page(
        self,
        *,
        of_user: str = "",
        event: str = "",
        since: datetime | None = None,
        offset: int = 0,
        limit: int = 20,
    ) -> tuple[Sequence[AuditEntry], int]:
        """Entries, newest first, and how many there are on all pages. `event` may end in `.*` or be a beginning
        such as `login`."""
        wanted = [*_about(of_user), *_of_kind(event), *([AuditEntry.at >= since] if since else [])]
        newest = select(AuditEntry).where(*wanted).order_by(AuditEntry.seq.desc()).offset(offset).limit(limit)
        with self._database.read() as session:
            total = session.scalar(select(func.count()).select_from(AuditEntry).where(*wanted)) or 0
            return session.scalars(newest).all(), total

    def all(self) -> Iterator[AuditEntry]:
        """Every entry, the oldest first."""
        with self._database.read() as session:
            yield from rows(session)

    def head(self) -> Head:
        with self._database.read() as session:
            return self.chain.head(session)

    def prune(self, now: datetime) -> int:
        """Take away what is older than the retention, the oldest `MOST_PRUNED` of it; how many entries that were.

        Nothing is taken away where `verify` would find a fault: it has to be there for those who look.
        """
        begin = now - self._retention
        with self._database.write() as session:
            counters.take(session, COUNTER, 0)  # nobody else prunes at the same time
            first = session.scalar(select(func.min(AuditEntry.seq)))
            if first is None:
                return 0
            kept = session.scalar(
                select(AuditEntry.seq).where(AuditEntry.at >= begin).order_by(AuditEntry.seq).limit(1)
            )
            last = session.scalar(select(func.max(AuditEntry.seq))) or first
            through = min((kept or last + 1) - 1, first + MOST_PRUNED - 1)
            pruned = session.scalar(select(AuditEntry.hash).where(AuditEntry.seq == through))
            if through < first or pruned is None:
                return 0
            if not self.chain.is_whole(session, through):
                log.error("audit_log_broken", way_out="see: flask --app user_service audit verify")
                return 0
            details = {"through": str(through), "hash": pruned}
            self._write(session, [Entry(PRUNED, "success", actor=SOURCE, source=SOURCE, details=details, at=now)])
            session.execute(delete(AuditEntry).where(AuditEntry.seq <= through))
            return through - first + 1

    def _write_waiting(self, db_session: Session) -> None:
        waiting = cast("list[Entry]", db_session.info.pop(self, []))
        if waiting:
            db_session.flush()
            self._write(db_session, waiting)

    def _write(self, session: Session, entries: Sequence[Entry]) -> int:
        seq = counters.take(session, COUNTER, 0)  # from here on nobody else writes
        ids = [entry.id for entry in entries]
        known = set(session.scalars(select(AuditEntry.id).where(AuditEntry.id.in_(ids))))
        fresh = {entry.id: entry for entry in entries if entry.id not in known}
        previous = session.scalar(select(AuditEntry.hash).where(AuditEntry.seq == seq)) or ""
        for number, entry in enumerate(fresh.values(), seq + 1):
            row = self.chain.row(number, _fitting(entry), previous)
            previous = row.hash
            session.add(row)
        counters.take(session, COUNTER, len(fresh))
        session.flush()
        return len(fresh)


def keep(audit: Audit) -> None:
    """One round of a worker: prune, and log the head, which so gets to wherever the logs go. Never raises."""
    try:
        pruned = 0
        while count := audit.prune(utc_now()):
            pruned += count
        head = audit.head()
    except Exception as error:  # noqa: BLE001 - the rounds must go on
        log.warning("audit_keeping_failed", reason=type(error).__name__)
        return
    if pruned:
        log.info("audit_pruned", count=pruned)
    log.info("audit_head", seq=head.seq, sha256=head.hash)


def _entry(event: str, outcome: Outcome, actor: str, subject: str, details: Mapping[str, str] | None) -> Entry:
    """With where the request came from, if there is one."""
    address = ""
    if has_request_context():
        auditing.mark_recorded()
        address = truncated_address(auditing.caller_address())
    return Entry(
        event,
        outcome,
        actor=actor or ANONYMOUS,
        subject=subject,
        source=SOURCE,
        address=address,
        request_id=current_request_id(),
        details=details or {},
    )


def _fitting(entry: Entry) -> Entry:
    return replace(
        entry,
        event=clean(entry.event, 64),
        actor=clean(entry.actor, 96),
        subject=clean(entry.subject, 96),
        source=clean(entry.source, 32),
        address=clean(entry.address, 64),
        request_id=clean(entry.request_id, 128),
        details={clean(name, 64): clean(value) for name, value in entry.details.items()},
    )


def _about(user_id: str) -> list[ColumnElement[bool]]:
    return [(AuditEntry.subject == user_id) | (AuditEntry.actor == user_id)] if user_id else []


def _of_kind(event: str) -> list[ColumnElement[bool]]:
    if not event:
        return []
    beginning = event.removesuffix("*").removesuffix(".")
    return [(AuditEntry.event == beginning) | AuditEntry.event.startswith(f"{beginning}.", autoescape=True)]
