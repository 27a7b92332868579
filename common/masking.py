"""What a log may not hold is taken out here: addresses are cut short, e-mail addresses and credentials covered.

Nothing of ours logs bodies, header fields or query strings in the first place. This is for what gets into a line by
another way: a path in which somebody wrote a token, a message of a library, the last line of a stack trace. It covers
what can be recognised by its form; a password in a path can't be.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from structlog.typing import EventDict, WrappedLogger

COVER = "[...]"
ADDRESSES = frozenset({"caller", "address", "peer", "remote_addr"})
"""Fields that hold the address of a caller."""
_OURS = frozenset({"time", "level", "service", "request_id", "method", "route", "user", "to", "kid", "sha256"})
"""Fields whose values nobody but us writes."""
LONG = 24

_EMAIL = re.compile(r"[^\s@\"'<>(),;:=/&?]{1,64}(?:@|%40)[^\s@\"'<>(),;:=/&?]{1,255}")
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}")
_NAMED = re.compile(
    r"\b(bearer|apikey|basic)(?:\s|%20|\+)+[^\s\"',;]+"
    r"|(password|passwd|token|secret|api[_-]?key|otp|authorization|cookie)([\"']?\s*[=:]\s*)"
    r"(?:(?:bearer|apikey|basic)\s+)?(?:\"[^\"]*\"|'[^']*'|[^\s\"',;&}\]]+)",
    re.IGNORECASE,
)
_INPUT = re.compile(r"input_value=.*?(?=, input_type=|$)", re.DOTALL)  # pydantic shows what it does not accept
_RANDOM = re.compile(  # so long and so mixed that nobody thought of it, and no UUID
    rf"(?<![\w-])(?:(?=[\w-]*[0-9])(?=[\w-]*[A-Z])(?=[\w-]*[a-z])[\w-]{{{LONG},}}|[0-9a-f]{{32,}}(?![\w-]))", re.ASCII
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@lru_cache(maxsize=4096)
def truncated_address(address: str) -> str:
    """The network that `address` is in: /24 of IPv4, /48 of IPv6. "" for what is no address."""
    try:
        parsed = ipaddress.ip_address(address.strip("[]").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    length = 24 if parsed.version == 4 else 48
    return str(ipaddress.ip_network((parsed, length), strict=False).network_address)


def masked(text: str) -> str:
    """`text` with what looks like an e-mail address or a credential covered. Most texts are names of ours or short
    paths, and come again and again."""
    if len(text) < LONG:
        return text if text.isidentifier() else _masked_short(text)
    return _masked(text)


def _masked(text: str) -> str:
    if "input_value" in text:
        text = _INPUT.sub(f"input_value={COVER}", text)
    if "=" in text or ":" in text or " " in text or "+" in text or "%20" in text:
        text = _NAMED.sub(_covered, text)
    if "eyJ" in text:
        text = _JWT.sub(COVER, text)
    if "@" in text or "%40" in text:
        text = _EMAIL.sub(COVER, text)
    if len(text) >= LONG:
        text = _RANDOM.sub(lambda found: found[0] if _UUID.fullmatch(found[0]) else COVER, text)
    return text


_masked_short = lru_cache(maxsize=1024)(_masked)


def mask(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: the same for all fields of a line. It stands behind the one that writes stack traces."""
    for name, value in event.items():
        if name in ADDRESSES:
            event[name] = truncated_address(str(value))
        elif name not in _OURS and isinstance(value, str):
            event[name] = masked(value)
    return event


def _covered(found: re.Match[str]) -> str:
    """With the name left, so that one sees what it was."""
    return f"{found[1]} {COVER}" if found[1] else f"{found[2]}{found[3]}{COVER}"
