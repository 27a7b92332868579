"""The one way in which our processes call each other: a pooled `requests` session with its dangerous comforts off."""

from __future__ import annotations

from collections.abc import Callable
from http.cookiejar import DefaultCookiePolicy

import requests
from requests.adapters import BaseAdapter, HTTPAdapter


def tuned_session(*, pool_size: int, adapter: BaseAdapter | None = None) -> requests.Session:
    """A session that many greenlets may share: nothing is remembered between calls but connections.

    Callers pass `timeout=` each time; there is no default in requests.
    """
    session = requests.Session()
    session.trust_env = (
        False  # else ~/.netrc replaces the caller's Authorization header, and it costs a third of a call
    )
    session.max_redirects = 0
    session.cookies.set_policy(
        DefaultCookiePolicy(allowed_domains=[])
    )  # else one caller's cookie goes out with the next
    session.headers.clear()
    adapter = adapter or HTTPAdapter(pool_connections=1, pool_maxsize=pool_size, pool_block=True, max_retries=0)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def again_on_a_lost_connection(send: Callable[[], requests.Response]) -> requests.Response:
    """What `send` gets, asked once more where no answer came: the pool's connection may have been closed just as we
    took it. For requests that may have their effect twice."""
    try:
        return send()
    except requests.ConnectionError as error:
        if isinstance(error, requests.Timeout):
            raise
        return send()
