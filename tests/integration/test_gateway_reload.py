"""A running gateway's configuration is changed: nobody loses a request, nothing piles up, a bad file does no harm."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.conftest import (
    ADMIN,
    Gateway,
    GatewayFactory,
    assert_problem,
    bearer,
    no_fault_in,
    ready,
    statuses,
    together,
)
from tests.integration.test_gateway_process import Load
from tests.support import wire
from tests.support.processes import is_alive, wait_until
from tests.support.stub import StubService
from tests.support.wire import Pairs, RawAnswer

BASE = """
services:
  users: {{url: "{url}"}}
  orders: {{url: "{url}"}}
  products: {{url: "{url}"}}
  open: {{url: "{url}", public: true, path: /}}
"""
BAD = "services:\n  open:\n    url: http://127.0.0.1:1\n    tries: 3\n"
FAULT_PLACE = ":4:5: services.open.tries"

RELOADS = 200
WARM = 20
MOST_GROWTH_BYTES = 15 << 20
MOST_NEW_FILES = 10


class Running:
    """A gateway of two workers whose services file is changed. It begins with `BASE`."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.file = gateway.services_file

    def text(self, *entries: str) -> str:
        """The base with further entries, in which {url} is the stub's."""
        return "".join((BASE, *(f"  {entry}\n" for entry in entries))).format(url=self.gateway.stub.url)

    def put(self, text: str) -> None:
        """Replace the file, as careful editors do."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)

    def restore(self) -> None:
        """The base is in force everywhere, whatever was before."""
        self.put(self.text())
        answer = self.post("reload")
        assert answer.status == 200, answer.body
        self.wait_for(int(str(answer.json()["revision"])))

    def post(self, what: str, headers: Pairs = ADMIN) -> RawAnswer:
        return wire.request(self.gateway.operations_port, "POST", f"/config/{what}", headers)

    def config(self) -> dict[str, object]:
        return self.gateway.operations("/config").json()

    @property
    def revision(self) -> int:
        """Of the worker that answers; of all, where none lags."""
        return int(str(self.config()["revision"]))

    def gauge(self, name: str) -> float:
        page = self.gateway.operations("/metrics").body.decode().splitlines()
        return float(next(line.split()[1] for line in page if line.startswith(f"{name} ")))

    def wait_for(self, revision: int) -> None:
        """Return once all workers serve by it."""
        what = f"revision {revision} in all workers"
        wait_until(lambda: self.gauge("gateway_config_revision") == revision, what, timeout_s=10)

    def wait_for_fault(self) -> None:
        wait_until(lambda: self.gauge("gateway_config_ok") == 0, "the fault", timeout_s=10)

    def everywhere(self, target: str) -> list[int]:
        """The statuses that many fresh connections get, so many that both workers take some."""
        answers = together(24, lambda _: self.gateway.get(target))
        return sorted(set(statuses(answers)))

    def faults(self) -> list[str]:
        """What /services says."""
        said = self.gateway.operations("/services").json()["configuration"]
        assert isinstance(said, dict)
        return said["faults"]


@pytest.fixture(scope="module")
def shared(start_gateway: GatewayFactory) -> Running:
    running = Running(start_gateway(services=BASE, LOG_LEVEL="DEBUG"))
    ready(running.gateway)
    return running


@pytest.fixture
def running(shared: Running) -> Running:
    ready(shared.gateway)
    shared.restore()
    return shared


def test_changed_file_serves_in_all_workers(running: Running) -> None:
    before, revision = running.everywhere("/things/x"), running.revision

    with no_fault_in(running.gateway):
        running.put(running.text('things: {{url: "{url}", public: true, path: /}}'))
        running.wait_for(revision + 1)

    assert before == [404]
    assert running.everywhere("/things/x") == [200]
    assert running.everywhere("/open/x") == [200]


def test_service_that_is_taken_out_is_not_found_any_more(running: Running) -> None:
    revision = running.revision
    running.put(running.text().replace("open:", "other:"))

    running.wait_for(revision + 1)

    assert running.everywhere("/open/x") == [404]
    assert_problem(running.gateway.get("/open/x"), 404, "SERVICE_NOT_FOUND")
    assert running.everywhere("/other/x") == [200]


def test_change_is_one_line_of_the_log_and_a_number_that_all_see(running: Running) -> None:
    gateway, revision = running.gateway, running.revision
    told = len(gateway.events("configuration_adopted"))

    running.put(running.text('things: {{url: "{url}", public: true, path: /}}'))
    running.wait_for(revision + 1)
    config = running.config()
    services = gateway.operations("/services").json()

    wait_until(lambda: len(gateway.events("configuration_adopted")) > told, "the line of the change")
    (line,) = gateway.events("configuration_adopted")[told:]
    assert (line["revision"], line["by"], line["added"]) == (revision + 1, "file", ["things"])
    assert (config["revision"], config["path"], config["faults"]) == (revision + 1, str(running.file), [])
    assert services["configuration"] == {"revision": revision + 1, "faults": []}
    assert len(gateway.events("configuration_followed")) >= 1


def test_bad_file_keeps_the_last_good_one_and_says_so(running: Running) -> None:
    gateway, revision = running.gateway, running.revision
    told = len(gateway.events("configuration_refused"))

    running.put(BAD)
    running.wait_for_fault()
    time.sleep(1)  # several polls of both workers
    faults, statuses_meanwhile, in_force = running.faults(), running.everywhere("/open/x"), running.revision
    lines = gateway.events("configuration_refused")[told:]
    running.put(running.text())
    wait_until(lambda: running.gauge("gateway_config_ok") == 1, "the mended file", timeout_s=10)
    mended = running.faults()

    assert statuses_meanwhile == [200]
    assert in_force == revision
    assert [FAULT_PLACE in fault for fault in faults] == [True]
    assert [(line["level"], line["faults"]) for line in lines] == [("error", faults)]
    assert mended == []
    assert running.revision == revision


def test_file_that_is_written_slowly_is_taken_when_it_is_whole(running: Running) -> None:
    text, revision = running.text('things: {{url: "{url}", public: true, path: /}}'), running.revision

    with no_fault_in(running.gateway), running.file.open("w") as file:
        for start in range(0, len(text), 40):
            file.write(text[start : start + 40])
            file.flush()
            time.sleep(0.05)  # less than a poll, but more than that in all
    running.wait_for(revision + 1)

    assert running.everywhere("/things/x") == [200]


def test_file_that_is_gone_is_a_fault_until_it_is_back(running: Running) -> None:
    running.file.unlink()
    running.wait_for_fault()
    meanwhile, faults = running.everywhere("/open/x"), running.faults()
    running.put(running.text())
    wait_until(lambda: running.gauge("gateway_config_ok") == 1, "the file", timeout_s=10)

    assert meanwhile == [200]
    assert faults == [f"{running.file}: can't be read (No such file or directory)"]


def test_file_may_be_a_link_that_is_turned_as_kubernetes_does(running: Running, tmp_path: Path) -> None:
    revision = running.revision
    for name, text in (("first", running.text()), ("second", running.text('things: {{url: "{url}", public: true}}'))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "services.yaml").write_text(text)
    (tmp_path / "data").symlink_to("first")
    running.file.unlink()
    running.file.symlink_to(tmp_path / "data" / "services.yaml")

    (tmp_path / "next").symlink_to("second")
    (tmp_path / "next").replace(tmp_path / "data")
    running.wait_for(revision + 1)

    assert running.everywhere("/things/x") == [200]


def test_hangup_takes_the_file_and_a_bad_one_does_not_end_the_gateway(running: Running) -> None:
    gateway, revision = running.gateway, running.revision
    old = set(gateway.process.children())

    running.put(BAD)
    running.wait_for_fault()
    gateway.process.hup()
    wait_until(lambda: len(set(gateway.process.children()) - old) == 2, "new workers", timeout_s=15)
    wait_until(lambda: not old & set(gateway.process.children()), "the old ones' end", timeout_s=40)
    meanwhile, faults = running.everywhere("/open/x"), running.faults()
    renewed = set(gateway.process.children())
    running.put(running.text('things: {{url: "{url}", public: true, path: /}}'))
    gateway.process.hup()
    wait_until(lambda: not renewed & set(gateway.process.children()), "the renewal", timeout_s=40)
    running.wait_for(revision + 1)

    assert gateway.process.is_running
    assert meanwhile == [200]
    assert [FAULT_PLACE in fault for fault in faults] == [True]
    assert [line["by"] for line in gateway.events("configuration_refused")][-1] == "signal"
    assert running.everywhere("/things/x") == [200]


def test_worker_that_was_killed_comes_back_with_the_configuration_in_force(running: Running) -> None:
    gateway, revision = running.gateway, running.revision
    running.put(running.text('things: {{url: "{url}", public: true, path: /}}'))
    running.wait_for(revision + 1)
    old = gateway.process.children()

    for pid in old:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in old), "their end")
    wait_until(lambda: len(gateway.process.children()) == 2, "new workers", timeout_s=15)
    first = gateway.get("/things/x", timeout=15)  # nobody has polled yet

    assert first.status == 200
    assert running.everywhere("/things/x") == [200]
    assert running.gauge("gateway_config_revision") == revision + 1


def test_rollback_returns_to_the_one_before_and_reload_to_the_file(running: Running) -> None:
    revision = running.revision
    running.put(running.text('things: {{url: "{url}", public: true, path: /}}'))
    running.wait_for(revision + 1)
    running.put(running.text())
    running.wait_for(revision + 2)

    back = running.post("rollback")
    running.wait_for(revision + 3)
    time.sleep(1)  # several polls: the file stays as it is, and is not taken again
    rolled_back, config = running.everywhere("/things/x"), running.config()
    again = running.post("reload")
    running.wait_for(revision + 4)

    assert back.json() == {"revision": revision + 3, "previous": revision + 2, "changed": True, "faults": []}
    assert rolled_back == [200]
    assert (config["revision"], config["restores"]) == (revision + 3, revision + 1)
    assert again.json() == {"revision": revision + 4, "previous": revision + 3, "changed": True, "faults": []}
    assert running.everywhere("/things/x") == [404]


def test_rollbacks_end_at_the_oldest_revision_that_is_kept(running: Running) -> None:
    answers = [running.post("rollback") for _ in range(12)]

    assert_problem(answers[-1], 409, "CONFLICT")
    assert {answer.status for answer in answers} <= {200, 409}


def test_reload_of_the_file_in_force_changes_nothing(running: Running) -> None:
    revision = running.revision

    answer = running.post("reload")

    assert answer.json() == {"revision": revision, "previous": revision, "changed": False, "faults": []}


def test_reload_of_a_bad_file_is_refused_with_every_fault(running: Running) -> None:
    revision = running.revision
    running.put(BAD)

    answer = running.post("reload")

    assert answer.status == 422
    document = answer.json()
    errors = document["errors"]
    assert isinstance(errors, list)
    assert (document["code"], document["revision"]) == ("CONFIGURATION_REFUSED", revision)
    assert errors[0]["field"] == f"{running.file}:4:5"
    assert errors[0]["message"].startswith("services.open.tries: ")
    assert errors[0]["in"] == "file"


@pytest.mark.parametrize("what", ["reload", "rollback"])
def test_change_wants_an_administrator_even_on_the_operations_listener(running: Running, what: str) -> None:
    revision = running.revision

    assert_problem(running.post(what, []), 401, "TOKEN_REQUIRED")
    assert_problem(running.post(what, bearer("curious")), 403, "PERMISSION_REQUIRED")

    assert running.revision == revision


def test_line_of_a_change_names_the_administrator(running: Running) -> None:
    names = (f"things{number}" for number in range(1000))

    def is_named() -> bool:
        """Of a change that the file's watcher saw first, nobody is named."""
        running.put(running.text(f'{next(names)}: {{{{url: "{{url}}", public: true, path: /}}}}'))
        running.post("reload")
        return running.gateway.events("configuration_adopted")[-1]["by"] == "user:boss"

    wait_until(is_named, "a line that names the administrator", poll_s=0.5)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "ODD"])
@pytest.mark.parametrize("target", ["/config", "/config/reload", "/config/rollback"])
def test_on_the_public_listener_these_pages_are_not_there(running: Running, method: str, target: str) -> None:
    answer = running.gateway.request(method, target, ADMIN)

    assert_problem(answer, 404, "SERVICE_NOT_FOUND")


def test_service_may_have_the_prefix_of_these_pages(running: Running) -> None:
    revision = running.revision
    running.put(running.text('config: {{url: "{url}", public: true, path: /}}'))
    running.wait_for(revision + 1)

    answer = running.gateway.request("POST", "/config/reload")

    assert answer.status == 200
    assert running.gateway.arrived[-1].path == "/reload"
    assert running.config()["revision"] == revision + 1


def test_request_under_way_finishes_and_connections_of_what_has_gone_are_closed(running: Running) -> None:
    with StubService() as leaving:
        revision = running.revision
        running.put(running.text(f'leaving: {{{{url: "{leaving.url}", public: true, path: /}}}}'))
        running.wait_for(revision + 1)
        together(8, lambda _: running.gateway.get("/leaving/slow/0.2"))  # which makes some connections
        leaving.clear()

        with ThreadPoolExecutor(2) as threads:
            slow = threads.submit(running.gateway.get, "/leaving/slow/2")
            streaming = threads.submit(running.gateway.get, "/leaving/stream/10/0.2")
            leaving.wait_for_requests(2)
            running.put(running.text())
            running.wait_for(revision + 2)
            meanwhile = leaving.open_connections

        assert (slow.result().status, slow.result().is_complete) == (200, True)
        assert (streaming.result().status, streaming.result().is_complete) == (200, True)
        assert meanwhile == 2
        wait_until(lambda: leaving.open_connections == 0, "the end of the connections")


def test_breaker_of_a_service_that_did_not_change_stays_open(start_gateway: GatewayFactory) -> None:
    running = Running(start_gateway(services=BASE, WEB_CONCURRENCY="1", CIRCUIT_BREAKER_FAILURE_THRESHOLD="2"))
    for _ in range(2):
        running.gateway.get("/open/status/500")
    revision = running.revision

    running.put(running.text('things: {{url: "{url}", public: true, path: /}}'))
    running.wait_for(revision + 1)

    assert_problem(running.gateway.get("/open/x"), 503, "CIRCUIT_OPEN")
    assert running.gateway.get("/things/x").status == 200


def test_request_that_waits_for_a_connection_outlives_its_service(start_gateway: GatewayFactory) -> None:
    leaving = 'leaving: {{url: "{url}", public: true, path: /}}'
    running = Running(start_gateway(services=BASE, WEB_CONCURRENCY="1", BACKEND_POOL_SIZE="1"))
    running.put(running.text(leaving))
    assert running.post("reload").status == 200
    ready(running.gateway)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(running.gateway.get, "/leaving/slow/1")
        running.gateway.stub.wait_for_requests(1)
        waiting = threads.submit(running.gateway.get, "/leaving/x")
        wait_until(lambda: running.gauge("gateway_requests_in_flight") == 3, "the one that waits")  # and the asking one
        running.put(running.text())
        running.post("reload")

    assert statuses([first.result(), waiting.result()]) == [200, 200]
    assert running.gateway.get("/leaving/x").status == 404


def test_connections_to_a_service_that_did_not_change_are_kept(start_gateway: GatewayFactory) -> None:
    running = Running(start_gateway(services=BASE, WEB_CONCURRENCY="1"))
    running.gateway.get("/open/x")
    connections = running.gateway.stub.connections

    running.put(running.text('things: {{url: "{url}", public: true, path: /}}'))
    assert running.post("reload").status == 200
    running.gateway.get("/open/x")

    assert running.gateway.stub.connections == connections


def test_requests_go_on_while_a_long_file_is_read(start_gateway: GatewayFactory) -> None:
    running = Running(start_gateway(services=BASE, WEB_CONCURRENCY="1"))
    routes = "[{{path: /a, methods: [GET]}}, {{path: /b, methods: [GET]}}]"
    running.put(running.text(*(f'many{n}: {{{{url: "{{url}}", routes: {routes}}}}}' for n in range(400))))

    with ThreadPoolExecutor(1) as threads:
        reload = threads.submit(timed, lambda: running.post("reload"))
        waits_s: list[float] = []
        while not reload.done():
            waits_s.append(timed(lambda: running.gateway.get("/health"))[0])

    took_s, answer = reload.result()
    assert answer.status == 200
    assert max(waits_s) < took_s / 2


def timed(work: Callable[[], RawAnswer]) -> tuple[float, RawAnswer]:
    """With the seconds that it took."""
    began = time.monotonic()
    answer = work()
    return time.monotonic() - began, answer


def test_gateway_with_a_bad_file_does_not_start(start_gateway: GatewayFactory) -> None:
    with pytest.raises(RuntimeError, match=r"services\.open\.tries"):
        start_gateway(services=BAD.replace("{", "{{").replace("}", "}}"))


def open_files(gateway: Gateway) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in gateway.process.children())


def variant(running: Running, count: int) -> str:
    """Each differs from the one before: services come and go, and the one under load gets new instances."""
    come = f'things{count % 3}: {{{{url: "{{url}}", public: true, path: /}}}}'
    text = running.text(come).replace(
        "public: true, path: /", f"public: true, path: /, connect_timeout_s: {1 + count % 5}"
    )
    return f"{text}# {count}\n"


@pytest.mark.timeout(300)
def test_200_reloads_under_load_fail_no_request_and_leave_nothing_behind(start_gateway: GatewayFactory) -> None:
    running = Running(start_gateway(services=BASE))
    gateway = running.gateway
    ready(gateway)
    memory: dict[int, int] = {}
    files: dict[int, int] = {}

    with no_fault_in(gateway), Load(gateway) as load:
        for count in range(1, RELOADS + 1):
            running.put(variant(running, count))
            assert running.post("reload").json()["revision"] == 1 + count
            running.wait_for(1 + count)
            if count in (WARM, RELOADS):
                memory[count], files[count] = gateway.process.pss_bytes(), open_files(gateway)
    print(f"{load.answered} requests, {len(load.lost)} lost; PSS {memory}, open files {files}")

    assert load.lost == []
    assert load.answered > RELOADS
    assert memory[RELOADS] - memory[WARM] < MOST_GROWTH_BYTES
    assert files[RELOADS] - files[WARM] < MOST_NEW_FILES
