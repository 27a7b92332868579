"""Alembic for a service: its own environment, its own version table, no `alembic.ini`.

`upgrade(database, migrations)` brings the schema to the newest revision; several processes may do so at once.
The service's `migrations/env.py` only calls `run`.
"""

from __future__ import annotations

from pathlib import Path

import click
from alembic import command, context
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask
from flask.cli import AppGroup
from sqlalchemy import Connection, MetaData, text

from common.db import Database

_ADVISORY_LOCK = 7_204_551  # any constant, the same in all processes


def run(metadata: MetaData, service: str) -> None:
    """The body of `migrations/env.py`. The connection comes from `_command`."""
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
    with database.engine.begin() as connection:
        command.upgrade(_config(migrations, connection), revision)


def downgrade(database: Database, migrations: Path, revision: str) -> None:
    with database.engine.begin() as connection:
        command.downgrade(_config(migrations, connection), revision)


def check(database: Database, migrations: Path) -> None:
    """Raises Alembic's error when the models and the migrations differ."""
    with database.engine.begin() as connection:
        command.check(_config(migrations, connection))


def revision(database: Database, migrations: Path, message: str) -> None:
    """Write the next migration from the difference between models and database."""
    with database.engine.begin() as connection:
        command.revision(_config(migrations, connection), message, autogenerate=True)


class MigrationsPending(Exception):
    """The database is not at the newest revision; `flask --app <service> db upgrade` brings it there."""


def require_current(database: Database, migrations: Path, service: str) -> None:
    """A readiness check: raises `MigrationsPending` unless the schema is the newest."""
    newest = ScriptDirectory(str(migrations)).get_current_head()
    with database.engine.connect() as connection:
        connection = connection.execution_options(reading=True)
        options = {"version_table": f"{service}_alembic_version"}
        if MigrationContext.configure(connection, opts=options).get_current_revision() != newest:
            raise MigrationsPending(f"run: flask --app {service} db upgrade")


def _config(migrations: Path, connection: Connection) -> Config:
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
