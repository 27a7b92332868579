"""The log of revocations: its numbers are in the order of commits, and whoever waits learns of a line at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from common.db import Database
from tests.support.postgres import Unavailable, postgres_server
from user_service import counters, revocations
from user_service.revocations import MARGIN_S, Revocations
from user_service.tables import Base, Revocation, User

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
TTL_S = 900


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    try:
        with postgres_server() as server:
            yield server.create_database("revocations")
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(params=["sqlite", "postgresql"])
def any_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    is_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/users.db" if is_sqlite else str(request.getfixturevalue("postgres_url"))
    yield from made(url)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    yield from made(f"sqlite:///{tmp_path}/users.db")


def made(url: str) -> Iterator[Database]:
    database = Database(url, pool_size=20)
    Base.metadata.create_all(database.engine)
    yield database
    Base.metadata.drop_all(database.engine)
    database.dispose()


@pytest.fixture
def log(database: Database) -> Revocations:
    return Revocations(database, TTL_S)


def registered(database: Database, name: str = "ada") -> User:
    user = User(username=name, username_key=name, password_hash="", roles=[])
    with database.write() as session:
        session.add(user)
    return user


def revoke(log: Revocations, database: Database, sid: str) -> None:
    with database.write() as session:
        log.revoke_session(session, sid)


def subjects(log: Revocations, after: int = 0) -> list[str]:
    return [entry.subject for entry in log.entries_after(after)[0]]


def test_an_empty_log_has_nothing_and_begins_with_nought(log: Revocations) -> None:
    assert log.entries_after(0) == ([], 0)


def test_a_reader_gets_what_came_after_the_number_it_knows(log: Revocations, database: Database) -> None:
    revoke(log, database, "s1")
    _, known = log.entries_after(0)
    revoke(log, database, "s2")

    entries, last = log.entries_after(known)

    assert [(entry.seq, entry.kind, entry.subject, entry.generation) for entry in entries] == [(2, "session", "s2", 0)]
    assert last == 2
    assert log.entries_after(last) == ([], 2)


def test_a_user_is_revoked_by_a_new_generation(any_database: Database) -> None:
    log, ada, bob = Revocations(any_database, TTL_S), registered(any_database), registered(any_database, "bob")

    with any_database.write() as session:
        user = session.get_one(User, ada.id)
        log.revoke_user(session, user)
        raised = user.generation
        log.revoke_users(session, [bob.id, ada.id, "nobody"])

    lines = [(entry.kind, entry.subject, entry.generation) for entry in log.entries_after(0)[0]]
    assert raised == 1
    assert lines[0] == ("user", ada.id, 1)
    assert set(lines[1:]) == {("user", ada.id, 2), ("user", bob.id, 1)}
    with any_database.read() as session:
        assert [session.get_one(User, user.id).generation for user in (ada, bob)] == [2, 1]


def test_a_transaction_that_fails_revokes_nothing_and_takes_no_number(log: Revocations, database: Database) -> None:
    ada = registered(database)

    def fail() -> None:
        with database.write() as session:
            log.revoke_user(session, session.get_one(User, ada.id))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert log.entries_after(0) == ([], 0)
    with database.read() as session:
        assert session.get_one(User, ada.id).generation == 0


def test_a_line_is_in_force_until_the_last_token_has_expired_and_then_deleted(
    log: Revocations, database: Database
) -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        revoke(log, database, "old")
        clock.move_to(NOW + timedelta(seconds=TTL_S + MARGIN_S - 1))
        in_force = subjects(log)
        clock.move_to(NOW + timedelta(seconds=TTL_S + MARGIN_S))
        expired, last = log.entries_after(0)
        revoke(log, database, "new")

        assert (in_force, expired, last) == (["old"], [], 1)
        assert subjects(log) == ["new"]
        with database.read() as session:
            assert session.scalar(select(func.count()).select_from(Revocation)) == 1


def test_a_number_that_was_never_given_asks_for_all(log: Revocations, database: Database) -> None:
    revoke(log, database, "s1")

    entries, last = log.entries_after(77)  # of a database that was lost, say

    assert ([entry.subject for entry in entries], last) == (["s1"], 1)


def test_a_long_log_comes_in_pieces(log: Revocations, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "MOST_AT_ONCE", 2)
    with database.write() as session:
        log.revoke_sessions(session, ["s1", "s2", "s3"])

    first, last = log.entries_after(0)

    assert ([entry.subject for entry in first], last) == (["s1", "s2"], 2)
    assert subjects(log, last) == ["s3"]


def test_numbers_are_in_the_order_of_commits(any_database: Database) -> None:
    """Readers go on reading while many write; whatever they have seen, nothing below its number comes later."""
    log, is_over = Revocations(any_database, TTL_S), threading.Event()

    def read_on() -> list[int]:
        seen: list[int] = []
        while True:
            was_over = is_over.is_set()
            entries, _ = log.entries_after(seen[-1] if seen else 0)
            seen += [entry.seq for entry in entries]
            if was_over:
                return seen

    def write(writer: int) -> None:
        for number in range(20):
            revoke(log, any_database, f"{writer}-{number}")

    with ThreadPoolExecutor(12) as pool:
        readers = [pool.submit(read_on) for _ in range(4)]
        list(pool.map(write, range(8)))
        is_over.set()

    assert all(reader.result() == list(range(1, 161)) for reader in readers)


def test_numbers_are_given_once_even_when_many_begin_at_once(any_database: Database) -> None:
    def take(_: int) -> int:
        with any_database.write() as session:
            return counters.take(session, "some log")

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(take, range(40)))

    assert sorted(numbers) == list(range(1, 41))


def test_waiting_ends_with_the_next_line(log: Revocations, database: Database) -> None:
    with ThreadPoolExecutor(5) as pool:
        waiters = [pool.submit(log.wait_for_more, 0, 20) for _ in range(5)]
        revoke(log, database, "s1")
        began = time.monotonic()

        assert all(waiter.result() for waiter in waiters)
    assert time.monotonic() - began < 5


def test_waiting_does_not_begin_when_there_is_something_already(log: Revocations, database: Database) -> None:
    revoke(log, database, "s1")
    asked: list[bool] = []

    assert log.wait_for_more(0, 20, lambda: not asked.append(True))
    assert asked == []


def test_waiting_ends_in_time_and_when_the_worker_stops(log: Revocations) -> None:
    answers = iter([True, True, False])
    began = time.monotonic()

    assert not log.wait_for_more(0, 0.05)
    assert not log.wait_for_more(0, 20, lambda: next(answers))
    assert time.monotonic() - began < 5


def test_a_number_from_another_process_is_not_taken_for_news(log: Revocations, database: Database) -> None:
    log.wait_for_more(0, 0)  # it has just looked, and remembers that there was nothing
    revoke(log, database, "s1")  # by another process, from which the reader knows it

    assert not log.wait_for_more(1, 0)


def test_many_who_wait_look_into_the_database_as_often_as_one(database: Database) -> None:
    looks = 0

    class Counted(Database):
        @contextmanager
        def read(self) -> Generator[Session]:
            nonlocal looks
            looks += 1
            with super().read() as session:
                yield session

    counted = Counted(database.url)
    log = Revocations(counted, TTL_S)
    with ThreadPoolExecutor(10) as pool:
        waits = [pool.submit(log.wait_for_more, 0, 0.6) for _ in range(10)]
        assert not any(wait.result() for wait in waits)
    counted.dispose()

    assert 0 < looks < 10
