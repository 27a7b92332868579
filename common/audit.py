"""What goes into the audit log, and how it gets there from processes that don't keep it.

user_service keeps the log (`user_service.audit`). Everybody else has a `Recorder`: a bounded queue that a greenlet
empties once a second, in batches, in order. While user_service is away entries wait; what there is no place for is
counted, and becomes an entry `audit.lost`. Each entry has an id, so a batch that is sent again is stored once.

Refusals (401, 403) come in floods. Those of a second that are alike, from one network for one reason on one route,
become one entry with a count; of many kinds the further ones become one entry for each reason, from "several".
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, NamedTuple

import structlog

from common.masking import truncated_address
from common.values import new_id, utc_now

Outcome = Literal["success", "failure", "denied"]
"""`failure`: the credentials were wrong, or it did not work. `denied`: known, but not permitted."""

ANONYMOUS = "anonymous"
BATCH = 200
CAPACITY = 10_000
SEVERAL = "several"
MOST_KINDS, MOST_KINDS_KNOWN = 20, 200
"""A second, of anonymous callers and of known ones."""
ROUND_S = 1.0
CLOSE_TIMEOUT_S = 3.0
TEXT_LENGTH = 200

log = structlog.get_logger("audit")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. `actor` and `subject` are ids; `address` is cut short already; `details` hold nothing personal."""

    event: str
    outcome: Outcome
    actor: str = ANONYMOUS
    subject: str = ""
    source: str = ""
    address: str = ""
    request_id: str = ""
    details: Mapping[str, str] = field(default_factory=dict[str, str])
    at: datetime = field(default_factory=utc_now)
    id: str = field(default_factory=new_id)

    def document(self) -> dict[str, object]:
        """As it is sent."""
        return {
            "id": self.id,
            "at": self.at.isoformat(),
            "event": self.event,
            "outcome": self.outcome,
            "actor": self.actor,
            "subject": self.subject,
            "address": self.address,
            "request_id": self.request_id,
            "details": dict(self.details),
        }


def clean(text: str, length: int = TEXT_LENGTH) -> str:
    """`text` as any database takes it: no NUL, no lone surrogates, not too long."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")[:length]


class _Kind(NamedTuple):
    """Refusals alike."""

    code: str
    actor: str
    network: str
    route: str

    def entry(self, status: int, request_id: str) -> Entry:
        """For the first of them."""
        return Entry(
            "access.refused",
            "failure" if status == 401 else "denied",
            actor=self.actor,
            address=self.network,
            request_id=request_id,
            details={"route": clean(self.route), "reason": self.code},
        )


class Unstorable(Exception):
    """The log will never take these entries."""


Send = Callable[[Sequence[Entry]], object]
"""Stores a batch; raises whatever when it could not."""


class Recorder:
    """One per worker. Shared by greenlets and threads; a lock guards the queue, never held while sending."""

    def __init__(self, source: str, send: Send, *, capacity: int = CAPACITY) -> None:
        self._source, self._send, self._capacity = source, send, capacity
        self._waiting: deque[Entry] = deque()
        self._alike: dict[_Kind, tuple[Entry, int]] = {}
        self._lost = 0
        self._is_away = False
        self._lock, self._sending = threading.Lock(), threading.Lock()

    def record(self, entry: Entry) -> None:
        """Put it in the queue; where that is full, count it as lost."""
        with self._lock:
            self._enqueue(replace(entry, source=self._source))

    def record_refusal(self, status: int, code: str, *, actor: str, address: str, request_id: str, route: str) -> None:
        """Record a 401 or 403; `actor` is "" for nobody who is known. Those alike of one round become one entry."""
        kind = _Kind(code, actor or ANONYMOUS, truncated_address(address), route)
        with self._lock:
            if kind not in self._alike and len(self._alike) >= (MOST_KINDS_KNOWN if actor else MOST_KINDS):
                kind = _Kind(code, SEVERAL, "", SEVERAL)
            known = self._alike.get(kind)
            entry, count = known if known else (kind.entry(status, request_id), 0)
            self._alike[kind] = entry, count + 1

    @property
    def waiting(self) -> int:
        return len(self._waiting) + len(self._alike)

    def tick(self) -> None:
        """One round: to be called every `ROUND_S`, by one greenlet."""
        self.flush()

    def close(self) -> None:
        """Send the last ones. Tried once: what can't be stored now never will be."""
        if not self.flush(wait_s=CLOSE_TIMEOUT_S):
            log.error("audit_entries_lost", count=self.waiting)

    def flush(self, *, wait_s: float = 0.0) -> bool:
        """Send all that waits; whether nothing is left. What fails stays, and is one warning until it works again.

        `wait_s`: how long another one who is sending just now is waited for.
        """
        if not self._sending.acquire(timeout=wait_s):
            return False
        try:
            self._gather()
            while batch := self._batch():
                is_stored = self._store(batch)
                with self._lock:
                    self._lost += 0 if is_stored else len(batch)
                    for _ in batch:
                        self._waiting.popleft()
                self._tell(None)
            return True
        except Exception as error:  # noqa: BLE001 - whatever it is, the entries stay for the next round
            self._tell(error)
            return False
        finally:
            self._sending.release()

    def _store(self, batch: Sequence[Entry]) -> bool:
        try:
            self._send(batch)
        except Unstorable as error:
            log.error("audit_entries_refused", count=len(batch), reason=str(error))
            return False
        return True

    def _gather(self) -> None:
        with self._lock:
            alike, self._alike = self._alike, {}
            for entry, count in alike.values():
                details = {**entry.details, "count": str(count)} if count > 1 else entry.details
                self._enqueue(replace(entry, source=self._source, details=details), count)
            if self._lost and len(self._waiting) < self._capacity:
                lost, self._lost = self._lost, 0
                self._waiting.append(
                    Entry(
                        "audit.lost", "failure", actor=self._source, source=self._source, details={"count": str(lost)}
                    )
                )

    def _batch(self) -> list[Entry]:
        with self._lock:
            return [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]

    def _enqueue(self, entry: Entry, count: int = 1) -> None:
        if len(self._waiting) < self._capacity:
            self._waiting.append(entry)
        else:
            self._lost += count

    def _tell(self, error: Exception | None) -> None:
        if error is not None and not self._is_away:
            log.warning("audit_log_away", reason=type(error).__name__, waiting=self.waiting)
        elif error is None and self._is_away:
            log.info("audit_log_back")
        self._is_away = error is not None
