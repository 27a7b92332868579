"""Which instances a service has now, read from Redis: `common.registry` says how they stand there.

Anyone who may write to Redis may write anything, so what is read is judged: nonsense is left out, and told once for as
long as it stands there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import cast
from urllib.parse import parse_qsl

import redis
import structlog

from common.registry import KEEP_DEAD_S, Leases, key_of
from common.service_settings import MOST_WEIGHT
from gateway.notation import parse_address

log = structlog.get_logger("registry")

MOST_MEMBERS = 256
MOST_LEASES = 4096
"""Leases that are read of a service: an instance has one a worker."""
LONGEST_LEASE_BYTES = 500
MOST_TOLD = 32

# KEYS: the registry of a service. ARGV: seconds to keep dead ones, most leases, most bytes of one.
# Answers what stands at the key ("zset", "none", ...), then the members whose lease runs, each with its seconds left.
_RUNNING = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'zset' then return {kind} end
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.3f', now - ARGV[1]))
local from = string.format('(%.6f', now)
local answer = redis.call('ZRANGEBYSCORE', KEYS[1], from, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for i = 1, #answer, 2 do
  answer[i] = string.sub(answer[i], 1, ARGV[3] + 1)
  answer[i + 1] = string.format('%.3f', answer[i + 1] - now)
end
table.insert(answer, 1, kind)
return answer
"""


@dataclass(frozen=True, slots=True)
class Member:
    """One instance of a service: `http://host:port`, and its share, above 0 and at most 1000."""

    url: str
    weight: float
    seconds_left: float = field(default=0.0, compare=False)  # of its longest lease, by Redis' clock; perhaps infinite


class Registry(Leases):
    """The registry, to be read and written. Shared by the greenlets of a worker; each method is one script."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self._running = client.register_script(_RUNNING)
        self._told: dict[str, frozenset[str]] = {}  # by service: the nonsense that stood there at the last look

    def members(self, service: str) -> tuple[Member, ...]:
        """The instances of `service` (NAME or NAME@VERSION) whose lease runs by Redis' clock, sorted by URL.

        At most MOST_MEMBERS, the first ones. Raises `redis.RedisError` when Redis is away.
        """
        answer = self._running([key_of(service)], [KEEP_DEAD_S, MOST_LEASES, LONGEST_LEASE_BYTES])
        kind, *rows = [row.decode("ascii", "replace") for row in cast("list[bytes]", answer)]
        leases = list(zip(rows[::2], map(float, rows[1::2]), strict=True))
        nonsense: dict[str, str] = {}
        if kind not in ("zset", "none"):
            nonsense[key_of(service)] = f"must be a sorted set, not a {kind}"
        found = _found(leases, nonsense)
        if len(found) > MOST_MEMBERS or len(leases) == MOST_LEASES:
            nonsense[key_of(service)] = f"has more than {MOST_MEMBERS} instances or {MOST_LEASES} leases"
        self._tell(service, nonsense)
        return tuple(found[url] for url in sorted(found)[:MOST_MEMBERS])

    def _tell(self, service: str, nonsense: Mapping[str, str]) -> None:
        """One line for each nonsense that did not stand there at the last look."""
        told = self._told.pop(service, frozenset())
        now = dict(islice(sorted(nonsense.items()), MOST_TOLD))
        for what in now.keys() - told:
            shown = "(with a password)" if "@" in what else repr(what[:100])
            log.warning("registry_nonsense", to=service, what=shown, reason=now[what])
        if now:
            self._told[service] = frozenset(now)


def _found(leases: Sequence[tuple[str, float]], nonsense: dict[str, str]) -> dict[str, Member]:
    """The instances by URL, each with the largest weight and the longest lease; what is none goes to `nonsense`.

    `leases` are in the order in which they run out.
    """
    found: dict[str, Member] = {}
    for lease, seconds_left in leases:
        judged = _judged(lease)
        if isinstance(judged, _Fault):
            nonsense[judged.what] = judged.reason
            continue
        url, weight = judged
        if known := found.get(url):
            weight = max(weight, known.weight)
        found[url] = Member(url, weight, seconds_left)
    return found


@dataclass(frozen=True, slots=True)
class _Fault:
    what: str
    reason: str


@lru_cache(maxsize=2 * MOST_LEASES)  # the same ones are read every two seconds
def _judged(lease: str) -> tuple[str, float] | _Fault:
    """The URL and the weight that a lease tells."""
    address, _, fragment = lease.partition("#")
    try:
        weight = _weight(lease, fragment)
    except ValueError as error:
        return _Fault(lease, str(error))
    try:
        return parse_address(address), weight
    except ValueError as error:
        return _Fault(address, str(error))


def _weight(lease: str, fragment: str) -> float:
    if len(lease) > LONGEST_LEASE_BYTES:
        raise ValueError(f"must have at most {LONGEST_LEASE_BYTES} bytes")
    text = dict(parse_qsl(fragment, keep_blank_values=True)).get("weight", "1")
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight <= MOST_WEIGHT:
        raise ValueError(f"weight must be above 0, and {MOST_WEIGHT} at most")
    return weight
