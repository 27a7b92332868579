"""What was revoked, as each worker that verifies tokens knows it.

The truth is a log of user_service, numbered in the order of commits. A worker reads on after the last number that it
knows, in one greenlet: a long poll, answered as soon as there is more. So a revocation is here a moment after it was
made, no request waits for it, and none asks anybody.

    starting    reads all that is in force before the first request, if that takes no longer than START_S
    current     the log was read to its end, and the next poll is under way or was just answered
    lost        a poll has failed: one warning; tries again with growing pauses; reads on where it was. After
                `patience_s`, tokens are refused (503) or accepted without knowing, as `lost` says

Memory is bounded: when more than `most` are in force the oldest are dropped, and then all tokens are refused that were
issued before those were made. Whoever holds such a token gets a new one with the refresh token.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Literal, Protocol

import gevent
import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.identity import Identity
from common.internal import Internal

PATH = "/internal/revocations"
WAIT_S = 3  # a connection that is dead without saying so is noticed a little later than that
START_S = 2.0
GRACE_S = 1.5
LONGEST_PAUSE_S = 2.0
AT_LEAST_S = 0.1  # between polls, in case the other side does not wait
MOST = 50_000
KEPT_LONGER_S = 60  # than `until`: clocks differ
LATE_S = 5  # after a revocation: tokens that were being made meanwhile
PURGE_EVERY_S = 60

log = structlog.get_logger("revocations")


class Entry(BaseModel):
    """A line of the log. `session`: tokens of that session; `user`: those of that user of a lower generation."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    seq: int
    kind: str
    subject: str
    generation: int = 0
    made_at: float | None = None  # Unix time, as `until`
    until: float


class Batch(BaseModel):
    """Lines in the order of their numbers, and up to which number that is all."""

    model_config = ConfigDict(frozen=True)

    entries: tuple[Entry, ...]
    last: int = Field(ge=0)
    complete: bool = True  # else there is more at once


class Source(Protocol):
    """Where the log is read."""

    def after(self, seq: int, wait_s: float) -> Batch:
        """What follows on number `seq`, at the latest after `wait_s`; 0: all that is in force. May raise anything."""
        ...


class UserService:
    """The log as user_service tells it."""

    def __init__(self, internal: Internal) -> None:
        self._internal = internal

    def after(self, seq: int, wait_s: float) -> Batch:
        answer = self._internal.get(PATH, {"after": seq, "wait": int(wait_s)}, timeout_s=wait_s + GRACE_S)
        try:
            return Batch.model_validate(answer)
        except ValidationError:
            raise ValueError("not a list of revocations") from None


class Revocations:
    """What one worker knows. Shared by greenlets: one of them writes, each change is one step."""

    def __init__(
        self,
        source: Source,
        *,
        lost: Literal["accept", "refuse"] = "accept",
        patience_s: float = 5.0,
        most: int = MOST,
        tell: Callable[[bool, int], None] = lambda _is_current, _entries: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell` hears whether this is current and how many entries there are, whenever that changes."""
        self._source, self._tell, self._clock = source, tell, clock
        self._refuses, self._patience_s, self._most = lost == "refuse", patience_s, most
        self._entries: dict[tuple[str, str], Entry] = {}  # by kind and subject; the latest last
        self._seq = 0
        self._floor = float("-inf")
        self._current_until = self._purge_at = float("-inf")
        self._has_lost = False
        self.is_current = False

    @property
    def is_trusted(self) -> bool:
        """Whether tokens may be accepted on the strength of what is known."""
        return self.is_current or not self._refuses or self._clock() < self._current_until + self._patience_s

    def is_revoked(self, identity: Identity) -> bool:
        is_over = bool(identity.session) and ("session", identity.session) in self._entries
        if is_over or identity.issued_at <= self._floor:
            return True
        entry = self._entries.get(("user", identity.user_id))
        return entry is not None and identity.generation < entry.generation

    def start(self, is_wanted: Callable[[], bool]) -> None:
        """Read what is in force, then go on in a greenlet until it `is_wanted` no longer."""
        reading = gevent.spawn(self.read_on, 0)
        reading.join(START_S)
        reading.kill()  # if it goes on
        gevent.spawn(self.keep_reading, is_wanted)

    def keep_reading(self, is_wanted: Callable[[], bool], *, sleep: Callable[[float], None] = gevent.sleep) -> None:
        pause_s = AT_LEAST_S
        while is_wanted():
            if self.read_on(WAIT_S if self.is_current else 0):
                pause_s = AT_LEAST_S
            else:
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            sleep(pause_s * random.uniform(0.5, 1))

    def read_on(self, wait_s: float) -> bool:
        """Ask once, and again while there is more; whether this is current now."""
        try:
            try:
                self._read(wait_s)
            except Exception:
                if not self.is_current:
                    raise
                self._read(0)  # a worker over there has ended, and its connections with it: that is no loss yet
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker must go on, and ask again
            self._note_lost(error)
        else:
            self._note_current()
        self._tell(self.is_current, len(self._entries))
        return self.is_current

    def _read(self, wait_s: float) -> None:
        while not (batch := self._source.after(self._seq, wait_s)).complete:
            self._take(batch)
        self._take(batch)

    def _take(self, batch: Batch) -> None:
        if batch.last < self._seq:
            log.warning("revocations_begin_anew", known=self._seq, last=batch.last)  # another database
        for entry in batch.entries:
            before = self._entries.pop((entry.kind, entry.subject), entry)
            if before.generation > entry.generation:
                entry = before
            self._entries[entry.kind, entry.subject] = entry
        self._seq = batch.last
        if time.time() >= self._purge_at or len(self._entries) > self._most:
            self._purge(time.time())

    def _purge(self, now: float) -> None:
        self._purge_at = now + PURGE_EVERY_S
        kept = {name: entry for name, entry in self._entries.items() if entry.until + KEPT_LONGER_S > now}
        dropped = list(kept)[: max(0, len(kept) - self._most)]
        for name in dropped:
            made_at = kept.pop(name).made_at
            self._floor = max(self._floor, now if made_at is None else made_at + LATE_S)
        self._entries = kept
        if dropped:
            log.warning("revocations_dropped", count=len(dropped), kept=len(kept))

    def _note_lost(self, error: Exception) -> None:
        if self.is_current or not self._has_lost:
            log.warning("revocations_lost", reason=f"{type(error).__name__} {error}".strip())
        if self.is_current:
            self._current_until = self._clock()
        self.is_current, self._has_lost = False, True

    def _note_current(self) -> None:
        if self._has_lost:
            log.info("revocations_current", last=self._seq)
        self.is_current, self._has_lost = True, False
