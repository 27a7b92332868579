"""Which request targets and `Host` fields the gateway accepts: pure rules, checked before anything else looks at them.

What is accepted is passed on byte for byte; nothing here or later decodes a path and encodes it again. Decoded segments
exist for matching routes only. Refused are all spellings by which a service could see another path than the router did:
dot segments, encoded dots, slashes and backslashes, overlong encodings, control characters. RFC 9112, 3; RFC 3986, 3.3.

Some spellings are lawful, and yet there are servers that read them as another path: `//` as one slash, `/a;b` and `/a.`
as `/a`, and `%252e`, which decodes to `%2e`, once more. They pass, unless the two readings lead to different routes:
`other_reading` gives the most forgiving one, and the edge compares. So a route that is protected is protected in all
its spellings, whatever the server behind it makes of them.

Two kinds of service take more, and say so: one with `encoded_slashes`, and a `verbatim` one, which takes whatever the
server's parser took. So a fault is noted, not raised, by `read_target`; the edge raises it once it knows whose path it
is. That path is found by the segments between raw slashes, decoded once: `/x/../shop` is below `x` and never below
`shop`, and what a strict service claims stays strict beside a lenient one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote

from common.problems import BadRequest, NotImplementedProblem, Problem
from common.remembering import remembered

# the last three alternatives are overlong: some decoders take %c0%af for a slash
_AMBIGUOUS = re.compile(r"%(?:2f|5c|2e|0[0-9a-f]|1[0-9a-f]|7f)|\\|#|[^!-~]|%c[01]|%e0%[89]|%f0%8", re.IGNORECASE)
_DOUBTFUL = re.compile(r"//|;|%(?:25|3b|2f|5c|u[0-9a-f]{4})|[^./](?:\.|%20)+(?:/|$)", re.IGNORECASE)
_WIDE_ESCAPE = re.compile(r"%u([0-9a-f]{4})", re.IGNORECASE)  # some servers know these
_DECODINGS = 4
_ENCODED_SLASH = re.compile(r"%(?:2f|5c)", re.IGNORECASE)
_REFUSED_IN_QUERY = re.compile(r"%00|#|[^!-~]")
_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
# RFC 3986, 3.2.2: a registered name, an IPv4 address or a bracketed IPv6 address, then perhaps a port
_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_TCHAR = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PLAIN = re.compile(r"(?:/[\w~@$&+,=:-]+(?:\.[\w~@$&+,=:-]+)*)+/?", re.ASCII)  # decoded as it is, and read in one way
_USUAL = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CONVENTIONAL = re.compile(r"[^a-z#]{3,20}")  # what gunicorn lets through unless it is told to take any token


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a target is refused, and by whom it is not."""

    problem: Problem
    is_slash: bool = False  # encoded slashes and nothing else: passes where the service takes these
    is_final: bool = False  # passes nowhere

    def passes(self, *, is_verbatim: bool, takes_slashes: bool) -> bool:
        return not self.is_final and (is_verbatim or (self.is_slash and takes_slashes))


@dataclass(frozen=True, slots=True)
class Target:
    """A request target in origin form, as the caller wrote it, and what routing needs of it."""

    path: str  # raw, begins with "/"; or "*"
    query: str | None  # raw, without "?"; None where there was no "?"
    segments: tuple[str, ...]  # decoded; a trailing slash leaves no empty last segment
    fault: Fault | None = None
    authority: str | None = None  # the host that an absolute form named, where the Host field named another
    is_server_wide: bool = False  # OPTIONS about the server as a whole (RFC 9112, 3.2.4)
    is_plain: bool = False  # there is but one reading

    @property
    def raw(self) -> str:
        return self.path if self.query is None else f"{self.path}?{self.query}"

    def after(self, count: int) -> str:
        """The raw path behind its first `count` segments: "" or something that begins with "/"."""
        rest = self.path
        for _ in range(count):
            cut = rest.find("/", 1)
            rest = rest[cut:] if cut > 0 else ""
        return rest


def parse_target(method: str, raw: str, host: str | None) -> Target:
    """As `read_target`, for those who take nothing unusual: raises `BadRequest`, and 501 for CONNECT and TRACE."""
    target = read_target(method, raw, host)
    if target.fault is not None:
        raise target.fault.problem
    return target


def read_target(method: str, raw: str, host: str | None) -> Target:
    """The target of a request line, its fault noted. Raises nothing."""
    if method in _USUAL and (plain := _plain(raw)) is not None:
        return plain
    faults = list(_faults_of_method(method))
    if raw == "*":
        faults.append(_fault("'OPTIONS *' is not offered here; ask about one path.", code="UNSUPPORTED_TARGET"))
        return Target("*", None, (), _together(faults), is_server_wide=True)
    authority, is_server_wide = None, False
    if not raw.startswith("/"):
        named, rest, fault = _parts(raw, host)
        is_server_wide = method == "OPTIONS" and rest == ""
        raw = rest if rest.startswith("/") else f"/{rest}"
        if fault is not None:
            faults.append(fault)
            authority = None if fault.is_final else named
    path, mark, query = raw.partition("?")
    segments = path.split("/")[1:]
    if segments[-1] == "":
        segments.pop()
    faults += _faults_of_path(path)
    if _REFUSED_IN_QUERY.search(query):
        faults.append(_fault("The query has a NUL or a character that must be percent-encoded.", code="UNSAFE_PATH"))
    decoded = tuple(unquote(segment) for segment in segments)
    return Target(path, query if mark else None, decoded, _together(faults), authority, is_server_wide)


@remembered(2048)
def _plain(raw: str) -> Target | None:
    """The target whose path is made of letters, digits and signs that mean nothing to anybody, None for others."""
    path, mark, query = raw.partition("?")
    if not _PLAIN.fullmatch(path) or _REFUSED_IN_QUERY.search(query):
        return None
    return Target(path, query if mark else None, tuple(path[1:].removesuffix("/").split("/")), is_plain=True)


def other_reading(target: Target) -> Target | None:
    """The target as the most forgiving server may read it; the same object where there is no other reading, None for
    what is no path any more."""
    if target.is_plain or not _DOUBTFUL.search(target.path):
        return target
    text, once = target.path, ""
    for _ in range(_DECODINGS):
        text, once = unquote(_WIDE_ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text)), text
        if text == once:
            break
    else:
        return None
    if any(character < " " or character == "\x7f" for character in text):
        return None
    return replace(target, segments=_forgiving_segments(text))


def _forgiving_segments(path: str) -> tuple[str, ...]:
    """Without parameters, empty segments, dots and spaces at an end; dot segments resolved."""
    segments: list[str] = []
    for raw in path.replace("\\", "/").split("/"):
        segment = raw.partition(";")[0]
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment.rstrip(". ") or segment)
    return tuple(segments)


def _faults_of_method(method: str) -> Iterator[Fault]:
    if method == "CONNECT":  # a tunnel, which no request that is passed on can be
        yield Fault(_not_offered(method), is_final=True)
    elif method == "TRACE":
        yield Fault(_not_offered(method))
    elif not _TCHAR.fullmatch(method):
        yield _fault("The request method is malformed.", code="MALFORMED_REQUEST", is_final=True)
    elif not _CONVENTIONAL.fullmatch(method):  # as for all that is malformed, the connection ends with the answer
        close = (("Connection", "close"),)
        yield Fault(BadRequest("The request method is malformed.", code="MALFORMED_REQUEST", headers=close))


def _faults_of_path(path: str) -> Iterator[Fault]:
    if _AMBIGUOUS.search(path):
        as_slashes = _ENCODED_SLASH.sub("/", path)  # as a service may read them: "..%2fx" climbs
        yield Fault(
            BadRequest(
                "The path has a character or an escape that is refused: \\ # %2e %2f %5c, a control character or an "
                "overlong encoding.",
                code="UNSAFE_PATH",
            ),
            is_slash=not _AMBIGUOUS.search(as_slashes) and not _has_dot_segment(as_slashes),
        )
    elif _has_dot_segment(path):
        yield _fault("The path has a dot segment; write the path without it.", code="UNSAFE_PATH")


def _has_dot_segment(path: str) -> bool:
    # "..;x" is a dot segment to servers that know path parameters
    return any(segment.partition(";")[0] in (".", "..") for segment in path.split("/"))


def _parts(raw: str, host: str | None) -> tuple[str, str, Fault | None]:
    """Authority and rest of an absolute form, which names the host twice; both must agree (RFC 9112, 3.2.2)."""
    match = _ABSOLUTE.fullmatch(raw)
    if match is None:
        return "", "", _fault("The request target must begin with a slash.", code="UNSUPPORTED_TARGET", is_final=True)
    authority, rest = match.groups()
    if host is not None and authority.lower() == host.lower():
        return authority, rest, None
    text = "The request target and the Host field name different hosts."
    return authority, rest, _fault(text, code="MALFORMED_HOST", is_final=not is_host(authority))


def _fault(detail: str, *, code: str, is_final: bool = False) -> Fault:
    return Fault(BadRequest(detail, code=code), is_final=is_final)


def _not_offered(method: str) -> Problem:
    return NotImplementedProblem(f"{method} is not offered here.", code="METHOD_NOT_IMPLEMENTED")


def _together(faults: Sequence[Fault]) -> Fault | None:
    """The first is the one that is told; it passes only where all of them do."""
    if not faults:
        return None
    return Fault(faults[0].problem, all(fault.is_slash for fault in faults), any(fault.is_final for fault in faults))


def check_host(host: str | None, protocol: str) -> None:
    """Raises `BadRequest` unless there is exactly one well-formed `Host` (RFC 9112, 3.2). HTTP/1.0 may leave it out.

    A repeated field arrives here joined by a comma, which no host name contains.
    """
    if host is None and protocol == "HTTP/1.0":
        return
    if not host or not is_host(host):
        raise BadRequest("The request needs one well-formed Host field.", code="MALFORMED_HOST")


@remembered(1024)
def is_host(text: str) -> bool:
    """Whether `text` is one well-formed host, with or without a port."""
    return _HOST.fullmatch(text) is not None
