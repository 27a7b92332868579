"""At which addresses a host is, known for as long as its name may be believed.

    numeric         the kernel takes it as it is
    answered        by the hosts file or the nameservers, for the TTL of the answer (`dns` bounds it)
    not by them     the system is asked, which may have other sources (mDNS, LDAP); it tells no TTL: `UNSURE_TTL_S`
    nobody answers  what was known last is still used, and they are asked again after `UNSURE_TTL_S`

While one greenlet asks anew the others go on with what was known, so that a name that many need is asked for once.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic

from gevent import Timeout
from gevent.socket import getaddrinfo

from gateway.backend.dns import UNSURE_TTL_S, NotResolved, Resolved, Resolver

Place = tuple[socket.AddressFamily, str]
"""A family and an address of it; IPv6 without brackets."""
Resolve = Callable[[str], Resolved]


class Places:
    """Of one host. Shared by greenlets; what is remembered changes in single steps."""

    def __init__(self, host: str, resolve: Resolve | None = None) -> None:
        """`resolve` is `Resolver.resolve` or behaves like it; default: by the hosts file and resolv.conf."""
        self._host, self._resolve = host, resolve or Resolver().resolve
        self._is_numeric = _is_numeric(host)
        self._known: Sequence[Place] = _places([host]) if self._is_numeric else ()
        self._until = 0.0

    def find(self, timeout_s: float) -> Sequence[Place]:
        """At least one. Raises `TimeoutError`, and `OSError` when there is no address."""
        if self._is_numeric or (self._known and monotonic() < self._until):
            return self._known
        self._until = monotonic() + timeout_s
        try:
            with Timeout(timeout_s, TimeoutError("the name is not resolved in time")):
                addresses, ttl_s = self._asked()
        except OSError:
            self._until = monotonic() + UNSURE_TTL_S
            if not self._known:
                raise
        else:
            self._known, self._until = _places(addresses), monotonic() + ttl_s
        return self._known

    def doubt(self) -> None:
        """Nobody is there any more: ask anew next time."""
        self._until = 0.0

    def _asked(self) -> tuple[Sequence[str], float]:
        try:
            resolved = self._resolve(self._host)
        except NotResolved:
            found = getaddrinfo(self._host, None, 0, socket.SOCK_STREAM)
            return list(dict.fromkeys(str(address[0]) for *_, address in found)), UNSURE_TTL_S
        return resolved.addresses, resolved.ttl_s


def _places(addresses: Sequence[str]) -> list[Place]:
    return [(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in addresses]


def _is_numeric(host: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host.partition("%")[0]))
    return False
