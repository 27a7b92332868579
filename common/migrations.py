"""Alembic for a service: its own environment, its own version table, no `alembic.ini`.

`upgrade(database, migrations)` brings the schema to the newest revision; several processes may do so at once.
The service's `migrations/env.py` only calls `run`.

Alembic is imported where it is used: it weighs 11 MB, and a worker that serves requests never needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from flask import Flask
from flask.cli import AppGroup
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from common.db import Database

if TYPE_CHECKING:
    from alembic.config import Config

_ADVISORY_LOCK = 7_204_551  # any constant, the same in all processes


def run(metadata: MetaData, service: str) -> None:
    """The body of `migrations/env.py`. The connection comes from `_command`."""
    from alembic import context

    connection: Connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=f"{service}_alembic_version",  # so that services could share a database without harm
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        context.run_migrations()


def upgrade(database: Database, migrations: Path, revision: str = "head") -> None:
    from alembic import command

    with database.engine.begin() as connection:
        command.upgrade(_config(migrations, connection), revision)


def downgrade(database: Database, migrations: Path, revision: str) -> None:
    from alembic import command

    with database.engine.begin() as connection:
        command.downgrade(_config(migrations, connection), revision)


def check(database: Database, migrations: Path) -> None:
    """Raises Alembic's error when the models and the migrations differ."""
    from alembic import command

    with database.engine.begin() as connection:
        command.check(_config(migrations, connection))


def revision(database: Database, migrations: Path, message: str) -> None:
    """Write the next migration from the difference between models and database."""
    from alembic import command

    with database.engine.begin() as connection:
        command.revision(_config(migrations, connection), message, autogenerate=True)


class MigrationsPending(Exception):
    """The database is not at the newest revision; `flask --app <service> db upgrade` brings it there."""


def newest_revision(migrations: Path) -> str:
    """Our revisions are numbered, and their files begin with the number: `0002_more.py` is revision `0002`."""
    return max(file.name.partition("_")[0] for file in (migrations / "versions").glob("[0-9]*_*.py"))


def require_current(database: Database, migrations: Path, service: str) -> None:
    """A readiness check: raises `MigrationsPending` unless the schema is the newest."""
    table = f"{service}_alembic_version"
    try:
        with database.engine.connect() as connection:
            query = text(f"SELECT version_num FROM {table}")  # noqa: S608 - a name of ours
            current = connection.execution_options(reading=True).execute(query).scalar()
    except (OperationalError, ProgrammingError) as error:
        if "no such table" not in str(error) and "does not exist" not in str(error):
            raise
        current = None
    if current != newest_revision(migrations):
        raise MigrationsPending(f"run: flask --app {service} db upgrade")


def _config(migrations: Path, connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def init_app(app: Flask, database: Database, migrations: Path) -> None:
    """`flask --app <service> db upgrade | downgrade REVISION | check | revision MESSAGE`."""
    group = AppGroup("db", help="The service's database schema.")

    @group.command("upgrade")
    @click.argument("to", default="head")
    def upgrade_command(to: str) -> None:
        """Bring the schema to revision TO (default: the newest)."""
        upgrade(database, migrations, to)
        click.echo("The schema is current.")

    @group.command("downgrade")
    @click.argument("to")
    def downgrade_command(to: str) -> None:
        """Bring the schema back to revision TO; `base` removes it."""
        downgrade(database, migrations, to)
        click.echo(f"The schema is at {to}.")

    @group.command("check")
    def check_command() -> None:
        """Exit with 1 when models and migrations differ."""
        check(database, migrations)

    @group.command("revision")
    @click.argument("message")
    def revision_command(message: str) -> None:
        """Write the next migration from what the models say."""
        revision(database, migrations, message)

    app.cli.add_command(group)
