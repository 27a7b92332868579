"""A name whose addresses are a service's instances, looked up again whenever its answer is too old.

    answered      all addresses are instances, for as long as the answer may be used (its TTL, `dns` bounds it) and up
                  to a tenth longer, so that workers that asked together do not go on asking together
    no answer     nobody can say that an instance is gone, so all stay, for as long as it takes. Asked again after 1 to
                  5 s, with jitter
    denied        the nameservers say that the name does not exist or has no address. Asked again in the same way; when
                  that is still so after 10 s, it is believed

Why not at once: nameservers that restart deny for a moment what they have not read yet, and believing it would take a
service away that is well. Why not for ever: the addresses of instances that are really gone are given to others, who
must not get our callers' requests. A service that was scaled to none loses little: for 10 s its callers are told 502
instead of 503.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Literal

import structlog

from gateway.backend.dns import DnsSource, NoAddress, NotResolved, Resolved

log = structlog.get_logger("discovery")

MOST_INSTANCES = 256
BELIEVED_AFTER_S = 10.0
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 5.0
MOST_TOLD = 10

State = Literal["unknown", "answered", "no answer", "denied"]


class WatchedName:
    """Belongs to the greenlet that looks it up; others may read."""

    def __init__(
        self,
        source: DnsSource,
        resolve: Callable[[str], Resolved],
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`resolve` is `Resolver.resolve` or behaves like it; `draw(a, b)` gives a random number between the two."""
        self.source = source
        self.urls: tuple[str, ...] | None = None  # None: nobody has told yet
        self.ttl_s = 0.0  # of the last good answer
        self.error = ""  # of the last look-up
        self._resolve, self._clock, self._draw = resolve, clock, draw
        self._state: State = "unknown"
        self._denied_at: float | None = None  # for the first time since there was an answer
        self._failures = 0

    def look_up(self) -> float:
        """Ask once. Returns the seconds after which to ask again. Never raises."""
        try:
            resolved = self._resolve(self.source.name)
        except NoAddress as error:
            return self._denied(error)
        except Exception as error:  # noqa: BLE001 - a name must not be lost because a library stumbles over an answer
            return self._unanswered(error)
        return self._answered(resolved)

    def _answered(self, resolved: Resolved) -> float:
        if self.error:
            log.info("name_resolved", source=self.source.text)
        self._state, self.error, self._failures, self._denied_at = "answered", "", 0, None
        self.ttl_s = resolved.ttl_s
        self._find(resolved.addresses)
        return resolved.ttl_s * self._draw(1.0, 1.1)

    def _denied(self, error: NoAddress) -> float:
        now = self._clock()
        if self._denied_at is None:
            self._denied_at = now
        self._turn("denied", str(error))
        if now - self._denied_at >= BELIEVED_AFTER_S:
            self._find(())
        return self._pause_s()

    def _unanswered(self, error: Exception) -> float:
        reason = str(error) if isinstance(error, NotResolved) else f"{type(error).__name__}: {error}"
        self._turn("no answer", reason)
        return self._pause_s()

    def _turn(self, state: State, error: str) -> None:
        if state != self._state:
            log.warning("name_not_resolved", source=self.source.text, reason=error, kept=len(self.urls or ()))
        self._state, self.error = state, error

    def _find(self, addresses: Sequence[str]) -> None:
        urls, before = tuple(map(self.source.url, addresses[:MOST_INSTANCES])), self.urls or ()
        if urls != before:
            added = [url for url in urls if url not in before][:MOST_TOLD]
            gone = [url for url in before if url not in urls][:MOST_TOLD]
            of = len(addresses)
            log.info("name_changed", source=self.source.text, instances=len(urls), of=of, added=added, gone=gone)
        self.urls = urls

    def _pause_s(self) -> float:
        pause_s = min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        return pause_s * self._draw(0.75, 1.25)
