"""Instances that come and go while the gateway runs: names with changing addresses, and the registry in Redis."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from common.registration import client
from common.registry import key_of
from deploy.local.valkey import Valkey
from gateway.backend.registry import Registry
from tests.integration.conftest import ADMIN, Gateway, GatewayFactory, assert_problem, bearer, no_fault_in
from tests.integration.test_product_service import SECRET, service
from tests.support import wire
from tests.support.nameserver import Nameserver
from tests.support.ports import free_port
from tests.support.processes import ROOT, wait_until
from tests.support.stub import StubService
from tests.support.wire import Pairs, RawAnswer

NAME = "things.default.svc.cluster.local"
ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
KEY = key_of("things")
LATER = 4_000_000_000  # Unix time
AT_ONCE_S = 0.8  # well below the interval at which the registry is read anyway
TOKEN = "Zk3vQ8sLw1Yt6Rb9Xn4Hm7Jc2Gf5Dp0Ua"

SERVICES = """
services:
  users: {{url: "{url}"}}
  orders: {{url: "{url}"}}
  products: {{url: "{url}"}}
  open: {{url: "{url}", public: true, path: /}}
"""


class Load:
    """Asks for one path without a pause until it is stopped; counts the answers by their status."""

    def __init__(self, gateway: Gateway, target: str) -> None:
        self._gateway, self._target = gateway, target
        self._stop = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.lost: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=15)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.statuses[self._gateway.get(self._target).status] += 1
            except OSError as error:
                self.lost.append(repr(error))


@pytest.fixture(scope="module")
def running() -> Generator[Nameserver]:
    with Nameserver() as server:
        yield server


@pytest.fixture
def nameserver(running: Nameserver) -> Nameserver:
    running.start()
    running.clear()
    return running


@pytest.fixture
def own_valkey(tmp_path: Path) -> Generator[Valkey]:
    """A server that a test may kill."""
    with Valkey(tmp_path / "valkey", port=free_port()) as server:
        yield server


@pytest.fixture
def stubs() -> Generator[Callable[[str], StubService]]:
    """Gives a stub at an address of the loopback; all of a test have the same port."""
    port = free_port()
    with ExitStack() as stack:
        yield lambda address: stack.enter_context(StubService(port, address=address))


Start = Callable[..., Gateway]


@pytest.fixture
def start(start_gateway: GatewayFactory, running: Nameserver) -> Generator[Start]:
    """Starts a gateway that looks names up at our nameserver and knows `things`, wherever they are said to be."""
    started: list[Gateway] = []

    def start_with(*sources: str, more: str = "", **env: str) -> Gateway:
        listed = ", ".join(f'"{source}"' for source in sources)
        text = f"{SERVICES}  things: {{{{instances: [{listed}], public: true, path: /}}}}\n{more}"
        made = start_gateway(services=text, DNS_SERVERS=f"127.0.0.1:{running.port}", **env)
        started.append(made)
        return made

    yield start_with
    for gateway in started:
        gateway.process.terminate()


def rows(gateway: Gateway, name: str = "things") -> dict[str, Any]:
    """What the operator sees of a service, as the worker that answers knows it."""
    listed = cast("dict[str, list[dict[str, Any]]]", gateway.operations("/services").json())
    return next(row for row in listed["services"] if row["name"] == name)


def wait_for_instances(gateway: Gateway, *urls: str, timeout_s: float = 6.0) -> float:
    """Return once every worker has exactly these instances of `things`: after how many seconds."""
    began = time.monotonic()
    agreeing = 0

    def agree() -> bool:
        nonlocal agreeing
        found = {instance["url"] for instance in rows(gateway)["instances"]}
        agreeing = agreeing + 1 if found == set(urls) else 0
        return agreeing > 12  # of two workers each was asked, as good as certainly

    wait_until(agree, f"{urls}", timeout_s=timeout_s, poll_s=0.01)
    return time.monotonic() - began


def statuses(gateway: Gateway, count: int, target: str = "/things/x") -> Counter[int]:
    return Counter(gateway.get(target).status for _ in range(count))


# names


def test_a_name_that_grows_and_shrinks_is_followed_and_nobody_loses_a_request(
    start: Start, nameserver: Nameserver, stubs: Callable[[str], StubService]
) -> None:
    instances = [stubs(address) for address in ADDRESSES]
    nameserver.set(NAME, ADDRESSES[0], ttl_s=1)
    gateway = start(f"dns:{NAME}:{instances[0].port}")

    with no_fault_in(gateway), Load(gateway, "/things/x") as load:
        wait_until(lambda: load.statuses[200] > 50, "requests to the only one")
        others_at_first = [len(instance.requests) for instance in instances[1:]]
        nameserver.set(NAME, *ADDRESSES, ttl_s=1)
        wait_for_instances(gateway, *(instance.url for instance in instances))
        for instance in instances:
            instance.clear()
        wait_until(lambda: min(len(instance.requests) for instance in instances) > 20, "requests to all three")
        nameserver.set(NAME, *ADDRESSES[:2], ttl_s=1)
        wait_for_instances(gateway, *(instance.url for instance in instances[:2]))
        instances[2].clear()
        instances[2].stop()
        answered = load.statuses[200]
        wait_until(lambda: load.statuses[200] > answered + 100, "requests to the two that are left")

    assert others_at_first == [0, 0]
    assert instances[2].requests == []
    assert load.statuses.keys() == {200}
    assert load.lost == []


def test_both_families_are_instances_and_are_told_the_name(
    start: Start, nameserver: Nameserver, stubs: Callable[[str], StubService]
) -> None:
    instances = [stubs("127.0.0.1"), stubs("::1")]
    nameserver.set(NAME, "127.0.0.1", "::1")
    source = f"dns:{NAME}:{instances[0].port}"
    told = f"  told: {{{{url: '{source}', public: true, path: /, host: shop.example}}}}\n"
    gateway = start(source, more=told)

    seen = statuses(gateway, 20)

    assert seen == {200: 20}
    assert all(len(instance.requests) >= 8 for instance in instances)
    hosts = {request.header("Host") for instance in instances for request in instance.requests}
    assert hosts == {f"{NAME}:{instances[0].port}"}
    for instance in instances:
        instance.clear()
    assert statuses(gateway, 4, "/told/x") == {200: 4}
    assert {request.header("Host") for instance in instances for request in instance.requests} == {"shop.example"}


def test_a_name_that_does_not_resolve_harms_nobody_else_and_is_found_later(
    start: Start, nameserver: Nameserver, stubs: Callable[[str], StubService]
) -> None:
    instance = stubs("127.0.0.2")
    gateway = start(f"dns:{NAME}:{instance.port}", WEB_CONCURRENCY="1")

    nobody = gateway.get("/things/x")
    others = gateway.get("/open/x")
    (state,) = rows(gateway)["sources"]
    nameserver.set(NAME, "127.0.0.2")
    wait_for_instances(gateway, instance.url)

    assert_problem(nobody, 503, "NO_INSTANCE")
    assert nobody.header("Retry-After") == "1"
    assert others.status == 200
    assert state == {
        "source": f"dns:{NAME}:{instance.port}", "instances": [], "ttl_s": 0.0, "error": f"{NAME}: does not exist",
    }  # fmt: skip
    assert gateway.get("/things/x").status == 200
    assert rows(gateway)["sources"][0]["error"] == ""
    assert [line["reason"] for line in gateway.events("name_not_resolved")] == [f"{NAME}: does not exist"]


@pytest.mark.parametrize("fault", ["drop", "servfail", "garbage"])
def test_nameservers_that_say_nothing_of_use_take_nobody_away(
    start: Start, nameserver: Nameserver, stubs: Callable[[str], StubService], fault: Any
) -> None:
    instance = stubs("127.0.0.2")
    nameserver.set(NAME, "127.0.0.2", ttl_s=1)
    gateway = start(f"dns:{NAME}:{instance.port}", WEB_CONCURRENCY="1")
    nameserver.spoil(NAME, fault)

    wait_until(lambda: gateway.events("name_not_resolved") != [], "a failed look-up", timeout_s=6)
    seen = statuses(gateway, 50)
    state = rows(gateway)["sources"][0]
    nameserver.mend(NAME)
    wait_until(lambda: gateway.events("name_resolved") != [], "an answer", timeout_s=8)

    assert seen == {200: 50}
    assert state["instances"] == [instance.url]
    assert NAME in state["error"]
    assert len(gateway.events("name_not_resolved")) == 1


def test_a_look_up_that_hangs_holds_up_no_request(start: Start, nameserver: Nameserver) -> None:
    nameserver.set(NAME, "127.0.0.2", ttl_s=1)
    gateway = start(f"dns:{NAME}:1", WEB_CONCURRENCY="1")
    nameserver.delay_s = 1.5
    slowest_s, until = 0.0, time.monotonic() + 4

    while time.monotonic() < until:
        began = time.monotonic()
        assert gateway.get("/open/x").status == 200
        slowest_s = max(slowest_s, time.monotonic() - began)

    assert nameserver.count(NAME) >= 4
    assert slowest_s < 0.5


def test_a_worker_knows_its_instances_before_its_first_request(
    start: Start, nameserver: Nameserver, stubs: Callable[[str], StubService]
) -> None:
    instance = stubs("127.0.0.2")
    nameserver.set(NAME, "127.0.0.2")
    nameserver.delay_s = 0.5
    gateway = start(f"dns:{NAME}:{instance.port}", WEB_CONCURRENCY="1")

    with Load(gateway, "/things/x") as load:
        old = gateway.process.children()
        gateway.process.hup()
        wait_until(lambda: not set(old) & set(gateway.process.children()), "the new worker", timeout_s=15)
        answered = load.statuses[200]
        wait_until(lambda: load.statuses[200] > answered + 20, "its answers")

    assert load.statuses.keys() == {200}
    assert load.lost == []


def test_nameservers_that_are_silent_hold_a_worker_up_for_two_seconds(start: Start, nameserver: Nameserver) -> None:
    names = [f"silent{number}.internal" for number in range(5)]
    for name in names:
        nameserver.spoil(name, "drop")
    gateway = start("http://127.0.0.1:1", WEB_CONCURRENCY="1")
    without_s = started_after_s(gateway)

    gateway = start(*(f"dns:{name}:80" for name in names), WEB_CONCURRENCY="1")

    assert started_after_s(gateway) < without_s + 3


def test_a_redis_that_is_silent_holds_a_worker_up_for_two_seconds(start: Start, own_valkey: Valkey) -> None:
    gateway = start("registry", redis_url=own_valkey.url, WEB_CONCURRENCY="1", REDIS_TIMEOUT_MS="9000")

    own_valkey.freeze()

    assert started_after_s(gateway) < 5


def started_after_s(gateway: Gateway) -> float:
    """How long a worker takes from its fork to its first answer."""
    (old,) = gateway.process.children()
    began = time.monotonic()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: gateway.process.children() not in ([], [old]), "the new worker", timeout_s=15)
    gateway.get("/health", timeout=20)
    return time.monotonic() - began


# the registry


class Registered:
    """A gateway whose things are in the registry of its Redis, and one who writes into that."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.url = gateway, gateway.env["REDIS_URL"]
        self.client = client(self.url)
        self.registry = Registry(self.client)

    def add(self, *urls: str, lease_s: float = 600) -> None:
        for url in urls:
            self.registry.register("things", url, lease_s=lease_s)

    def forget(self) -> None:
        """Nobody is registered, and every worker has seen that."""
        self.client.delete(KEY)
        self.add("http://127.0.0.99:1")
        wait_for_instances(self.gateway, "http://127.0.0.99:1", timeout_s=20)
        self.registry.deregister("things", "http://127.0.0.99:1")
        wait_for_instances(self.gateway, timeout_s=20)

    def post(self, document: bytes, headers: Pairs = ADMIN, *, method: str = "POST", query: str = "") -> RawAnswer:
        """To the page of the operations listener."""
        typed = [*headers, ("Content-Type", "application/json")]
        return wire.request(self.gateway.operations_port, method, f"/registrations{query}", typed, document)

    def listed(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self.gateway.operations("/registrations").json()["registrations"])


@pytest.fixture(scope="module")
def shared(start_gateway: GatewayFactory) -> Registered:
    text = f"{SERVICES}  things: {{{{url: registry, public: true, path: /}}}}\n"
    return Registered(start_gateway(services=text, REGISTRY_TOKEN=TOKEN))


@pytest.fixture
def registered(shared: Registered) -> Generator[Registered]:
    shared.forget()
    with no_fault_in(shared.gateway):
        yield shared


@pytest.fixture
def empty(shared: Registered) -> Generator[Registered]:
    """The same, where it does not matter whether the workers know that nobody is registered."""
    shared.client.delete(KEY)
    with no_fault_in(shared.gateway):
        yield shared


def test_who_registers_and_leaves_is_known_to_all_workers_at_once(registered: Registered) -> None:
    took_s: list[float] = []
    for _ in range(3):
        registered.add("http://127.0.0.2:1")
        took_s.append(wait_for_instances(registered.gateway, "http://127.0.0.2:1"))
        registered.registry.deregister("things", "http://127.0.0.2:1")
        took_s.append(wait_for_instances(registered.gateway))

    assert max(took_s) < AT_ONCE_S


def test_who_does_not_renew_is_gone_when_its_lease_has_run_out(
    registered: Registered, stubs: Callable[[str], StubService]
) -> None:
    instance = stubs("127.0.0.2")
    registered.add(instance.url, lease_s=2)
    wait_for_instances(registered.gateway, instance.url)
    while_it_runs = registered.gateway.get("/things/x")

    wait_for_instances(registered.gateway, timeout_s=6)

    assert while_it_runs.status == 200
    assert_problem(registered.gateway.get("/things/x"), 503, "NO_INSTANCE")


NONSENSE: Mapping[str, list[str]] = {
    "a string": ["SET", KEY, "http://127.0.0.9:1"],
    "a hash": ["HSET", KEY, "http://127.0.0.9:1", "1"],
    "weights that are none": ["ZADD", KEY, *(f"{LATER} http://127.0.0.2:1#weight={n}" for n in ("nan", "-1", ""))],
    "10,000 members that are no URLs": ["ZADD", KEY, *(f"{LATER} {n} \xff{'x' * (n % 700)}" for n in range(10_000))],
    "10,000 instances": ["ZADD", KEY, *(f"{LATER} http://127.9.{n // 250}.{n % 250}:1" for n in range(10_000))],
}
"""Commands to Redis; score and member stand in one word."""


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_registry_full_of_nonsense_harms_nobody(registered: Registered, nonsense: str) -> None:
    gateway = registered.gateway
    command, key, *words = NONSENSE[nonsense]
    words = [part for word in words for part in word.split(" ", 1)] if command == "ZADD" else words
    registered.client.execute_command(command, key, *words)
    lines, slowest_s, until = len(gateway.process.log().splitlines()), 0.0, time.monotonic() + 3.5

    while time.monotonic() < until:
        began = time.monotonic()
        assert gateway.get("/open/x").status == 200
        slowest_s = max(slowest_s, time.monotonic() - began)
        time.sleep(0.02)

    complaints = [line for line in gateway.process.json_log()[lines:] if line["event"] == "registry_nonsense"]
    assert slowest_s < 0.5
    assert 0 < len(complaints) <= 2 * 33
    assert len(rows(gateway)["instances"]) <= 256
    assert gateway.get("/things/x").status in (502, 503)


def test_among_nonsense_the_good_are_found(registered: Registered, stubs: Callable[[str], StubService]) -> None:
    instance = stubs("127.0.0.2")
    nonsense = [
        "",
        "hello",
        "http://",
        "http://a:b@127.0.0.9:1",
        "http://127.0.0.9:1/path",
        "http://127.0.0.9:1#weight=0",
    ]
    registered.client.zadd(KEY, dict.fromkeys(nonsense, time.time() + 60))

    registered.add(instance.url)
    wait_for_instances(registered.gateway, instance.url)

    assert statuses(registered.gateway, 20) == {200: 20}
    assert "a:b@" not in registered.gateway.process.log()


def test_redis_that_dies_and_comes_back_empty_takes_nobody_away(
    start: Start, own_valkey: Valkey, stubs: Callable[[str], StubService]
) -> None:
    instances = [stubs("127.0.0.2"), stubs("127.0.0.3")]
    gateway = start("registry", redis_url=own_valkey.url)
    known = Registered(gateway)
    known.add(*(instance.url for instance in instances))
    wait_for_instances(gateway, *(instance.url for instance in instances))

    with no_fault_in(gateway), Load(gateway, "/things/x") as load:
        own_valkey.kill()
        wait_until(lambda: len(gateway.events("registry_away")) == 2, "both workers to notice", timeout_s=8)
        time.sleep(3)
        errors = [source["error"] for source in rows(gateway)["sources"]]
        own_valkey.start()
        wait_until(lambda: len(gateway.events("registry_back")) == 2, "both workers to notice", timeout_s=8)
        time.sleep(3)
        known.add(instances[0].url)  # it renews; the other one has died meanwhile
        time.sleep(1)

    assert load.statuses.keys() == {200}
    assert load.lost == []
    assert len(gateway.events("registry_away")) == 2
    assert errors == ["Redis can't be asked (ConnectionError)"]
    assert {instance["url"] for instance in rows(gateway)["instances"]} == {instance.url for instance in instances}


def test_redis_that_forgets_everything_between_two_looks_takes_nobody_away(
    start: Start, own_valkey: Valkey, stubs: Callable[[str], StubService]
) -> None:
    instance = stubs("127.0.0.2")
    gateway = start("registry", redis_url=own_valkey.url)
    Registered(gateway).add(instance.url)
    wait_for_instances(gateway, instance.url)

    with Load(gateway, "/things/x") as load:
        for restart in range(1, 4):
            own_valkey.kill()
            own_valkey.start()
            lines = 2 * (restart + 1)
            wait_until(lambda lines=lines: len(gateway.events("bus_connected")) >= lines, "the bus", timeout_s=8)
            time.sleep(2.6)  # everybody has looked

    assert load.statuses.keys() == {200}
    assert {instance["url"] for instance in rows(gateway)["instances"]} == {instance.url}


def test_a_service_of_ours_comes_and_goes_and_nobody_loses_a_request(
    start_gateway: GatewayFactory, tmp_path: Path, own_valkey: Valkey
) -> None:
    text = SERVICES.replace('products: {{url: "{url}"}}', "products: {{url: registry}}")
    gateway = start_gateway(services=text, redis_url=own_valkey.url, JWT_SECRET_KEY=SECRET.value)
    database, registry = f"sqlite:///{tmp_path}/products.db", Registry(client(own_valkey.url))
    first, second = (
        service("product_service", tmp_path, database, REGISTRY_URL=own_valkey.url, REGISTRY_LEASE_S="600")
        for _ in range(2)
    )
    nobody = gateway.get("/products")

    with first.process:
        wait_until(lambda: gateway.get("/products").status == 200, "the first one", timeout_s=5)
        with Load(gateway, "/products") as load, second.process:
            wait_until(lambda: len(registry.members("products")) == 2, "both", timeout_s=5)
            time.sleep(1)
            first.process.terminate()
            while_draining = registry.members("products")
            time.sleep(1)

    assert_problem(nobody, 503, "NO_INSTANCE")
    assert [member.url for member in while_draining] == [second.url]
    assert load.statuses.keys() == {200}
    assert load.statuses[200] > 100
    assert load.lost == []


def test_addresses_are_replaced_by_the_registry_while_callers_ask(
    start: Start, stubs: Callable[[str], StubService]
) -> None:
    old, new = stubs("127.0.0.2"), stubs("127.0.0.3")
    gateway = start(old.url)
    text = gateway.services_file.read_text()
    Registered(gateway).add(new.url)

    with no_fault_in(gateway), Load(gateway, "/things/x") as load:
        gateway.services_file.write_text(text.replace(f'"{old.url}"', '"registry"'))
        wait_for_instances(gateway, new.url, timeout_s=8)
        old.stop()
        answered = load.statuses[200]
        wait_until(lambda: load.statuses[200] > answered + 50, "answers of the new one")

    assert load.statuses.keys() == {200}
    assert load.lost == []


# registrations by HTTP

GOOD = b'{"service": "things", "url": "http://127.0.0.2:1"}'


@pytest.mark.parametrize("headers", [ADMIN, [("Authorization", f"Bearer {TOKEN}")]])
def test_a_foreign_service_registers_renews_and_leaves(registered: Registered, headers: Pairs) -> None:
    document = b'{"service": "things", "url": "http://127.0.0.2:1/", "weight": 2.5, "lease_s": 60}'

    first, again = registered.post(document, headers), registered.post(document, headers)
    wait_for_instances(registered.gateway, "http://127.0.0.2:1")
    listed = registered.listed()
    gone = registered.post(b"", headers, method="DELETE", query="?service=things&url=http%3A%2F%2F127.0.0.2%3A1")
    wait_for_instances(registered.gateway)
    gone_again = registered.post(b"", headers, method="DELETE", query="?service=things&url=http://127.0.0.2:1")

    assert (first.status, again.status, gone.status, gone_again.status) == (201, 200, 204, 204)
    assert first.json() == {
        "service": "things", "url": "http://127.0.0.2:1", "weight": 2.5, "lease_s": 60.0, "renew_within_s": 20.0,
    }  # fmt: skip
    (row,) = listed
    assert 50 < row.pop("seconds_left") <= 60
    assert row == {"service": "things", "url": "http://127.0.0.2:1", "weight": 2.5}


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ([], 401, "TOKEN_REQUIRED"),
        ([("Authorization", f"Bearer {TOKEN}x")], 401, "INVALID_TOKEN"),
        ([("Authorization", f"Basic {TOKEN}")], 401, "INVALID_TOKEN"),
        ([("Authorization", TOKEN)], 401, "INVALID_TOKEN"),
        (bearer("u1", ["customer"]), 403, "PERMISSION_REQUIRED"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_nobody_else_may_change_where_requests_go(
    empty: Registered, method: str, headers: Pairs, status: int, code: str
) -> None:
    answer = empty.post(GOOD, headers, method=method, query="?service=things&url=http://127.0.0.2:1")

    assert_problem(answer, status, code)
    assert empty.listed() == []


@pytest.mark.parametrize("path", ["/registrations", "/registrations/"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT"])
def test_the_public_listener_has_no_registrations(empty: Registered, method: str, path: str) -> None:
    headers = [*ADMIN, ("Content-Type", "application/json")]

    answer = empty.gateway.request(method, path, headers, GOOD)

    assert_problem(answer, 404, "SERVICE_NOT_FOUND")


@pytest.mark.parametrize(
    ("name", "words"),
    [("nobody", "There is no service nobody"), ("open", "The service open does not ask the registry")],
)
def test_a_service_that_takes_no_registrations_says_what_to_do(empty: Registered, name: str, words: str) -> None:
    by_post = empty.post(GOOD.replace(b"things", name.encode()))
    by_delete = empty.post(b"", method="DELETE", query=f"?service={name}&url=http://127.0.0.2:1")

    for answer in (by_post, by_delete):
        assert_problem(answer, 404, "SERVICE_NOT_FOUND")
        assert answer.json()["detail"] == (
            f"{words}: give it `instances: [registry]` in the services file. Those that do: things."
        )


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        (b'{"service": "things"}', ["url"]),
        (b"{}", ["service", "url"]),
        (b"[]", [""]),
        (b'"things"', [""]),
        (b'{"service": "things", "url": "127.0.0.2:1"}', ["url"]),
        (b'{"service": "things", "url": "http://me:pw@127.0.0.2:1"}', ["url"]),
        (b'{"service": "things", "url": "http://127.0.0.2:1/path"}', ["url"]),
        (b'{"service": "things", "url": "http://127.0.0.2:1#by=x"}', ["url"]),
        (b'{"service": "things", "url": "dns:x:1"}', ["url"]),
        (b'{"service": "things", "url": "http://%s:1"}' % (b"a" * 300), ["url"]),
        (b'{"service": 7, "url": ["http://127.0.0.2:1"]}', ["service", "url"]),
        (b'{"service": "things", "url": "http://127.0.0.2:1", "weight": 0, "lease_s": 0.5}', ["weight", "lease_s"]),
        (b'{"service": "things", "url": "http://127.0.0.2:1", "weight": 1001, "lease_s": 3601}', ["weight", "lease_s"]),
        (b'{"service": "things", "url": "http://127.0.0.2:1", "weight": NaN}', ["weight"]),
        (b'{"service": "things", "url": "http://127.0.0.2:1", "wieght": 2}', ["wieght"]),
    ],
)
def test_each_fault_of_a_registration_is_named(empty: Registered, document: bytes, fields: list[str]) -> None:
    answer = empty.post(document)

    assert_problem(answer, 422, "VALIDATION_ERROR")
    errors = cast("list[dict[str, str]]", answer.json()["errors"])
    assert [(error["field"], error["in"]) for error in errors] == [(field, "body") for field in fields]
    assert "pw" not in answer.body.decode()
    assert empty.listed() == []


def test_faults_of_a_query_are_named_as_such(empty: Registered) -> None:
    answer = empty.post(b"", method="DELETE", query="?service=things&url=nowhere")

    assert_problem(answer, 422, "VALIDATION_ERROR")
    assert [error["in"] for error in cast("list[dict[str, str]]", answer.json()["errors"])] == ["query"]


@pytest.mark.parametrize(
    ("document", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "BAD_REQUEST"),
        (GOOD, "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (GOOD + b" " * 5000, "application/json", 413, "PAYLOAD_TOO_LARGE"),
    ],
)
def test_what_is_no_document_is_refused(empty: Registered, document: bytes, kind: str, status: int, code: str) -> None:
    headers = [*ADMIN, ("Content-Type", kind)]

    answer = wire.request(empty.gateway.operations_port, "POST", "/registrations", headers, document)

    assert_problem(answer, status, code)


def test_while_redis_is_away_nobody_can_register_and_is_told_to_come_again(start: Start, own_valkey: Valkey) -> None:
    registered = Registered(start("registry", redis_url=own_valkey.url))
    own_valkey.kill()

    answers = [
        registered.post(GOOD),
        registered.post(b"", method="DELETE", query="?service=things&url=http://127.0.0.2:1"),
        registered.gateway.operations("/registrations"),
    ]

    for answer in answers:
        assert_problem(answer, 503, "SERVICE_UNAVAILABLE")
        assert answer.header("Retry-After") == "1"


def test_many_may_renew_from_one_address(start: Start) -> None:
    registered = Registered(start("registry", RATE_LIMIT_REQUESTS="3"))

    seen = [registered.post(GOOD).status for _ in range(10)]

    assert seen == [201] + [200] * 9


# what docs/discovery.md shows


def lines(beginning: str) -> list[str]:
    """The commands of the page that begin so, as a shell takes them."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/discovery.md").read_text(), re.DOTALL)
    return [block for block in blocks if block.startswith(beginning)]


def run(command: str, registered: Registered, instance: StubService, tools: Path) -> str:
    """What a line of the page prints when it is run here; its exit code is 0."""
    here = command.replace(":5101", f":{registered.gateway.operations_port}")
    here = here.replace("http://127.0.0.1:5005", instance.url).replace(":students", ":things")
    here = here.replace("students", "things")
    env = {"PATH": f"{tools}:{os.environ['PATH']}", "REGISTRY_TOKEN": TOKEN, "REDIS_URL": registered.url}
    done = subprocess.run(["sh", "-c", here], env=env, capture_output=True, timeout=20, check=True)
    return done.stdout.decode()


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for PATH with a `redis-cli` that sends its words to REDIS_URL."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "redis-cli"
    client_of_url = "redis.Redis.from_url(os.environ['REDIS_URL'])"
    program = f"import os, sys, redis; print({client_of_url}.execute_command(*sys.argv[1:]))"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$@"\n')
    script.chmod(0o755)
    return folder


def test_the_line_to_redis_is_all_that_it_takes(
    registered: Registered, stubs: Callable[[str], StubService], tools: Path
) -> None:
    instance = stubs("127.0.0.2")
    (line,) = lines("redis-cli ZADD")

    said = run(line, registered, instance, tools)
    wait_for_instances(registered.gateway, instance.url, timeout_s=4)

    assert said == "1\n"
    assert registered.gateway.get("/things/x").status == 200
    assert 10 < registered.listed()[0]["seconds_left"] <= 15


def test_the_calls_of_the_page_register_and_leave(
    registered: Registered, stubs: Callable[[str], StubService], tools: Path
) -> None:
    instance = stubs("127.0.0.2")
    (register,) = lines("curl -s http")
    (leave,) = lines("curl -s -X DELETE")

    said = run(register, registered, instance, tools)
    wait_for_instances(registered.gateway, instance.url)
    served = registered.gateway.get("/things/x")
    run(leave, registered, instance, tools)
    wait_for_instances(registered.gateway)

    assert '"renew_within_s":5.0' in said
    assert served.status == 200
