"""A configuration comes into force while the gateway runs. A worker is a `Runtime`, its polls are calls of `tick`."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from structlog.testing import capture_logs

from gateway import EXPLICIT, create_app, reload
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.backend.countdown import Countdown
from gateway.body import Body
from gateway.compiler import Compiler
from gateway.observability.metrics import Metrics
from gateway.reload import Loader, Refused, printable
from gateway.revisions import STATE, InDirectory, NothingBefore, NotNow
from gateway.runtime import Runtime, runtime_of
from gateway.services import Address, ServicesError, Sources
from gateway.table import Table
from tests.support.processes import wait_until
from tests.support.stub import StubService
from tests.unit import parts
from tests.unit.parts import clean_environment, settings

SHOP = {name: {"url": "http://127.0.0.1:1"} for name in ("users", "orders", "products")}
EVENTS = ("adopted", "rolled_back", "unchanged", "refused", "stuck")

Workers = Callable[[int], list[Runtime]]


class File:
    """The services file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write()

    def write(self, **entries: Mapping[str, object]) -> str:
        """The shop and `entries`. Returns the text."""
        return self.put(yaml.safe_dump({"services": {**SHOP, **entries}}))

    def put(self, text: str) -> str:
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)
        return text


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "services.yaml")


@pytest.fixture
def workers(file: File, tmp_path: Path) -> Workers:
    """Starts that many, which share a directory."""

    def start(count: int) -> list[Runtime]:
        started = [runtime(file) for _ in range(count)]
        for worker in started:
            worker.loader.share(tmp_path / "shared")
        return started

    return start


@pytest.fixture
def worker(workers: Workers) -> Runtime:
    return workers(1)[0]


def runtime(file: File, **variables: str) -> Runtime:
    chosen = settings(gateway_services=file.path)
    with clean_environment(**variables):
        return runtime_of(create_app(chosen))


def tick(*workers: Runtime, times: int = 2) -> None:
    for _ in range(times):
        for worker in workers:
            worker.loader.tick()


def told(logs: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    """Those lines that tell of a change, or why there was none."""
    return [dict(line) for line in logs if str(line["event"]).removeprefix("configuration_") in EVENTS]


THING = {"url": "http://127.0.0.1:2"}


def test_table_that_the_gateway_starts_with_is_revision_1(worker: Runtime) -> None:
    tick(worker)

    assert (worker.table.revision, worker.loader.history.newest.number) == (1, 1)
    assert worker.loader.history.newest.text == worker.table.configuration.file.text


def test_changed_file_is_taken_when_it_has_come_to_rest(worker: Runtime, file: File) -> None:
    file.write(things=THING)

    tick(worker, times=1)
    at_first = worker.table
    tick(worker, times=1)

    assert "things" not in at_first.services
    assert "things" in worker.table.services
    assert worker.table.revision == 2


def test_file_that_is_being_written_is_left_alone(worker: Runtime, file: File) -> None:
    text = file.write(things=THING)

    for end in range(10, 40, 10):
        file.put(text[:end])
        tick(worker, times=1)

    assert worker.table.revision == 1
    assert worker.loader.history.look.faults == ()


def test_table_of_a_request_under_way_stays_as_it_was(worker: Runtime, file: File) -> None:
    before = worker.table
    file.write(things=THING)

    tick(worker)

    assert worker.table is not before
    assert "things" not in before.services


def test_others_follow_with_the_same_number(workers: Workers, file: File) -> None:
    first, second = workers(2)
    file.write(things=THING)
    tick(first)

    tick(second, times=1)

    assert second.table.revision == first.table.revision == 2
    assert "things" in second.table.services
    assert second.table.configuration.file.path == str(file.path)


def test_change_is_told_once_for_all_workers(workers: Workers, file: File) -> None:
    three = workers(3)
    file.write(things=THING)

    with capture_logs() as logs:
        tick(*three, times=4)

    assert told(logs) == [
        {"event": "configuration_adopted", "log_level": "info", "by": "file", "revision": 2, "added": ["things"]}
    ]


def test_line_of_a_change_names_what_is_different_and_not_what_has_moved(worker: Runtime, file: File) -> None:
    routes = [{"path": "/", "methods": ["GET"], "name": "all"}]
    file.write(things=THING, zebras={**THING, "routes": routes})
    tick(worker)

    with capture_logs() as logs:
        file.write(animals=THING, things={**THING, "retries": 2}, zebras={**THING, "routes": routes})
        tick(worker)
        file.write(zebras={**THING, "routes": [{**routes[0], "methods": ["PUT"]}]})
        tick(worker)

    said = [{key: line.get(key, []) for key in ("added", "removed", "changed")} for line in told(logs)]
    assert said == [
        {"added": ["animals"], "removed": [], "changed": ["things"]},
        {"added": [], "removed": ["animals", "things"], "changed": ["zebras"]},
    ]


FAULTY = {
    "unknown key": ("services:\n  things:\n    url: 'http://a'\n    tries: 3\n", ":4:5: services.things.tries"),
    "not yaml": ("services: [\n", ":2:1: "),
    "nothing": ("", ":1:1: "),
    "prefix of another": (
        "services: {a: {url: 'http://a', prefixes: [/x]}, b: {url: 'http://b', prefixes: [/x]}}",
        "claimed",
    ),
    "a date that there is not": ("services: {a: {url: 2026-13-45}}", ":1:21: "),
    "brackets in brackets": ("[" * 5000, "services.yaml: "),
}


def test_faults_can_be_told_whatever_the_file_says() -> None:
    assert printable("half of \ud83d\ude00, ä") == "half of \\ud83d\\ude00, ä"


@pytest.mark.parametrize(("text", "words"), list(FAULTY.values()), ids=list(FAULTY))
def test_bad_file_keeps_the_last_good_table(worker: Runtime, file: File, text: str, words: str) -> None:
    before = worker.table
    file.put(text)

    tick(worker)

    assert worker.table is before
    assert words in worker.loader.history.look.faults[0]


def test_file_that_has_gone_or_is_no_text_is_a_fault(worker: Runtime, file: File) -> None:
    file.path.unlink()
    tick(worker)
    gone = worker.loader.history.look.faults
    file.path.write_bytes(b"\xff\xfe")
    tick(worker)

    assert gone == (f"{file.path}: can't be read (No such file or directory)",)
    assert worker.loader.history.look.faults == (f"{file.path}: is not UTF-8 text",)
    assert worker.table.revision == 1


def test_faults_are_known_to_all_workers_and_told_once(workers: Workers, file: File) -> None:
    three = workers(3)
    file.put("services: 1")

    with capture_logs() as logs:
        tick(*three, times=5)

    faults = three[0].loader.history.look.faults
    assert [worker.loader.history.look.faults for worker in three] == [faults] * 3
    assert told(logs) == [
        {"event": "configuration_refused", "log_level": "error", "by": "file", "revision": 1, "faults": faults}
    ]


def test_gauges_say_which_revision_serves_and_whether_the_file_is_good(worker: Runtime, file: File) -> None:
    at_first = worker.metrics.page().decode()
    file.write(things=THING)
    tick(worker)
    file.put("services: 1")
    tick(worker)
    when_bad = worker.metrics.page().decode()
    file.write()
    tick(worker)
    when_mended = worker.metrics.page().decode()

    assert "gateway_config_revision 1.0\n" in at_first
    assert "gateway_config_ok 1.0\n" in at_first
    assert "gateway_config_revision 2.0\n" in when_bad
    assert "gateway_config_ok 0.0\n" in when_bad
    assert "gateway_config_revision 3.0\n" in when_mended
    assert "gateway_config_ok 1.0\n" in when_mended
    assert 'gateway_config_reloads_total{outcome="adopted"} 2.0\n' in when_mended
    assert 'gateway_config_reloads_total{outcome="refused"} 1.0\n' in when_mended


def test_file_that_becomes_what_it_was_is_no_new_revision(worker: Runtime, file: File) -> None:
    before = worker.table
    file.put("services: 1")
    tick(worker)

    with capture_logs() as logs:
        file.write()
        tick(worker)

    assert worker.table is before
    assert worker.loader.history.look.faults == ()
    assert [line["event"] for line in told(logs)] == ["configuration_unchanged"]


def test_what_means_the_same_goes_over_with_all_that_it_has_learnt(worker: Runtime, file: File) -> None:
    file.write(things=THING, others=THING)
    tick(worker)
    before = worker.table.backends

    file.write(things=THING, others={**THING, "retries": 2})
    tick(worker)

    assert worker.table.backends["things"] is before["things"]
    assert worker.table.backends["others"] is not before["others"]
    assert worker.table.backends["others"].instances == before["others"].instances


def test_variables_of_the_environment_stay_as_they_were_at_the_start(file: File, tmp_path: Path) -> None:
    both = [runtime(file, THINGS_SERVICE_URL="http://127.0.0.1:4") for _ in range(2)]
    for worker in both:
        worker.loader.share(tmp_path / "shared")
    file.write(others=THING)

    with clean_environment():
        both[0].loader.reload("user:boss")
        tick(both[1])

    for worker in both:
        assert [instance.url for instance in worker.table.backends["things"].instances] == ["http://127.0.0.1:4"]
        assert "others" in worker.table.services


def test_followers_hear_of_each_table_when_it_is_in_force(workers: Workers, file: File) -> None:
    first, second = workers(2)
    heard: list[tuple[Table, Table]] = []
    for worker in (first, second):
        worker.followers.append(lambda table, worker=worker: heard.append((table, worker.table)))
    file.write(things=THING)

    tick(first, second, times=4)

    assert heard == [(first.table, first.table), (second.table, second.table)]


def test_rollback_puts_the_text_before_in_force_everywhere(workers: Workers, file: File) -> None:
    first, second = workers(2)
    file.write(things=THING)
    tick(first)

    with capture_logs() as logs:
        change = second.loader.roll_back("user:boss")
        tick(first, times=1)

    assert (change.previous, change.revision) == (2, 3)
    assert [worker.table.revision for worker in (first, second)] == [3, 3]
    assert "things" not in first.table.services
    assert told(logs) == [
        {
            "event": "configuration_rolled_back",
            "log_level": "info",
            "by": "user:boss",
            "revision": 3,
            "restores": 1,
            "removed": ["things"],
        }
    ]


def test_rollback_stays_while_nobody_changes_the_file(workers: Workers, file: File) -> None:
    both = workers(2)
    file.write(things=THING)
    tick(*both)
    both[0].loader.roll_back("user:boss")

    tick(*both, times=3)
    os.utime(file.path, ns=(1, 1))  # touched, not changed
    tick(*both, times=3)

    assert [worker.table.revision for worker in both] == [3, 3]


def test_changed_file_is_taken_after_a_rollback(worker: Runtime, file: File) -> None:
    file.write(things=THING)
    tick(worker)
    worker.loader.roll_back("user:boss")
    file.write(others=THING)

    tick(worker)

    assert worker.table.revision == 4
    assert worker.table.services.keys() >= {"others"}


def test_reload_takes_the_file_that_was_rolled_back(worker: Runtime, file: File) -> None:
    file.write(things=THING)
    tick(worker)
    worker.loader.roll_back("user:boss")

    change = worker.loader.reload("user:boss")

    assert (change.previous, change.revision) == (3, 4)
    assert "things" in worker.table.services


def test_second_rollback_goes_back_further_and_the_last_one_is_refused(worker: Runtime, file: File) -> None:
    for name in ("a", "b"):
        file.write(**{name: THING})
        tick(worker)

    worker.loader.roll_back("user:boss")
    after_one = set(worker.table.services)
    worker.loader.roll_back("user:boss")

    assert after_one - SHOP.keys() == {"a"}
    assert worker.table.services.keys() == SHOP.keys()
    with pytest.raises(NothingBefore):
        worker.loader.roll_back("user:boss")


def test_rollback_does_not_hide_that_the_file_is_bad(worker: Runtime, file: File) -> None:
    file.write(things=THING)
    tick(worker)
    file.put("services: 1")
    tick(worker)

    worker.loader.roll_back("user:boss")

    assert worker.loader.history.look.faults != ()


def test_reload_does_not_wait_for_the_file_to_rest(worker: Runtime, file: File) -> None:
    file.write(things=THING)

    change = worker.loader.reload("user:boss")

    assert (change.previous, change.revision) == (1, 2)
    assert worker.table.revision == 2


def test_reload_of_the_file_in_force_changes_nothing(worker: Runtime) -> None:
    before = worker.table

    change = worker.loader.reload("user:boss")

    assert (change.previous, change.revision) == (1, 1)
    assert worker.table is before


def test_reload_of_a_bad_file_raises_its_faults(worker: Runtime, file: File) -> None:
    file.put("services: 1")

    with pytest.raises(Refused) as refused:
        worker.loader.reload("user:boss")

    assert refused.value.faults == worker.loader.history.look.faults != ()


def test_one_process_can_reload_and_roll_back_without_a_directory(file: File) -> None:
    worker = runtime(file)
    file.write(things=THING)

    worker.loader.reload("user:boss")
    reloaded = worker.table
    worker.loader.roll_back("user:boss")

    assert "things" in reloaded.services
    assert "things" not in worker.table.services
    assert worker.table.revision == 3


def test_new_worker_catches_up_before_its_first_request(workers: Workers, file: File) -> None:
    old, copy_of_the_master = workers(2)
    file.write(things=THING)
    tick(old)

    copy_of_the_master.loader.catch_up()

    assert copy_of_the_master.table.revision == 2
    assert "things" in copy_of_the_master.table.services


def test_new_worker_looks_at_the_file_if_somebody_asked_to(workers: Workers, file: File, tmp_path: Path) -> None:
    first, second = workers(2)
    file.write(things=THING)
    InDirectory(tmp_path / "shared").ask()

    with capture_logs() as logs:
        first.loader.catch_up()
        second.loader.catch_up()
        revisions = [worker.table.revision for worker in (first, second)]
        tick(first, second, times=3)

    assert revisions == [2, 2]
    assert [(line["event"], line["by"]) for line in told(logs)] == [("configuration_adopted", "signal")]


def test_new_worker_that_waited_for_another_ones_look_does_not_look_again(worker: Runtime, tmp_path: Path) -> None:
    shelf = InDirectory(tmp_path / "shared")
    shelf.ask()
    history = worker.loader.history
    seen = replace(history.look, signature=replace(history.look.signature, asked_ns=shelf.asked_ns))

    with capture_logs() as logs, ThreadPoolExecutor(1) as threads:
        with shelf.locked():
            waiting = threads.submit(worker.loader.catch_up)
            wait_until(lambda: waiting.running(), "its attempt to have the lock")
            time.sleep(0.1)
            shelf.write(history.looked(seen))
        waiting.result(timeout=5)

    assert told(logs) == []
    assert worker.loader.history.look == seen


def test_asking_takes_a_file_that_was_rolled_back(worker: Runtime, file: File, tmp_path: Path) -> None:
    file.write(things=THING)
    tick(worker)
    worker.loader.roll_back("user:boss")

    InDirectory(tmp_path / "shared").ask()
    tick(worker)

    assert worker.table.revision == 4
    assert "things" in worker.table.services


def test_worker_that_starts_without_the_directory_serves_what_it_has(worker: Runtime, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "shared")

    worker.loader.catch_up()

    assert worker.table.revision == 1


def test_who_knows_more_brings_it_back_when_the_directory_was_tidied_up(workers: Workers, file: File) -> None:
    old, copy_of_the_master = workers(2)
    file.write(things=THING)
    tick(old)
    old.loader.roll_back("user:boss")
    shutil.rmtree(file.path.with_name("shared"))

    copy_of_the_master.loader.catch_up()
    tick(copy_of_the_master, old, times=3)

    assert [worker.table.revision for worker in (old, copy_of_the_master)] == [3, 3]
    assert "things" not in copy_of_the_master.table.services


def test_while_another_one_looks_nobody_else_does(worker: Runtime, file: File, tmp_path: Path) -> None:
    file.write(things=THING)

    with InDirectory(tmp_path / "shared").locked():
        tick(worker, times=3)
        meanwhile = worker.table.revision
    tick(worker, times=1)

    assert meanwhile == 1
    assert worker.table.revision == 2


def test_wishes_are_put_off_while_another_one_is_at_it(
    worker: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "LOCK_WAIT_S", 0.05)

    with InDirectory(tmp_path / "shared").locked():
        with pytest.raises(NotNow):
            worker.loader.reload("user:boss")
        with pytest.raises(NotNow):
            worker.loader.roll_back("user:boss")

    assert worker.loader.reload("user:boss").revision == 1


def test_what_goes_wrong_is_told_once_and_tried_again(worker: Runtime, file: File, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shutil.rmtree(shared)
    shared.write_text("a file where the directory should be")
    file.write(things=THING)

    with capture_logs() as logs:
        tick(worker, times=4)
    shared.unlink()
    tick(worker, times=2)

    assert [line["event"] for line in told(logs)] == ["configuration_stuck"]
    assert worker.table.revision == 2


def test_table_that_others_could_not_have_does_not_serve(worker: Runtime, file: File, tmp_path: Path) -> None:
    (tmp_path / "shared" / f"{STATE}.{os.getpid()}").mkdir()  # in the way of what is to be written
    file.write(things=THING)

    with pytest.raises(IsADirectoryError):
        worker.loader.reload("user:boss")

    assert worker.table.revision == worker.loader.history.newest.number == 1


def test_file_that_changed_while_the_gateway_started_is_taken(worker: Runtime, file: File) -> None:
    file.write(things=THING)  # after the table was compiled, before the loader was made
    worker.loader = Loader(worker, Compiler(worker, {}, EXPLICIT))

    tick(worker)

    assert "things" in worker.table.services


@pytest.mark.parametrize("text", [yaml.safe_dump({"services": SHOP}) + "# more\n", "services: 1"], ids=["good", "bad"])
def test_file_that_changes_while_it_is_read_is_put_off(worker: Runtime, file: File, text: str) -> None:
    file.path.unlink()
    os.mkfifo(file.path)  # reading waits for somebody who writes, and writing changes its time

    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(worker.loader.reload, "user:boss")
        file.path.write_text(text)
        with pytest.raises(NotNow):
            reading.result(timeout=5)

    assert (worker.table.revision, worker.loader.history.look.faults) == (1, ())


def test_instance_that_nobody_picks_any_more_serves_who_is_late_and_keeps_no_connection(stub: StubService) -> None:
    service = parts.service(sources=Sources((Address(stub.url),)))
    backend = Backend(service, settings(backend_pool_size=1), Metrics())
    backend.send(call()).close()
    (instance,) = backend.instances
    instance.close()

    statuses = [backend.send(call()).status for _ in range(2)]  # such as a retry of one that began before

    assert statuses == [200, 200]
    wait_until(lambda: stub.open_connections == 0, "the end of the connections")


def call() -> Call:
    body = Body(io.BytesIO(), 0, is_bounded=True, is_taken_in=True)
    return Call("GET", "/", [], body, Countdown(5.0), 5.0)


@pytest.fixture
def stub() -> Generator[StubService]:
    with StubService() as service:
        yield service


def test_stored_text_that_is_no_good_any_more_keeps_the_table(workers: Workers, file: File, tmp_path: Path) -> None:
    first, second = workers(2)
    shelf = InDirectory(tmp_path / "shared")
    history = first.loader.history
    shelf.write(history.published("services: 1", history.look))

    with capture_logs() as logs:
        tick(second, times=3)

    assert second.table.revision == 1
    assert [line["event"] for line in told(logs)] == ["configuration_stuck"]
    assert isinstance(told(logs)[0]["exc_info"], ServicesError)
