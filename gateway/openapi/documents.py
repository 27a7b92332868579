"""What is known of the services' OpenAPI documents in one worker.

A greenlet fetches the document of each service that has `validate` somewhere: at the start, then every `REFRESH_S`, and
sooner after somebody was refused (`doubt`), for the service may just have been given a newer one. Until the first one
has come nothing is held against anything. When a document can't be had any more, or is none that can be used, the last
good one goes on. Either is told in one warning, and by the gauge `gateway_openapi_known`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import gevent
import structlog
from gevent.event import Event

from gateway.backend.probe import NotFetched, fetch
from gateway.observability.metrics import Metrics
from gateway.openapi.compiling import NotOpenAPI, compiled
from gateway.openapi.operations import Contract

if TYPE_CHECKING:
    from gateway.backend.backend import Backend
    from gateway.table import Table

log = structlog.get_logger("openapi")

REFRESH_S = 60.0
RETRY_S = 2.0
DOUBT_S = 2.0
ROUND_S = 1.0
MOST_BYTES = 5 << 20
REPORT_EVERY_S = 60.0
MOST_REPORTED = 1000

Read = Callable[["Backend"], bytes]


class Unknown(Exception):
    """A document could not be had; the text says why."""


@dataclass(slots=True)
class _Kept:
    source: str
    text: bytes = b""
    contract: Contract | None = None
    asked_at: float = 0.0
    due: float = 0.0
    tries: int = 0
    complaint: str = ""


@dataclass(slots=True)
class Documents:
    """One worker's, shared by its greenlets; the one that fetches changes what is kept, each time in one step."""

    metrics: Metrics
    read: Read | None = None  # for tests
    clock: Callable[[], float] = time.monotonic
    _kept: dict[str, _Kept] = field(default_factory=dict[str, _Kept])
    _reported: dict[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])
    _doubted: Event = field(default_factory=Event)

    def contract(self, service: str) -> Contract | None:
        """Of the service with this key, None while none is known."""
        kept = self._kept.get(service)
        return kept and kept.contract

    def doubt(self, service: str) -> None:
        """Somebody was refused by this service's document: look soon whether there is a newer one."""
        kept = self._kept.get(service)
        if kept is not None and self.clock() - kept.asked_at >= DOUBT_S and kept.due > self.clock():
            kept.due = 0.0
            self._doubted.set()

    def may_report(self, route: str, name: str) -> bool:
        """Whether a line about this field of this route is due: one a minute."""
        now, key = self.clock(), (route, name)
        if now - self._reported.get(key, -REPORT_EVERY_S) < REPORT_EVERY_S:
            return False
        if len(self._reported) >= MOST_REPORTED:  # field names are the callers' invention
            self._reported.clear()
        self._reported[key] = now
        return True

    def start(self, table: Callable[[], Table], is_running: Callable[[], bool]) -> None:
        """Begin, in the worker, until it `is_running` no longer; `table` gives the one in force."""
        gevent.spawn(self._go_on, table, is_running)

    def round(self, table: Table) -> None:
        """Fetch what is due. Never raises but what ends a greenlet."""
        wanted = {key: table.backends[key] for key in sorted(_wanting(table))}
        for key in self._kept.keys() - wanted.keys():
            del self._kept[key]
        for key, backend in wanted.items():
            kept = self._kept.get(key)
            if kept is None or kept.source != backend.service.openapi:
                kept = self._kept[key] = _Kept(backend.service.openapi)
            if self.clock() >= kept.due:
                self._renew(key, backend, kept)

    def _go_on(self, table: Callable[[], Table], is_running: Callable[[], bool]) -> None:
        while is_running():
            self.round(table())
            if self._doubted.wait(ROUND_S):
                self._doubted.clear()

    def _renew(self, key: str, backend: Backend, kept: _Kept) -> None:
        kept.asked_at = self.clock()
        try:
            text = self.read(backend) if self.read else read(backend)
            if text != kept.text:
                kept.contract = gevent.get_hub().threadpool.apply(compiled, (text,))
                kept.text = text
                log.info("openapi_known", to=key, operations=len(kept.contract.operations))
            kept.tries, kept.complaint, pause_s = 0, "", REFRESH_S
        except (Unknown, NotOpenAPI) as error:
            self._complain(key, kept, str(error))
            pause_s = _pause_s(kept)
        except Exception as error:
            log.error("openapi_stuck", to=key, exc_info=error)
            pause_s = _pause_s(kept)
        kept.due = self.clock() + pause_s * random.uniform(0.8, 1.2)
        self.metrics.openapi_known(key, kept.contract is not None)

    def _complain(self, key: str, kept: _Kept, reason: str) -> None:
        if reason != kept.complaint:
            kept.complaint = reason
            log.warning("openapi_unknown", to=key, source=kept.source, reason=reason, goes_on=kept.contract is not None)


def _pause_s(kept: _Kept) -> float:
    """After a failure; longer each time."""
    kept.tries = min(kept.tries + 1, 16)
    return min(REFRESH_S, RETRY_S * 2 ** (kept.tries - 1))


def _wanting(table: Table) -> Iterable[str]:
    """Keys of the services whose document is needed: of those that validate, and of those that they share with."""
    for route in table.router.routes:
        if route.service.validation:
            yield route.service.key
            yield from (share.service for share in route.service.split)


def read(backend: Backend) -> bytes:
    """The document of a service, from a file or as one of its instances gives it. Raises `Unknown`."""
    kind, _, path = backend.service.openapi.partition(":")
    if kind == "file":
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise Unknown(f"{path} can't be read ({error.strerror})") from None
    elected = [instance for instance in backend.instances if not instance.standing.is_draining] or backend.instances
    if not elected:
        raise Unknown("no instance is known")
    try:
        return fetch(random.choice(elected), backend.service.openapi, backend.service.try_timeout_s, MOST_BYTES)
    except NotFetched as error:
        raise Unknown(str(error)) from error
