"""How the requests of a window are counted: a log of slots, which never lets more than the limit pass.

A bucket's log is a row of slots, each one *when its last request came* and *how many came*. A request joins the newest
slot if that began less than a sixtieth of the window ago, else it begins a slot of its own. A slot counts until its
last request has left the window. So

- in no window of that length, wherever it begins, more than the limit pass: no request is forgotten before its time
- a request is remembered a sixtieth of the window too long at most; where requests are further apart, not at all
- a log has at most 62 slots, however large the limit is: a limit of a million costs what one of a hundred does
- slots leave in the order in which they came, so a request looks at those that leave and at the newest, not at all

A log is one string: how many requests are in it, when its newest slot began, limit and window (for those who look at
it), then the slots, the oldest first. All are little-endian doubles, in which numbers and microseconds are exact.

In Redis one script does that for all buckets of a request: it looks at all, then counts the request in all, or in none
when one of them is full. `acquire` is the same for a mapping in memory; the tests hold both against one plain model.
"""

from __future__ import annotations

import struct
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

SLOTS = 60
"""Slots in a window; a log may have two more, which are about to leave or have just begun."""

_HEAD = struct.Struct("<dddd")
_SLOT = struct.Struct("<dd")

# KEYS: the logs. ARGV: cost, then limit and window (microseconds) of each.
# Answers {which refused, or 0; then for each: requests in it, microseconds until this one may pass, or, where it
# may, until the oldest leaves}. Redis' own clock is used, so the workers' clocks need not agree.
ACQUIRE = """
local clock = redis.call('TIME')
local now, cost = clock[1] * 1000000 + clock[2], tonumber(ARGV[1])
local refused, answer, logs = 0, {0}, {}
for i, text in ipairs(redis.call('MGET', unpack(KEYS))) do
  local limit, window = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local used, since, at = 0, 0, 33
  if not text or #text % 16 ~= 0 then text = '' end
  if #text > 32 then
    used, since = struct.unpack('<dd', text)
    while at <= #text do
      local last, count = struct.unpack('<dd', text, at)
      if last > now - window then break end
      used, at = used - count, at + 16
    end
  end
  local wait, too_many, look = window, used + cost - limit, at
  if too_many > 0 and refused == 0 then refused = i end
  while look <= #text do
    local last, count = struct.unpack('<dd', text, look)
    wait, too_many, look = last + window - now, too_many - count, look + 16
    if too_many <= 0 then break end
  end
  logs[i] = {string.sub(text, at), used, since}
  answer[2 * i], answer[2 * i + 1] = used, wait
end
answer[1] = refused
if refused > 0 then return answer end
for i, key in ipairs(KEYS) do
  local limit, window = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local slots, used, since = logs[i][1], logs[i][2] + cost, logs[i][3]
  local last, count = now, cost
  if #slots > 0 and now - since < window / 60 then
    local newest, before = struct.unpack('<dd', slots, #slots - 15)
    last, count, slots = math.max(now, newest), before + cost, string.sub(slots, 1, -17)
  else
    since = now
  end
  local text = struct.pack('<dddd', used, since, limit, window) .. slots .. struct.pack('<dd', last, count)
  redis.call('SET', key, text, 'PX', math.ceil(window / 1000))
  answer[2 * i] = used
end
return answer
"""

# KEYS: the logs. ARGV: for each a limit, its window, how many requests are to be added, how long ago the last one came.
ADD = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
for i, text in ipairs(redis.call('MGET', unpack(KEYS))) do
  local limit, window = tonumber(ARGV[4 * i - 3]), tonumber(ARGV[4 * i - 2])
  local count, last = tonumber(ARGV[4 * i - 1]), now - tonumber(ARGV[4 * i])
  local used, since, slots = 0, last, ''
  if text and #text > 32 and #text % 16 == 0 then
    used, since = struct.unpack('<dd', text)
    slots = string.sub(text, 33)
    last = math.max(last, (struct.unpack('<dd', slots, #slots - 15)))
  end
  local whole = struct.pack('<dddd', used + count, since, limit, window) .. slots .. struct.pack('<dd', last, count)
  redis.call('SET', KEYS[i], whole, 'PX', math.ceil(window / 1000))
end
"""


@dataclass(frozen=True, slots=True)
class Ask:
    """One log that a request is to be counted in."""

    key: str
    limit: int
    window_us: int


@dataclass(frozen=True, slots=True)
class Told:
    """What one log says: requests in it, and when the next may pass or, where one may now, when the oldest leaves."""

    used: int
    wait_us: int


@dataclass(frozen=True, slots=True)
class Log:
    """A log as it is at one moment, without what has left its window."""

    used: int = 0
    since_us: float = 0.0
    limit: int = 0
    window_us: int = 0
    slots: bytes = b""

    def used_since(self, since_us: float) -> int:
        """By slots that are not over by then."""
        return int(sum(count for last, count in _SLOT.iter_unpack(self.slots) if last > since_us))

    @property
    def last_us(self) -> float:
        """When its newest request came. Only of a log that has one."""
        last, _count = _SLOT.unpack_from(self.slots, len(self.slots) - _SLOT.size)
        return last


def read(text: bytes | None, now_us: float, window_us: int | None = None) -> Log:
    """The log in `text`; its window is that of the one who asks, or else of the one who wrote."""
    if text is None or len(text) <= _HEAD.size or len(text) % _SLOT.size:
        return Log()
    used, since, limit, written_us = _HEAD.unpack_from(text)
    window = int(written_us) if window_us is None else window_us
    at = _HEAD.size
    while at < len(text):
        last, count = _SLOT.unpack_from(text, at)
        if last > now_us - window:
            break
        used, at = used - count, at + _SLOT.size
    return Log(int(used), since, int(limit), window, text[at:])


def wait_us(log: Log, now_us: float, too_many: float, window_us: int) -> int:
    """Until `too_many` requests have left, the oldest one at least; the whole window where there are not so many."""
    wait: float = window_us
    for last, count in _SLOT.iter_unpack(log.slots):
        wait, too_many = last + window_us - now_us, too_many - count
        if too_many <= 0:
            break
    return int(wait)


def acquire(
    logs: MutableMapping[str, bytes], asks: Sequence[Ask], cost: int, now_us: float
) -> tuple[int, tuple[Told, ...]]:
    """Count a request in all of `logs` that are asked for, or in none. Returns which refused, from 1, or 0."""
    found = [read(logs.get(ask.key), now_us, ask.window_us) for ask in asks]
    too_many = [log.used + cost - ask.limit for log, ask in zip(found, asks, strict=True)]
    refused = next((number for number, more in enumerate(too_many, 1) if more > 0), 0)
    told: list[Told] = []
    for log, ask, more in zip(found, asks, too_many, strict=True):
        used = log.used if refused else log.used + cost
        told.append(Told(used, wait_us(log, now_us, more, ask.window_us)))
        if not refused:
            logs[ask.key] = _grown(log, ask, cost, now_us)
    return refused, tuple(told)


def _grown(log: Log, ask: Ask, cost: int, now_us: float) -> bytes:
    slots, since, last, count = log.slots, log.since_us, now_us, float(cost)
    if slots and now_us - since < ask.window_us / SLOTS:
        newest, before = _SLOT.unpack_from(slots, len(slots) - _SLOT.size)
        slots, last, count = slots[: -_SLOT.size], max(now_us, newest), before + cost
    else:
        since = now_us
    return _HEAD.pack(log.used + cost, since, ask.limit, ask.window_us) + slots + _SLOT.pack(last, count)
