"""What a shared cache may keep, for how long, and for whom: pure rules, RFC 9111's sections beside them.

The answers that are kept are those of GET with status 200 (and the permanent ones of `KEPT_STATUSES`) that say how long
they are fresh. Nothing is guessed of those that say nothing, unless the operator has (4.2.2). A stale answer is not
used, the service is asked again; only where that fails, and the service has a stale fallback, it may be (`stale_s`).
RFC 9875 groups answers, so that a change to one thing can empty the cache of all that depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

KEPT_STATUSES = frozenset({200, 203, 301, 308, 404, 410})
UNSAFE_METHODS_ARE_NOT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
LONGEST_S = 86_400
STALE_S = 3600
FRESHENED_BY_US = frozenset({"age", "cache-status", "via", "x-request-id", "set-cookie"})

_GROUP = re.compile(r'\s*"((?:[^"\\]|\\.)+)"\s*(?:;|$)')  # a string of RFC 9651, 3.3.3, and perhaps parameters


def directives(value: str | None) -> dict[str, str | None]:
    """`Cache-Control` as a mapping (5.2): names in lower case, arguments without their quotes."""
    found: dict[str, str | None] = {}
    for part in _split(value or ""):
        name, mark, argument = part.partition("=")
        if name.strip():
            found.setdefault(name.strip().lower(), argument.strip().strip('"') if mark else None)
    return found


def _split(value: str) -> list[str]:
    """At commas outside of quoted strings (RFC 9110, 5.6.4); at all of them where a quote has no end."""
    if '"' not in value:
        return value.split(",")
    parts, quoted, escaped, start = [], False, False, 0
    for position, character in enumerate(value):
        if escaped:
            escaped = False
        elif character == '"':
            quoted = not quoted
        elif character == "\\":
            escaped = quoted
        elif character == "," and not quoted:
            parts.append(value[start:position])
            start = position + 1
    return value.split(",") if quoted else [*parts, value[start:]]


def seconds(value: str | None) -> int | None:
    """A delta-seconds (1.2.2), at most `LONGEST_S`; None for anything else."""
    if not value or not (value.isascii() and value.isdigit()):
        return None
    digits = value.lstrip("0") or "0"
    return LONGEST_S if len(digits) > 9 else min(int(digits), LONGEST_S)  # int() refuses thousands of digits


@dataclass(frozen=True, slots=True)
class Wish:
    """What the request says about the cache (5.2.1)."""

    may_use: bool  # a kept answer will do
    may_keep: bool
    only_if_cached: bool
    max_age_s: int | None
    min_fresh_s: int


_ANYTHING = Wish(may_use=True, may_keep=True, only_if_cached=False, max_age_s=None, min_fresh_s=0)


def wish(method: str, headers: Mapping[str, str]) -> Wish:
    """`headers` by lower-case names. A request with a body or a Range goes past the cache."""
    if method == "GET" and not (
        "cache-control" in headers
        or "pragma" in headers
        or "range" in headers
        or "content-length" in headers
        or "transfer-encoding" in headers
    ):
        return _ANYTHING
    said = directives(headers.get("cache-control"))
    if "cache-control" not in headers and "no-cache" in headers.get("pragma", "").lower():  # 5.4
        said["no-cache"] = None
    plain = method in ("GET", "HEAD") and "range" not in headers and headers.get("content-length", "0") == "0"
    plain = plain and "transfer-encoding" not in headers
    return Wish(
        may_use=plain and "no-cache" not in said and "no-store" not in said,
        may_keep=plain and method == "GET" and "no-store" not in said,
        only_if_cached="only-if-cached" in said,
        max_age_s=seconds(said.get("max-age")),
        min_fresh_s=seconds(said.get("min-fresh")) or 0,
    )


def lifetime_s(status: int, headers: Mapping[str, str], *, authorized: bool, default_s: int = 0) -> int:
    """For how many seconds an answer may be kept, 0 for not at all (3, 3.5, 4.2.1). `headers` by lower-case names.

    `default_s` is for answers that say nothing about it (4.2.2).
    """
    said = directives(headers.get("cache-control"))
    if status not in KEPT_STATUSES or "set-cookie" in headers or "*" in vary_names(headers):
        return 0
    if not said.keys().isdisjoint({"no-store", "private", "no-cache"}):
        return 0
    if authorized and said.keys().isdisjoint({"public", "s-maxage", "must-revalidate"}):  # 3.5
        return 0
    if "s-maxage" in said:
        return seconds(said["s-maxage"]) or 0
    if "max-age" in said:
        return seconds(said["max-age"]) or 0
    return _until_expires(headers) if "expires" in headers else default_s


def stale_s(headers: Mapping[str, str]) -> int:
    """For how many seconds after its lifetime a kept answer may be used while the service can't be asked (4.2.4).

    An hour, or less if `stale-if-error` says so (RFC 5861, 4). Not for those that must be validated first: `s-maxage`
    means that too (5.2.2.10), unless `stale-if-error` stands beside it.
    """
    said = directives(headers.get("cache-control"))
    if not said.keys().isdisjoint({"must-revalidate", "proxy-revalidate", "no-cache"}):
        return 0
    if "stale-if-error" in said:
        return min(seconds(said["stale-if-error"]) or 0, STALE_S)
    return 0 if "s-maxage" in said else STALE_S


def _until_expires(headers: Mapping[str, str]) -> int:
    """`Expires` minus `Date`, by default now (RFC 9110, 6.6.1); a malformed one means "already" (5.3)."""
    try:
        date = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        expires = parsedate_to_datetime(headers["expires"])
        return max(0, min(int((expires - date).total_seconds()), LONGEST_S))
    except (ValueError, TypeError):
        return 0


def vary_names(headers: Mapping[str, str]) -> tuple[str, ...]:
    """The request fields that chose this answer (4.1), sorted."""
    return tuple(sorted({name.strip().lower() for name in headers.get("vary", "").split(",") if name.strip()}))


def variant_key(names: tuple[str, ...], request: Mapping[str, str]) -> str:
    """Tells apart the variants of one address: the varying fields as the request has them, white space folded."""
    return "\n".join(f"{name}:{','.join(part.strip() for part in request.get(name, '').split(','))}" for name in names)


def groups(value: str | None) -> tuple[str, ...]:
    """The members of `Cache-Groups` or `Cache-Group-Invalidation` (RFC 9875, 2): a list of quoted strings."""
    names = (_GROUP.match(part) for part in _split(value or ""))
    return tuple(re.sub(r"\\(.)", r"\1", name[1]) for name in names if name)[:32]


def matches(if_none_match: str | None, etag: str | None) -> bool:
    """Whether `If-None-Match` names this entity tag, compared weakly (RFC 9110, 13.1.2)."""
    if if_none_match is None or etag is None:
        return False
    wanted = {part.strip().removeprefix("W/") for part in _split(if_none_match)}
    return "*" in wanted or etag.removeprefix("W/") in wanted


def invalidates(method: str, status: int) -> bool:
    """A request that may have changed something, and was answered without an error (4.4)."""
    return method not in UNSAFE_METHODS_ARE_NOT and 200 <= status < 400
