"""The registry as one worker knows it: who its members are, also while Redis can't be asked.

    read        the members are the instances. Who is not there any more has left, or has died and its lease run out
    not read    that Redis is away is no reason to take services away: everybody stays, for as long as it takes
    in doubt    a Redis that was away may be back with nothing in it. So after it was away, or its news broke off, those
                who were known and are not there yet stay until the lease that they had would have ended, and at least
                for 15 s: by then whoever lives has renewed it. Each of them is doubted until it is seen again

A service that died while Redis was away is called in vain until then; another instance is tried at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from common.registry import LEASE_S
from gateway.backend.registry import Member, Registry

log = structlog.get_logger("discovery")

LONGEST_DOUBT_S = 3600.0
MOST_TOLD = 10


class WatchedRegistry:
    """Shared by the greenlets of a worker: between the answer of Redis and the change that follows nothing switches."""

    def __init__(
        self, registry: Registry, *, is_hearing: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`is_hearing` tells whether the news of Redis arrive."""
        self.error = ""  # of the last read
        self._registry, self._is_hearing, self._clock = registry, is_hearing, clock
        self._rolls: dict[str, dict[str, _Known]] = {}  # by service, then by URL

    def members(self, service: str) -> tuple[Member, ...] | None:
        """The instances of `service` (NAME or NAME@VERSION) as far as is known; None: it could not be read yet."""
        roll = self._rolls.get(service)
        return None if roll is None else tuple(known.member for known in roll.values())

    def read(self, services: Iterable[str]) -> None:
        """Look who the members of `services` are now. Never raises."""
        for service in services:
            try:
                members = self._registry.members(service)
            except Exception as error:  # noqa: BLE001 - the rounds must go on
                self._fail(error)
                return  # each of the others would only cost another wait
            self._succeed()
            self._update(service, members)

    def doubt(self) -> None:
        """News may have been missed, or Redis may have forgotten."""
        for roll in self._rolls.values():
            for known in roll.values():
                known.is_doubted, known.is_missed = True, False

    def keep_only(self, services: Iterable[str]) -> None:
        """Forget all other services."""
        kept = set(services)
        self._rolls = {service: roll for service, roll in self._rolls.items() if service in kept}

    def _update(self, service: str, members: Iterable[Member]) -> None:
        now, before = self._clock(), self._rolls.get(service, {})
        roll = {member.url: _Known(member, now + min(member.seconds_left, LONGEST_DOUBT_S)) for member in members}
        is_doubtful = not self._is_hearing()
        for url, known in before.items():
            if url not in roll and (known.is_doubted or is_doubtful):
                known.miss(now)
                if known.until > now:
                    roll[url] = known
        if roll.keys() != before.keys():
            added, gone = sorted(roll.keys() - before.keys()), sorted(before.keys() - roll.keys())
            count = len(roll)
            log.info("registry_changed", to=service, instances=count, added=added[:MOST_TOLD], gone=gone[:MOST_TOLD])
        self._rolls[service] = dict(sorted(roll.items()))

    def _fail(self, error: Exception) -> None:
        if not self.error:
            log.warning("registry_away", reason=type(error).__name__)
        self.error = f"Redis can't be asked ({type(error).__name__})"
        self.doubt()

    def _succeed(self) -> None:
        if self.error:
            log.info("registry_back")
        self.error = ""


@dataclass(slots=True)
class _Known:
    member: Member
    until: float  # when its lease, as it was seen, ends by our clock
    is_doubted: bool = False  # it need not have left when it is not there
    is_missed: bool = False

    def miss(self, now: float) -> None:
        """It is not there, and stays in doubt. At first it gets the time in which those who live come back."""
        if not self.is_missed:
            self.until = max(self.until, now + LEASE_S)
        self.is_doubted = self.is_missed = True
