"""Who calls, and how the request reached us: pure rules.

A caller is an address. Behind trusted proxies it is the nearest one that none of them is; elsewhere it is our peer, and
what anybody writes about it counts for nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from common.masking import truncated_address
from common.remembering import remembered
from gateway.targets import is_host

PSEUDONYM = "gateway"
"""Our name in `Via` (RFC 9110, 7.6.3)."""

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Networks(tuple[IPNetwork, ...]):
    """Some that are asked about again and again: the hash, by which answers are remembered, is worked out once."""

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            self._hash: int = super().__hash__()
            return self._hash


@dataclass(frozen=True, slots=True)
class Forwarding:
    """How the request reached us: who calls, by which scheme and under which name, through which trusted proxies."""

    caller: str  # address
    scheme: str
    host: str
    proxies: tuple[str, ...]  # addresses between the caller and us, nearest to the caller first
    via: str = ""  # what trusted proxies wrote before us
    protocol: str = "1.1"  # version of HTTP
    fields: tuple[tuple[str, str], ...] = field(init=False, compare=False, repr=False)
    """What tells a service of it."""
    network: str = field(init=False, compare=False, repr=False)
    """As much of the caller's address as logs hold."""
    counted_as: str = field(init=False, compare=False, repr=False)
    """The caller for limits by address."""

    def __post_init__(self) -> None:
        via = f"{self.protocol} {PSEUDONYM}"
        fields = (
            ("X-Forwarded-For", ", ".join((self.caller, *self.proxies))),
            ("X-Forwarded-Proto", self.scheme),
            ("X-Forwarded-Host", self.host),
            ("Forwarded", forwarded_field(self)),
            ("Via", f"{self.via}, {via}" if self.via else via),
        )
        object.__setattr__(self, "fields", fields)
        object.__setattr__(self, "network", truncated_address(self.caller))
        object.__setattr__(self, "counted_as", f"address:{whose_address(self.caller)}")


def forwarding_of(
    peer: str, scheme: str, host: str, protocol: str, incoming: Mapping[str, str], trusted: tuple[IPNetwork, ...]
) -> Forwarding:
    """How a request reached us, made once for all that came so. `peer` is the address that the connection comes from,
    `scheme` and `host` what it says itself; only a trusted peer is believed what the fields in `incoming` say besides.
    """
    if not trusted or not is_trusted(peer, trusted):
        return _direct(host, peer, scheme, protocol)
    chain, via = incoming.get("x-forwarded-for", ""), incoming.get("via", "")
    told_scheme, told_host = incoming.get("x-forwarded-proto", scheme), incoming.get("x-forwarded-host", "")
    return _through("\n".join((host, chain, told_scheme, told_host, via)), peer, protocol, trusted)


@remembered(4096)
def _direct(host: str, peer: str, scheme: str, protocol: str) -> Forwarding:
    return Forwarding(peer, scheme, host, (), protocol=protocol)


@remembered(4096)
def _through(told: str, peer: str, protocol: str, trusted: tuple[IPNetwork, ...]) -> Forwarding:
    """`told`: lines of the host, then what X-Forwarded-For, -Proto, -Host and Via say."""
    host, chain, told_scheme, told_host, via = told.split("\n")
    caller, proxies = trace_caller(peer, chain, trusted)
    scheme = "https" if told_scheme.lower() == "https" else "http"
    # proxies pass on what callers invent
    return Forwarding(caller, scheme, told_host if is_host(told_host) else host, proxies, via, protocol)


def forwarded_field(forwarding: Forwarding) -> str:
    """RFC 7239, 4: one element a hop, IPv6 addresses bracketed and quoted."""
    host = forwarding.host.replace("\\", r"\\").replace('"', r"\"")  # a trusted proxy's word is not checked as Host is
    first = f'for={_node(forwarding.caller)};proto={forwarding.scheme};host="{host}"'
    return ", ".join((first, *(f"for={_node(proxy)}" for proxy in forwarding.proxies)))


def _node(address: str) -> str:
    return f'"[{address}]"' if ":" in address else address


def trace_caller(peer: str, chain: str, trusted: tuple[IPNetwork, ...]) -> tuple[str, tuple[str, ...]]:
    """The caller's address, and the trusted proxies between it and us, the last of which is `peer`.

    `chain`, which is X-Forwarded-For, is walked from right to left for as long as the one who wrote the entry is
    trusted; the first address that is not ours is the caller. What stands left of it may be invented, so it counts for
    nothing.
    """
    hops = [hop.strip() for hop in chain.split(",") if hop.strip()]
    proxies: list[str] = [peer]
    while hops:
        address = _address(hops.pop())
        if address is None:
            break
        if not hops or not is_trusted(address, trusted):
            return address, tuple(proxies)
        proxies.insert(0, address)
    return proxies[0], tuple(proxies[1:])


def _address(text: str) -> str | None:
    """`text` in the one spelling that an address has here, None for what is none, or has a zone."""
    try:
        parsed = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None:
            return None
        parsed = parsed.ipv4_mapped or parsed
    return str(parsed)


@lru_cache(maxsize=4096)
def is_trusted(address: str, networks: tuple[IPNetwork, ...]) -> bool:
    """Whether `address` lies in one of `networks`; an IPv4 address that came in IPv6 clothes counts as IPv4."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks if network.version == parsed.version)


def whose_address(address: str) -> str:
    """Whom an address counts for: an IPv6 network of 64 bits is one caller, who could use any address in it; IPv4 in
    IPv6 clothes is IPv4."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address  # a socket's peer without one
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), 64), strict=False))
