"""`@cached`: answers that say they may be kept are kept, shared by all workers, by RFC 9111.

Says what happened in `Cache-Status` (RFC 9211) and, for a kept answer, in `Age`. An unsafe request that succeeds
empties its own address, and the groups that the service names in `Cache-Group-Invalidation` (RFC 9875). That field is
for us and does not go on to the caller.

Where the service has a stale fallback, answers are kept beyond their time, for the time in which it can't be asked
(RFC 9111, 4.2.4). They are offered to `forward`, and looked up again when it takes the offer: what was invalidated
meanwhile is not served. They count as hits with a negative `ttl` (RFC 9211, 2.1).
"""

from __future__ import annotations

import time
from functools import partial, wraps

from common.problems import GatewayTimeout
from gateway.cache import rules
from gateway.cache.store import Entry, Found
from gateway.exchange import Answer, Exchange, Handler, HeaderList
from gateway.policies.layers import Answers, layer

INVALIDATION = "cache-group-invalidation"


def cached(handler: Handler) -> Handler:
    @layer("cached", _judge)
    @wraps(handler)
    def through_cache(exchange: Exchange) -> Answer:
        if exchange.method not in ("GET", "HEAD"):
            return _invalidate(exchange, handler(exchange))
        wish = rules.wish(exchange.method, exchange.headers)
        address, variant = _address(exchange), ""
        found = exchange.runtime.cache.look_up(address)
        if found.vary:
            variant = rules.variant_key(found.vary, exchange.varying)
            found = exchange.runtime.cache.look_up(address, variant)
        if exchange.stages:
            exchange.stages.ended("cache")
        if found.entry and _is_good(found.entry, wish):
            return _kept(exchange, found.entry)
        if wish.only_if_cached:
            raise _nothing_kept()
        reason = "bypass" if not (wish.may_use or wish.may_keep) else _why_not(found.entry)
        if _has_stale_fallback(exchange):
            exchange.stale_answer = partial(_stale, exchange, wish)
        answer = handler(exchange)
        if answer.stands_in_for:
            return answer
        stored = wish.may_keep and _keep(exchange, address, answer, found)
        _say(exchange, answer, f"gateway; fwd={reason}" + ("; stored" if stored else ""), reason)
        return answer

    return through_cache


def _judge(exchange: Exchange, may_look: bool) -> str:
    if exchange.method not in ("GET", "HEAD"):
        return f"a good answer to {exchange.method} empties what is kept"
    wish = rules.wish(exchange.method, exchange.headers)
    if not may_look:
        return "a kept answer may be used" if wish.may_use else "goes past the cache"
    found = exchange.runtime.cache.look_up(_address(exchange))
    if found.vary:
        found = exchange.runtime.cache.look_up(_address(exchange), rules.variant_key(found.vary, exchange.varying))
    if found.entry and _is_good(found.entry, wish):
        raise Answers(f"a kept answer, {found.entry.age_s} s old", found.entry.status)
    if wish.only_if_cached:
        raise _nothing_kept()
    return "nothing kept will do: " + ("bypass" if not wish.may_use else _why_not(found.entry))


def _nothing_kept() -> GatewayTimeout:
    return GatewayTimeout("Nothing is kept for this address, and only that was asked for.", code="NOT_CACHED")


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


def _has_stale_fallback(exchange: Exchange) -> bool:
    return exchange.service.fallback is not None and exchange.service.fallback.is_stale


def _stale(exchange: Exchange, wish: rules.Wish, code: str) -> Answer | None:
    """What is kept, fresh or not, for a request that failed with the problem `code`."""
    cache, address = exchange.runtime.cache, _address(exchange)
    found = cache.look_up(address)
    if found.vary:
        found = cache.look_up(address, rules.variant_key(found.vary, exchange.varying))
    entry = found.entry
    if entry is None or not wish.may_use or entry.left_s + rules.stale_s(_joined(entry.headers)) <= 0:
        return None
    if not _is_good(entry, wish) and (wish.max_age_s is not None or wish.min_fresh_s):
        return None  # it wants a fresh one (RFC 9111, 5.2.1)
    return _kept(exchange, entry, f"; detail={code}", "fallback")


def _kept(exchange: Exchange, entry: Entry, detail: str = "", note: str = "hit") -> Answer:
    age_s, wanted = entry.age_s, exchange.headers.get("if-none-match")
    headers = [*entry.headers, ("Age", str(age_s))]
    answer = Answer(entry.status, headers, (entry.body,))
    if wanted is not None and rules.matches(wanted, answer.header("etag")):
        without_body = [
            (name, value) for name, value in headers if name.lower() not in ("content-length", "content-type")
        ]
        answer = Answer(304, without_body, ())
    elif exchange.method == "HEAD":
        answer = Answer(entry.status, headers, ())
    _say(exchange, answer, f"gateway; hit; ttl={entry.lifetime_s - age_s}{detail}", note)
    return answer


def _keep(exchange: Exchange, address: str, answer: Answer, found: Found) -> bool:
    """Whether the answer was kept. Only a body that is here already can be: one tuple of bytes, not a stream."""
    headers = _joined(answer.headers)
    lifetime_s = rules.lifetime_s(
        answer.status,
        headers,
        authorized="authorization" in exchange.varying,
        default_s=exchange.runtime.settings.cache_default_ttl,
    )
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
        rules.variant_key(vary, exchange.varying),
        entry,
        vary=vary,
        groups=rules.groups(headers.get("cache-groups")),
        clock=found.clock,
        stale_s=rules.stale_s(headers) if _has_stale_fallback(exchange) else 0,
    )


def _joined(fields: HeaderList) -> dict[str, str]:
    """By lower-case name. Repeated fields are one list: a "no-store" may stand in the second line."""
    headers: dict[str, str] = {}
    for name, value in fields:
        headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
    return headers


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
