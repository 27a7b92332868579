"""`@cached`: answers that say they may be kept are kept, shared by all workers, by RFC 9111.

Says what happened in `Cache-Status` (RFC 9211) and, for a kept answer, in `Age`. An unsafe request that succeeds
empties its own address, and the groups that the service names in `Cache-Group-Invalidation` (RFC 9875). That field is
for us and does not go on to the caller.
"""

from __future__ import annotations

import time
from functools import wraps

from common.problems import GatewayTimeout
from gateway.cache import rules
from gateway.cache.store import Entry, Found
from gateway.exchange import Answer, Exchange, Handler

INVALIDATION = "cache-group-invalidation"


def cached(handler: Handler) -> Handler:
    @wraps(handler)
    def through_cache(exchange: Exchange) -> Answer:
        if exchange.method not in ("GET", "HEAD"):
            return _invalidate(exchange, handler(exchange))
        wish = rules.wish(exchange.method, exchange.headers)
        address, variant = _address(exchange), ""
        found = exchange.runtime.cache.look_up(address)
        if found.vary:
            variant = rules.variant_key(found.vary, exchange.headers)
            found = exchange.runtime.cache.look_up(address, variant)
        if found.entry and _is_good(found.entry, wish):
            return _kept(exchange, found.entry)
        if wish.only_if_cached:
            raise GatewayTimeout("Nothing is kept for this address, and only that was asked for.", code="NOT_CACHED")
        reason = "bypass" if not (wish.may_use or wish.may_keep) else _why_not(found.entry)
        answer = handler(exchange)
        stored = wish.may_keep and _keep(exchange, address, answer, found)
        _say(exchange, answer, f"gateway; fwd={reason}" + ("; stored" if stored else ""), reason)
        return answer

    return through_cache


def _address(exchange: Exchange) -> str:
    query = "" if exchange.target.query is None else f"?{exchange.target.query}"
    return f"{exchange.backend} {exchange.target.after(exchange.prefix_segments)}{query}"


def _is_good(entry: Entry, wish: rules.Wish) -> bool:
    young_enough = wish.max_age_s is None or entry.age_s <= wish.max_age_s
    return wish.may_use and young_enough and entry.left_s > wish.min_fresh_s


def _why_not(entry: Entry | None) -> str:
    """RFC 9211, 2.2: `request` means that the entry is fresh, but not good enough for what the caller asked for."""
    if entry is None:
        return "miss"
    return "request" if entry.left_s > 0 else "stale"


def _kept(exchange: Exchange, entry: Entry) -> Answer:
    headers = [*entry.headers, ("Age", str(entry.age_s))]
    answer = Answer(entry.status, headers, (entry.body,))
    if rules.matches(exchange.headers.get("if-none-match"), answer.header("etag")):
        without_body = [
            (name, value) for name, value in headers if name.lower() not in ("content-length", "content-type")
        ]
        answer = Answer(304, without_body, ())
    elif exchange.method == "HEAD":
        answer = Answer(entry.status, headers, ())
    _say(exchange, answer, f"gateway; hit; ttl={entry.left_s}", "hit")
    return answer


def _keep(exchange: Exchange, address: str, answer: Answer, found: Found) -> bool:
    """Whether the answer was kept. Only a body that is here already can be: one tuple of bytes, not a stream."""
    headers: dict[str, str] = {}
    for name, value in answer.headers:  # repeated fields are one list: a "no-store" may stand in the second line
        headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
    lifetime_s = rules.lifetime_s(answer.status, headers, authorized="authorization" in exchange.headers)
    if found.clock is None or not lifetime_s or not isinstance(answer.body, tuple):
        return False
    vary = rules.vary_names(headers)
    entry = Entry(
        answer.status,
        [(name, value) for name, value in answer.headers if name.lower() not in rules.FRESHENED_BY_US],
        b"".join(answer.body),
        stored_at=time.time() - (rules.seconds(headers.get("age")) or 0),
        lifetime_s=lifetime_s,
    )
    return exchange.runtime.cache.keep(
        address,
        rules.variant_key(vary, exchange.headers),
        entry,
        vary=vary,
        groups=rules.groups(headers.get("cache-groups")),
        clock=found.clock,
    )


def _invalidate(exchange: Exchange, answer: Answer) -> Answer:
    groups = rules.groups(", ".join(value for name, value in answer.headers if name.lower() == INVALIDATION))
    if rules.invalidates(exchange.method, answer.status):
        exchange.runtime.cache.invalidate([_address(exchange)], groups)
    answer.headers = [(name, value) for name, value in answer.headers if name.lower() != INVALIDATION]
    return answer


def _say(exchange: Exchange, answer: Answer, status: str, note: str) -> None:
    answer.headers.append(("Cache-Status", status))
    exchange.notes["cache"] = note
    exchange.runtime.metrics.cached(exchange.service.name, note)
