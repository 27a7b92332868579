r"""Which requests does a route take, besides its methods and its path? Conditions on host, header fields and query.

    hosts    one of the patterns fits: `shop.example.org`, or `*.example.org` for one or more labels in front, not for
             `example.org` itself. Case and a dot at the end don't count, a port only if the pattern has one.
    headers  all of them hold. A field that was sent several times is one text, joined by commas (RFC 9110, 5.3).
    query    all of them hold. A parameter that stands there several times needs one value that fits.

What is wanted of a field or a parameter: `*` any value, `!` that it is absent, `~REGEX` a value that the expression
matches as a whole, everything else this very text (`~\*` is a star). Of several routes that fit the one with the more
telling host goes first (`host_rank`), then the one with more conditions.

Callers write the texts that expressions are tried on, and Python tries one way of reading after the other while the
worker does nothing else. So texts above 1024 characters never fit, and an expression with which such a text might be
read in more than about eight million ways is refused: `(a+)+`, or three times `.*`. Ways multiply along the expression
and add up over `|`; a repeat of up to n passes has n + 1, times the ways of one pass to the power of n. This keeps
accidents away, not the one who writes the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal
from urllib.parse import unquote_plus

LONGEST_TEXT = 1024
MOST_WAYS = 1 << 23
MOST_QUERY_FIELDS = 100

_SECRET = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "access_token"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PIECE = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\??|(?:[*+?]|\{(?=[\d,])\d*,?\d*\})[?+]?|.",
    re.DOTALL,
)
_HOST = re.compile(r"(\[[^\[\]]*\]|[^:]*)(?::([0-9]*))?")
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAMES = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class Condition:
    """What is wanted of one header field or one query parameter. Raises `ValueError` for what can't be meant."""

    kind: Literal["header", "query"]
    name: str  # of a header in any case
    expected: str  # `*`, `!`, `~REGEX` or a text
    _pattern: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.name or (self.kind == "header" and not _TOKEN.fullmatch(self.name)):
            raise ValueError("must name a header field or a query parameter, like X-Beta or beta")
        if self.expected.startswith("!") and self.expected != "!":
            raise ValueError("must be ! alone for what is to be absent; a text that begins with ! is written ~!text")
        is_pattern = self.expected.startswith("~")
        object.__setattr__(self, "_pattern", _compile(self.expected[1:]) if is_pattern else None)

    def holds(self, values: Sequence[str]) -> bool:
        """Whether a request that has these values under the name fulfils it; none when the name is absent."""
        return not values if self.expected == "!" else any(self._takes(value) for value in values)

    def _takes(self, value: str) -> bool:
        if self._pattern is not None:
            return len(value) <= LONGEST_TEXT and self._pattern.fullmatch(value) is not None
        return self.expected in ("*", value)

    def why_not(self, values: Sequence[str]) -> str:
        """`header X-Beta is 'no', wanted '1'`, or "" when it holds. Never shows a credential, sent or wanted."""
        if self.holds(values):
            return ""
        is_secret = self.name.lower() in _SECRET
        found = "not shown" if is_secret else " and ".join(f"{value[:80]!a}" for value in values[:3])
        wanted = {"*": "any value", "!": "none"}.get(self.expected)
        if wanted is None and is_secret:
            wanted = "a certain value"
        elif wanted is None:
            wanted = f"{self.expected!a}" if self._pattern is None else f"a match of {self._pattern.pattern!a}"
        name = self.name.title() if self.kind == "header" else self.name
        return f"{self.kind} {name} is {found if values else 'absent'}, wanted {wanted}"


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError) as error:
        raise ValueError(f"must have a regular expression behind ~: {error}") from None
    if _ways(pattern) > MOST_WAYS:
        raise ValueError(
            "might take too long: repeat nothing that has a repeat or | in it, and use at most two of * and +, and for "
            "the rest bounds like {1,3}"
        )
    return compiled


def _ways(pattern: str) -> int:
    """How many ways, about, there are to read a text with a valid `pattern`; no more than `MOST_WAYS` + 1."""
    groups = [(0, 1)]  # of each open one: ways of the alternatives before the last `|`, and of what is behind it
    last = 1  # the ways of the latest piece, which a repeat may follow
    for piece in _PIECE.findall(pattern):
        before, current = groups[-1]
        if piece == ")":
            groups.pop()
            last = before + current * last
        elif piece == "|":
            groups[-1], last = (before + current * last, 1), 1
        elif piece[0] in "*+?" or (piece[0] == "{" and len(piece) > 1):
            passes = _most_passes(piece)
            last = (passes + 1) * last**passes
        else:
            groups[-1], last = (before, current * last), 1
            if piece[0] == "(":
                groups.append((0, 1))
        last = min(last, MOST_WAYS + 1)
    before, current = groups[-1]
    return min(before + current * last, MOST_WAYS + 1)


def _most_passes(repeat: str) -> int:
    """Of `*`, `+`, `?`, `{2}`, `{,3}` or `{1,3}`, and no more than a text has characters."""
    if repeat[0] != "{":
        return 1 if repeat[0] == "?" else LONGEST_TEXT
    least, comma, most = repeat[1 : repeat.index("}")].partition(",")
    return min(int(most or LONGEST_TEXT) if comma else int(least), LONGEST_TEXT)


@dataclass(frozen=True, slots=True)
class Conditions:
    """Those of one route; one without any takes every request. `len` tells how many there are, all hosts being one."""

    hosts: tuple[str, ...] = ()
    headers: tuple[Condition, ...] = ()
    query: tuple[Condition, ...] = ()

    def __len__(self) -> int:
        return bool(self.hosts) + len(self.headers) + len(self.query)

    def hold(self, host: str, headers: Mapping[str, str], query: str | None) -> bool:
        """`headers` by lower-case name, `query` raw."""
        return self._takes_host(host) and all(
            condition.holds(values) for condition, values in self._asked(headers, query)
        )

    def why_not(self, host: str, headers: Mapping[str, str], query: str | None) -> str:
        """The first that does not hold and what was found instead, "" when all hold."""
        if not self._takes_host(host):
            return f"host is {host[:80]!a}, wanted {' or '.join(self.hosts)}"
        reasons = (condition.why_not(values) for condition, values in self._asked(headers, query))
        return next(filter(None, reasons), "")

    def _takes_host(self, host: str) -> bool:
        return not self.hosts or any(host_matches(pattern, host) for pattern in self.hosts)

    def _asked(self, headers: Mapping[str, str], query: str | None) -> Iterator[tuple[Condition, Sequence[str]]]:
        for condition in self.headers:
            value = headers.get(condition.name.lower())
            yield condition, () if value is None else (value,)
        if self.query:
            values = query_values(query)
            for condition in self.query:
                yield condition, values.get(condition.name, ())


def query_values(query: str | None) -> dict[str, list[str]]:
    """The values of each parameter, decoded once, `+` as space; only the first `MOST_QUERY_FIELDS` are looked at."""
    values: dict[str, list[str]] = {}
    for text in (query or "").split("&", MOST_QUERY_FIELDS)[:MOST_QUERY_FIELDS]:
        if text:
            name, _, value = text.partition("=")
            values.setdefault(unquote_plus(name), []).append(unquote_plus(value))
    return values


def check_host_pattern(text: str) -> str:
    """`text` in lower case, without a dot at the end. Raises `ValueError` for what is no pattern."""
    name, port = _split(text)
    if not _is_ipv6(name) and (not _NAMES.fullmatch(name) or len(name) > 253):
        raise ValueError("must be a host like shop.example.org, *.example.org or [2001:db8::1], perhaps with :port")
    if port and not 0 < int(port) < 65536:
        raise ValueError("must have a port from 1 to 65535")
    return f"{name}:{port}" if port else name


def host_matches(pattern: str, host: str) -> bool:
    """Whether the `Host` that a caller sent fits `pattern`; one without a port fits no pattern with one."""
    wanted, wanted_port = _split(pattern)
    name, port = _split(host)
    if wanted_port not in ("", port):
        return False
    if wanted.startswith("*."):
        return name.endswith(wanted[1:]) and all(name[: 1 - len(wanted)].split("."))
    return name == wanted


def host_rank(pattern: str | None) -> tuple[int, int, int]:
    """The greater, the more telling: a host above a wildcard, a longer one above a shorter one, None below all.

    Of two that are equal so far the one with a port.
    """
    if pattern is None:
        return 0, 0, 0
    name, port = _split(pattern)
    return 1 if name.startswith("*.") else 2, name.count("."), bool(port)


def _split(host: str) -> tuple[str, str]:
    """Name and port ("" for none) in one spelling; what has not the form of a host is a name as a whole."""
    match = _HOST.fullmatch(host.lower())
    if match is None:
        return host.lower(), ""
    name, port = match[1].removesuffix("."), match[2] or ""
    return f"[{ip_address(name[1:-1]).compressed}]" if _is_ipv6(name) else name, port


def _is_ipv6(name: str) -> bool:
    try:
        return name[:1] + name[-1:] == "[]" and ip_address(name[1:-1]).version == 6
    except ValueError:
        return False
