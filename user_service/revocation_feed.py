"""The log of revocations as user_service itself reads it, for the tokens that it is shown: from its own database."""

from __future__ import annotations

from common.revocations import Batch, Entry
from user_service.revocations import MOST_AT_ONCE, Revocations


class OwnLog:
    """A `common.revocations.Source`."""

    def __init__(self, log: Revocations) -> None:
        self._log = log

    def after(self, seq: int, wait_s: float) -> Batch:
        if wait_s:
            self._log.wait_for_more(seq, wait_s)
        found, last = self._log.entries_after(seq)
        entries = tuple(
            Entry(
                seq=line.seq,
                kind=line.kind,
                subject=line.subject,
                generation=line.generation,
                made_at=line.made_at.timestamp(),
                until=line.until.timestamp(),
            )
            for line in found
        )
        return Batch(entries=entries, last=last, complete=len(entries) < MOST_AT_ONCE)
