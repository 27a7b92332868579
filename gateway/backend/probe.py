"""One question to one instance: is it well? A GET on a connection of its own, past breaker, retries and pool."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass

import gevent
from requests import RequestException
from urllib3.exceptions import HTTPError

from gateway.backend.instance import Instance, innermost
from gateway.backend.transport import DoubtfulFraming, RawTargetAdapter, discard, prepare, raw_answer
from gateway.body import Body

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


def probe(instance: Instance, path: str, timeout_s: float) -> Finding:
    """Ask `instance` for `path`. It is well if an answer below 400 begins within `timeout_s`; a redirect is not
    followed. Never raises but what ends a greenlet."""
    began = time.monotonic()
    try:
        with gevent.Timeout(timeout_s, TimeoutError):  # the socket's own begins anew with each byte
            status = _status(instance, path, timeout_s)
        reason = f"status {status}"
    except (RequestException, HTTPError, DoubtfulFraming, OSError) as error:
        status, reason = 0, innermost(error)
    return Finding(status, reason, round((time.monotonic() - began) * 1000, 1))


def _status(instance: Instance, path: str, timeout_s: float) -> int:
    host = [("Host", instance.host)] if instance.host else []
    nothing = Body(io.BytesIO(), 0)
    request = prepare("GET", instance.url, path, [*host, *_FIELDS], nothing)
    # an adapter for this one question: a connection that was kept would hide that no new one can be had
    adapter = RawTargetAdapter(1, server_name=instance.host.partition(":")[0])
    try:
        raw = raw_answer(adapter.send(request, stream=True, timeout=timeout_s))
        discard(raw)
    finally:
        adapter.close()
    return raw.status
