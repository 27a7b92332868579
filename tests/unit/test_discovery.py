"""Where instances come from: names that are looked up again, the registry in good and bad times, and what a backend
makes of what they say."""

from __future__ import annotations

import io
import re
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gevent
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from requests.exceptions import SSLError
from structlog.testing import capture_logs

from common import yaml_file
from common.problems import BadGateway
from common.registration import client
from common.registry import LEASE_S, key_of
from common.settings import SettingsError
from common.tls import trusting
from deploy.local.valkey import Valkey
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.backend.countdown import Countdown
from gateway.backend.discovery import SourceState
from gateway.backend.dns import NoAddress, NotResolved, Resolved, parse_source
from gateway.backend.findings import Findings
from gateway.backend.outgoing import Outgoing
from gateway.backend.registry import Registry
from gateway.backend.transport import RawTargetAdapter
from gateway.backend.watched_name import (
    BELIEVED_AFTER_S,
    LONGEST_PAUSE_S,
    MOST_INSTANCES,
    SHORTEST_PAUSE_S,
    WatchedName,
)
from gateway.backend.watched_registry import LONGEST_DOUBT_S, WatchedRegistry
from gateway.body import Body
from gateway.observability.metrics import Metrics
from gateway.runtime import Runtime
from gateway.services import Address, Service, Sources, configuration_of
from tests.support.nameserver import Nameserver
from tests.support.ports import free_port
from tests.support.processes import ROOT, wait_until
from tests.support.stub import StubService
from tests.unit import parts

A, B, C = (f"http://10.0.0.{number}:80" for number in (1, 2, 3))
NAME = parse_source("dns:things.internal:80")
OTHER = parse_source("dns:others.internal:80")
DENIED = NoAddress("things.internal: does not exist")
SILENCE = NotResolved("things.internal: no usable answer within 2 s from 10.0.0.2")


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def addresses(*urls: str, weight: float = 1.0) -> tuple[Address, ...]:
    return tuple(Address(url, weight) for url in urls)


def urls(of: Findings | Backend) -> list[str]:
    return [each.url for each in (of.addresses if isinstance(of, Findings) else of.instances)]


# what several sources say, put together


def test_the_list_in_the_file_is_known_from_the_beginning() -> None:
    assert urls(Findings(Sources(addresses(A, B)))) == [A, B]


def test_what_sources_find_comes_together_and_their_last_word_holds() -> None:
    findings = Findings(Sources(addresses(A), dns=((NAME, 1.0),), registered=1.0))

    findings.take(NAME.text, addresses(B))
    findings.take("registry", addresses(C))
    all_of_them = urls(findings)
    findings.take("registry", addresses())

    assert all_of_them == [A, B, C]
    assert urls(findings) == [A, B]


def test_an_address_of_several_sources_is_one_instance_with_the_first_ones_weight() -> None:
    findings = Findings(Sources(addresses(A, weight=3), dns=((NAME, 1.0),)))

    findings.take(NAME.text, addresses(A, B, weight=5))

    assert findings.addresses == (Address(A, 3), Address(B, 5))


def test_a_source_that_the_service_does_not_have_any_more_is_passed_over() -> None:
    findings = Findings(Sources(addresses(A)))

    findings.take(NAME.text, addresses(B))
    findings.take("registry", addresses(C))

    assert urls(findings) == [A]


def test_a_service_described_anew_knows_what_the_sources_that_it_keeps_have_said() -> None:
    before = Findings(Sources(dns=((NAME, 1.0), (OTHER, 1.0)), registered=1.0))
    before.take(NAME.text, addresses(A))
    before.take(OTHER.text, addresses(B))
    before.take("registry", addresses(C))

    after = Findings(Sources(dns=((NAME, 1.0),), registered=1.0), before)

    assert urls(after) == [A, C]


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        (Sources(dns=((NAME, 1.0),)), NAME.text),
        (Sources(registered=1.0), "registry"),
        (Sources(dns=((NAME, 1.0), (OTHER, 1.0))), OTHER.text),
    ],
)
def test_the_instances_of_before_serve_on_until_a_new_source_has_found_one(sources: Sources, says: str) -> None:
    findings = Findings(sources, Findings(Sources(addresses(A, B))))
    at_first = urls(findings)

    findings.take(says, addresses(C))

    assert at_first == [A, B]
    assert urls(findings) == [C]


def test_the_instances_of_before_are_gone_when_all_new_sources_have_found_none() -> None:
    findings = Findings(Sources(dns=((NAME, 1.0),), registered=1.0), Findings(Sources(addresses(A))))

    findings.take(NAME.text, ())
    with_one_silent = urls(findings)
    findings.take("registry", ())

    assert with_one_silent == [A]
    assert urls(findings) == []


def test_a_list_in_the_file_is_not_mixed_with_the_instances_of_before() -> None:
    before = Findings(Sources(addresses(A)))

    assert urls(Findings(Sources(addresses(B), registered=1.0), before)) == [B]


def test_instances_of_before_serve_on_through_several_changes() -> None:
    first = Findings(Sources(addresses(A)))
    second = Findings(Sources(registered=1.0), first)

    assert urls(Findings(Sources(dns=((NAME, 1.0),)), second)) == [A]


# a backend and its instances


def backend(service: Service, before: Backend | None = None) -> Backend:
    return Backend(service, parts.settings(), Metrics(), before=before)


def test_an_instance_that_stays_is_the_same_one_and_gets_its_new_weight() -> None:
    things = backend(parts.service(sources=Sources(dns=((NAME, 1.0),))))
    things.take(NAME.text, addresses(A, B))
    a, _ = things.instances

    things.take(NAME.text, addresses(A, C, weight=7))

    assert things.instances[0] is a
    assert [(instance.url, instance.weight) for instance in things.instances] == [(A, 7), (C, 7)]


def test_an_instance_with_another_name_is_another_one() -> None:
    things = backend(parts.service(sources=Sources(dns=((NAME, 1.0),))))
    things.take(NAME.text, [Address(A, 1.0, "old.internal")])
    (old,) = things.instances

    things.take(NAME.text, [Address(A, 1.0, "new.internal")])

    assert things.instances[0] is not old
    assert things.instances[0].host == "new.internal"


def test_a_service_described_anew_takes_over_found_instances_as_they_are() -> None:
    service = parts.service(sources=Sources(addresses(A), dns=((NAME, 1.0),)))
    before = backend(service)
    before.take(NAME.text, addresses(B))

    after = backend(replace(service, balance="hash"), before)

    assert after.instances == before.instances
    assert urls(after) == [A, B]


def test_instances_that_no_longer_suit_are_made_anew() -> None:
    service = parts.service(sources=Sources(dns=((NAME, 1.0),)))
    before = backend(service)
    before.take(NAME.text, addresses(A))

    after = backend(replace(service, connect_timeout_s=0.1), before)

    assert urls(after) == [A]
    assert after.instances[0] is not before.instances[0]


def call() -> Call:
    return Call("GET", "/echo", [], Body(io.BytesIO(), 0, is_bounded=True, is_taken_in=True), Countdown(5), 5)


def test_an_instance_that_stays_keeps_its_connections_and_one_that_is_gone_loses_them() -> None:
    things = backend(parts.service(sources=Sources(dns=((NAME, 1.0),))))
    with StubService() as stub:
        things.take(NAME.text, addresses(stub.url))
        things.send(call()).close()
        things.take(NAME.text, addresses(A, stub.url))
        things.take(NAME.text, addresses(stub.url))
        things.send(call()).close()
        while_it_stays = stub.connections, stub.open_connections
        (gone,) = things.instances  # held, for nobody else would keep its connections from being collected

        things.take(NAME.text, ())
        wait_until(lambda: stub.open_connections == 0, "the connection to be closed")

    assert while_it_stays == (1, 1)
    assert gone.url == stub.url


# a name that stands in a certificate


@dataclass(frozen=True, slots=True)
class Secure:
    """A server over TLS on 127.0.0.1 whose certificate, in the file `authority`, is for things.internal."""

    url: str
    authority: str
    asked_for: list[str | None]  # the names that callers expected (RFC 6066, 3)

    def ask(self, server_name: str) -> int:
        """The status of an answer to a call that goes to the address and expects this name."""
        request = Outgoing("GET", self.url, "/", [], Body(io.BytesIO(), 0))
        adapter = RawTargetAdapter(1, server_name=server_name, trust=trusting(self.authority))
        try:
            return adapter.send(request, timeout=5).status_code
        finally:
            adapter.close()


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Generator[Secure]:
    folder = tmp_path_factory.mktemp("tls")
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    end = now + timedelta(hours=1)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "things")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("things.internal")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "both.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    asked_for: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    with ThreadingHTTPServer(("127.0.0.1", free_port()), Answering) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield Secure(f"https://127.0.0.1:{server.server_port}", str(folder / "both.pem"), asked_for)
        server.shutdown()
        thread.join()


def test_an_instance_of_a_name_needs_a_certificate_for_that_name(secure: Secure) -> None:
    assert secure.ask("things.internal") == 200
    with pytest.raises(SSLError, match="IP address mismatch"):
        secure.ask("")
    with pytest.raises(SSLError, match="Hostname mismatch"):
        secure.ask("others.internal")


def test_instances_of_a_name_are_called_by_it(secure: Secure) -> None:
    things = backend(parts.service(sources=Sources(dns=((NAME, 1.0),)), retries=0))
    things.take(NAME.text, [Address(secure.url, 1.0, "things.internal:8443")])
    secure.asked_for.clear()

    with pytest.raises(BadGateway):  # nobody has vouched for this authority
        things.send(call())

    assert secure.asked_for == ["things.internal"]


@pytest.mark.parametrize(
    ("source", "host"),
    [
        ("dns:things.internal:5004", "things.internal:5004"),
        ("dns:Things.internal.:80", "things.internal"),
        ("dns:https://things.internal", "things.internal"),
        ("dns:https://things.internal:80", "things.internal:80"),
        ("dns:http://things.internal:443", "things.internal:443"),
        ("dns:10.0.0.7:5004", ""),
        ("dns:[fd00::7]:5004", ""),
    ],
)
def test_a_name_is_told_without_the_port_that_goes_without_saying(source: str, host: str) -> None:
    assert parse_source(source).host == host


# a name that is looked up again


@dataclass(slots=True)
class Watching:
    """A name whose look-ups bring what a test says; draws are always the larger end."""

    name: WatchedName
    clock: Clock
    outcome: Resolved | Exception

    def look_up(self, outcome: Resolved | Exception | None = None, *, after_s: float = 0.0) -> float:
        self.clock.now += after_s
        self.outcome = outcome or self.outcome
        return self.name.look_up()

    @property
    def hosts(self) -> list[str] | None:
        """The addresses that are instances now."""
        return None if self.name.urls is None else [url.removeprefix("http://")[:-3] for url in self.name.urls]


def found(*hosts: str, ttl_s: float = 30.0) -> Resolved:
    return Resolved(hosts, ttl_s)


@pytest.fixture
def watching() -> Watching:
    def resolve(name: str) -> Resolved:
        assert name == "things.internal"
        if isinstance(made.outcome, Exception):
            raise made.outcome
        return made.outcome

    clock = Clock()
    made = Watching(WatchedName(NAME, resolve, clock=clock, draw=lambda _low, high: high), clock, found("10.0.0.1"))
    return made


def warnings(logs: Iterable[Mapping[str, object]]) -> list[object]:
    return [line["event"] for line in logs if line["log_level"] == "warning"]


def test_every_address_of_a_name_is_an_instance_until_its_time_to_live_is_over(watching: Watching) -> None:
    pause_s = watching.look_up(found("10.0.0.1", "fd00::7", ttl_s=20))

    assert watching.name.urls == ("http://10.0.0.1:80", "http://[fd00::7]:80")
    assert 20 <= pause_s <= 22
    assert watching.name.ttl_s == 20


def test_nobody_has_told_anything_before_the_first_answer(watching: Watching) -> None:
    before = watching.hosts

    watching.look_up(SILENCE)
    after_silence = watching.hosts
    watching.look_up(DENIED)

    assert (before, after_silence, watching.hosts) == (None, None, None)


@pytest.mark.parametrize("silence", [SILENCE, RuntimeError("a library stumbled")])
def test_while_nobody_answers_all_stay_for_ever(watching: Watching, silence: Exception) -> None:
    watching.look_up(found("10.0.0.1", "10.0.0.2"))

    for _ in range(100):
        watching.look_up(silence, after_s=3600)

    assert watching.hosts == ["10.0.0.1", "10.0.0.2"]
    assert str(silence) in watching.name.error


def test_that_there_is_nobody_is_believed_when_it_is_said_for_long_enough(watching: Watching) -> None:
    watching.look_up()

    watching.look_up(DENIED)
    at_once = watching.hosts
    watching.look_up(DENIED, after_s=BELIEVED_AFTER_S - 0.1)
    a_little_later = watching.hosts
    watching.look_up(DENIED, after_s=0.1)

    assert at_once == a_little_later == ["10.0.0.1"]
    assert watching.hosts == []


def test_a_name_that_was_denied_in_between_is_denied_anew(watching: Watching) -> None:
    watching.look_up()
    watching.look_up(DENIED)
    watching.look_up(found("10.0.0.1"), after_s=BELIEVED_AFTER_S - 1)

    watching.look_up(DENIED, after_s=2)

    assert watching.hosts == ["10.0.0.1"]


def test_silence_in_between_does_not_take_back_what_was_denied(watching: Watching) -> None:
    watching.look_up()
    watching.look_up(DENIED)
    watching.look_up(SILENCE, after_s=BELIEVED_AFTER_S)
    after_silence = watching.hosts

    watching.look_up(DENIED)

    assert after_silence == ["10.0.0.1"]
    assert watching.hosts == []


@pytest.mark.parametrize("failure", [SILENCE, DENIED])
def test_who_gets_no_address_asks_again_soon_but_not_again_and_again(watching: Watching, failure: Exception) -> None:
    pauses_s = [watching.look_up(failure) for _ in range(50)]

    assert pauses_s[0] == SHORTEST_PAUSE_S * 1.25
    assert pauses_s == sorted(pauses_s)
    assert pauses_s[-1] == LONGEST_PAUSE_S * 1.25


def test_after_an_answer_the_pauses_begin_anew(watching: Watching) -> None:
    for outcome in (SILENCE, SILENCE, found("10.0.0.1")):
        watching.look_up(outcome)

    assert watching.look_up(SILENCE) == SHORTEST_PAUSE_S * 1.25


def test_each_change_of_state_is_one_line(watching: Watching) -> None:
    with capture_logs() as logs:
        for outcome in (*[found("10.0.0.1")] * 3, *[SILENCE] * 3, *[DENIED] * 3, *[found("10.0.0.1")] * 3):
            watching.look_up(outcome)

    events = [line["event"] for line in logs]
    assert events == ["name_changed", "name_not_resolved", "name_not_resolved", "name_resolved"]
    assert watching.name.error == ""


def test_what_changed_is_told(watching: Watching) -> None:
    watching.look_up(found("10.0.0.1", "10.0.0.2"))

    with capture_logs() as logs:
        watching.look_up(found("10.0.0.2", "10.0.0.3"))

    (line,) = logs
    assert (line["added"], line["gone"], line["instances"]) == (["http://10.0.0.3:80"], ["http://10.0.0.1:80"], 2)


def test_no_more_addresses_are_taken_than_anybody_has_and_always_the_same(watching: Watching) -> None:
    many = [f"10.0.{number // 250}.{number % 250 + 1}" for number in range(MOST_INSTANCES + 100)]

    with capture_logs() as logs:
        for _ in range(3):
            watching.look_up(found(*many))

    assert watching.hosts == many[:MOST_INSTANCES]
    assert len(logs) == 1
    assert len(str(logs)) < 1000


# the registry, in good and in bad times


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as server:
        yield server


@pytest.fixture
def valkey(server: Valkey) -> Valkey:
    """A server that runs and is empty."""
    if not server.is_running:
        server.start()
    with client(server.url) as emptying:
        emptying.flushall()
    return server


class Members:
    """What a worker knows of the registry in `server`."""

    def __init__(self, server: Valkey) -> None:
        self.clock, self.is_hearing = Clock(), True
        self.registry = Registry(client(server.url))
        self.watched = WatchedRegistry(self.registry, is_hearing=lambda: self.is_hearing, clock=self.clock)

    def read(self, *, after_s: float = 0.0) -> list[str] | None:
        """The URLs of the service `things`, once it was read."""
        self.clock.now += after_s
        self.watched.read(["things"])
        return self.known

    @property
    def known(self) -> list[str] | None:
        members = self.watched.members("things")
        return None if members is None else [member.url for member in members]

    def register(self, *urls: str, lease_s: float = 600) -> None:
        for url in urls:
            self.registry.register("things", url, lease_s=lease_s)

    def leave(self, url: str) -> None:
        self.registry.deregister("things", url)


@pytest.fixture
def members(valkey: Valkey) -> Members:
    return Members(valkey)


def test_who_is_in_the_registry_is_known_and_who_left_is_not(members: Members) -> None:
    members.register(A, B)
    before, both = members.known, members.read()

    members.leave(A)

    assert (before, both) == (None, [A, B])
    assert members.read() == [B]


def test_who_died_is_gone_when_its_lease_has_run_out(members: Members) -> None:
    members.register(A, lease_s=0.3)
    members.register(B)
    assert members.read() == [A, B]

    wait_until(lambda: members.read() == [B], "the end of the lease", timeout_s=2)


def test_that_redis_is_away_takes_nobody_away_and_is_told_once(valkey: Valkey, members: Members) -> None:
    members.register(A, lease_s=1)
    members.read()

    with capture_logs() as logs:
        valkey.kill()
        while_away = [members.read(after_s=3600) for _ in range(3)]
        error = members.watched.error
        valkey.start()
        members.register(A)
        members.read()

    assert while_away == [[A]] * 3
    assert error == "Redis can't be asked (ConnectionError)"
    assert members.watched.error == ""
    assert [line["event"] for line in logs] == ["registry_away", "registry_back"]


def test_one_failure_ends_the_round_for_each_would_cost_a_wait(valkey: Valkey, members: Members) -> None:
    valkey.kill()
    asked: list[str] = []

    def services() -> Generator[str]:
        for service in ("a", "b", "c"):
            asked.append(service)
            yield service

    members.watched.read(services())

    assert asked == ["a"]
    assert members.watched.members("a") is None


def test_a_redis_that_is_back_empty_takes_nobody_away_who_comes_back_in_time(valkey: Valkey, members: Members) -> None:
    members.register(A, B, lease_s=5)
    members.read()
    valkey.kill()
    members.read(after_s=600)
    valkey.start()

    back_empty = members.read()
    members.register(A, lease_s=5)
    one_is_back = members.read(after_s=LEASE_S - 1)
    too_late = members.read(after_s=1)

    assert back_empty == one_is_back == [A, B]
    assert too_late == [A]


def test_a_long_lease_that_redis_has_forgotten_is_honoured(valkey: Valkey, members: Members) -> None:
    members.register(A, lease_s=600)
    members.read()
    valkey.kill()
    members.read()
    valkey.start()
    members.read()

    assert members.read(after_s=590) == [A]
    assert members.read(after_s=20) == []


def test_no_lease_is_honoured_for_ever(valkey: Valkey, members: Members) -> None:
    with client(valkey.url) as stranger:
        stranger.zadd(key_of("things"), {A: float("inf")})
    members.read()
    valkey.kill()
    members.read()
    valkey.start()

    members.read()

    assert members.read(after_s=LONGEST_DOUBT_S - 1) == [A]
    assert members.read(after_s=2) == []


def test_who_was_seen_again_after_the_doubt_is_believed_when_it_leaves(valkey: Valkey, members: Members) -> None:
    members.register(A, B)
    members.read()
    valkey.kill()
    members.read()
    valkey.start()
    members.register(A, B)
    members.read()

    members.leave(A)

    assert members.read() == [B]


def test_who_left_while_the_news_were_lost_is_only_gone_after_a_while(members: Members) -> None:
    members.register(A, B, lease_s=5)
    members.read()
    members.watched.doubt()
    members.leave(A)

    at_first = members.read()
    members.read(after_s=LEASE_S - 1)

    assert at_first == [A, B]
    assert members.read(after_s=1) == [B]


def test_without_news_nobody_is_doubted_for_longer_than_a_lease(members: Members) -> None:
    members.is_hearing = False
    members.register(A, lease_s=5)
    members.read()
    members.leave(A)

    seen = [members.read(after_s=2) for _ in range(10)]

    assert seen == [[A]] * 8 + [[]] * 2


def test_who_was_missed_while_the_news_were_lost_stays_doubted(members: Members) -> None:
    members.register(A, lease_s=5)
    members.read()
    members.leave(A)
    members.is_hearing = False
    members.read()
    members.is_hearing = True

    assert members.read(after_s=LEASE_S - 1) == [A]
    assert members.read(after_s=1) == []


def test_a_second_outage_is_a_second_reason_for_patience(valkey: Valkey, members: Members) -> None:
    members.register(A, lease_s=5)
    members.read()
    for _ in range(2):
        valkey.kill()
        members.read(after_s=600)
        valkey.start()

        assert members.read() == [A]


def test_what_is_not_asked_for_any_more_is_forgotten(members: Members) -> None:
    members.register(A)
    members.read()

    members.watched.keep_only(["others"])

    assert members.known is None


# what is set, and what docs/discovery.md shows


@pytest.mark.parametrize("servers", ["dns.internal", "10.0.0.2, 10.0.0.3:0", "10.0.0.2 10.0.0.3"])
def test_a_nameserver_that_is_none_stops_the_start(servers: str) -> None:
    with pytest.raises(SettingsError, match=r"DNS_SERVERS: .* is not the IP address of a nameserver"):
        parts.settings(dns_servers=servers)


@pytest.mark.parametrize(
    ("text", "servers"), [("", ()), (" 10.0.0.2 ,[fd00::2]:5353,", ("10.0.0.2", "[fd00::2]:5353"))]
)
def test_nameservers_are_read(text: str, servers: tuple[str, ...]) -> None:
    assert parts.settings(dns_servers=text).dns_servers == servers


def test_a_weak_registry_token_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="REGISTRY_TOKEN: must have at least 32 bytes"):
        parts.settings(registry_token="Xq7vLm2RtZ9wKd4P")


def test_what_the_page_shows_can_be_written_so() -> None:
    page = (ROOT / "docs/discovery.md").read_text()
    file, override = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    ((name, source),) = yaml.safe_load(override)["services"]["gateway"]["environment"].items()
    urls = {name.removesuffix("_SERVICE_URL").lower(): source}

    services = configuration_of(yaml_file.parse(file, "services.yaml"), parts.settings(), urls).services

    assert services["students"].sources == Sources(
        (Address("http://10.0.0.7:5005"), Address("http://10.0.0.8:5005", 2))
    )
    assert services["courses"].sources == Sources(dns=((parse_source("dns:courses.internal:5006"), 1.0),))
    assert services["marks"].sources == Sources((Address("http://10.0.0.9:5007"),), registered=1.0)
    assert services["product"].sources == Sources(dns=((parse_source("dns:product_service:5004"), 1.0),))


# all together: from a source to the backends of the table in force


@pytest.fixture(scope="module")
def running() -> Generator[Nameserver]:
    with Nameserver() as nameserver:
        yield nameserver


@pytest.fixture
def nameserver(running: Nameserver) -> Nameserver:
    running.clear()
    return running


Start = Callable[..., Runtime]


@pytest.fixture
def start(tmp_path: Path, nameserver: Nameserver, valkey: Valkey) -> Generator[Start]:
    """Starts discovery for services with these instances; it ends with the test."""
    is_running = True
    started: list[Runtime] = []

    def start_with(**instances: list[object]) -> Runtime:
        servers = f"127.0.0.1:{nameserver.port}"
        runtime = parts.runtime(tmp_path, entries(instances), redis_url=valkey.url, dns_servers=servers)
        runtime.followers.append(runtime.discovery.follow)
        started.append(runtime)
        runtime.discovery.start(runtime.table, lambda: is_running)
        return runtime

    yield start_with
    is_running = False
    for runtime in started:
        runtime.discovery.follow(replace(runtime.table, backends={}))
    gevent.sleep(0.05)


def entries(instances: Mapping[str, list[object]]) -> dict[str, dict[str, object]]:
    return {name: {"instances": listed} for name, listed in instances.items()}


def reload(runtime: Runtime, **instances: list[object]) -> None:
    """Put a services file with only these services into force."""
    runtime.settings.gateway_services.write_text(yaml.safe_dump({"services": entries(instances)}))
    runtime.loader.reload("test")


def weights(runtime: Runtime, service: str = "things") -> dict[str, float]:
    return {instance.url: instance.weight for instance in runtime.table.backends[service].instances}


def settle(is_true: Callable[[], bool], what: str, *, timeout_s: float = 15.0) -> None:
    """Let greenlets run until `is_true()`."""

    def look() -> bool:
        gevent.sleep(0.02)
        return is_true()

    wait_until(look, what, timeout_s=timeout_s, poll_s=0)


def test_everybody_was_asked_before_the_first_request(start: Start, nameserver: Nameserver, valkey: Valkey) -> None:
    nameserver.set("things.internal", "10.0.0.1", "fd00::1")
    nameserver.set("others.internal", "10.0.0.2")
    with client(valkey.url) as other:
        Registry(other).register("things", C, weight=3)

    runtime = start(
        things=["http://10.0.0.9:80", "dns:things.internal:80", {"url": "registry", "weight": 2}],
        others=[{"url": "dns:others.internal:81", "weight": 5}],
    )

    assert weights(runtime) == {"http://10.0.0.9:80": 1, "http://10.0.0.1:80": 1, "http://[fd00::1]:80": 1, C: 6}
    assert weights(runtime, "others") == {"http://10.0.0.2:81": 5}


def test_nobody_waits_longer_for_the_first_answers_than_these_take(
    start: Start, nameserver: Nameserver, valkey: Valkey
) -> None:
    nameserver.set("things.internal", "10.0.0.1")
    began = time.monotonic()

    start(things=["dns:things.internal:80", "registry"])

    assert time.monotonic() - began < 1


def test_a_name_is_asked_once_for_all_services_that_live_there(start: Start, nameserver: Nameserver) -> None:
    nameserver.set("things.internal", "10.0.0.1")

    runtime = start(things=["dns:things.internal:80"], others=[{"url": "dns:things.internal:80", "weight": 2}])

    assert weights(runtime) == {A: 1}
    assert weights(runtime, "others") == {A: 2}
    assert nameserver.count("things.internal") == 2  # of each family


def test_instances_of_a_name_are_told_the_name(start: Start, nameserver: Nameserver) -> None:
    nameserver.set("things.internal", "10.0.0.1")

    runtime = start(things=["http://10.0.0.9:80", "dns:things.internal:8080"], others=["dns:things.internal:80"])

    assert [instance.host for instance in runtime.table.backends["things"].instances] == ["", "things.internal:8080"]
    assert [instance.host for instance in runtime.table.backends["others"].instances] == ["things.internal"]


def test_a_name_is_looked_up_again_when_its_answer_is_too_old(start: Start, nameserver: Nameserver) -> None:
    nameserver.set("things.internal", "10.0.0.1", ttl_s=1)
    runtime = start(things=["dns:things.internal:80"])
    nameserver.set("things.internal", "10.0.0.1", "10.0.0.2", "10.0.0.3", ttl_s=1)
    before = weights(runtime)

    settle(lambda: len(weights(runtime)) == 3, "three instances")

    assert before == {A: 1}


def test_a_registry_without_news_is_read_again_and_again(start: Start, valkey: Valkey) -> None:
    runtime = start(things=["registry"], others=["registry"])
    with client(valkey.url) as stranger:
        until = int(time.time()) + 15
        stranger.execute_command("ZADD", "gateway:registry:things", until, A)  # who does so need not publish anything
        stranger.execute_command("ZADD", "gateway:registry:others", until, B)

    settle(lambda: weights(runtime) == {A: 1} and weights(runtime, "others") == {B: 1}, "the instances")


def test_each_version_of_a_service_has_instances_of_its_own(
    start: Start, tmp_path: Path, valkey: Valkey, nameserver: Nameserver
) -> None:
    nameserver.set("second.internal", "10.0.0.2")
    with client(valkey.url) as other:
        Registry(other).register("things", A)
        Registry(other).register("things@3", C)
    runtime = start()
    versions = {2: {"url": "dns:second.internal:80"}, 3: {"url": "registry"}}
    described = {"services": {"things": {"url": "registry", "versions": versions}}}
    runtime.settings.gateway_services.write_text(yaml.safe_dump(described))

    runtime.loader.reload("test")
    settle(lambda: bool(weights(runtime) and weights(runtime, "things@3")), "the registered ones", timeout_s=1)

    assert weights(runtime) == {A: 1}
    assert weights(runtime, "things@2") == {"http://10.0.0.2:80": 1}
    assert weights(runtime, "things@3") == {C: 1}


def test_a_reload_leaves_no_service_without_its_instances_for_a_moment(
    start: Start, nameserver: Nameserver, valkey: Valkey
) -> None:
    nameserver.set("things.internal", "10.0.0.1")
    with client(valkey.url) as other:
        Registry(other).register("things", C)
    runtime = start(things=["dns:things.internal:80", "registry"])
    settle(lambda: weights(runtime) == {A: 1, C: 1}, "the instances")
    before = runtime.table.backends["things"]
    nameserver.spoil("things.internal", "drop")
    valkey.kill()

    reload(runtime, things=[{"url": "dns:things.internal:80", "weight": 4}, {"url": "registry", "weight": 2}])

    after = runtime.table.backends["things"]
    assert after is not before
    assert weights(runtime) == {A: 4, C: 2}
    assert set(after.instances) == set(before.instances)


def test_what_was_found_while_a_table_was_compiled_is_not_lost(start: Start, nameserver: Nameserver) -> None:
    nameserver.set("things.internal", "10.0.0.1", ttl_s=1)
    runtime = start(things=["dns:things.internal:80"])
    service = runtime.table.services["things"]
    compiled = replace(
        runtime.table, backends={"things": Backend(service, runtime.settings, runtime.metrics)}, revision=2
    )

    runtime.adopt(compiled)

    assert weights(runtime) == {A: 1}


def test_addresses_that_are_replaced_by_a_name_serve_until_it_was_looked_up(
    start: Start, nameserver: Nameserver
) -> None:
    nameserver.set("things.internal", "10.0.0.2")
    runtime = start(things=[A])

    reload(runtime, things=["dns:things.internal:80"])
    at_once = weights(runtime)
    settle(lambda: weights(runtime) != at_once, "the look-up")

    assert at_once == {A: 1}
    assert weights(runtime) == {B: 1}


def test_what_the_registry_said_of_a_service_that_left_it_is_forgotten(start: Start, valkey: Valkey) -> None:
    with client(valkey.url) as other:
        Registry(other).register("things", C)
    runtime = start(things=["registry"])
    reload(runtime, things=[A])

    reload(runtime, things=["registry"])
    at_once = weights(runtime)
    settle(lambda: weights(runtime) != at_once, "the registry")

    assert at_once == {A: 1}
    assert weights(runtime) == {C: 1}


def test_without_news_of_redis_who_left_stays_for_a_while(start: Start, valkey: Valkey) -> None:
    with client(valkey.url) as other:
        registry = Registry(other)
        registry.register("things", A)
        runtime = start(things=["registry"])
        settle(lambda: A in weights(runtime), "the first one")
        registry.deregister("things", A)
        registry.register("things", B)
        settle(lambda: B in weights(runtime), "another one")

    assert weights(runtime) == {A: 1, B: 1}


def test_a_name_that_no_service_has_any_more_is_not_asked_for(start: Start, nameserver: Nameserver) -> None:
    nameserver.set("things.internal", "10.0.0.1", ttl_s=1)
    runtime = start(things=["dns:things.internal:80"])

    reload(runtime, things=[A])
    asked = nameserver.count("things.internal")
    gevent.sleep(1.3)

    assert nameserver.count("things.internal") == asked


def test_the_operator_sees_what_each_source_says(start: Start, nameserver: Nameserver, valkey: Valkey) -> None:
    nameserver.set("things.internal", "10.0.0.1", ttl_s=20)
    with client(valkey.url) as other:
        Registry(other).register("things", C)

    runtime = start(things=[B, "dns:things.internal:80", "dns:nobody.internal:80", "registry"])

    told, things = runtime.discovery.states, runtime.table.services["things"]
    settle(lambda: all(state.instances or state.error for state in told(things)), "each source to be asked")
    assert told(things) == (
        SourceState("dns:things.internal:80", (A,), 20.0),
        SourceState("dns:nobody.internal:80", (), 0.0, "nobody.internal: does not exist"),
        SourceState("registry", (C,)),
    )
