"""How entries get to the log from processes that don't keep it: in order, once, bounded, none lost in silence."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from common.audit import BATCH, Entry, Recorder, Unstorable


class Log:
    """What user_service would have stored; away, or refusing, as told."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.batches: list[int] = []
        self.error: Exception | None = None

    def store(self, entries: Sequence[Entry]) -> None:
        if self.error:
            raise self.error
        self.batches.append(len(entries))
        self.entries += entries

    @property
    def events(self) -> list[str]:
        return [entry.event for entry in self.entries]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def recorder(log: Log) -> Recorder:
    return Recorder("gateway", log.store, capacity=500)


def refuse(
    recorder: Recorder,
    route: str = "orders.orders",
    *,
    caller: str = "203.0.113.7",
    code: str = "INVALID_TOKEN",
    actor: str = "",
) -> None:
    recorder.record_refusal(401, code, actor=actor, address=caller, request_id="req-1", route=route)


def test_entries_are_sent_in_order_with_their_source_in_batches(recorder: Recorder, log: Log) -> None:
    for number in range(BATCH + 5):
        recorder.record(Entry(str(number), "success"))

    assert recorder.flush()

    assert log.events == [str(number) for number in range(BATCH + 5)]
    assert log.batches == [BATCH, 5]
    assert {entry.source for entry in log.entries} == {"gateway"}


def test_nothing_is_sent_where_nothing_happened(recorder: Recorder, log: Log) -> None:
    recorder.flush()

    assert log.batches == []


def test_what_can_not_be_stored_waits_and_keeps_its_place_and_id(recorder: Recorder, log: Log) -> None:
    log.error = ConnectionError()
    recorder.record(Entry("first", "success", id="a"))
    with capture_logs() as lines:
        assert not recorder.flush()
        recorder.record(Entry("second", "success", id="b"))
        assert not recorder.flush()
        log.error = None
        assert recorder.flush()

    assert [(entry.event, entry.id) for entry in log.entries] == [("first", "a"), ("second", "b")]
    assert [line["event"] for line in lines] == ["audit_log_away", "audit_log_back"]  # each once


def test_what_there_is_no_place_for_is_counted_and_told_in_the_log(recorder: Recorder, log: Log) -> None:
    log.error = ConnectionError()
    for number in range(507):
        recorder.record(Entry(str(number), "success"))
    recorder.flush()
    log.error = None

    recorder.flush()
    recorder.flush()

    assert log.events == [*(str(number) for number in range(500)), "audit.lost"]
    assert log.entries[-1].details == {"count": "7"}


def test_a_flood_of_refusals_is_one_entry_a_round_with_a_count(recorder: Recorder, log: Log) -> None:
    for number in range(10_000):
        refuse(recorder, caller=f"203.0.113.{number % 250}")
    refuse(recorder, caller="198.51.100.1")
    refuse(recorder, "users.account")
    refuse(recorder, code="TOKEN_REQUIRED")

    recorder.flush()
    refuse(recorder)
    recorder.flush()

    assert [entry.details.get("count", "1") for entry in log.entries] == ["10000", "1", "1", "1", "1"]
    assert log.entries[0].address == "203.0.113.0"
    assert log.entries[0].details["reason"] == "INVALID_TOKEN"


def test_a_flood_of_unlike_refusals_is_bounded_and_counted_too(recorder: Recorder, log: Log) -> None:
    for number in range(100_000):
        refuse(recorder, f"route-{number}")

    recorder.flush()

    assert len(log.entries) == 21
    assert log.entries[-1].actor == "several"
    assert sum(int(entry.details.get("count", "1")) for entry in log.entries) == 100_000


def test_a_flood_of_strangers_does_not_hide_what_somebody_known_tries(recorder: Recorder, log: Log) -> None:
    for number in range(1000):
        refuse(recorder, f"route-{number}")
    refuse(recorder, code="ROLE_REQUIRED", actor="mallory")

    recorder.flush()

    assert "mallory" in [entry.actor for entry in log.entries]


def test_a_batch_that_will_never_be_taken_does_not_stop_those_behind_it(recorder: Recorder, log: Log) -> None:
    recorder.record(Entry("bad", "success"))
    log.error = Unstorable("VALIDATION_ERROR")
    recorder.flush()
    log.error = None
    recorder.record(Entry("good", "success"))

    recorder.flush()
    recorder.flush()

    assert log.events == ["good", "audit.lost"]


def test_the_end_of_the_process_waits_for_a_round_that_goes_on(log: Log) -> None:
    began, may_go_on = threading.Event(), threading.Event()

    def slow(entries: Sequence[Entry]) -> None:
        began.set()
        may_go_on.wait(2)
        log.store(entries)

    recorder = Recorder("gateway", slow)
    recorder.record(Entry("first", "success"))
    round_ = threading.Thread(target=recorder.tick)
    round_.start()
    began.wait(2)
    recorder.record(Entry("last", "success"))
    threading.Timer(0.05, may_go_on.set).start()

    recorder.close()

    round_.join()
    assert log.events == ["first", "last"]


def test_what_is_lost_at_the_end_is_told(recorder: Recorder, log: Log) -> None:
    log.error = ConnectionError()
    recorder.record(Entry("first", "success"))

    with capture_logs() as lines:
        recorder.close()

    assert {"event": "audit_entries_lost", "count": 1, "log_level": "error"} in lines
