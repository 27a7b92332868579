"""What a route changes on the way: header fields, the path that the service is asked for, where a redirect leads.

A template is a path with names in it, each name a whole segment: `/v2/<id>/reviews`, `/archive/<path:rest>`. `capture`
binds the names of a route's template to what the caller wrote, still percent-encoded, and `PathTemplate.fill` puts
these texts into another template byte for byte. Nothing is decoded and encoded again, so nothing can be read otherwise
behind the gateway than before it; and as names are whole segments, a filled path has no dot segments but those that the
caller's raw path had (there, `targets` refuses them).

Slashes at the end: the template decides. One that the caller wrote is part of `<path:rest>` (`/files/a/` binds `a/`)
and is dropped everywhere else, for routes don't tell `/reviews` from `/reviews/`. `/files` and `/files/` both bind an
empty rest, which fills `/archive/<path:rest>` as `/archive/`.

A redirect never leaves the host that its `to` names, whatever was captured: names can't stand in the authority, and
what a browser would take for another host, or the end of the field, is encoded or shielded. RFC 3986, 4.2; RFC 9110, 5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, unquote

REDIRECTS = frozenset({301, 302, 303, 307, 308})

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"(?:[!-~](?:[\t -~]*[!-~])?)?")
_FRAMING = "the gateway frames the message itself, by its body"
_ONE_CONNECTION = "it belongs to one connection only (RFC 9110, 7.6.1)"
_OURS = "the gateway itself says it, and nobody else may"
_WHY_REFUSED = {
    "host": "use host, which says by what name the service is asked",
    **dict.fromkeys(("content-length", "transfer-encoding", "trailer", "expect"), _FRAMING),
    **dict.fromkeys(("connection", "keep-alive", "te", "upgrade", "proxy-"), _ONE_CONNECTION),
    **dict.fromkeys(("forwarded", "via", "x-request-id", "x-user-"), _OURS),
    **dict.fromkeys(("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"), _OURS),
    **dict.fromkeys(("date", "server"), "the web server around the gateway writes it"),
}  # "proxy-" is all that begins so

_NAME = re.compile(r"<((?:path:)?([A-Za-z_][A-Za-z0-9_]*))>")
# as in `targets`: what two readers of one path may understand differently
_REFUSED_IN_PATH = re.compile(r"[^!-~]|[\\?#]|%(?:2f|5c|2e|[01][0-9a-f]|7f)", re.IGNORECASE)
_REFUSED_IN_QUERY = re.compile(r"[^!-~]|[<>#]")
_TO = re.compile(r"(https?://([^/?#]*))?([^?#]*)(\?[^#]*)?(#.*)?", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
# never in a raw path that `targets` took, but a redirect must not depend on that
_UNSAFE_IN_PATH = re.compile(r"[^!-~]|[\\?#]")
_UNSAFE_IN_QUERY = re.compile(r"[^!-~]|#")
_UNSAFE_IN_FIELD = re.compile(r"[^!-~]|[#&+;=]")


def check_header_name(name: str) -> str:
    """`name`, if it is a token (RFC 9110, 5.6.2) that a configuration may set or remove. Raises `ValueError`."""
    if not _TOKEN.fullmatch(name):
        raise ValueError("must be the name of a header field, like X-Team: letters, digits and hyphens")
    read = name.lower().replace("_", "-")  # by WSGI and CGI servers, which tell these apart as little as cases
    for refused, why in _WHY_REFUSED.items():
        if read == refused or (refused.endswith("-") and read.startswith(refused)):
            raise ValueError(f"{name} can't be set or removed: {why}")
    return name


def check_header_value(value: str) -> str:
    """`value`, if it can stand in a header field (RFC 9110, 5.5), in ASCII. Raises `ValueError` without its text."""
    if not _VALUE.fullmatch(value):
        raise ValueError("must be one line of plain ASCII text, without control characters and blanks around it")
    return value


@dataclass(frozen=True, slots=True)
class HeaderChanges:
    """What becomes of a list of header fields; names in any case. Names and values went through the checks above."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.set or self.add or self.remove)

    def apply(self, headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """1. Drop. 2. Replace all fields of a name by one in the first one's place, or at the end. 3. Append."""
        if not self:
            return list(headers)
        removed = {name.lower() for name in self.remove}
        waiting = {name.lower(): (name, value) for name, value in self.set}
        replaced = frozenset(waiting)
        changed: list[tuple[str, str]] = []
        for name, value in headers:
            lower = name.lower()
            if lower in removed:  # 1
                continue
            if lower not in replaced:
                changed.append((name, value))
            elif lower in waiting:  # 2
                changed.append(waiting.pop(lower))
        return [*changed, *waiting.values(), *self.add]  # 3


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A path with names in it, taken apart at its slashes."""

    segments: tuple[str, ...]  # `v2`, `<id>`, `<path:rest>`; a last empty one for a slash at the end

    @classmethod
    def parse(cls, text: str) -> PathTemplate:
        """Raises `ValueError` that says what would be right."""
        if not text.startswith("/") or "//" in text:
            raise ValueError("must begin with a slash and have single ones, like /v2/<id>/reviews")
        if "<path:" in text.rpartition("/")[0]:
            raise ValueError("has more behind <path:...>, which takes all that follows and must be the last segment")
        segments = tuple(text[1:].split("/"))
        names: list[str] = []
        for segment in segments:
            if match := _NAME.fullmatch(segment):
                names.append(match[2])
            else:
                _check_literal(segment)
        if len(names) > len(frozenset(names)):
            raise ValueError("has a name twice; each may stand once")
        return cls(segments)

    @property
    def names(self) -> frozenset[str]:
        """As they are written: `id`, `path:rest`. A route must have all of them, else `fill` has nothing to put in."""
        return frozenset(segment[1:-1] for segment in self.segments if segment.startswith("<"))

    def fill(self, captured: Mapping[str, str]) -> str:
        """The path with the captured texts as they are. Raises `KeyError` for a name that is not there."""
        return "".join(
            f"/{captured[match[2]] if (match := _NAME.fullmatch(segment)) else segment}" for segment in self.segments
        )


def _check_literal(segment: str) -> None:
    if "<" in segment or ">" in segment:
        raise ValueError(f"{segment!a}: a name is a whole segment, like <id> or <path:rest>")
    if segment.partition(";")[0] in (".", ".."):
        raise ValueError("has a dot segment; write the path without it")
    if _REFUSED_IN_PATH.search(segment):
        raise ValueError(
            f"{segment!a}: write a%20b for what isn't ASCII text; \\ ? # %2e %2f %5c and control characters are refused"
        )


def capture(template: str, raw_segments: Sequence[str]) -> dict[str, str]:
    """The names of a route's template with the raw text of each; `<path:rest>` binds `a/b%20c`.

    `raw_segments` are those of a path that the template matches, behind the public prefix, with an empty last one for
    a slash at the end: `target.after(count).split("/")[1:]`.
    """
    bound: dict[str, str] = {}
    for position, segment in enumerate(template.split("/")[1:]):
        if match := _NAME.fullmatch(segment):
            spans = match[1].startswith("path:")
            bound[match[2]] = "/".join(raw_segments[position:]) if spans else raw_segments[position]
    return bound


def check_prefix(text: str) -> str:
    """`text` without its last slash, if it is a path without names. Raises `ValueError`."""
    if PathTemplate.parse(text).names:
        raise ValueError("must be a path without names, like /v2")
    return text.removesuffix("/")


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The path for the service: a template for all of it, or another text for its first segments.

    `strip` is compared segment by segment after decoding, as routes are, and cut off as the caller wrote it. A path
    that does not begin with it stays as it is; without `strip` every path gets `put` in front.
    """

    template: PathTemplate | None = None
    strip: str = ""  # "" or "/v1"
    put: str = ""  # "" or "/v2"

    def __post_init__(self) -> None:
        if self.template is not None and (self.strip or self.put):
            raise ValueError("has a template; a prefix to strip or to put would mean nothing")
        for prefix in (self.strip, self.put):
            if prefix:
                check_prefix(prefix)

    def path(self, raw_rest: str, captured: Mapping[str, str]) -> str:
        """What to ask for instead of `raw_rest`, which is "" or begins with a slash; it always begins with one."""
        if self.template is not None:
            return self.template.fill(captured)
        stripped = [unquote(segment) for segment in self.strip.removesuffix("/").split("/")[1:]]
        pieces = raw_rest.split("/", len(stripped) + 1)[1:]
        if [unquote(piece) for piece in pieces[: len(stripped)]] != stripped:
            return raw_rest or "/"
        behind = "".join(f"/{piece}" for piece in pieces[len(stripped) :])
        return self.put.removesuffix("/") + behind or "/"


class _Destination(NamedTuple):
    origin: str  # "" or https://shop.example.org:8443
    path: PathTemplate
    query: str  # "" or with its "?"
    fragment: str  # "" or with its "#"


def check_redirect(to: str) -> str:
    """`to`, if a redirect can lead there. Raises `ValueError` that says what would be right."""
    _parse_destination(to)
    return to


def _parse_destination(to: str) -> _Destination:
    match = _TO.fullmatch(to)
    assert match is not None  # every text fits
    origin, authority, path, query, fragment = (part or "" for part in match.groups())
    if not origin and (not path.startswith("/") or path.startswith("//")):
        raise ValueError("must be a path like /v2/<id> or an address like https://shop.example.org/<path:rest>")
    if origin and not _AUTHORITY.fullmatch(authority):
        raise ValueError("must have a plain host, like https://shop.example.org:8443/: no user, no <name> in it")
    if _REFUSED_IN_QUERY.search(_NAME.sub("", query)) or _REFUSED_IN_QUERY.search(fragment[1:]):
        raise ValueError("must be percent-encoded in its query, like ?q=a%20b&id=<id>, and have no name behind a #")
    return _Destination(origin, PathTemplate.parse(path or "/"), query, fragment)


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where callers are sent: a path as they see it, or an http(s) address. Raises `ValueError` for what can't be."""

    status: int
    to: str  # names may stand in the path, each a whole segment, and anywhere in the query
    _destination: _Destination = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.status not in REDIRECTS:
            raise ValueError(f"the status of a redirect must be one of {', '.join(map(str, sorted(REDIRECTS)))}")
        object.__setattr__(self, "_destination", _parse_destination(self.to))

    @property
    def names(self) -> frozenset[str]:
        """As they are written, like those of a `PathTemplate`."""
        return self._destination.path.names | {match[1] for match in _NAME.finditer(self._destination.query)}

    def location(self, captured: Mapping[str, str], query: str | None) -> str:
        """The `Location` field. The caller's `query` (without "?") goes along unless `to` has one of its own."""
        origin, template, own_query, fragment = self._destination
        path = _encoded(_UNSAFE_IN_PATH, template.fill(captured))
        if not origin and path.startswith("//"):
            path = f"/.{path}"  # "//x" would be another host (RFC 3986, 4.2)
        if own_query:
            own_query = _NAME.sub(lambda match: _encoded(_UNSAFE_IN_FIELD, captured[match[2]]), own_query)
        elif query is not None:
            own_query = "?" + _encoded(_UNSAFE_IN_QUERY, query)
        return f"{origin}{path}{own_query}{fragment}"


def _encoded(unsafe: re.Pattern[str], text: str) -> str:
    return unsafe.sub(lambda match: quote(match[0], safe="", errors="replace"), text)
