"""Databases of their own for tests, on a PostgreSQL server that runs already.

Errors:
    Unavailable    there is no PostgreSQL to be had here; the text says why (tests skip with it)
"""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

CONNECT_TIMEOUT_S = 2


class Unavailable(RuntimeError):
    """There is no PostgreSQL to test with; the text says why."""


class Postgres:
    """A server that runs already. It drops only databases that it has created itself. Not thread-safe."""

    def __init__(self, url: str) -> None:
        """`url` is of a role that may create databases; its scheme may name a driver."""
        parts = urlsplit(url)
        if parts.scheme.partition("+")[0] not in ("postgresql", "postgres"):
            raise Unavailable(f"not the URL of a PostgreSQL server: its scheme is {parts.scheme!r}")
        self._parts = parts
        self._created: list[str] = []

    def url(self, database: str) -> str:
        """The URL of a database as SQLAlchemy takes it (`postgresql+psycopg://...`)."""
        return self._parts._replace(scheme="postgresql+psycopg", path=f"/{database}").geturl()

    def create_database(self, name: str) -> str:
        """Create an empty database, its name `name` and a random suffix. Its URL."""
        database = f"{name}_{secrets.token_hex(4)}"
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        self._created.append(database)
        return self.url(database)

    def drop(self, url: str) -> None:
        """Drop a database that `create_database` made, cutting who uses it. ValueError for any other."""
        database = urlsplit(url).path.removeprefix("/")
        if database not in self._created:
            raise ValueError(f"not a database of ours: {database!r}")
        self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))
        self._created.remove(database)

    def close(self) -> None:
        """Drop what was created."""
        for database in list(self._created):
            self.drop(self.url(database))

    def refusal(self) -> str | None:
        """Why the server does not accept a connection now, None if it does."""
        try:
            self._connect().close()
        except psycopg.Error as error:
            return str(error)
        return None

    def _connect(self) -> psycopg.Connection:
        url = self._parts._replace(scheme="postgresql").geturl()
        return psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)

    def _execute(self, statement: sql.Composed) -> None:
        with self._connect() as connection:
            connection.execute(statement)
