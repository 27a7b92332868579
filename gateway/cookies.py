"""Sessions in cookies, for web pages: which cookies there are, and what a page must show besides: pure rules.

    __Host-access       the access token; scripts can't read it            every path
    __Secure-refresh    the refresh token; scripts can't read it           the refresh route only
    __Host-csrf         the CSRF token; the page reads it, and sends it    every path
                        in X-CSRF-Token with whatever changes something

A browser sends cookies with requests that another site made it send. So an unsafe request whose credential is a cookie
must carry the CSRF token, which is an HMAC of the session: a site that can neither read our cookies nor our answers
can't know it, and the token of one's own session does not fit another's. It must also come from a page of ours, by
`Origin` or `Sec-Fetch-Site`, as far as the browser says. Who sends a token in Authorization shows intent, and needs
neither.

The prefixes make browsers insist on Secure and on no Domain (RFC 6265bis, 4.1.3), so no sibling host can plant one.
Over plain HTTP, on a development run on this machine, the cookies are called dev-access and so on, and are not Secure.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.callers import Forwarding
from gateway.cors import Cors

MODE_HEADER = "x-session-mode"
CSRF_HEADER = "x-csrf-token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
Kind = Literal["access", "refresh", "csrf"]

_SECURE: Mapping[Kind, str] = {"access": "__Host-access", "refresh": "__Secure-refresh", "csrf": "__Host-csrf"}
_PLAIN: Mapping[Kind, str] = {"access": "dev-access", "refresh": "dev-refresh", "csrf": "dev-csrf"}
_HERE = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]*)?", re.IGNORECASE)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, slots=True)
class Jar:
    """The cookies of one kind of connection."""

    is_secure: bool

    def name(self, kind: Kind) -> str:
        return (_SECURE if self.is_secure else _PLAIN)[kind]

    def read(self, kind: Kind, header: str) -> str:
        """The cookie's value in a `Cookie` field, "" without it."""
        wanted = self.name(kind)
        return next((value for name, value in _pairs(header) if name == wanted), "")

    def set(self, kind: Kind, value: str, *, path: str = "/", max_age_s: int | None = None) -> tuple[str, str]:
        """A `Set-Cookie` field. Without `max_age_s` the cookie goes when the browser ends."""
        attributes = [f"{self.name(kind)}={value}", f"Path={path}"]
        attributes += [] if max_age_s is None else [f"Max-Age={max_age_s}"]
        attributes += [f"SameSite={'Strict' if kind == 'refresh' else 'Lax'}"]
        attributes += ["Secure"] if self.is_secure else []
        attributes += [] if kind == "csrf" else ["HttpOnly"]
        return "Set-Cookie", "; ".join(attributes)


def jar_for(forwarding: Forwarding, *, is_production: bool) -> Jar | None:
    """None where cookies would travel in the clear: over plain HTTP, but for this machine on a development run."""
    if forwarding.scheme == "https":
        return Jar(is_secure=True)
    return Jar(is_secure=False) if _HERE.fullmatch(forwarding.host) and not is_production else None


def csrf_token(secret: bytes, session: str) -> str:
    """The CSRF token of a session."""
    digest = hmac.digest(secret, f"csrf:{session}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def is_shown(expected: str, headers: Mapping[str, str]) -> bool:
    """Whether the request carries this CSRF token."""
    return bool(expected) and hmac.compare_digest(expected.encode(), headers.get(CSRF_HEADER, "").encode())


def is_from_our_pages(headers: Mapping[str, str], forwarding: Forwarding, cors: Cors) -> bool:
    """Whether the browser says so, or says nothing of it: then the CSRF token alone has to do."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") in ("same-origin", "none")
    host = forwarding.host.lower().removesuffix(_DEFAULT_PORTS[forwarding.scheme])
    return origin == f"{forwarding.scheme}://{host}" or (cors.takes_credentials and cors.admits(origin))


def _pairs(header: str) -> list[tuple[str, str]]:
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return [(name.strip(), value.strip()) for name, equals, value in pairs if equals]
