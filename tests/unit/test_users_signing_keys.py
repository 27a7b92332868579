"""Signing keys: made once however many want them, and found again."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from common import migrations
from common.db import Database
from user_service.signing_keys import SigningKeys
from user_service.tables import StoredKey

MIGRATIONS = Path(__file__).resolve().parents[2] / "user_service" / "migrations"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/users.db")
    migrations.upgrade(database, MIGRATIONS)
    yield database
    database.dispose()


def test_workers_that_start_together_make_one_key(database: Database) -> None:
    all_have_looked = Barrier(8)

    class Worker(Database):
        """Each has an engine of its own, and goes on from its first look only when all have seen that there is none."""

        has_looked = False

        @contextmanager
        def read(self) -> Generator[Session]:
            with super().read() as session:
                yield session
            if not self.has_looked:
                self.has_looked = True
                all_have_looked.wait()

    workers = [Worker(database.url) for _ in range(8)]
    with ThreadPoolExecutor(len(workers)) as pool:
        kids = {key.kid for key in pool.map(SigningKeys.current, map(SigningKeys, workers))}
    for worker in workers:
        worker.dispose()

    assert len(kids) == 1
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(StoredKey)) == 1


def test_the_key_survives_its_process(database: Database) -> None:
    before = SigningKeys(database).current()

    after = SigningKeys(database).current()

    assert after.jwk() == before.jwk()


def test_what_is_published_is_the_public_half_only(database: Database) -> None:
    jwk = SigningKeys(database).current().jwk()

    assert set(jwk) == {"kty", "crv", "x", "kid", "use", "alg"}
    assert (jwk["kty"], jwk["crv"], jwk["alg"]) == ("OKP", "Ed25519", "EdDSA")


def test_a_key_that_another_process_made_is_found(database: Database) -> None:
    ours, theirs = SigningKeys(database), SigningKeys(database)
    assert ours.find("unknown") is None

    made = theirs.current()

    assert ours.find(made.kid) == made.private.public_key()


def test_unknown_keys_are_looked_up_once_per_cool_down(database: Database) -> None:
    keys = SigningKeys(database, cool_down_s=60)
    made = keys.current()
    with database.write() as session:
        session.execute(delete(StoredKey))

    assert keys.find("unknown") is None

    assert keys.find(made.kid) is not None  # a look into the emptied table would have forgotten it


def test_an_unknown_key_is_looked_up_after_the_cool_down(database: Database) -> None:
    keys = SigningKeys(database, cool_down_s=0)
    made = keys.current()
    with database.write() as session:
        session.execute(delete(StoredKey))

    assert keys.find("unknown") is None

    assert keys.find(made.kid) is None


def test_known_keys_go_on_being_used_while_the_database_is_away(database: Database) -> None:
    keys = SigningKeys(database, max_age_s=0, cool_down_s=0)
    made = keys.current()

    migrations.downgrade(database, MIGRATIONS, "base")  # no table: each look fails

    assert keys.current() == made
    assert keys.find("unknown") is None
