"""Which addresses does a name have now? Services behind `dns:products.internal:5004` live at all of them.

A look-up goes the way that the host's own would (`hosts: files dns`), and is over within `timeout_s`:

    1. An IP address stands for itself.
    2. The hosts file, where Docker's `extra_hosts` and `localhost` are. A name that it knows is not asked for.
    3. The nameservers, A and AAAA at the same time. A short name goes through the search list of resolv.conf; the
       first name there that exists is the one, even if it has no address now. Aliases (CNAME) are followed, and an
       answer that did not fit into a datagram is fetched over TCP.

One family is enough: when only A is answered, its addresses are used, but not for long. No family: `NoAddress` when
the nameservers say so, `NotResolved` when nobody says anything of use. Who asks keeps the answer for `ttl_s` and knows
what to do without one; nothing is remembered here.

In a worker the sockets are gevent's, so a look-up holds up nobody but the greenlet that asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Literal, cast

import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
import gevent

SHORTEST_TTL_S = 1.0  # some registries answer 0, which would have us ask without end
LONGEST_TTL_S = 30.0  # what Kubernetes says; Docker says 600 of containers that are scaled within seconds
UNSURE_TTL_S = 5.0  # for what has no TTL (the hosts file), and while half of the answer is missing

_USUAL_PORTS = {"http": 80, "https": 443}
_FAMILIES = (dns.rdatatype.A, dns.rdatatype.AAAA)
_SOURCE = re.compile(r"dns:(?:(https?)://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_NAMESERVER = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?")
# with underscores, which Compose allows in the names of services
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_LONGEST_NAME = 253
_RIGHT = "must be like dns:products.internal:5004 or dns:https://products.internal"


@dataclass(frozen=True, slots=True)
class DnsSource:
    """A service's instances by name: each address of `name` is one."""

    scheme: Literal["http", "https"]
    name: str  # in lower case, or an IP address without brackets
    port: int

    @property
    def text(self) -> str:
        """As in the configuration, in its shortest form."""
        name = _bracketed(self.name)
        return f"dns:{name}:{self.port}" if self.scheme == "http" else f"dns:https://{name}:{self.port}"

    @property
    def host(self) -> str:
        """What the instances are called in a request (RFC 9110, 4.2): `products.internal:5004`, without the port of the
        scheme; "" where they have no name but their address."""
        if _literal(self.name) is not None:
            return ""
        name = self.name.removesuffix(".")
        return name if self.port == _USUAL_PORTS[self.scheme] else f"{name}:{self.port}"

    def url(self, address: str) -> str:
        """The instance at `address`: `http://10.0.0.7:5004` or `http://[fd00::7]:5004`."""
        return f"{self.scheme}://{_bracketed(address)}:{self.port}"


def parse_source(text: str) -> DnsSource:
    """`dns:NAME:PORT`, `dns:http://NAME` or `dns:https://NAME`, the last two with or without a port.

    A dot at the end of the name keeps it from the search list. Raises `ValueError` that says what would be right.
    """
    match = _SOURCE.fullmatch(text)
    if match is None:
        raise ValueError(_RIGHT)
    scheme, host, digits = match.groups()
    port = int(digits) if digits else _USUAL_PORTS.get(scheme, 0)
    if not 1 <= port <= 65535:
        raise ValueError(_RIGHT)
    return DnsSource("https" if scheme == "https" else "http", _host(host), port)


@dataclass(frozen=True, slots=True)
class Resolved:
    """The addresses of a name: at least one, each once, sorted as text; IPv6 without brackets."""

    addresses: tuple[str, ...]
    ttl_s: float  # how long they may be used


class NotResolved(Exception):
    """A name has no address, or nobody told. The text is for the log and the operator."""


class NoAddress(NotResolved):
    """Told by those who know: there is no such name, or it has no address that anybody could connect to."""


def parse_nameserver(text: str, port: int = 53) -> tuple[str, int]:
    """The IP address and port of `10.0.0.2`, `10.0.0.2:5353`, `fd00::2` or `[fd00::2]:5353`. Raises `ValueError`."""
    match = _NAMESERVER.fullmatch(text)
    address = _literal(match[1] or match[2] if match else text)
    own_port = int(match[3]) if match and match[3] else port
    if address is None or not 1 <= own_port <= 65535:
        raise ValueError(f"{text!r} is not the IP address of a nameserver, like 10.0.0.2 or 10.0.0.2:5353")
    return address, own_port


class Resolver:
    """Looks names up. Has no state but its settings, so that greenlets may share it."""

    def __init__(
        self,
        *,
        nameservers: Sequence[str] = (),
        port: int = 53,
        timeout_s: float = 2.0,
        hosts_file: Path = Path("/etc/hosts"),
        resolv_conf: Path = Path("/etc/resolv.conf"),
    ) -> None:
        """`nameservers`, as `parse_nameserver` has them, are asked in this order, without a search list. () is what
        `resolv_conf` says. `port` is that of those who name none.

        Raises `ValueError` for a nameserver that is no address.
        """
        self._nameservers = [dns.nameserver.Do53Nameserver(*parse_nameserver(each, port)) for each in nameservers]
        self._port = port
        self._timeout_s = timeout_s
        self._hosts_file = hosts_file
        self._resolv_conf = resolv_conf

    def resolve(self, name: str) -> Resolved:
        """The addresses of `name`, of both families. Raises `NotResolved`."""
        if (literal := _literal(name)) is not None:
            return Resolved((literal,), LONGEST_TTL_S)
        listed = self._listed(name)
        addresses, ttl_s = (listed, UNSURE_TTL_S) if listed else self._ask(name)
        usable = {address for address in addresses if _can_be_connected_to(address)}
        if not usable:
            raise NoAddress(f"{name}: nobody can connect to {', '.join(sorted(addresses))}")
        return Resolved(tuple(sorted(usable)), ttl_s)

    def _listed(self, name: str) -> set[str]:
        """What the hosts file says of `name`. It is small and local, so that reading it is no wait."""
        wanted = name.removesuffix(".").lower()
        try:
            lines = self._hosts_file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return set()
        rows = [line.partition("#")[0].lower().split() for line in lines]
        return {literal for row in rows if wanted in row[1:] and (literal := _literal(row[0])) is not None}

    def _ask(self, name: str) -> tuple[set[str], float]:
        """The addresses (at least one) that the nameservers give, and how long they may be used."""
        stub = self._stub(name)
        told = self._ask_both_families(stub, name)
        failures = [answer for answer in told if isinstance(answer, dns.exception.DNSException)]
        answers = [answer for answer in told if isinstance(answer, dns.resolver.Answer)]
        # Servers that deny a name because it has no AAAA (RFC 4074, 4.2) send that half of the question on along the
        # search list, perhaps to a namesake: what A says is the name is the name.
        filled = [answer for answer in answers if answer.rrset and answer.qname == answers[0].qname]
        if not filled:
            why = _words(failures[0], stub) if failures else "exists, but has no address"
            kind = NotResolved if any(map(_is_passing, failures)) else NoAddress
            raise kind(f"{name}: {why}") from (failures[0] if failures else None)
        ttl_s = float(min(answer.chaining_result.minimum_ttl for answer in filled))
        longest_s = UNSURE_TTL_S if any(map(_is_passing, failures)) else LONGEST_TTL_S
        addresses = {str(ip_address(record.address)) for answer in filled for record in answer}
        return addresses, min(max(ttl_s, SHORTEST_TTL_S), longest_s)

    def _stub(self, name: str) -> dns.resolver.Resolver:
        """For one look-up only: resolv.conf may change while we run."""
        try:
            stub = dns.resolver.Resolver(self._resolv_conf, configure=not self._nameservers)
        except (dns.exception.DNSException, ValueError) as error:
            raise NotResolved(f"{name}: {self._resolv_conf} is of no use ({error})") from error
        if self._nameservers:
            stub.nameservers = list(self._nameservers)
            stub.domain = dns.name.root
        stub.port = self._port
        stub.lifetime = self._timeout_s
        # a share of the time for each, and one more for a datagram that was lost
        stub.timeout = self._timeout_s / (len(stub.nameservers) + 1)
        return stub

    def _ask_both_families(
        self, stub: dns.resolver.Resolver, name: str
    ) -> list[dns.resolver.Answer | dns.exception.DNSException]:
        """What A and AAAA brought, in this order."""
        asked = [gevent.spawn(_answer, stub, name, family) for family in _FAMILIES]
        try:
            # a bound of our own: the library pauses between tries past its end, and goes by a clock that can be set
            gevent.joinall(asked, timeout=self._timeout_s)
            return [greenlet.get() if greenlet.ready() else dns.exception.Timeout() for greenlet in asked]
        finally:
            gevent.killall(asked)


def _answer(
    stub: dns.resolver.Resolver, name: str, family: dns.rdatatype.RdataType
) -> dns.resolver.Answer | dns.exception.DNSException:
    """The answer, perhaps without records; or, instead of raising it, why there is none."""
    try:
        return stub.resolve(name, family, search=True, raise_on_no_answer=False)
    except dns.exception.DNSException as error:
        return error


def _is_passing(failure: dns.exception.DNSException) -> bool:
    """Whether the next look-up may well succeed."""
    return not isinstance(failure, dns.resolver.NXDOMAIN)


def _words(failure: dns.exception.DNSException, stub: dns.resolver.Resolver) -> str:
    servers = ", ".join(getattr(server, "address", str(server)) for server in stub.nameservers)
    match failure:
        case dns.resolver.NXDOMAIN():
            return "does not exist"
        case dns.exception.Timeout():
            return f"no usable answer within {stub.lifetime:g} s from {servers}"
        case dns.resolver.NoNameservers():
            # (server, over TCP?, port, status or exception, response) for each try
            tries = cast("list[tuple[str, bool, int, object, object]]", failure.kwargs["errors"])
            reasons = filter(None, dict.fromkeys(str(each[3]) for each in tries))  # "truncated" has no text
            return f"no usable answer from {servers}: {'; '.join(reasons)}"
        case _:
            return str(failure)


def _host(text: str) -> str:
    """A name in lower case, or an IP address without brackets. Raises `ValueError`."""
    if text.startswith("["):
        try:
            return str(IPv6Address(text[1:-1]))
        except ValueError:
            raise ValueError(_RIGHT) from None
    name = text.lower()
    labels = name.removesuffix(".").split(".")
    is_name = len(name) <= _LONGEST_NAME and all(map(_LABEL.fullmatch, labels))
    # what ends in a number is meant as an address (10.0.0.256)
    if not is_name or (labels[-1].isdigit() and _literal(name) is None):
        raise ValueError(_RIGHT)
    return name


def _literal(text: str) -> str | None:
    """`text` in its usual form if it is an IP address."""
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def _can_be_connected_to(address: str) -> bool:
    """Not so 0.0.0.0, by which filters say no and which would be this very host; nor what needs a zone besides."""
    ip = ip_address(address)
    return not (ip.is_unspecified or ip.is_multicast or (ip.version == 6 and ip.is_link_local))


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
