"""Header fields that tell a browser to make nothing of an answer but what it is: ours are documents for programs."""

from __future__ import annotations

from collections.abc import Iterable

HeaderList = list[tuple[str, str]]

NOSNIFF = ("X-Content-Type-Options", "nosniff")

FIELDS: tuple[tuple[str, str], ...] = (
    NOSNIFF,
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("X-Frame-Options", "DENY"),  # for browsers that don't know frame-ancestors
    ("Referrer-Policy", "no-referrer"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),  # for those who don't ask by CORS
)

_BY_NAME = {field[0].lower(): field for field in FIELDS}


def missing(headers: Iterable[tuple[str, str]]) -> HeaderList:
    """Those of `FIELDS` that `headers` has not; what an answer says of itself counts."""
    given = {name.lower() for name, _ in headers}
    return [field for name, field in _BY_NAME.items() if name not in given]
