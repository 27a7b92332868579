"""What a worker knows of revocations, and what it does while it can't know."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import pytest
import time_machine
from flask import Flask
from structlog.testing import capture_logs

from common.identity import Identity
from common.internal import Internal, InternalUnavailable
from common.keys import FixedKeys, InvalidToken, KeysUnavailable
from common.revocations import KEPT_LONGER_S, LATE_S, PURGE_EVERY_S, Batch, Entry, Revocations, UserService
from common.tokens import AUDIENCE, ISSUER, Verifier
from tests.support import tokens
from tests.support.stub import StubService
from tests.support.tokens import KeyPair

NOW = 1_900_000_000
ALICE = Identity("alice", "Alice", frozenset(), NOW + 900, session="s1", generation=3, issued_at=NOW - 100)


class Log:
    """A log in memory. `is_away` makes reading fail; `asked` is what was asked for."""

    def __init__(self, at_once: int = 100) -> None:
        self.lines: list[Entry] = []
        self.is_away = False
        self.asked: list[int] = []
        self._at_once = at_once

    def add(
        self, kind: str, subject: str, *, generation: int = 0, made_at: float | None = NOW, until: float = NOW
    ) -> None:
        seq = len(self.lines) + 1
        line = Entry(seq=seq, kind=kind, subject=subject, generation=generation, made_at=made_at, until=until + 900)
        self.lines.append(line)

    def after(self, seq: int, wait_s: float) -> Batch:
        self.asked.append(seq)
        if self.is_away:
            raise InternalUnavailable("away")
        lines = self.lines[seq : seq + self._at_once]
        last = lines[-1].seq if lines else len(self.lines)
        return Batch(entries=tuple(lines), last=last, complete=last == len(self.lines))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def source() -> Log:
    return Log()


Told = Callable[[bool, int], None]


def counting(entries: list[int]) -> Told:
    return lambda _is_current, count: entries.append(count)


def known(source: Log, *, tell: Told = lambda _is_current, _count: None, most: int = 100) -> Revocations:
    revocations = Revocations(source, tell=tell, most=most)
    with time_machine.travel(NOW, tick=False):
        revocations.read_on(0)
    return revocations


@pytest.mark.parametrize(
    ("kind", "subject", "generation", "expected"),
    [
        ("session", "s1", 0, True),
        ("session", "s2", 0, False),
        ("session", "alice", 0, False),
        ("session", "", 0, False),
        ("user", "alice", 4, True),
        ("user", "alice", 3, False),
        ("user", "bob", 9, False),
        ("user", "s1", 9, False),
        ("other", "s1", 9, False),
    ],
)
def test_a_line_makes_void_whom_it_names(source: Log, kind: str, subject: str, generation: int, expected: bool) -> None:
    source.add(kind, subject, generation=generation)

    assert known(source).is_revoked(ALICE) is expected


def test_a_foreign_users_tokens_have_no_session_that_could_be_revoked(source: Log) -> None:
    foreign = Identity("corp:alice", "Alice", frozenset(), NOW + 900, issued_at=NOW, issuer="https://corp.example")
    source.add("session", "")
    assert not known(source).is_revoked(foreign)

    source.lines.clear()
    source.add("user", "corp:alice", generation=1)
    assert known(source).is_revoked(foreign)
    assert not known(source).is_revoked(ALICE)


def test_it_reads_on_after_the_last_number_and_to_the_end(source: Log) -> None:
    log = Log(at_once=2)
    for number in range(5):
        log.add("session", f"s{number}")

    revocations = known(log)
    revocations.read_on(3)

    assert log.asked == [0, 2, 4, 5]
    assert revocations.is_revoked(ALICE)


def test_the_highest_generation_counts_whatever_comes_last(source: Log) -> None:
    source.add("user", "alice", generation=9)
    source.add("user", "alice", generation=2)

    assert known(source).is_revoked(ALICE)


def test_another_database_is_read_from_where_it_is(source: Log) -> None:
    for number in range(5):
        source.add("session", f"x{number}")
    revocations = known(source)

    source.lines.clear()
    revocations.read_on(0)
    source.add("session", "s1")
    revocations.read_on(0)

    assert revocations.is_revoked(ALICE)


def test_what_is_over_is_forgotten_with_some_delay(source: Log) -> None:
    source.add("session", "s1")
    told: list[int] = []
    revocations = known(source, tell=counting(told))

    for later, count in ((900 + KEPT_LONGER_S - 1, 1), (900 + KEPT_LONGER_S + PURGE_EVERY_S, 0)):
        with time_machine.travel(NOW + later, tick=False):
            revocations.read_on(0)
        assert told[-1] == count


@pytest.mark.parametrize("made_at", [NOW - 50, None])
def test_too_many_lines_make_older_tokens_void_instead(made_at: float | None) -> None:
    log = Log()
    told: list[int] = []
    log.add("session", "dropped", made_at=made_at)
    for number in range(10):
        log.add("session", f"kept-{number}", made_at=NOW - 10)

    revocations = known(log, most=10, tell=counting(told))

    floor = NOW if made_at is None else made_at + LATE_S
    assert told == [10]
    assert revocations.is_revoked(ALICE)  # issued before
    for issued_at, expected in ((floor, True), (floor + 1, False)):
        identity = Identity("x", "x", frozenset(), NOW + 900, session="fresh", issued_at=issued_at)
        assert revocations.is_revoked(identity) is expected


def test_memory_stays_bounded_however_much_is_revoked() -> None:
    log = Log(at_once=1000)
    for number in range(20_000):
        log.add("session", f"s{number}")
    told: list[int] = []

    known(log, most=500, tell=counting(told))

    assert told == [500]


@pytest.mark.parametrize(("lost", "refuses"), [("accept", False), ("refuse", True)])
def test_after_its_patience_a_worker_that_lost_the_log_does_what_the_setting_says(
    source: Log, lost: Literal["accept", "refuse"], refuses: bool
) -> None:
    clock = Clock()
    revocations = Revocations(source, lost=lost, patience_s=5, clock=clock)
    assert revocations.is_trusted is not refuses  # nothing was ever read
    revocations.read_on(0)
    assert (revocations.is_current, revocations.is_trusted) == (True, True)

    clock.now += 100  # however long a poll takes
    assert revocations.is_trusted
    source.is_away = True
    assert not revocations.read_on(0)
    assert (revocations.is_current, revocations.is_trusted) == (False, True)
    clock.now += 4.9
    revocations.read_on(0)
    assert revocations.is_trusted
    clock.now += 0.2
    assert revocations.is_trusted is not refuses

    source.is_away = False
    source.add("session", "s1")
    assert revocations.read_on(0)
    assert revocations.is_trusted
    assert revocations.is_revoked(ALICE)  # it caught up before it was current


def test_losing_and_finding_the_log_are_told_once_each(source: Log) -> None:
    revocations = known(source)
    with capture_logs() as said:
        for is_away in (True, True, True, False, False):
            source.is_away = is_away
            revocations.read_on(0)

    told = [(line["event"], line["log_level"]) for line in said]
    assert told == [("revocations_lost", "warning"), ("revocations_current", "info")]


def test_one_poll_that_fails_is_no_loss(source: Log) -> None:
    source.add("session", "s1")
    failing = iter([True, False])
    after = source.after

    class Once:
        def after(self, seq: int, wait_s: float) -> Batch:
            if next(failing):
                raise InternalUnavailable("ConnectionError")
            return after(seq, wait_s)

    revocations = Revocations(Once())
    revocations.is_current = True
    with capture_logs() as said:
        assert revocations.read_on(3)

    assert said == []
    assert revocations.is_revoked(ALICE)


def test_pauses_grow_while_it_fails_and_it_asks_at_once_after(source: Log) -> None:
    source.is_away = True
    revocations = Revocations(source)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        source.is_away = len(pauses) < 10

    revocations.keep_reading(lambda: len(pauses) < 12, sleep=sleep)

    assert max(pauses[:10]) <= 2.0
    assert min(pauses[6:9]) >= 1.0
    assert max(pauses[10:]) <= 0.1


PAIR = KeyPair.generate("k1")


def verifier(revocations: Revocations) -> Verifier:
    return Verifier(Flask("x"), FixedKeys({"k1": PAIR.private.public_key()}.get), revoked=revocations)


def token(sid: str = "s") -> str:
    return PAIR.sign(tokens.claims("alice", iss=ISSUER, aud=AUDIENCE, sid=sid))


@pytest.mark.parametrize("was_seen", [True, False])
def test_a_revoked_token_is_refused_whether_it_was_seen_before_or_not(source: Log, was_seen: bool) -> None:
    revocations = Revocations(source)
    checking, shown = verifier(revocations), token(sid="s1")
    if was_seen:
        assert checking.verify(shown).session == "s1"

    source.add("session", "s1", until=time.time())
    revocations.read_on(0)

    for _ in range(2):
        with pytest.raises(InvalidToken, match="revoked"):
            checking.verify(shown)
    assert checking.verify(token(sid="s2")).session == "s2"


def test_no_token_is_told_to_be_good_or_bad_while_that_is_not_known(source: Log) -> None:
    revocations = Revocations(source, lost="refuse", patience_s=0)
    checking, shown = verifier(revocations), token()
    with pytest.raises(KeysUnavailable):
        checking.verify(shown)

    revocations.read_on(0)
    assert checking.verify(shown)
    source.is_away = True
    revocations.read_on(0)

    with pytest.raises(KeysUnavailable):
        checking.verify(shown)


def test_user_service_is_asked_with_a_service_token() -> None:
    with StubService() as stub:
        stub.revoked.user("alice", 2)
        internal = Internal(stub.url, "s" * 32, me="gateway", audience="user_service")

        batch = UserService(internal).after(0, 0)

        (poll,) = stub.revoked.polls
        assert (poll.target, (poll.header("Authorization") or "")[:7]) == (
            "/internal/revocations?after=0&wait=0",
            "Bearer ",
        )
    assert [(line.kind, line.subject, line.generation) for line in batch.entries] == [("user", "alice", 2)]
    assert (batch.last, batch.complete) == (1, True)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"entries": []},
        {"entries": 5, "last": 1},
        {"entries": [{"seq": 1}], "last": 1},
        {"entries": [], "last": -1},
        {"entries": [], "last": "x"},
    ],
)
def test_nonsense_is_no_log(document: object) -> None:
    class Nonsense:
        def get(self, *_arguments: object, **_more: object) -> object:
            return document

    revocations = Revocations(UserService(Nonsense()))  # pyright: ignore[reportArgumentType] - as far as it is used

    assert not revocations.read_on(0)


def test_a_long_poll_is_answered_when_something_is_revoked() -> None:
    with StubService() as stub:
        source = UserService(Internal(stub.url, "s" * 32, me="gateway", audience="user_service"))
        source.after(0, 0)
        stub.revoked.session("s1")

        began = time.monotonic()
        batch = source.after(0, 5)

        assert time.monotonic() - began < 1
        assert batch.last == 1
