"""The schema of user_service can be made, removed and made again, and is what the models say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import inspect

from common import migrations
from common.db import Database

MIGRATIONS = Path(__file__).resolve().parents[2] / "user_service" / "migrations"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/users.db")
    yield database
    database.dispose()


def test_the_schema_goes_up_and_down_and_up(database: Database) -> None:
    migrations.upgrade(database, MIGRATIONS)
    migrations.downgrade(database, MIGRATIONS, "base")
    assert inspect(database.engine).get_table_names() == ["user_service_alembic_version"]

    migrations.upgrade(database, MIGRATIONS)

    assert {"users", "signing_keys"} <= set(inspect(database.engine).get_table_names())


def test_models_and_migrations_agree(database: Database) -> None:
    migrations.upgrade(database, MIGRATIONS)

    migrations.check(database, MIGRATIONS)


def test_the_service_is_ready_only_with_the_newest_schema(database: Database) -> None:
    with pytest.raises(migrations.MigrationsPending):
        migrations.require_current(database, MIGRATIONS, "user_service")

    migrations.upgrade(database, MIGRATIONS)

    migrations.require_current(database, MIGRATIONS, "user_service")
