"""One question to one instance: is it well, or what stands there? A GET on a connection of its own, past breaker,
retries and pool, so that nothing is concluded from it but the answer."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass

import gevent
from requests import RequestException

from gateway.backend.instance import Instance, innermost
from gateway.backend.outgoing import Outgoing
from gateway.body import Body

_FAILURES = (RequestException, OSError)
_FIELDS = [("User-Agent", "gateway-check"), ("Accept", "*/*"), ("Connection", "close")]


@dataclass(frozen=True, slots=True)
class Finding:
    """`status` is that of the answer, 0 when there was none; `reason` says then why, or `status 503`."""

    status: int
    reason: str = ""
    latency_ms: float = 0.0

    @property
    def is_well(self) -> bool:
        return 0 < self.status < 400


class NotFetched(Exception):
    """There was no answer with 200, or not in time; the text says why."""


def probe(instance: Instance, path: str, timeout_s: float) -> Finding:
    """Ask `instance` for `path`. It is well if an answer below 400 begins within `timeout_s`; a redirect is not
    followed. Never raises but what ends a greenlet."""
    began = time.monotonic()
    try:
        with gevent.Timeout(timeout_s, TimeoutError):  # the socket's own begins anew with each byte
            status = _get(instance, path, timeout_s, 0)[0]
        reason = f"status {status}"
    except _FAILURES as error:
        status, reason = 0, innermost(error)
    return Finding(status, reason, round((time.monotonic() - began) * 1000, 1))


def fetch(instance: Instance, path: str, timeout_s: float, most_bytes: int) -> bytes:
    """What `instance` answers with 200, if it all comes within `timeout_s`. Raises `NotFetched`."""
    try:
        with gevent.Timeout(timeout_s, TimeoutError):
            status, content = _get(instance, path, timeout_s, most_bytes + 1)
    except _FAILURES as error:
        raise NotFetched(innermost(error)) from error
    if status != 200:
        raise NotFetched(f"status {status}")
    if len(content) > most_bytes:
        raise NotFetched(f"is longer than {most_bytes} bytes")
    return content


def _get(instance: Instance, path: str, timeout_s: float, most_bytes: int) -> tuple[int, bytes]:
    """Status, and as much of the body as is wanted."""
    request = Outgoing("GET", instance.url, path, _FIELDS, Body(io.BytesIO(), 0), host=instance.host)
    # an adapter for this one question: a connection that was kept would hide that no new one can be had
    adapter = instance.adapter(1)
    try:
        raw = adapter.send(request, stream=True, timeout=timeout_s).raw
        content = raw.read(most_bytes)
        raw.close()
    finally:
        adapter.close()
    return raw.status, content
