"""A nameserver over UDP and TCP on 127.0.0.1, which knows what a test tells it and fails as it is told.

It runs in threads of the test process, which is not monkey patched. What it says may change while it runs; every
question is kept. It answers like a server that has followed all aliases. What it does not know does not exist.

    drop        no answer
    lose        no answer to the first question, as if the datagram were lost
    servfail    the status SERVFAIL
    nxdomain    the name does not exist, whatever it knows
    garbage     bytes that are no DNS message
    other       the answer to another question
    truncate    over UDP an empty answer that says it is truncated, over TCP the whole one
    torn        over UDP the same, over TCP half of an answer
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.support.ports import free_port

Family = Literal["A", "AAAA"]
Fault = Literal["drop", "lose", "servfail", "nxdomain", "garbage", "other", "truncate", "torn"]
FAMILIES: tuple[Family, ...] = ("A", "AAAA")

POLL_S = 0.1
READ_TIMEOUT_S = 1.0
STOP_TIMEOUT_S = 5.0
MOST_BYTES_OVER_UDP = 512
LONGEST_CHAIN = 20  # of aliases that run in a circle


@dataclass(frozen=True, slots=True)
class Question:
    """One question as it came: the name in lower case and without a dot at its end, and the type (`AAAA`)."""

    name: str
    family: str
    is_over_tcp: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    addresses: tuple[str, ...]
    alias: str
    ttl_s: int
    ipv6_ttl_s: int


class Nameserver:
    """One nameserver on 127.0.0.1:`port`. Thread-safe. Starts when made, and on the same port after `stop()`.

    Every answer waits for `delay_s`. `twist` may change the bytes of an answer over TCP before they go out.
    """

    address = "127.0.0.1"

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.twist: Callable[[bytes], bytes] | None = None
        self._changed = threading.Condition()  # protects all below
        self._entries: dict[str, _Entry] = {}
        self._faults: dict[tuple[str, str], Fault] = {}
        self._questions: list[Question] = []
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._stopping.set()
        self.port = 0
        self.start()

    def set(self, name: str, *addresses: str, ttl_s: int = 30, ipv6_ttl_s: int | None = None) -> None:
        """`name` has exactly these addresses now, IPv4 and IPv6; without any it exists and has none."""
        with self._changed:
            self._entries[name.lower()] = _Entry(addresses, "", ttl_s, ttl_s if ipv6_ttl_s is None else ipv6_ttl_s)

    def alias(self, name: str, target: str, *, ttl_s: int = 30) -> None:
        """`name` is another name of `target` (CNAME)."""
        with self._changed:
            self._entries[name.lower()] = _Entry((), target.lower(), ttl_s, ttl_s)

    def remove(self, name: str) -> None:
        """`name` does not exist any more."""
        with self._changed:
            self._entries.pop(name.lower(), None)

    def spoil(self, name: str, fault: Fault, *families: Family) -> None:
        """Questions for `name` fail in this way, of both families unless some are given."""
        with self._changed:
            self._faults.update({(name.lower(), family): fault for family in families or FAMILIES})

    def mend(self, name: str) -> None:
        """Questions for `name` are answered again."""
        with self._changed:
            for family in FAMILIES:
                self._faults.pop((name.lower(), family), None)

    def clear(self) -> None:
        """Forget names, faults, delay and questions."""
        with self._changed:
            self._entries.clear()
            self._faults.clear()
            self._questions.clear()
            self.delay_s = 0.0
            self.twist = None

    @property
    def questions(self) -> list[Question]:
        """What was asked since the last `clear()`, in order."""
        with self._changed:
            return list(self._questions)

    def count(self, name: str) -> int:
        """How often `name` was asked for since the last `clear()`, both families together."""
        return sum(question.name == name.lower() for question in self.questions)

    def wait_for_questions(self, name: str, count: int, *, timeout_s: float = 15.0) -> None:
        """Until `name` was asked for `count` times. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.count(name) >= count, timeout_s):
                raise TimeoutError(f"{self.count(name)} of {count} questions for {name} came in {timeout_s:g} s")

    def start(self) -> Self:
        """Listen again after `stop()`. Nothing happens when it listens already."""
        with self._changed:
            if self._stopping.is_set():
                self._stopping = threading.Event()
                listener, datagrams = self._bind()
                self._spawn(self._accept, listener, self._stopping)
                self._spawn(self._receive, datagrams, self._stopping)
        return self

    def stop(self) -> None:
        """Hear and say nothing from now on; names and questions are kept."""
        with self._changed:
            self._stopping.set()
            threads, self._threads = self._threads, []
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _bind(self) -> tuple[socket.socket, socket.socket]:
        """A TCP listener and a UDP socket on the same port."""
        for _ in range(20):
            port = self.port or free_port()
            listener = socket.create_server((self.address, port))
            datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                datagrams.bind((self.address, port))
            except OSError:  # free for TCP only
                listener.close()
                datagrams.close()
                continue
            self.port = port
            return listener, datagrams
        raise RuntimeError("no port is free for both UDP and TCP")

    def _receive(self, datagrams: socket.socket, stopping: threading.Event) -> None:
        datagrams.settimeout(POLL_S)
        with datagrams:
            while not stopping.is_set():
                with suppress(TimeoutError):
                    wire, asker = datagrams.recvfrom(65_535)
                    self._spawn(self._answer_datagram, datagrams, wire, asker, stopping)

    def _answer_datagram(
        self, datagrams: socket.socket, wire: bytes, asker: tuple[str, int], stopping: threading.Event
    ) -> None:
        reply = self._reply(wire, stopping, is_over_tcp=False)
        if reply:
            with suppress(OSError):  # stopped meanwhile
                datagrams.sendto(reply, asker)

    def _accept(self, listener: socket.socket, stopping: threading.Event) -> None:
        listener.settimeout(POLL_S)
        with listener:
            while not stopping.is_set():
                with suppress(TimeoutError):
                    connection, _ = listener.accept()
                    self._spawn(self._answer_connection, connection, stopping)

    def _answer_connection(self, connection: socket.socket, stopping: threading.Event) -> None:
        """One question (RFC 7766, 8: each message comes with its length in front)."""
        connection.settimeout(READ_TIMEOUT_S)
        with connection, connection.makefile("rb") as stream, suppress(OSError, struct.error):
            (length,) = struct.unpack("!H", stream.read(2))
            reply = self._reply(stream.read(length), stopping, is_over_tcp=True)
            if reply:
                connection.sendall(reply)

    def _reply(self, wire: bytes, stopping: threading.Event, *, is_over_tcp: bool) -> bytes:
        """The bytes to send for the question in `wire`; none for silence."""
        query = dns.message.from_wire(wire)
        name = query.question[0].name.to_text(omit_final_dot=True).lower()
        family = dns.rdatatype.to_text(query.question[0].rdtype)
        with self._changed:
            self._questions.append(Question(name, family, is_over_tcp))
            self._changed.notify_all()
            fault, twist = self._faults.get((name, family)), self.twist
            if fault == "lose":
                del self._faults[name, family]
            response = self._response(query, name, family)
        stopping.wait(self.delay_s)
        if fault in ("drop", "lose") or stopping.is_set():
            return b""
        if fault == "other":
            response.question = dns.message.make_query("somebody.else.", family).question
        if fault == "servfail":
            response = _with_status(query, dns.rcode.SERVFAIL)
        if fault == "nxdomain":
            response = _with_status(query, dns.rcode.NXDOMAIN)
        if not is_over_tcp:
            return _datagram(response, fault)
        message = b"\xff" * 20 if fault == "garbage" else response.to_wire()
        if twist is not None:
            message = twist(message)
        framed = struct.pack("!H", len(message)) + message
        return framed[: len(framed) // 2] if fault == "torn" else framed

    def _response(self, query: dns.message.Message, name: str, family: str) -> dns.message.Message:
        response = _with_status(query, dns.rcode.NOERROR)
        for _ in range(LONGEST_CHAIN):
            entry = self._entries.get(name)
            if entry is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
                break
            if not entry.alias:
                own = [each for each in entry.addresses if (":" in each) == (family == "AAAA")]
                if own and family in FAMILIES:
                    ttl_s = entry.ttl_s if family == "A" else entry.ipv6_ttl_s
                    response.answer.append(dns.rrset.from_text(f"{name}.", ttl_s, "IN", family, *own))
                break
            response.answer.append(dns.rrset.from_text(f"{name}.", entry.ttl_s, "IN", "CNAME", f"{entry.alias}."))
            name = entry.alias
        return response

    def _spawn(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, name=f"nameserver-{self.port}", daemon=True)
        with self._changed:
            self._threads = [each for each in self._threads if each.is_alive()]
            thread.start()
            self._threads.append(thread)


def _with_status(query: dns.message.Message, status: dns.rcode.Rcode) -> dns.message.Message:
    response = dns.message.make_response(query, recursion_available=True)
    response.set_rcode(status)
    return response


def _datagram(response: dns.message.Message, fault: Fault | None) -> bytes:
    if fault == "garbage":
        return b"\xff" * 20
    if fault in ("truncate", "torn"):
        response.answer.clear()
        response.flags |= dns.flags.TC
    return response.to_wire(max_size=MOST_BYTES_OVER_UDP, prefer_truncation=True)
