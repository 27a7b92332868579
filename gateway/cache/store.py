"""Kept answers in Redis, shared by all workers.

An address has one entry, or, where answers vary, a *signpost* that names the varying fields and one entry a variant.

Emptying is race-free by a logical clock. Each invalidation moves `clock` on by one and notes the new time under the
group or address that it is about. An entry carries the time that `clock` showed *before* its request went to the
service; it counts only while none of its groups has been noted later. So an answer that was on its way while something
changed is never served, even if it is stored after the invalidation. A store that lost its memory begins the clock
anew: what carries a later time than it shows is from before, and does not count. Looking up is one round trip, two
where answers vary.

An entry is gone when it may not be used any more, which is after its lifetime where there is a stale fallback. Notes
and signposts stay for as long as any entry could.

Redis away: nothing is found and nothing kept, and for a second nobody asks again. An invalidation that Redis did not
take is owed: the worker finds nothing before it is paid, and tries to pay once a second, so that a Redis that was only
out of reach does not serve to others what has changed meanwhile. At most `MOST_OWED` names are owed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple, cast

import gevent
import orjson
import redis
import structlog

from gateway.cache.rules import LONGEST_S, STALE_S
from gateway.pipe import ALL_IN_USE
from gateway.scripts import Pooled, Script, Way, bulk
from gateway.shared import PREFIX

log = structlog.get_logger("cache")

LARGEST_BODY_BYTES = 256 << 10
PAUSE_S = 1.0
MOST_OWED = 10_000
KEPT_S = LONGEST_S + STALE_S

# KEYS: clock, entry. Answers {clock, vary, stored, body-and-head} with the last three only for an entry that counts.
_LOOK_UP = Script("""
local clock = redis.call('GET', KEYS[1]) or '0'
local entry = redis.call('HMGET', KEYS[2], 'clock', 'groups', 'vary', 'data')
if not entry[1] or tonumber(entry[1]) > tonumber(clock) then return {clock} end
for group in string.gmatch(entry[2] or '', '[^\\n]+') do
  local noted = redis.call('GET', ARGV[1] .. group)
  if noted and tonumber(noted) > tonumber(entry[1]) then
    redis.call('DEL', KEYS[2])
    return {clock}
  end
end
return {clock, entry[3] or '', entry[4] or ''}
""")

# KEYS: clock. ARGV: how long notes are kept, their prefix, then the groups.
_INVALIDATE = """
local now = redis.call('INCR', KEYS[1])
for i = 3, #ARGV do redis.call('SET', ARGV[2] .. ARGV[i], now, 'EX', ARGV[1]) end
return now
"""


class Entry(NamedTuple):
    """A kept answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    stored_at: float  # Unix time, minus the age that it had then
    lifetime_s: int

    @property
    def age_s(self) -> int:
        return max(0, int(time.time() - self.stored_at))

    @property
    def left_s(self) -> int:
        return self.lifetime_s - self.age_s


class Found(NamedTuple):
    """What a look-up brought: the clock to store with, the varying fields if there is a signpost, perhaps an entry."""

    clock: int | None  # None: the store is away, don't keep anything
    vary: tuple[str, ...] = ()
    entry: Entry | None = None


class CacheStore:
    """Shared by the greenlets of a worker; each method is one script or command."""

    def __init__(self, client: redis.Redis, way: Way | None = None) -> None:
        """Answers are looked up by `way`, by default one connection for each look-up; all else is done by `client`."""
        self._client, self._way = client, way or Pooled(client.connection_pool)
        self._invalidate = client.register_script(_INVALIDATE)
        self._away_until = 0.0
        self._is_away = False
        self._owed: dict[str, object] = {}  # groups, in order; another object for each time that one is owed
        self._is_settling = False

    def start(self, is_running: Callable[[], bool]) -> None:
        """Begin to pay what is owed, until it `is_running` no longer."""
        gevent.spawn(self._go_on, is_running)

    def _go_on(self, is_running: Callable[[], bool]) -> None:
        while is_running():
            self.settle()
            gevent.sleep(PAUSE_S)

    def look_up(self, address: str, variant: str = "") -> Found:
        """`address` is the service and the raw target; `variant` as `rules.variant_key` says."""
        try:
            row = cast("list[bytes]", self._ask(_key(address, variant)))
        except redis.RedisError:
            return Found(None)
        clock = int(row[0])
        if len(row) == 1:
            return Found(clock)
        if row[1]:
            return Found(clock, vary=tuple(row[1].decode().split(",")))
        return Found(clock, entry=_unpack(row[2]))

    def keep(
        self,
        address: str,
        variant: str,
        entry: Entry,
        *,
        vary: tuple[str, ...],
        groups: Iterable[str],
        clock: int,
        stale_s: int = 0,
    ) -> bool:
        """Store `entry`, and the signpost to it where the answer varies. Whether that was done.

        It stays for `stale_s` (at most `STALE_S`) after its lifetime.
        """
        if len(entry.body) > LARGEST_BODY_BYTES:
            return False
        common = {"clock": clock, "groups": "\n".join([_uri_group(address), *groups])}
        try:
            with self._client.pipeline(transaction=False) as pipe:
                if vary:
                    signpost = _key(address, "")
                    pipe.hset(signpost, mapping={**common, "vary": ",".join(vary)})
                    pipe.expire(signpost, KEPT_S)
                key = _key(address, variant)
                pipe.hset(key, mapping={**common, "vary": "", "data": _pack(entry)})  # "": no signpost any more
                pipe.expire(key, max(1, entry.left_s + stale_s))
                pipe.execute()
        except redis.RedisError as error:
            self._rest(error)
            return False
        return True

    def invalidate(self, addresses: Iterable[str], groups: Iterable[str]) -> None:
        """Forget what is kept for `addresses` and all members of `groups`."""
        names = [*(_uri_group(address) for address in addresses), *groups]
        try:
            # not skipped while the store rests: a lost invalidation would serve what is no longer so
            self._invalidate([_CLOCK], [KEPT_S, _GROUP, *names])
        except redis.RedisError as error:
            self._owe(names)
            self._rest(error)
        except BaseException:  # whoever waits for it was called off
            self._owe(names)
            raise

    def settle(self) -> None:
        """Pay what is owed, if anything is and nobody is at it."""
        if not self._owed or self._is_settling:
            return
        due, self._is_settling = self._owed.copy(), True
        try:
            self._invalidate([_CLOCK], [KEPT_S, _GROUP, *due])
        except redis.RedisError as error:
            self._rest(error)
        else:
            self._owed = {name: debt for name, debt in self._owed.items() if due.get(name) is not debt}
        finally:
            self._is_settling = False

    def _owe(self, names: Iterable[str]) -> None:
        self._owed |= dict.fromkeys(names, object())
        if (beyond := len(self._owed) - MOST_OWED) > 0:
            log.error("cache_invalidations_lost", count=beyond)
            self._owed = dict([*self._owed.items()][beyond:])

    def _ask(self, key: bytes) -> object:
        if time.monotonic() < self._away_until:
            raise redis.ConnectionError("resting")
        self.settle()
        if self._owed:
            raise redis.ConnectionError("owes what has changed")
        try:
            answer = _LOOK_UP.run(self._way, _HEAD, _COUNT, _ARGUMENTS % key)
        except redis.RedisError as error:
            if str(error) != ALL_IN_USE:
                self._rest(error)
            raise
        if self._is_away:
            self._is_away = False
            log.warning("cache_used_again")
        return answer

    def _rest(self, error: Exception) -> None:
        if not self._is_away:
            self._is_away = True
            log.warning("cache_bypassed", reason=type(error).__name__)
        self._away_until = time.monotonic() + PAUSE_S


_CLOCK = f"{PREFIX}:cache:clock"
_GROUP = f"{PREFIX}:cache:group:"


_ENTRY = f"{PREFIX}:cache:entry:".encode()
_KEY_BYTES = len(_ENTRY) + 2 * hashlib.sha256().digest_size

_COUNT = 4
_HEAD = _LOOK_UP.head(_COUNT)
_ARGUMENTS = b"%b%b$%d\r\n%%b\r\n%b" % (bulk(b"2"), bulk(_CLOCK.encode()), _KEY_BYTES, bulk(_GROUP.encode()))


def _key(address: str, variant: str) -> bytes:
    return _ENTRY + hashlib.sha256(f"{address}\n{variant}".encode("utf-8", "surrogateescape")).hexdigest().encode()


def _uri_group(address: str) -> str:
    return "uri " + hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()


def _pack(entry: Entry) -> bytes:
    head = orjson.dumps([entry.status, entry.headers, entry.stored_at, entry.lifetime_s])
    return len(head).to_bytes(4, "big") + head + entry.body


def _unpack(data: bytes) -> Entry:
    size = int.from_bytes(data[:4], "big")
    status, headers, stored_at, lifetime_s = _unpacked_head(data[4 : 4 + size])
    return Entry(status, [*headers], data[4 + size :], stored_at, lifetime_s)


@lru_cache(maxsize=512)
def _unpacked_head(text: bytes) -> tuple[int, tuple[tuple[str, str], ...], float, int]:
    """All of an entry but its body. The same bytes mean the same, whenever they come."""
    status, headers, stored_at, lifetime_s = orjson.loads(text)
    return status, tuple((name, value) for name, value in headers), stored_at, lifetime_s
