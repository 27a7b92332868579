"""Which web pages may read our answers in a browser: pure rules (the Fetch standard, "CORS protocol").

    CORS_ORIGINS         a page at one of these origins may; `https://*.example.com` is one label below, no more;
                         `*` is every page, and then no page may use what the browser keeps for us (cookies)
    CORS_CREDENTIALS     pages may send our cookies along

An origin is compared as the browser writes it, byte for byte. `null`, which any sandboxed frame can send, is none.
What is not listed is not reflected: such a page gets no field that it could be admitted by.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from common.security_headers import HeaderList

# scheme://host[:port] as browsers write it (RFC 6454, 6.2): lower case, punycode, IPv6 in brackets, no path
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_ORIGIN = re.compile(rf"([a-z][a-z0-9+.-]*)://((?:{_LABEL}\.)*{_LABEL}|\[[0-9a-f:.]+\])(?::([1-9][0-9]{{0,4}}))?")
_PATTERN = re.compile(rf"([a-z][a-z0-9+.-]*)://\*((?:\.{_LABEL}){{2,}})(?::([1-9][0-9]{{0,4}}))?")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
ANY = "*"
PREFIX = "access-control-"


def parse_list(value: object) -> tuple[str, ...]:
    """`a, b` or `["a", "b"]`. Raises `ValueError`."""
    if not isinstance(value, str):
        return tuple(value) if isinstance(value, tuple | list) else ()
    if not value.lstrip().startswith("["):
        return tuple(filter(None, (part.strip() for part in value.split(","))))
    try:
        listed: object = json.loads(value)
    except ValueError:
        listed = None
    if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
        raise ValueError('must be like https://a.example, https://b.example or ["https://a.example"]')
    return tuple(str(entry).strip() for entry in listed)


def check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Raises `ValueError` naming the first that no browser would send, or that says more than it seems to."""
    for origin in origins:
        match = _ORIGIN.fullmatch(origin) or _PATTERN.fullmatch(origin)
        if origin == ANY:
            if len(origins) > 1:
                raise ValueError("* is every origin; leave out the others, or the *")
        elif match is None or _DEFAULT_PORTS.get(match[1], "") == match[3]:
            raise ValueError(
                f"{origin!r} is no origin as browsers write it, like https://app.example.com or "
                "https://*.example.com: lower case, punycode, no path, no default port, one * as a whole label "
                "below at least two"
            )
    return origins


def check_tokens(names: tuple[str, ...]) -> tuple[str, ...]:
    """Raises `ValueError` for what is no name of a method or header field; `*` is none: it means less than it says."""
    for name in names:
        if name == ANY or not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is no name; list them one by one")
    return names


@dataclass(frozen=True, slots=True)
class Cors:
    """The rules that are in force. Without `origins` there are none, and what services say about it passes."""

    origins: tuple[str, ...] = ()
    takes_credentials: bool = False
    methods: tuple[str, ...] = ()
    request_headers: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    max_age_s: int = 0

    def admits(self, origin: str) -> bool:
        """Whether a page at `origin`, the value of the field, may read answers."""
        if ANY in self.origins:
            return True
        if origin == "null" or "*" in origin:
            return False
        if origin in self.origins:
            return True
        return any(_is_below(origin, pattern) for pattern in self.origins if "*" in pattern)

    def answer_fields(self, origin: str | None) -> HeaderList:
        """What any answer says to a request with this Origin, None for one without."""
        if ANY in self.origins:
            fields = [("Access-Control-Allow-Origin", ANY)]
        elif origin is None or not self.admits(origin):
            return [("Vary", "Origin")]  # for caches: what others are told is not for everybody
        else:
            fields = [("Vary", "Origin"), ("Access-Control-Allow-Origin", origin)]
            if self.takes_credentials:
                fields.append(("Access-Control-Allow-Credentials", "true"))
        if self.exposed:
            fields.append(("Access-Control-Expose-Headers", ", ".join(self.exposed)))
        return fields

    def preflight_fields(self) -> HeaderList:
        """What the answer to an admitted preflight says besides. Private networks are not granted."""
        return [
            ("Access-Control-Allow-Methods", ", ".join(self.methods)),
            ("Access-Control-Allow-Headers", ", ".join(self.request_headers)),
            ("Access-Control-Max-Age", str(self.max_age_s)),
        ]


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser asks, before a page's request, if it may send that. `headers` by lower-case name."""
    return method == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


def without_cors(headers: Iterable[tuple[str, str]]) -> HeaderList:
    """Without what a service says about it: two answers to one question would be none."""
    return [(name, value) for name, value in headers if not name.lower().startswith(PREFIX)]


def _is_below(origin: str, pattern: str) -> bool:
    before, _, after = pattern.partition("*")
    middle = origin[len(before) : len(origin) - len(after)]
    is_around = origin.startswith(before) and origin.endswith(after) and len(origin) > len(before) + len(after)
    return is_around and re.fullmatch(_LABEL, middle) is not None
