"""What the gateway refused or failed at of late, so that `flask --app gateway explain REQUEST_ID` can tell why.

Each problem that the gateway makes itself leaves an incident: who asked for what, what was told, and the line of code
that refused, which is the deepest one of ours in the problem's traceback. Query, header fields and body are not in it.

Each worker remembers its last 1000. Since any worker may be asked, twice a second one greenlet writes what is new to
Redis, off the path of requests. There the last 20,000 of all workers are kept, none for longer than 15 minutes: a hash
of them by request id, beside a sorted set of the ids by time.

A flood of refusals must cost next to nothing. Of one kind (code and caller) no more than 20 are written a round, and no
more than 500 of all kinds; what comes then is known to its own worker only, until 1000 others have come. So it is while
Redis is away.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import orjson
import redis
import structlog

from common.masking import masked
from common.problems import Problem
from gateway.exchange import Exchange
from gateway.router import VERSION_FIELDS
from gateway.shared import PREFIX
from gateway.whence import Whence, deepest_place

log = structlog.get_logger("incidents")

ROUND_S = 0.5
REMEMBERED = 1000
WRITTEN_A_ROUND = 500
WRITTEN_OF_A_KIND = 20
KEPT = 20_000
KEPT_S = 900
PAUSE_S = 5.0
LONGEST_TEXT = 2048

# KEYS: the hash, the times. ARGV: now, how long and how many are kept, then id and text of each incident.
# Forgets at most 1000 a call, which is more than can be written in one.
_WRITE = """
local now, kept_s, kept = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 4, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  redis.call('ZADD', KEYS[2], now, ARGV[i])
end
local old = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - kept_s, 'LIMIT', 0, 1000)
local over = redis.call('ZCARD', KEYS[2]) - kept
if over > #old then old = redis.call('ZRANGE', KEYS[2], 0, math.min(over, 1000) - 1) end
if #old > 0 then
  redis.call('HDEL', KEYS[1], unpack(old))
  redis.call('ZREM', KEYS[2], unpack(old))
end
redis.call('EXPIRE', KEYS[1], kept_s)
redis.call('EXPIRE', KEYS[2], kept_s)
"""
_TEXTS = f"{PREFIX}:incidents"
_TIMES = f"{PREFIX}:incidents:times"

Notes = Mapping[str, str | int | float]


@dataclass(slots=True)
class Asked:
    """What is remembered of a request. What is not known is empty."""

    method: str = ""
    path: str = ""  # raw
    host: str = ""
    version: str = ""  # what API-Version said
    caller: str = ""  # address
    user: str = ""  # id, where a token was looked at
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    amr: tuple[str, ...] = ()
    key: str = ""  # id of an API key


@dataclass(slots=True)
class Incident:
    """One problem that the gateway made."""

    request_id: str
    at: float  # Unix time, seconds
    status: int
    code: str
    detail: str
    whence: Whence
    asked: Asked
    route: str
    service: str
    notes: Notes  # as in the access line: which limit, how many tries


class Incidents:
    """One worker's. Its greenlets share it: each method but `write` and `find` is one step, and these two change what
    is here only before they talk to Redis."""

    def __init__(self, client: redis.Redis, *, kept: int = KEPT, clock: Callable[[], float] = time.time) -> None:
        """`kept`: how many of all workers. `clock` gives Unix time."""
        self._client, self._kept, self._clock = client, kept, clock
        self._script = client.register_script(_WRITE)
        self._own: OrderedDict[str, Incident] = OrderedDict()
        self._waiting: list[Incident] = []
        self._kinds: Counter[tuple[str, str]] = Counter()
        self._away_until = 0.0

    @property
    def is_shared(self) -> bool:
        """Whether what other workers know can be found, as far as is known."""
        return not self._away_until

    def note(self, problem: Problem, exchange: Exchange, error: BaseException | None = None) -> None:
        """Remember what became of `exchange`. `error` is what the problem stands for, where that is another one."""
        route, identity = getattr(exchange, "route", None), exchange.known_identity
        version = next((exchange.headers[name] for name in VERSION_FIELDS if name in exchange.headers), "")
        self._note(
            problem,
            exchange.request_id,
            Whence.of(error or problem),
            Asked(
                exchange.method,
                masked(exchange.target.path[:LONGEST_TEXT]),
                exchange.forwarding.host[:LONGEST_TEXT],
                version[:LONGEST_TEXT],
                exchange.forwarding.caller,
                identity.user_id if identity else "",
                tuple(sorted(identity.roles)) if identity else (),
                tuple(sorted(identity.permissions)) if identity else (),
                tuple(sorted(identity.amr)) if identity else (),
                identity.key_id if identity else "",
            ),
            route=route.name if route else "",
            service=exchange.backend,
            notes=dict(exchange.notes),
        )

    def note_malformed(self, problem: Problem, environ: Mapping[str, object], request_id: str) -> None:
        """Remember a request that the edge refused, before there was an exchange."""
        method, target, host, caller = (
            str(environ.get(key, ""))[:LONGEST_TEXT]
            for key in ("REQUEST_METHOD", "RAW_URI", "HTTP_HOST", "REMOTE_ADDR")
        )
        asked = Asked(method, masked(target.partition("?")[0]), host, caller=caller)
        self._note(problem, request_id, Whence.of(problem), asked)

    def note_unread(self, problem: Problem, request_id: str, caller: str, error: BaseException) -> None:
        """Remember what the server's parser refused: of such a request nothing is known but who sent it."""
        whence = Whence(deepest_place(error), type(error).__name__)
        self._note(problem, request_id, whence, Asked(caller=caller))

    def _note(
        self,
        problem: Problem,
        request_id: str,
        whence: Whence,
        asked: Asked,
        *,
        route: str = "",
        service: str = "",
        notes: Notes | None = None,
    ) -> None:
        told = (problem.status, problem.code, problem.detail)
        self.add(Incident(request_id, self._clock(), *told, whence, asked, route, service, notes or {}))

    def add(self, incident: Incident) -> None:
        self._own.pop(incident.request_id, None)
        self._own[incident.request_id] = incident
        if len(self._own) > REMEMBERED:
            self._own.popitem(last=False)
        kind = (incident.code, incident.asked.caller)
        if len(self._waiting) < WRITTEN_A_ROUND and self._kinds[kind] < WRITTEN_OF_A_KIND:
            self._kinds[kind] += 1
            self._waiting.append(incident)

    def write(self) -> None:
        """One round: give what is new to Redis. To be called every `ROUND_S` by one greenlet. Never raises."""
        waiting, self._waiting = self._waiting, []
        self._kinds.clear()
        now = self._clock()
        if not waiting or now < self._away_until:
            return
        pairs = [text for incident in waiting for text in (incident.request_id, orjson.dumps(incident))]
        try:
            self._script([_TEXTS, _TIMES], [now, KEPT_S, self._kept, *pairs])
        except redis.RedisError as error:
            self._rest(error)
            return
        self._is_back()

    def find(self, request_id: str) -> Incident | None:
        """What became of that request, None if nobody remembers. Never raises for Redis."""
        if (own := self._own.get(request_id)) is not None:
            return own
        if self._clock() < self._away_until:
            return None
        try:
            text = cast("bytes | None", self._client.hget(_TEXTS, request_id))
        except redis.RedisError as error:
            self._rest(error)
            return None
        self._is_back()
        found = from_json(text) if text is not None else None
        return found if found is not None and self._clock() - found.at <= KEPT_S else None

    def _rest(self, error: redis.RedisError) -> None:
        if not self._away_until:
            log.warning("incidents_local", reason=type(error).__name__)
        self._away_until = self._clock() + PAUSE_S

    def _is_back(self) -> None:
        if self._away_until:
            self._away_until = 0.0
            log.warning("incidents_shared_again")


def from_json(text: bytes) -> Incident:
    """An incident as `orjson.dumps` wrote it."""
    read = orjson.loads(text)
    asked = read.pop("asked")
    lists = {name: tuple(asked.pop(name, ())) for name in ("roles", "permissions", "amr")}
    return Incident(whence=Whence(**read.pop("whence")), asked=Asked(**lists, **asked), **read)
