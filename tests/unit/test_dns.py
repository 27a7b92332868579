"""Names that stand for several instances: how they are written, and which addresses they have."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.backend.dns import (
    LONGEST_TTL_S,
    SHORTEST_TTL_S,
    UNSURE_TTL_S,
    NoAddress,
    NotResolved,
    Resolved,
    Resolver,
    parse_nameserver,
    parse_source,
)
from tests.support.nameserver import Family, Fault, Nameserver
from tests.support.ports import free_port
from tests.support.processes import ROOT, clean_environment

LONG_S = 5.0
SHORT_S = 0.4  # where waiting in vain is what is tested
FAIR_S = 2.0  # where one waits in vain, and the other must have time to answer on a busy machine
NAME = "products.internal"
# looks names up in a worker's world, while a ticker notes how long it was kept from running
IN_A_WORKER = """
from gevent import monkey
monkey.patch_all()
import gc, json, pathlib, sys, time
import gevent
from gateway.backend.dns import NotResolved, Resolver

port, timeout_s, count = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
if "stopped" in sys.argv:
    time.time = lambda: 1e9
nothing = pathlib.Path("/nonexistent")
resolver = Resolver(nameservers=["127.0.0.1"], port=port, timeout_s=timeout_s, hosts_file=nothing)
gaps, ttls_s = [], []

def tick():
    while True:
        began = time.monotonic()
        gevent.sleep(0.005)
        gaps.append(time.monotonic() - began)

def look_up():
    try:
        resolved = resolver.resolve("products.internal")
        ttls_s.append(resolved.ttl_s)
        return list(resolved.addresses)
    except NotResolved as error:
        return str(error)

ticker = gevent.spawn(tick)
gevent.sleep(0)
began = time.monotonic()
found = [look_up.get() for look_up in gevent.joinall([gevent.spawn(look_up) for _ in range(count)])]
took_s = time.monotonic() - began
left = sum(isinstance(thing, gevent.Greenlet) and thing is not ticker and not thing.dead for thing in gc.get_objects())
gevent.sleep(0.02)  # one tick at least
print(json.dumps({"found": found, "ttls_s": ttls_s, "took_s": took_s, "longest_gap_s": max(gaps), "left": left}))
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What the program above told."""

    found: list[list[str] | str]
    ttls_s: list[float]  # of the names that were found
    took_s: float
    longest_gap_s: float
    left: int  # greenlets that are not done


@pytest.fixture(scope="module")
def running() -> Generator[Nameserver]:
    with Nameserver() as server:
        yield server


@pytest.fixture
def nameserver(running: Nameserver) -> Nameserver:
    running.clear()
    return running


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost\n")
    return path


@pytest.fixture
def resolver(nameserver: Nameserver, hosts: Path) -> Resolver:
    return asking(nameserver, hosts)


@pytest.fixture
def hasty(nameserver: Nameserver, hosts: Path) -> Resolver:
    """Like `resolver`, but gives up soon: for what is never answered."""
    return asking(nameserver, hosts, timeout_s=SHORT_S)


def asking(nameserver: Nameserver, hosts: Path, *before: str, timeout_s: float = LONG_S) -> Resolver:
    """One that asks the nameservers `before` and then ours."""
    servers = (*before, nameserver.address)
    return Resolver(
        nameservers=servers,
        port=nameserver.port,
        timeout_s=timeout_s,
        hosts_file=hosts,
        resolv_conf=hosts.with_name("missing"),
    )


def configured(nameserver: Nameserver, hosts: Path, text: str) -> Resolver:
    """One that goes by a resolv.conf with `text`."""
    path = hosts.with_name("resolv.conf")
    path.write_text(text)
    return Resolver(port=nameserver.port, timeout_s=LONG_S, hosts_file=hosts, resolv_conf=path)


def in_a_worker(nameserver: Nameserver, *, timeout_s: float, count: int = 1, clock: str = "runs") -> Run:
    argv = [sys.executable, "-c", IN_A_WORKER, str(nameserver.port), str(timeout_s), str(count), clock]
    done = subprocess.run(argv, cwd=ROOT, env=clean_environment({}), capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return Run(**json.loads(done.stdout))


# how sources are written


@pytest.mark.parametrize(
    ("text", "scheme", "name", "port"),
    [
        ("dns:products.internal:5004", "http", "products.internal", 5004),
        ("dns:http://products.internal:5004", "http", "products.internal", 5004),
        ("dns:https://products.internal:8443", "https", "products.internal", 8443),
        ("dns:http://products", "http", "products", 80),
        ("dns:https://products", "https", "products", 443),
        ("dns:product_service:5004", "http", "product_service", 5004),
        ("dns:Products.SHOP.svc:1", "http", "products.shop.svc", 1),
        ("dns:products.shop.svc.cluster.local.:65535", "http", "products.shop.svc.cluster.local.", 65535),
        ("dns:10.0.0.7:5004", "http", "10.0.0.7", 5004),
        ("dns:[FD00:0::7]:5004", "http", "fd00::7", 5004),
        ("dns:https://[::1]", "https", "::1", 443),
        ("dns:3com:80", "http", "3com", 80),
        ("dns:7.internal:80", "http", "7.internal", 80),
    ],
)
def test_a_source_is_a_scheme_a_name_and_a_port(text: str, scheme: str, name: str, port: int) -> None:
    source = parse_source(text)

    assert (source.scheme, source.name, source.port) == (scheme, name, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "products.internal:5004",
        "dns:",
        "dns::5004",
        "dns:products.internal",
        "dns:products.internal:",
        "dns:http://products.internal:",
        "dns:products.internal:0",
        "dns:products.internal:65536",
        "dns:products.internal:http",
        "dns:products.internal:\u0665",
        "dns:ftp://products.internal:21",
        "dns://products.internal:5004",
        "dns:http://products.internal/v1",
        "dns:http://products.internal?x",
        "dns:http://user:secret@products.internal",
        "dns:products..internal:5004",
        "dns:.internal:5004",
        "dns:.:5004",
        "dns:-products:5004",
        "dns:products-:5004",
        "dns:prod\u00fccts:5004",
        "dns:two words:5004",
        "dns:10.0.0.256:5004",
        "dns:products.7:5004",
        "dns:10.0.0.7.:5004",
        "dns:5004:5004",
        "dns:fd00::7:5004",
        "dns:[fd00::7:5004",
        "dns:[fd00::g]:5004",
        "dns:[10.0.0.7]:5004",
        "dns:[fe80::1%eth0]:5004",
        "dns:products.internal:5004\n",
        f"dns:{'x' * 64}.internal:5004",
        f"dns:{'x.' * 127}:5004",
    ],
)
def test_what_is_no_source_is_told_what_is_right(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"^must be like dns:products\.internal:5004 or dns:https://products\.internal$"
    ):
        parse_source(text)


@pytest.mark.parametrize(
    ("source", "address", "url"),
    [
        ("dns:products:5004", "10.0.0.7", "http://10.0.0.7:5004"),
        ("dns:products:5004", "fd00::7", "http://[fd00::7]:5004"),
        ("dns:https://products", "fd00::7", "https://[fd00::7]:443"),
    ],
)
def test_an_instance_has_the_scheme_and_port_of_its_source(source: str, address: str, url: str) -> None:
    assert parse_source(source).url(address) == url


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("dns:http://Products:5004", "dns:products:5004"),
        ("dns:https://products", "dns:https://products:443"),
        ("dns:[::1]:80", "dns:[::1]:80"),
    ],
)
def test_a_source_shows_itself_in_its_shortest_form(text: str, shown: str) -> None:
    assert parse_source(text).text == shown


@given(
    st.sampled_from(["", "http://", "https://"]),
    st.text("aZ0.-_", min_size=1, max_size=12)
    | st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map("[{}]".format),
    st.integers(0, 70_000),
)
def test_what_a_source_shows_is_the_source_again(scheme: str, host: str, port: int) -> None:
    try:
        source = parse_source(f"dns:{scheme}{host}:{port}")
    except ValueError:
        return

    assert parse_source(source.text) == source


# without asking anybody


@pytest.mark.parametrize(
    ("literal", "usual"), [("10.0.0.7", "10.0.0.7"), ("fd00::7", "fd00::7"), ("FD00:0::7", "fd00::7")]
)
def test_an_address_stands_for_itself(resolver: Resolver, nameserver: Nameserver, literal: str, usual: str) -> None:
    assert resolver.resolve(literal) == Resolved((usual,), LONGEST_TTL_S)
    assert nameserver.questions == []


def test_a_name_of_the_hosts_file_is_not_asked_for(resolver: Resolver, nameserver: Nameserver, hosts: Path) -> None:
    nameserver.set(NAME, "10.0.0.7")
    hosts.write_text(f"10.9.9.9 {NAME}\n")

    assert resolver.resolve(NAME) == Resolved(("10.9.9.9",), UNSURE_TTL_S)
    assert nameserver.questions == []


def test_the_hosts_file_may_give_a_name_several_addresses(resolver: Resolver, hosts: Path) -> None:
    hosts.write_text(
        f"10.0.0.8 other {NAME}\n\nfd00::7\t{NAME.upper()} # x\n10.0.0.8 {NAME}\n10.0.0.9 other # {NAME}\n"
    )

    assert resolver.resolve(NAME).addresses == ("10.0.0.8", "fd00::7")


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "localhost."])
def test_the_hosts_file_knows_a_name_however_it_is_written(resolver: Resolver, name: str) -> None:
    assert resolver.resolve(name).addresses == ("127.0.0.1",)


def test_the_hosts_file_is_read_anew_each_time(resolver: Resolver, hosts: Path) -> None:
    hosts.write_text(f"10.0.0.1 {NAME}\n")
    before = resolver.resolve(NAME).addresses
    hosts.write_text(f"10.0.0.2 {NAME}\n")

    assert (before, resolver.resolve(NAME).addresses) == (("10.0.0.1",), ("10.0.0.2",))


@pytest.mark.parametrize(
    "line", ["# 10.0.0.1 products.internal", "10.0.0 products.internal", "\xff\xfe", "products.internal"]
)
def test_lines_of_the_hosts_file_that_say_nothing_are_passed_over(
    resolver: Resolver, nameserver: Nameserver, hosts: Path, line: str
) -> None:
    nameserver.set(NAME, "10.0.0.7")
    hosts.write_bytes(line.encode("latin-1"))

    assert resolver.resolve(NAME).addresses == ("10.0.0.7",)


def test_a_missing_hosts_file_says_nothing(nameserver: Nameserver, tmp_path: Path) -> None:
    nameserver.set(NAME, "10.0.0.7")

    assert asking(nameserver, tmp_path / "missing").resolve(NAME).addresses == ("10.0.0.7",)


# what nameservers answer


def test_every_address_of_both_families_is_found_once_and_sorted(resolver: Resolver, nameserver: Nameserver) -> None:
    nameserver.set(NAME, "10.0.0.8", "fd00::7", "10.0.0.7", "fd00::8", "10.0.0.8")

    assert resolver.resolve(NAME).addresses == ("10.0.0.7", "10.0.0.8", "fd00::7", "fd00::8")


@pytest.mark.parametrize("addresses", [("10.0.0.7", "10.0.0.8"), ("fd00::7", "fd00::8")])
def test_a_name_may_have_addresses_of_one_family_only(
    resolver: Resolver, nameserver: Nameserver, addresses: tuple[str, ...]
) -> None:
    nameserver.set(NAME, *addresses, ttl_s=20)

    assert resolver.resolve(NAME) == Resolved(addresses, 20)


@pytest.mark.parametrize(
    ("ttl_s", "used_s"),
    [(0, SHORTEST_TTL_S), (1, 1), (7, 7), (30, 30), (600, LONGEST_TTL_S), (2**31, SHORTEST_TTL_S)],
)
def test_addresses_are_used_for_their_ttl_within_bounds(
    resolver: Resolver, nameserver: Nameserver, ttl_s: int, used_s: float
) -> None:
    nameserver.set(NAME, "10.0.0.7", ttl_s=ttl_s)

    assert resolver.resolve(NAME).ttl_s == used_s


def test_an_alias_is_followed_and_the_smallest_ttl_of_the_chain_counts(
    resolver: Resolver, nameserver: Nameserver
) -> None:
    nameserver.alias(NAME, "b.internal", ttl_s=20)
    nameserver.alias("b.internal", "c.internal", ttl_s=9)
    nameserver.set("c.internal", "10.0.0.7", "fd00::7", ttl_s=15)

    assert resolver.resolve(NAME) == Resolved(("10.0.0.7", "fd00::7"), 9)


def test_the_family_whose_ttl_ends_first_counts(resolver: Resolver, nameserver: Nameserver) -> None:
    nameserver.set(NAME, "10.0.0.7", "fd00::7", ttl_s=20, ipv6_ttl_s=3)

    assert resolver.resolve(NAME).ttl_s == 3


def test_nothing_is_remembered_between_two_look_ups(resolver: Resolver, nameserver: Nameserver) -> None:
    nameserver.set(NAME, "10.0.0.7")
    before = resolver.resolve(NAME).addresses
    nameserver.set(NAME, "10.0.0.8")

    assert (before, resolver.resolve(NAME).addresses) == (("10.0.0.7",), ("10.0.0.8",))
    assert nameserver.count(NAME) == 4


def test_a_family_that_has_recovered_is_found_again(resolver: Resolver, nameserver: Nameserver) -> None:
    nameserver.set(NAME, "10.0.0.7", "fd00::7", ttl_s=20)
    nameserver.spoil(NAME, "servfail", "AAAA")
    resolver.resolve(NAME)

    nameserver.mend(NAME)

    assert resolver.resolve(NAME) == Resolved(("10.0.0.7", "fd00::7"), 20)


@pytest.mark.parametrize(("spoilt", "left"), [("A", "fd00::7"), ("AAAA", "10.0.0.7")])
@pytest.mark.parametrize("fault", ["servfail", "drop", "garbage", "other", "torn"])
def test_a_family_that_fails_does_not_spoil_the_other_but_is_asked_again_soon(
    nameserver: Nameserver, fault: Fault, spoilt: Family, left: str
) -> None:
    nameserver.set(NAME, "10.0.0.7", "fd00::7")
    nameserver.spoil(NAME, fault, spoilt)

    run = in_a_worker(nameserver, timeout_s=FAIR_S)  # elsewhere the first question blocks the second one

    assert (run.found, run.ttls_s) == ([[left]], [UNSURE_TTL_S])


def test_a_ttl_that_is_short_anyway_stays_when_a_family_fails(resolver: Resolver, nameserver: Nameserver) -> None:
    nameserver.set(NAME, "10.0.0.7", ttl_s=2)
    nameserver.spoil(NAME, "servfail", "AAAA")

    assert resolver.resolve(NAME).ttl_s == 2


def test_a_family_that_is_denied_is_not_asked_again_sooner(resolver: Resolver, nameserver: Nameserver) -> None:
    nameserver.set(NAME, "10.0.0.7", ttl_s=20)
    nameserver.spoil(NAME, "nxdomain", "AAAA")

    assert resolver.resolve(NAME) == Resolved(("10.0.0.7",), 20)


def test_an_answer_that_says_it_is_truncated_is_fetched_over_tcp(resolver: Resolver, nameserver: Nameserver) -> None:
    nameserver.set(NAME, "10.0.0.7", ttl_s=20)
    nameserver.spoil(NAME, "truncate")

    assert resolver.resolve(NAME) == Resolved(("10.0.0.7",), 20)


def test_more_addresses_than_a_datagram_holds_are_all_found(resolver: Resolver, nameserver: Nameserver) -> None:
    addresses = [f"10.0.{third}.{last}" for third in range(4) for last in range(1, 101)]
    nameserver.set(NAME, *addresses)

    assert set(resolver.resolve(NAME).addresses) == set(addresses)
    assert [question.family for question in nameserver.questions if question.is_over_tcp] == ["A"]


def test_a_question_that_was_lost_is_asked_again(nameserver: Nameserver, hosts: Path) -> None:
    nameserver.set(NAME, "10.0.0.7", ttl_s=20)
    nameserver.spoil(NAME, "lose")

    assert asking(nameserver, hosts, timeout_s=1).resolve(NAME) == Resolved(("10.0.0.7",), 20)


def test_a_nameserver_that_fails_is_followed_by_the_next(nameserver: Nameserver, hosts: Path) -> None:
    nameserver.set(NAME, "10.0.0.7", ttl_s=20)

    # nobody listens at the first
    assert asking(nameserver, hosts, "127.0.0.2", timeout_s=1).resolve(NAME) == Resolved(("10.0.0.7",), 20)


@pytest.mark.parametrize("unusable", ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "fe80::1"])
def test_addresses_that_nobody_can_connect_to_are_left_out(
    resolver: Resolver, nameserver: Nameserver, unusable: str
) -> None:
    nameserver.set(NAME, "10.0.0.7", unusable)

    assert resolver.resolve(NAME).addresses == ("10.0.0.7",)


# why there is nothing


def test_a_name_that_does_not_exist_is_not_resolved(resolver: Resolver) -> None:
    with pytest.raises(NotResolved, match=r"^products\.internal: does not exist$"):
        resolver.resolve(NAME)


def test_a_name_that_is_gone_is_not_resolved_any_more(resolver: Resolver, nameserver: Nameserver) -> None:
    nameserver.set(NAME, "10.0.0.7")
    resolver.resolve(NAME)

    nameserver.remove(NAME)

    with pytest.raises(NotResolved, match="does not exist"):
        resolver.resolve(NAME)


def test_a_name_without_addresses_is_not_resolved(resolver: Resolver, nameserver: Nameserver) -> None:
    nameserver.set(NAME)

    with pytest.raises(NotResolved, match=r"^products\.internal: exists, but has no address$"):
        resolver.resolve(NAME)


def test_an_alias_that_leads_nowhere_is_not_resolved(resolver: Resolver, nameserver: Nameserver) -> None:
    nameserver.alias(NAME, "gone.internal")

    with pytest.raises(NotResolved, match="does not exist"):
        resolver.resolve(NAME)


def test_aliases_that_run_in_a_circle_are_not_resolved(resolver: Resolver, nameserver: Nameserver) -> None:
    nameserver.alias(NAME, "b.internal")
    nameserver.alias("b.internal", NAME)

    with pytest.raises(NotResolved, match="no usable answer"):
        resolver.resolve(NAME)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("servfail", r"no usable answer from 127\.0\.0\.1: SERVFAIL$"),
        ("drop", r"no usable answer within 0\.4 s from 127\.0\.0\.1$"),
        ("garbage", r"no usable answer within 0\.4 s from 127\.0\.0\.1$"),
        ("other", r"no usable answer within 0\.4 s from 127\.0\.0\.1$"),
        ("torn", r"no usable answer from 127\.0\.0\.1: EOF$"),
    ],
)
def test_who_asks_is_told_why_there_is_no_answer(
    hasty: Resolver, nameserver: Nameserver, fault: Fault, why: str
) -> None:
    nameserver.set(NAME, "10.0.0.7")
    nameserver.spoil(NAME, fault)

    with pytest.raises(NotResolved, match=rf"^products\.internal: {why}"):
        hasty.resolve(NAME)


def test_a_failure_counts_more_than_a_family_without_addresses(resolver: Resolver, nameserver: Nameserver) -> None:
    nameserver.set(NAME)
    nameserver.spoil(NAME, "servfail", "AAAA")

    with pytest.raises(NotResolved, match="SERVFAIL"):
        resolver.resolve(NAME)


@pytest.mark.parametrize(("failing", "why"), [("A", "SERVFAIL"), ("AAAA", "does not exist")])
def test_the_first_family_says_why_there_is_nothing(
    resolver: Resolver, nameserver: Nameserver, failing: Family, why: str
) -> None:
    nameserver.spoil(NAME, "servfail", failing)

    with pytest.raises(NotResolved, match=why):
        resolver.resolve(NAME)


@pytest.mark.parametrize(
    ("addresses", "a", "aaaa", "is_sure"),
    [
        (None, None, None, True),
        ((), None, None, True),
        ((), None, "nxdomain", True),
        ((), "nxdomain", None, True),
        (("0.0.0.0",), None, None, True),
        ((), None, "servfail", False),
        ((), "servfail", "nxdomain", False),
        (("10.0.0.7",), "drop", "nxdomain", False),
        (("10.0.0.7",), "nxdomain", "drop", False),
        (("10.0.0.7",), "servfail", "servfail", False),
    ],
)
def test_that_there_is_no_address_is_sure_only_if_nobody_kept_silent(
    hasty: Resolver,
    nameserver: Nameserver,
    addresses: tuple[str, ...] | None,
    a: Fault | None,
    aaaa: Fault | None,
    is_sure: bool,
) -> None:
    if addresses is not None:
        nameserver.set(NAME, *addresses)
    if a is not None:
        nameserver.spoil(NAME, a, "A")
    if aaaa is not None:
        nameserver.spoil(NAME, aaaa, "AAAA")

    with pytest.raises(NotResolved) as caught:
        hasty.resolve(NAME)

    assert isinstance(caught.value, NoAddress) == is_sure


def test_outside_of_a_worker_each_family_has_its_time(hasty: Resolver, nameserver: Nameserver) -> None:
    nameserver.spoil(NAME, "drop")
    began = time.monotonic()

    with pytest.raises(NotResolved):
        hasty.resolve(NAME)

    assert time.monotonic() - began < 4


def test_a_name_whose_only_address_means_no_is_not_resolved(resolver: Resolver, nameserver: Nameserver) -> None:
    nameserver.set(NAME, "0.0.0.0", "::")

    with pytest.raises(NotResolved, match=r"^products\.internal: nobody can connect to 0\.0\.0\.0, ::$"):
        resolver.resolve(NAME)


def test_a_no_of_the_hosts_file_is_not_asked_for_elsewhere(
    resolver: Resolver, nameserver: Nameserver, hosts: Path
) -> None:
    nameserver.set(NAME, "10.0.0.7")
    hosts.write_text(f"0.0.0.0 {NAME}\n")

    with pytest.raises(NotResolved, match="nobody can connect"):
        resolver.resolve(NAME)


def test_a_name_that_no_dns_allows_is_not_resolved(resolver: Resolver) -> None:
    with pytest.raises(NotResolved, match="products"):
        resolver.resolve("products..internal")


def test_a_name_is_found_as_soon_as_the_nameserver_is_back(
    hasty: Resolver, resolver: Resolver, nameserver: Nameserver
) -> None:
    nameserver.set(NAME, "10.0.0.7")
    nameserver.stop()
    try:
        with pytest.raises(NotResolved):
            hasty.resolve(NAME)
    finally:
        nameserver.start()

    assert resolver.resolve(NAME).addresses == ("10.0.0.7",)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_bytes_that_changed_on_the_way_are_an_answer_or_not_resolved(
    hasty: Resolver, nameserver: Nameserver, data: st.DataObject
) -> None:
    def twist(wire: bytes) -> bytes:
        at = 2 + place % (len(wire) - 2)  # not the number of the question
        return wire[:at] + junk + wire[at + cut :]

    place, cut, junk = data.draw(st.integers(0, 200)), data.draw(st.integers(0, 20)), data.draw(st.binary(max_size=20))
    nameserver.alias(NAME, "b.internal")
    nameserver.set("b.internal", "10.0.0.7", "fd00::7")
    nameserver.spoil(NAME, "truncate")
    nameserver.twist = twist

    try:
        resolved = hasty.resolve(NAME)
    except NotResolved:
        return

    assert resolved.addresses
    assert SHORTEST_TTL_S <= resolved.ttl_s <= LONGEST_TTL_S


# which nameservers, and which names they are asked for


def test_a_nameserver_is_an_address() -> None:
    with pytest.raises(ValueError, match="dns\\.internal"):
        Resolver(nameservers=["dns.internal"])


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("10.0.0.2", ("10.0.0.2", 53)),
        ("10.0.0.2:5353", ("10.0.0.2", 5353)),
        ("fd00::2", ("fd00::2", 53)),
        ("[fd00::2]", ("fd00::2", 53)),
        ("[fd00:0::2]:65535", ("fd00::2", 65535)),
    ],
)
def test_a_nameserver_may_have_a_port(text: str, read: tuple[str, int]) -> None:
    assert parse_nameserver(text) == read


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dns.internal",
        "10.0.0.256",
        "10.0.0.2:",
        "10.0.0.2:0",
        "10.0.0.2:65536",
        "10.0.0.2:x",
        "fd00::2:",
        "[fd00::",
    ],
)
def test_what_is_no_nameserver_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_nameserver(text)


def test_each_nameserver_is_asked_at_its_own_port(nameserver: Nameserver, hosts: Path) -> None:
    nameserver.set(NAME, "10.0.0.7", ttl_s=20)
    closed = f"127.0.0.1:{free_port()}"

    resolver = Resolver(nameservers=[closed, f"127.0.0.1:{nameserver.port}"], timeout_s=LONG_S, hosts_file=hosts)

    assert resolver.resolve(NAME) == Resolved(("10.0.0.7",), 20)


def test_resolv_conf_says_whom_to_ask(nameserver: Nameserver, hosts: Path) -> None:
    nameserver.set(NAME, "10.0.0.7")

    assert configured(nameserver, hosts, "nameserver 127.0.0.1\n").resolve(NAME).addresses == ("10.0.0.7",)


@pytest.mark.parametrize(
    ("options", "name", "asked"),
    [
        ("search shop.svc svc", "products", ["products.shop.svc", "products.svc", "products"]),
        ("search shop.svc svc", "products.x", ["products.x", "products.x.shop.svc", "products.x.svc"]),
        ("search svc\noptions ndots:5", "products.x", ["products.x.svc", "products.x"]),
        ("search svc\noptions ndots:5", "products.x.", ["products.x"]),
        ("domain svc", "products", ["products.svc", "products"]),
    ],
)
def test_short_names_go_through_the_search_list(
    nameserver: Nameserver, hosts: Path, options: str, name: str, asked: list[str]
) -> None:
    resolver = configured(nameserver, hosts, f"nameserver 127.0.0.1\n{options}\n")

    with pytest.raises(NotResolved, match="does not exist"):
        resolver.resolve(name)

    for family in ("A", "AAAA"):
        assert [question.name for question in nameserver.questions if question.family == family] == asked


def test_the_first_name_of_the_search_list_that_exists_is_the_one(nameserver: Nameserver, hosts: Path) -> None:
    nameserver.set("products.shop.svc", "10.0.0.7")
    nameserver.set("products.svc", "10.0.0.8", "fd00::8")

    found = configured(nameserver, hosts, "nameserver 127.0.0.1\nsearch shop.svc svc\n").resolve("products")

    assert found.addresses == ("10.0.0.7",)


def test_a_name_without_addresses_does_not_pass_the_question_on_to_a_namesake(
    nameserver: Nameserver, hosts: Path
) -> None:
    nameserver.set("products.shop.svc")
    nameserver.set("products.svc", "10.0.0.8")

    with pytest.raises(NotResolved, match="has no address"):
        configured(nameserver, hosts, "nameserver 127.0.0.1\nsearch shop.svc svc\n").resolve("products")


def test_a_denied_family_does_not_bring_the_addresses_of_a_namesake(nameserver: Nameserver, hosts: Path) -> None:
    nameserver.set("products.shop.svc", "10.0.0.7")
    nameserver.spoil("products.shop.svc", "nxdomain", "AAAA")
    nameserver.set("products.svc", "10.0.0.8", "fd00::8")

    found = configured(nameserver, hosts, "nameserver 127.0.0.1\nsearch shop.svc svc\n").resolve("products")

    assert found.addresses == ("10.0.0.7",)


def test_with_nameservers_of_their_own_names_are_whole(
    resolver: Resolver, nameserver: Nameserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "gateway.internal")  # its domain is searched by default

    with pytest.raises(NotResolved):
        resolver.resolve("products")

    assert {question.name for question in nameserver.questions} == {"products"}


def test_resolv_conf_is_read_anew_each_time(nameserver: Nameserver, hosts: Path) -> None:
    nameserver.set("products.b", "10.0.0.7")
    resolver = configured(nameserver, hosts, "nameserver 127.0.0.1\nsearch a\n")
    with pytest.raises(NotResolved):
        resolver.resolve("products")

    hosts.with_name("resolv.conf").write_text("nameserver 127.0.0.1\nsearch b\n")

    assert resolver.resolve("products").addresses == ("10.0.0.7",)


@pytest.mark.parametrize(
    "text", ["", "nameserver nobody\n", "nameserver 127.0.0.1\nsearch a..b\n", "nameserver \udcff\n"]
)
def test_a_resolv_conf_of_no_use_is_told(nameserver: Nameserver, hosts: Path, text: str) -> None:
    resolver = configured(nameserver, hosts, "")
    path = hosts.with_name("resolv.conf")
    path.write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(NotResolved, match=r"^products: .*resolv\.conf is of no use"):
        resolver.resolve("products")


def test_a_missing_resolv_conf_spoils_neither_the_start_nor_the_hosts_file(hosts: Path) -> None:
    resolver = Resolver(hosts_file=hosts, resolv_conf=hosts.with_name("missing"))

    assert resolver.resolve("localhost").addresses == ("127.0.0.1",)
    with pytest.raises(NotResolved, match="missing is of no use"):
        resolver.resolve("products")


# in a worker, where sockets are gevent's


def test_both_families_are_asked_at_the_same_time(nameserver: Nameserver) -> None:
    nameserver.set(NAME, "10.0.0.7", "fd00::7")
    nameserver.delay_s = 0.8

    run = in_a_worker(nameserver, timeout_s=4)

    assert run.found == [["10.0.0.7", "fd00::7"]]
    assert 0.8 <= run.took_s < 1.5


@pytest.mark.parametrize("fault", ["drop", "truncate", "torn"])
def test_a_look_up_holds_up_nobody_else(nameserver: Nameserver, fault: Fault) -> None:
    nameserver.set(NAME, "10.0.0.7")
    nameserver.spoil(NAME, fault)
    nameserver.delay_s = 0.8

    run = in_a_worker(nameserver, timeout_s=1.8, count=10)

    assert run.took_s >= 0.8
    assert run.longest_gap_s < 0.6
    assert (run.found == [["10.0.0.7"]] * 10) is (fault == "truncate")


@pytest.mark.parametrize("clock", ["runs", "stopped"])
def test_a_look_up_is_over_in_time_whatever_the_clock_says(nameserver: Nameserver, clock: str) -> None:
    nameserver.spoil(NAME, "drop")

    run = in_a_worker(nameserver, timeout_s=1, clock=clock)

    assert run.found == ["products.internal: no usable answer within 1 s from 127.0.0.1"]
    assert 0.9 <= run.took_s < 2
    assert run.left == 0


def test_a_silent_family_does_not_take_the_other_with_it(nameserver: Nameserver) -> None:
    nameserver.set(NAME, "10.0.0.7", "fd00::7")
    nameserver.spoil(NAME, "drop", "A")

    run = in_a_worker(nameserver, timeout_s=1)

    assert run.found == [["fd00::7"]]
    assert run.took_s < 2


# the nameserver of these tests


def test_a_test_may_wait_for_questions(resolver: Resolver, nameserver: Nameserver) -> None:
    nameserver.set(NAME, "10.0.0.7")
    resolver.resolve(NAME)

    nameserver.wait_for_questions(NAME, 2)
    with pytest.raises(TimeoutError, match="2 of 3 questions"):
        nameserver.wait_for_questions(NAME, 3, timeout_s=0.01)
