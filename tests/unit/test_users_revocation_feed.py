"""user_service reads its own log as everybody else does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.db import Database
from common.identity import Identity
from common.revocations import Revocations as Known
from user_service.revocation_feed import OwnLog
from user_service.revocations import Revocations
from user_service.tables import Base


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/users.db", pool_size=5)
    Base.metadata.create_all(database.engine)
    yield database
    database.dispose()


def revoke(log: Revocations, database: Database, sid: str) -> None:
    with database.write() as session:
        log.revoke_session(session, sid)


def test_what_is_in_force_is_known_and_then_what_is_new(database: Database) -> None:
    log = Revocations(database, 900)
    known = Known(OwnLog(log))
    identities = {sid: Identity("u", "u", frozenset(), 0, session=sid, issued_at=time.time()) for sid in ("s1", "s2")}
    revoke(log, database, "s1")
    assert known.read_on(0)
    assert [known.is_revoked(identity) for identity in identities.values()] == [True, False]

    revoke(log, database, "s2")

    assert known.read_on(1)
    assert [known.is_revoked(identity) for identity in identities.values()] == [True, True]


def test_without_its_database_nothing_is_known_and_nothing_breaks(tmp_path: Path) -> None:
    known = Known(OwnLog(Revocations(Database(f"sqlite:///{tmp_path}/none.db", pool_size=1), 900)))

    assert not known.read_on(0)
