"""When the fast way through a connection may be taken: it leans on how gunicorn and gevent do things, and takes for
granted what `serving` sets. Where one of them is another, all requests go the stock way, which asks for less."""

from __future__ import annotations

import os
from collections.abc import Mapping

import gevent
import gunicorn
from gunicorn.config import Config

CHECKED_WITH: Mapping[str, str] = {"gunicorn": "27.0.1", "gevent": "26.9.0"}
"""The versions that the fast way was held against."""

ASSUMED: Mapping[str, str] = {"http_parser": "python", "header_map": "drop", "proxy_protocol": "off"}
OFF = (
    "forwarded_allow_ips",
    "forwarder_headers",
    "is_ssl",
    "strip_header_spaces",
    "permit_obsolete_folding",
    "permit_unconventional_http_version",
    "casefold_http_method",
)
"""With `ASSUMED`: gunicorn's settings under which a plain head means the same both ways."""


def why_not(config: Config) -> str:
    """Why the fast way is not to be taken, "" if it is."""
    found = {"gunicorn": gunicorn.__version__, "gevent": gevent.__version__}
    for name, version in CHECKED_WITH.items():
        if found[name] != version:
            return f"it was checked with {name} {version}, and {found[name]} is here"
    wrong = [name for name, value in ASSUMED.items() if getattr(config, name) != value]
    for name in (*wrong, *(name for name in OFF if getattr(config, name))):
        return f"gunicorn's {name} is {getattr(config, name)!r}"
    if "SCRIPT_NAME" in os.environ:  # gunicorn takes it off every path
        return "SCRIPT_NAME is set"
    return ""
