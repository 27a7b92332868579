"""Which request targets and `Host` fields the gateway accepts: pure rules, checked before anything else looks at them.

What is accepted is passed on byte for byte; nothing here or later decodes a path and encodes it again. Decoded segments
exist for matching routes only. Refused are all spellings by which a service could see another path than the router did:
dot segments, encoded dots, slashes and backslashes, control characters. RFC 9112, 3; RFC 3986, 3.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from common.problems import BadRequest, NotImplementedProblem

_AMBIGUOUS = re.compile(r"%(?:2f|5c|2e|0[0-9a-f]|1[0-9a-f]|7f)|\\|#|[^!-~]", re.IGNORECASE)
_REFUSED_IN_QUERY = re.compile(r"%00|#|[^!-~]")
_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
# RFC 3986, 3.2.2: a registered name, an IPv4 address or a bracketed IPv6 address, then perhaps a port
_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_TCHAR = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class Target:
    """A request target in origin form, as the caller wrote it, and what routing needs of it."""

    path: str  # raw, begins with "/"
    query: str | None  # raw, without "?"; None where there was no "?"
    segments: tuple[str, ...]  # decoded; a trailing slash leaves no empty last segment

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
    """The target of a request line. Raises `BadRequest` for what is refused, 501 for CONNECT and TRACE."""
    if method in ("CONNECT", "TRACE"):
        raise NotImplementedProblem(f"{method} is not offered here.", code="METHOD_NOT_IMPLEMENTED")
    if not _TCHAR.fullmatch(method):
        raise BadRequest("The request method is malformed.", code="MALFORMED_REQUEST")
    if raw == "*":
        raise BadRequest("'OPTIONS *' is not offered here; ask about one path.", code="UNSUPPORTED_TARGET")
    if not raw.startswith("/"):
        raw = _origin_form(raw, host)
    path, mark, query = raw.partition("?")
    if _AMBIGUOUS.search(path):
        raise BadRequest(
            "The path has a character or an escape that is refused: \\ # %2e %2f %5c or a control character.",
            code="UNSAFE_PATH",
        )
    if _REFUSED_IN_QUERY.search(query):
        raise BadRequest("The query has a NUL or a character that must be percent-encoded.", code="UNSAFE_PATH")
    segments = path.split("/")[1:]
    for segment in segments:
        # "..;x" is a dot segment to servers that know path parameters
        if segment.partition(";")[0] in (".", ".."):
            raise BadRequest("The path has a dot segment; write the path without it.", code="UNSAFE_PATH")
    if segments[-1] == "":
        segments.pop()
    return Target(path, query if mark else None, tuple(unquote(segment) for segment in segments))


def _origin_form(raw: str, host: str | None) -> str:
    """The absolute form names the host twice; both must agree (RFC 9112, 3.2.2)."""
    match = _ABSOLUTE.fullmatch(raw)
    if match is None:
        raise BadRequest("The request target must begin with a slash.", code="UNSUPPORTED_TARGET")
    authority, rest = match.groups()
    if host is None or authority.lower() != host.lower():
        raise BadRequest("The request target and the Host field name different hosts.", code="MALFORMED_HOST")
    return rest if rest.startswith("/") else "/" + rest


def check_host(host: str | None, protocol: str) -> None:
    """Raises `BadRequest` unless there is exactly one well-formed `Host` (RFC 9112, 3.2). HTTP/1.0 may leave it out.

    A repeated field arrives here joined by a comma, which no host name contains.
    """
    if host is None and protocol == "HTTP/1.0":
        return
    if not host or not is_host(host):
        raise BadRequest("The request needs one well-formed Host field.", code="MALFORMED_HOST")


def is_host(text: str) -> bool:
    """Whether `text` is one well-formed host, with or without a port."""
    return _HOST.fullmatch(text) is not None
