"""The log of revocations as a stub tells it: a long poll, each in the thread of its connection."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from urllib.parse import parse_qsl

from tests.support.behaviours import Wait, as_json
from tests.support.received import Received

PATH = "/internal/revocations"
POLL_S = 0.02
KEPT_FOR_S = 900.0


@dataclass(frozen=True, slots=True)
class Revoked:
    """One line of the log."""

    seq: int
    kind: str
    subject: str
    generation: int
    made_at: float
    until: float


class RevocationLog:
    """Thread-safe. Tokens are revoked by `session` and `user`; `polls` are the requests for the log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: list[Revoked] = []
        self.polls: list[Received] = []

    def session(self, sid: str) -> None:
        """All tokens of that session."""
        self._append("session", sid, 0)

    def user(self, user_id: str, generation: int) -> None:
        """All tokens of that user of a lower generation."""
        self._append("user", user_id, generation)

    def answer(self, received: Received, wait: Wait) -> list[bytes]:
        """What follows on `after`, at the latest when `wait` is over."""
        self.polls.append(received)
        query = dict(parse_qsl(received.target.partition("?")[2]))
        after, give_up_at = int(query["after"]), time.monotonic() + float(query["wait"])
        while not (lines := self._after(after)) and time.monotonic() < give_up_at:
            wait(POLL_S)
        last = lines[-1].seq if lines else after
        return as_json({"entries": [asdict(line) for line in lines], "last": last, "complete": True})

    def _after(self, seq: int) -> list[Revoked]:
        with self._lock:
            return self._lines[seq:]

    def _append(self, kind: str, subject: str, generation: int) -> None:
        with self._lock:
            now = time.time()
            self._lines.append(Revoked(len(self._lines) + 1, kind, subject, generation, now, now + KEPT_FOR_S))
