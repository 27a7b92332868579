"""Keeps the instances of all services current, off the way of the requests.

    the file      `http://10.0.0.7:5004` is in the table from the beginning
    a name        `dns:products.internal:5004`: a greenlet looks it up again and again, see `watched_name`
    the registry  one greenlet reads it when the bus brings news of a service, and every two seconds besides, because a
                  lease runs out without a word; see `watched_registry`

What is found is given to the backends of the table in force. A worker takes no request before each name was looked up
and the registry was read once, or two seconds are over. A new table may bring sources and lose others; its backends
are given at once what is known already, so that a reload leaves no service without instances.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import gevent
from gevent.event import Event

from gateway.backend.backend import Backend
from gateway.backend.dns import DnsSource, Resolved
from gateway.backend.registry import Registry
from gateway.backend.watched_name import WatchedName
from gateway.backend.watched_registry import WatchedRegistry
from gateway.bus import REGISTRY_TOPIC, Bus, Message
from gateway.notation import REGISTRY
from gateway.services import Address, Service
from gateway.table import Table

FIRST_S = 2.0
READ_INTERVAL_S = 2.0
GATHER_S = 0.02  # the news of one deployment come together


@dataclass(frozen=True, slots=True)
class SourceState:
    """What one source of a service's instances says, for the operator."""

    source: str  # as the file writes it
    instances: tuple[str, ...]
    ttl_s: float | None = None  # of a name's last answer
    error: str = ""  # of the last time that it was asked


class Discovery:
    """One worker's. Its greenlets share it; nothing here switches between a look and the change that follows."""

    def __init__(self, resolve: Callable[[str], Resolved], registry: Registry, bus: Bus) -> None:
        """`resolve` is `Resolver.resolve` or behaves like it."""
        self._resolve = resolve
        self._registry = WatchedRegistry(registry, is_hearing=lambda: bus.is_connected)
        self._watches: dict[str, _Watch] = {}  # by source
        self._backends: dict[str, Backend] = {}
        self._registered: dict[str, Backend] = {}  # those that ask the registry
        self._unread: set[str] = set()  # of these, those to be read at once
        self._has_unread, self._was_read = Event(), Event()
        self._is_running: Callable[[], bool] = lambda: False
        bus.on(REGISTRY_TOPIC, self._hear)
        bus.on_reconnect.append(self._catch_up)

    def start(self, table: Table, is_running: Callable[[], bool]) -> None:
        """Begin, in the worker, until it `is_running` no longer. Returns when everybody was asked once, after FIRST_S
        at the latest."""
        self._is_running = is_running
        self.follow(table)
        gevent.spawn(self._keep_reading)
        gevent.wait([self._was_read, *(watch.was_asked for watch in self._watches.values())], timeout=FIRST_S)

    def follow(self, table: Table) -> None:
        """Keep the instances of this table's services current from now on. Neither waits nor raises."""
        self._backends = dict(table.backends)
        self._follow_names()
        self._registered = {
            key: backend for key, backend in table.backends.items() if backend.service.sources.registered is not None
        }
        self._registry.keep_only(self._registered)
        self._give_members(self._registered)
        self._ask_for(key for key in self._registered if self._registry.members(key) is None)

    def states(self, service: Service) -> tuple[SourceState, ...]:
        """What the names and the registry of `service` say now."""
        return tuple(self._states(service))

    def _states(self, service: Service) -> Iterator[SourceState]:
        for source, _weight in service.sources.dns:
            if watch := self._watches.get(source.text):
                name = watch.name
                yield SourceState(source.text, name.urls or (), name.ttl_s, name.error)
        if service.sources.registered is not None:
            members = self._registry.members(service.key) or ()
            yield SourceState(REGISTRY, tuple(member.url for member in members), error=self._registry.error)

    def _follow_names(self) -> None:
        sources = [source for backend in self._backends.values() for source, _ in backend.service.sources.dns]
        wanted: dict[str, DnsSource] = {source.text: source for source in sources}
        for text in self._watches.keys() - wanted.keys():
            self._watches.pop(text).greenlet.kill(block=False)
        for text, source in wanted.items():
            if known := self._watches.get(text):
                self._give_found(known.name)
            else:
                name, was_asked = WatchedName(source, self._resolve), Event()
                self._watches[text] = _Watch(name, was_asked, gevent.spawn(self._keep_looking_up, name, was_asked))

    def _keep_looking_up(self, name: WatchedName, was_asked: Event) -> None:
        while self._is_running():
            pause_s = name.look_up()
            self._give_found(name)
            was_asked.set()
            gevent.sleep(pause_s)

    def _give_found(self, name: WatchedName) -> None:
        if name.urls is None:
            return
        for backend in self._backends.values():
            for source, weight in backend.service.sources.dns:
                if source.text == name.source.text:
                    backend.take(source.text, [Address(url, weight, source.host) for url in name.urls])

    def _keep_reading(self) -> None:
        due = time.monotonic()
        while self._is_running():
            if self._has_unread.wait(max(0.0, due - time.monotonic())):
                gevent.sleep(GATHER_S)
            services, self._unread = self._unread, set()
            self._has_unread.clear()
            if time.monotonic() >= due:
                services = set(self._registered)
                due = time.monotonic() + READ_INTERVAL_S * random.uniform(0.75, 1.25)
            self._registry.read(sorted(services & self._registered.keys()))
            self._give_members(services)
            self._was_read.set()

    def _give_members(self, services: Iterable[str]) -> None:
        for service in services:
            backend, members = self._registered.get(service), self._registry.members(service)
            if backend is not None and members is not None:
                weight = backend.service.sources.registered or 1.0
                backend.take(REGISTRY, [Address(member.url, weight * member.weight) for member in members])

    def _hear(self, news: Message) -> None:
        self._ask_for([str(news.get("service"))])

    def _catch_up(self) -> None:
        """The bus is back: what it did not bring must be found out."""
        self._registry.doubt()
        self._ask_for(self._registered)

    def _ask_for(self, services: Iterable[str]) -> None:
        self._unread |= self._registered.keys() & set(services)
        if self._unread:
            self._has_unread.set()


@dataclass(frozen=True, slots=True)
class _Watch:
    name: WatchedName
    was_asked: Event
    greenlet: gevent.Greenlet[..., None]
