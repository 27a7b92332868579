"""A service says where it is: each of its workers has a lease in the registry, and renews it while it serves.

What a worker goes through:

    at its start     a worker takes a lease; every third of it, with jitter, it renews it
    Redis away       one warning; it tries again every second and lets the service alone; one line when Redis is back
    told to stop     it gives the lease back at once, while it still finishes what it has begun
    killed           nobody renews, so the lease runs out
"""

from __future__ import annotations

import atexit
import os
import random
import socket
import threading
from collections.abc import Callable
from typing import ClassVar, Protocol

import gevent
import redis
import structlog
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from common.registry import LEASE_S, Leases

log = structlog.get_logger("registration")

TIMEOUT_S = 0.5
RETRY_S = 1.0
POLL_S = 0.1
EVERYWHERE = {"0.0.0.0": socket.AF_INET, "::": socket.AF_UNSPEC}  # noqa: S104 - compared with, not bound to


class Announced(Protocol):
    """What is to be known of a service that announces itself: `ServiceSettings` with a port."""

    plural: ClassVar[str]

    @property
    def service_host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def registry_url(self) -> str | None: ...
    @property
    def advertised_url(self) -> str | None: ...
    @property
    def registry_weight(self) -> float: ...
    @property
    def registry_lease_s(self) -> float: ...


def announce(settings: Announced, is_wanted: Callable[[], bool]) -> None:
    """Keep this worker in the registry, in a greenlet, while it `is_wanted`. Without REGISTRY_URL nothing happens."""
    if settings.registry_url is None:
        return
    registration = Registration(
        Leases(client(settings.registry_url)),
        settings.plural,
        lambda: address_of(settings),
        by=f"{socket.gethostname()}-{os.getpid()}",
        weight=settings.registry_weight,
        lease_s=settings.registry_lease_s,
    )
    atexit.register(registration.end)  # an idle worker may be gone before its greenlet looks again
    gevent.spawn(registration.keep, is_wanted)


def client(url: str) -> redis.Redis:
    """A client whose calls fail in about half a second; redis-py's own retries cost many more while Redis is away."""
    return redis.Redis.from_url(
        url,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=30,
    )


class Registration:
    """One worker's lease. What goes wrong is logged, never raised.

    The greenlet that keeps it and the process' end share it; the lock sees to it that no late renewal follows the end.
    """

    def __init__(
        self,
        leases: Leases,
        service: str,
        address: Callable[[], str],
        *,
        by: str,
        weight: float = 1.0,
        lease_s: float = LEASE_S,
    ) -> None:
        """`address` tells the instance's URL; it may raise OSError while the network is not there yet."""
        self._leases, self._service, self._address = leases, service, address
        self._by, self._weight, self._lease_s = by, weight, lease_s
        self._lock = threading.Lock()
        self._url = ""
        self._was_here = self._is_away = self._is_over = False

    def keep(self, is_wanted: Callable[[], bool], *, sleep: Callable[[float], None] = gevent.sleep) -> None:
        """Renew until it `is_wanted` no longer, then end."""
        while is_wanted():
            self.renew()
            pause_s = min(RETRY_S, self._lease_s / 3) if self._is_away else self._lease_s / 3
            naps = max(1, round(pause_s * random.uniform(0.75, 1.25) / POLL_S))
            while is_wanted() and naps:
                sleep(POLL_S)
                naps -= 1
        self.end()

    def renew(self) -> None:
        """Have a whole lease from now on; nothing once it was ended."""
        with self._lock:
            if self._is_over:
                return
            try:
                self._url = self._url or self._address()
                self._leases.register(self._service, self._url, weight=self._weight, by=self._by, lease_s=self._lease_s)
            except Exception as error:  # noqa: BLE001 - the service must not suffer, and the rounds must go on
                self._tell_away(error)
            else:
                self._tell_here()

    def end(self) -> None:
        """Give the lease back. Tried once: what Redis can't be told now is over when the lease has run out."""
        with self._lock:
            if self._is_over or not self._url:
                self._is_over = True
                return
            self._is_over = True
            try:
                self._leases.deregister(self._service, self._url, by=self._by)
            except Exception as error:  # noqa: BLE001 - as above
                self._tell_away(error)
            else:
                log.info("deregistered", url=self._url)

    def _tell_away(self, error: Exception) -> None:
        if not self._is_away:
            log.warning("registry_away", reason=type(error).__name__)
        self._is_away = True

    def _tell_here(self) -> None:
        if not self._was_here:
            log.info("registered", url=self._url)
        elif self._is_away:
            log.info("registry_back", url=self._url)
        self._was_here, self._is_away = True, False


def address_of(settings: Announced) -> str:
    """Where others reach the service: ADVERTISED_URL, else the address on which it listens.

    One that listens on all addresses gives the one from which this machine speaks to the registry's Redis. The gateway
    speaks to that Redis too, so the two have that network in common. Raises OSError while Redis' name is unknown.
    """
    if settings.advertised_url:
        return settings.advertised_url
    host = settings.service_host.strip("[]")
    if host in EVERYWHERE:
        host = _own_address(settings.registry_url or "", EVERYWHERE[host])
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _own_address(registry_url: str, family: socket.AddressFamily) -> str:
    given = parse_url(registry_url)
    if "path" in given:
        return "127.0.0.1"  # a unix socket is of this machine
    place = given.get("host", "localhost"), given.get("port", 6379)
    family, kind, protocol, _, address = socket.getaddrinfo(*place, family, socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # nothing is sent: the kernel only chooses the way
        return str(probe.getsockname()[0])
