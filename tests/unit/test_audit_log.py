"""The audit log in its database: what it keeps, and that no change to it goes unseen. On SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from common import migrations
from common.audit import Entry
from common.db import Database
from tests.support.postgres import Unavailable, postgres_server
from user_service.audit import Audit
from user_service.audit_chain import Chain, Head, parse_head
from user_service.tables import AuditEntry

MIGRATIONS = Path(__file__).resolve().parents[2] / "user_service" / "migrations"
SECRET = "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu"
NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)

Tamper = Callable[[Database], None]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def migrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path_factory.mktemp('audit')}/users.db")
        migrations.upgrade(database, MIGRATIONS)
        yield database
        database.dispose()
        return
    try:
        with postgres_server() as server:
            database = Database(server.create_database("audit"))
            migrations.upgrade(database, MIGRATIONS)
            yield database
            database.dispose()
    except Unavailable as reason:
        pytest.skip(f"no PostgreSQL: {reason}")


@pytest.fixture
def database(migrated: Database) -> Database:
    run(migrated, "DELETE FROM audit_entries", "DELETE FROM counters")
    return migrated


@pytest.fixture
def audit(database: Database) -> Audit:
    return Audit(database, SECRET)


def run(database: Database, *statements: str) -> None:
    with database.write() as session:
        for statement in statements:
            session.execute(text(statement))


def write(audit: Audit, count: int = 5, *, at: datetime = NOW) -> None:
    for number in range(count):
        audit.store([Entry("login", "success", actor=f"user-{number}", details={"n": str(number)}, at=at)])


def forged(database: Database, seq: int, *, secret: str) -> None:
    """An entry as somebody makes it who knows the algorithm and can write the table."""
    with database.write() as session:
        previous = session.get_one(AuditEntry, seq - 1).hash
        session.add(Chain(secret).row(seq, Entry("login", "success", actor="mallory", at=NOW), previous))
        session.execute(text(f"UPDATE counters SET value = {seq} WHERE name = 'audit'"))


def test_entries_are_numbered_and_each_follows_the_one_before(audit: Audit, database: Database) -> None:
    write(audit)

    rows = list(audit.all())
    verdict = audit.chain.verify(database)

    assert [row.seq for row in rows] == [1, 2, 3, 4, 5]
    assert [row.previous_hash for row in rows] == ["", *(row.hash for row in rows[:-1])]
    assert (verdict.fault, verdict.entries, verdict.head) == ("", 5, Head(5, rows[-1].hash))


@pytest.mark.parametrize(
    ("tamper", "seq"),
    [
        pytest.param("UPDATE audit_entries SET actor = 'x' WHERE seq = 3", 3, id="another actor"),
        pytest.param("UPDATE audit_entries SET outcome = 'failure' WHERE seq = 3", 3, id="another outcome"),
        pytest.param("UPDATE audit_entries SET event = 'logout' WHERE seq = 1", 1, id="another event, the first"),
        pytest.param("UPDATE audit_entries SET subject = 'x' WHERE seq = 5", 5, id="another subject, the last"),
        pytest.param("UPDATE audit_entries SET address = '10.0.0.0' WHERE seq = 2", 2, id="another address"),
        pytest.param("UPDATE audit_entries SET source = 'x' WHERE seq = 2", 2, id="another source"),
        pytest.param("UPDATE audit_entries SET request_id = 'x' WHERE seq = 2", 2, id="another request"),
        pytest.param("UPDATE audit_entries SET id = 'x' WHERE seq = 2", 2, id="another id"),
        pytest.param('UPDATE audit_entries SET details = \'{"n": "9"}\' WHERE seq = 4', 4, id="other details"),
        pytest.param("UPDATE audit_entries SET at = '2030-06-01 11:59:59' WHERE seq = 4", 4, id="another time"),
        pytest.param("UPDATE audit_entries SET hash = previous_hash WHERE seq = 4", 4, id="another hash"),
        pytest.param("DELETE FROM audit_entries WHERE seq = 3", 3, id="one removed"),
        pytest.param("DELETE FROM audit_entries WHERE seq = 1", 2, id="the first removed"),
        pytest.param("DELETE FROM audit_entries WHERE seq >= 4", 4, id="the last two removed"),
        pytest.param("DELETE FROM audit_entries", 1, id="all removed"),
        pytest.param(
            "UPDATE audit_entries SET seq = 99 WHERE seq = 2; UPDATE audit_entries SET seq = 2 WHERE seq = 3;"
            "UPDATE audit_entries SET seq = 3 WHERE seq = 99",
            2,
            id="two exchanged",
        ),
        pytest.param(
            "DELETE FROM audit_entries WHERE seq = 3; UPDATE audit_entries SET seq = 3 WHERE seq = 4;"
            "UPDATE audit_entries SET seq = 4 WHERE seq = 5; UPDATE counters SET value = 4",
            3,
            id="one removed, the gap closed",
        ),
        pytest.param(
            "INSERT INTO audit_entries SELECT 6, 'copy', at, event, outcome, actor, subject, source, address,"
            " request_id, details, previous_hash, hash FROM audit_entries WHERE seq = 5",
            6,
            id="one put in behind",
        ),
        pytest.param("UPDATE counters SET value = 3 WHERE name = 'audit'", 4, id="the counter set back"),
    ],
)
def test_a_log_that_was_meddled_with_is_found_out(audit: Audit, database: Database, tamper: str, seq: int) -> None:
    write(audit)

    run(database, *tamper.split(";"))

    verdict = audit.chain.verify(database)
    assert verdict.fault
    assert verdict.seq == seq


def test_whoever_can_write_the_table_but_has_no_secret_cannot_add_to_the_log(audit: Audit, database: Database) -> None:
    write(audit)

    forged(database, 6, secret="a guess")

    assert audit.chain.verify(database).seq == 6


def test_a_tail_cut_off_with_the_counter_shows_only_against_a_head_noted_elsewhere(
    audit: Audit, database: Database
) -> None:
    write(audit)
    noted = parse_head(str(audit.head()))

    run(database, "DELETE FROM audit_entries WHERE seq = 5", "UPDATE counters SET value = 4 WHERE name = 'audit'")

    assert not audit.chain.verify(database).fault  # the limit that docs/audit.md tells of
    assert audit.chain.verify(database, noted).seq == 5


def test_a_log_written_anew_with_the_secret_shows_against_a_head_noted_elsewhere(
    audit: Audit, database: Database
) -> None:
    write(audit)
    noted = audit.head()

    run(database, "DELETE FROM audit_entries", "DELETE FROM counters")
    write(audit, 6)

    assert not audit.chain.verify(database).fault
    assert audit.chain.verify(database, noted).seq == 5


def test_an_entry_of_another_version_of_the_log_does_not_fit_though_it_was_sealed(
    audit: Audit, database: Database
) -> None:
    write(audit)
    run(database, "CREATE TABLE kept AS SELECT * FROM audit_entries WHERE seq = 4")
    run(database, "DELETE FROM audit_entries WHERE seq > 3", "UPDATE counters SET value = 3")  # a backup is restored
    write(audit, 2, at=NOW + timedelta(days=1))

    run(database, "DELETE FROM audit_entries WHERE seq = 4", "INSERT INTO audit_entries SELECT * FROM kept")
    verdict = audit.chain.verify(database)
    run(database, "DROP TABLE kept")

    assert verdict.seq == 5


def test_a_good_log_fits_each_head_that_it_had(audit: Audit, database: Database) -> None:
    heads: list[Head] = []
    for _ in range(3):
        write(audit, 2)
        heads.append(audit.head())

    assert [audit.chain.verify(database, head).fault for head in heads] == ["", "", ""]


def test_another_secret_fits_nothing(audit: Audit, database: Database) -> None:
    write(audit)

    assert Audit(database, SECRET[::-1]).chain.verify(database).seq == 1


def test_pruning_takes_what_is_too_old_and_the_rest_still_holds(audit: Audit, database: Database) -> None:
    write(audit, 4, at=NOW - timedelta(days=366))
    write(audit, 2, at=NOW - timedelta(days=364))

    pruned = audit.prune(NOW)

    assert pruned == 4
    assert [row.event for row in audit.all()] == ["login", "login", "audit.pruned"]
    assert not audit.chain.verify(database).fault
    assert audit.prune(NOW) == 0


def test_pruning_may_go_on_for_ever(audit: Audit, database: Database) -> None:
    for year in range(3):
        at = NOW + timedelta(days=400 * year)
        write(audit, 3, at=at)
        audit.prune(at)

    assert not audit.chain.verify(database).fault
    assert [row.event for row in audit.all()] == ["login"] * 3 + ["audit.pruned"]


def test_an_idle_log_keeps_an_entry_to_go_on_from(audit: Audit, database: Database) -> None:
    write(audit, 3)

    audit.prune(NOW + timedelta(days=1000))
    write(audit, 1, at=NOW + timedelta(days=1000))

    assert [row.event for row in audit.all()] == ["audit.pruned", "login"]
    assert not audit.chain.verify(database).fault


def test_a_beginning_cut_off_by_hand_is_no_pruning(audit: Audit, database: Database) -> None:
    write(audit, 4, at=NOW - timedelta(days=366))
    write(audit, 4)
    audit.prune(NOW)

    run(database, "DELETE FROM audit_entries WHERE seq = 5")

    assert audit.chain.verify(database).seq == 6


@pytest.mark.parametrize(
    "tamper", ["DELETE FROM audit_entries WHERE seq = 1", "UPDATE audit_entries SET actor = 'x' WHERE seq = 2"]
)
def test_pruning_does_not_sweep_away_what_was_meddled_with(audit: Audit, database: Database, tamper: str) -> None:
    write(audit, 4, at=NOW - timedelta(days=366))
    write(audit, 4)
    run(database, tamper)

    with capture_logs() as lines:
        pruned = audit.prune(NOW)

    assert pruned == 0
    assert [line["event"] for line in lines] == ["audit_log_broken"]
    assert audit.chain.verify(database).seq == 2


def test_a_forged_pruning_excuses_nothing(audit: Audit, database: Database) -> None:
    write(audit)
    hash_of_1 = list(audit.all())[0].hash  # noqa: RUF015 - a row outlives only a whole reading

    audit_of_mallory = Audit(database, "a guess")
    audit_of_mallory.store([Entry("audit.pruned", "success", details={"through": "1", "hash": hash_of_1}, at=NOW)])
    run(database, "DELETE FROM audit_entries WHERE seq = 1")

    assert audit.chain.verify(database).seq == 2


def test_a_batch_that_is_sent_twice_is_stored_once(audit: Audit, database: Database) -> None:
    batch = [Entry("logout", "success", actor=str(number)) for number in range(3)]

    audit.store(batch[:2])
    stored = audit.store([*batch, batch[2]])

    assert stored == 1
    assert [row.actor for row in audit.all()] == ["0", "1", "2"]
    assert not audit.chain.verify(database).fault


def test_writers_at_the_same_time_make_one_chain(audit: Audit, database: Database) -> None:
    batch = [Entry("logout", "success", actor="sent twice")]

    with ThreadPoolExecutor(8) as pool:
        for number in range(40):
            pool.submit(audit.store, [Entry("login", "success", actor=str(number))])
            pool.submit(audit.store, batch)

    rows = list(audit.all())
    assert [row.seq for row in rows] == list(range(1, 42))
    assert not audit.chain.verify(database).fault


def test_an_entry_within_a_transaction_is_there_only_if_that_commits(audit: Audit, database: Database) -> None:
    with database.write() as session:
        audit.append(session, "role.granted", actor="root", subject="ada")
        audit.append(session, "role.granted", actor="root", subject="bob")
    with suppress(RuntimeError), database.write() as session:
        audit.append(session, "role.granted", actor="root", subject="eve")
        raise RuntimeError

    assert [row.subject for row in audit.all()] == ["ada", "bob"]
    assert not audit.chain.verify(database).fault


def test_transactions_that_write_two_logs_in_either_order_do_not_lock_each_other_out(
    audit: Audit, database: Database
) -> None:
    def change(number: int) -> None:
        with database.write() as session:
            if number % 2:
                audit.append(session, "x")
            session.execute(text("UPDATE counters SET value = value + 1 WHERE name = 'other'"))
            if not number % 2:
                audit.append(session, "x")

    run(database, "INSERT INTO counters (name, value) VALUES ('other', 0)")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(change, range(30)))

    assert len(list(audit.all())) == 30


def test_recording_never_raises(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    away = Audit(Database("sqlite://"), SECRET)  # it has no tables

    away.record("login.failed", outcome="failure", subject="ada")

    assert "audit_entry_lost" in capsys.readouterr().out


def test_odd_texts_are_stored_as_far_as_they_can_be(audit: Audit, database: Database) -> None:
    audit.record("x" * 99, outcome="failure", actor="nul\0 and \ud800", subject="s" * 999, details={"k": "v" * 999})

    (row,) = audit.all()
    assert (len(row.event), row.actor, len(row.subject), len(row.details["k"])) == (64, "nul and ?", 96, 200)
    assert not audit.chain.verify(database).fault


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"of_user": "user-1"}, [2]),
        ({"of_user": "user-9"}, [7, 6]),
        ({"event": "login"}, [5, 4, 3, 2, 1]),
        ({"event": "log"}, []),
        ({"event": "role"}, [7, 6]),
        ({"event": "role.*"}, [7, 6]),
        ({"event": "role.granted"}, [6]),
        ({"since": NOW + timedelta(hours=1)}, [7, 6]),
        ({"limit": 2, "offset": 1}, [6, 5]),
    ],
)
def test_entries_are_found_by_user_event_and_time(audit: Audit, wanted: dict[str, object], found: list[int]) -> None:
    write(audit)
    later = NOW + timedelta(hours=2)
    audit.store([Entry("role.granted", "success", actor="root", subject="user-9", at=later)])
    audit.store([Entry("role.taken", "success", actor="user-9", subject="bob", at=later)])

    rows, _ = audit.page(**wanted)  # pyright: ignore[reportArgumentType] - the table above has the types

    assert [row.seq for row in rows] == found
