"""The registry in Redis: which instances a service has, each for as long as its lease runs.

The registry of a service is the sorted set `gateway:registry:NAME`, of its second version `gateway:registry:NAME@2`. A
member is an instance's address, perhaps with a fragment: `http://10.0.0.9:5005#weight=2&by=web-1-17`. Its score is the
Unix time, by Redis' own clock, until which its lease runs; a member whose lease has run out is no instance any more.
`by` says who renews it: an address is an instance while any member with it has a lease. Every change is told to the
channel `gateway:registry` by the service's name. So who can't use this module needs one line every few seconds:

    redis-cli ZADD gateway:registry:students $(($(date +%s)+15)) http://10.0.0.9:5005

No key gets a time to live: to make room Redis may drop those that have one, and a registry is no cache. Members that
have been dead for a minute are cleared away by the next lease instead.
"""

from __future__ import annotations

import re
from urllib.parse import quote

import redis

from common.service_settings import ADDRESS, MOST_WEIGHT

REGISTRY = "gateway:registry"
"""The channel, and the first words of every key."""

LEASE_S = 15.0
KEEP_DEAD_S = 60

# is_ours(member): whether it is of the address ARGV[1] and renewed by ARGV[2]
_IS_OURS = """
local function is_ours(member)
  local address = string.gsub(string.match(member, '^[^#]*'), '/+$', '')
  return address == ARGV[1] and (string.match(member, '[#&]by=([^&]*)') or '') == ARGV[2]
end
"""

# KEYS: the registry of a service. ARGV: address, by, channel, service, member, seconds of the lease, seconds for which
# dead ones are kept. A lease that runs is renewed without a word. A new one is told, and replaces what `by` wrote with
# another weight. Answers 1 when `by` had no lease for the address, else 0.
_REGISTER = f"""{_IS_OURS}
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.3f', now - ARGV[7]))
local ran_until = redis.call('ZSCORE', KEYS[1], ARGV[5])
redis.call('ZADD', KEYS[1], string.format('%.3f', now + ARGV[6]), ARGV[5])
if ran_until and tonumber(ran_until) > now then return 0 end
local is_new = 1
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if member ~= ARGV[5] and is_ours(member) then
    if tonumber(redis.call('ZSCORE', KEYS[1], member)) > now then is_new = 0 end
    redis.call('ZREM', KEYS[1], member)
  end
end
redis.call('PUBLISH', ARGV[3], ARGV[4])
return is_new
"""

# KEYS: the registry of a service. ARGV: address, by, channel, service.
_DEREGISTER = f"""{_IS_OURS}
local removed = 0
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if is_ours(member) then removed = removed + redis.call('ZREM', KEYS[1], member) end
end
if removed > 0 then redis.call('PUBLISH', ARGV[3], ARGV[4]) end
"""


def key_of(service: str) -> str:
    """Where the instances of `service`, NAME or NAME@VERSION, stand."""
    return f"{REGISTRY}:{service}"


class Leases:
    """Writes into the registry; each method is one script. Raises `redis.RedisError` when Redis is away."""

    def __init__(self, client: redis.Redis) -> None:
        self._register = client.register_script(_REGISTER)
        self._deregister = client.register_script(_DEREGISTER)

    def register(self, service: str, url: str, *, weight: float = 1.0, by: str = "", lease_s: float = LEASE_S) -> bool:
        """`url` is an instance of `service` for `lease_s` seconds from now. Raises ValueError for what can't be one.

        Returns whether this begins a lease of `by` instead of renewing it.
        """
        if not re.fullmatch(ADDRESS, url):
            raise ValueError("must be an address like http://10.0.0.9:5005, without path, user name or password")
        if not 0 < weight <= MOST_WEIGHT:
            raise ValueError(f"weight must be above 0, and {MOST_WEIGHT} at most")
        known = {"weight": "" if weight == 1 else f"{weight:g}", "by": _quoted(by)}
        fragment = "&".join(f"{name}={value}" for name, value in known.items() if value)
        member = f"{url}#{fragment}" if fragment else url
        words = [url, _quoted(by), REGISTRY, service, member, lease_s, KEEP_DEAD_S]
        return self._register([key_of(service)], words) == 1

    def deregister(self, service: str, url: str, *, by: str = "") -> None:
        """End the lease that `by` has for `url`, whatever its weight; the leases of others go on."""
        self._deregister([key_of(service)], [url.rstrip("/"), _quoted(by), REGISTRY, service])


def _quoted(by: str) -> str:
    return quote(by, safe="")
