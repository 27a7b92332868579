"""A service's database: one engine, `with db.write() as session` for changes and `with db.read() as session` for looks.

SQLite under gevent needs care (measured, not guessed): its busy timeout waits in C and stops every greenlet, and a
deferred `BEGIN` that first reads and then writes fails under load. So a writing transaction begins IMMEDIATE, the busy
timeout is nought, and waiting for the write lock is done here, with a sleep that lets others run. Never call HTTP,
Redis or sleep inside `write()`: whoever yields with the lock held stops all writers.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import structlog
from flask import Flask, Response
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from common import problems

log = structlog.get_logger("db")

SQLITE_LOCK_WAIT_S = 5.0
STATEMENT_TIMEOUT_MS = 5000
CONNECT_TIMEOUT_S = 3


class Database:
    """One engine and its sessions. Shared by all greenlets of a process; a session belongs to one of them."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = normal_url(url)
        self.engine = _engine(self.url, pool_size)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        self._readers = sessionmaker(self.engine.execution_options(reading=True), expire_on_commit=False)

    @contextmanager
    def write(self) -> Generator[Session]:
        """A transaction that commits at the end of the block and rolls back on any exception."""
        with self._sessions() as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Generator[Session]:
        """A transaction for reading: one consistent view, no lock that stops writers."""
        with self._readers() as session, session.begin():
            yield session

    def before_commit(self, hook: Callable[[Session], None]) -> None:
        """Have `hook` called at the end of each writing transaction, and of each savepoint in it, before it commits."""
        event.listen(self._sessions, "before_commit", hook)

    def ping(self) -> None:
        """Raises SQLAlchemy's error when the database does not answer."""
        with self.engine.connect() as connection:
            connection.execution_options(reading=True).execute(text("SELECT 1"))

    def dispose(self) -> None:
        self.engine.dispose()


def normal_url(url: str) -> str:
    """`postgresql://` and `postgres://` mean psycopg 3 here; the folder of an SQLite file is made."""
    for prefix in ("postgres://", "postgresql://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    if url.startswith("sqlite") and (database := make_url(url).database) and database != ":memory:":
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    return url


def _engine(url: str, pool_size: int) -> Engine:
    if url.startswith("sqlite"):
        arguments = {"timeout": 0, "check_same_thread": False}
        engine = create_engine(url, pool_size=pool_size, hide_parameters=True, connect_args=arguments)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_engine(
        url,
        pool_size=pool_size,
        hide_parameters=True,  # an error's text gets into logs, and parameters are what callers sent
        max_overflow=0,
        pool_timeout=CONNECT_TIMEOUT_S,
        pool_pre_ping=True,  # a connection that died with the server is replaced before it is used
        pool_recycle=1800,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            # a killed greenlet leaves its query running on the server; this ends it
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={STATEMENT_TIMEOUT_MS}",
        },
    )


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # we begin transactions ourselves
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=0"):
        # whoever opens the file first recovers it, and locks the others out for a moment
        _execute_patiently(connection, f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get("reading"):
        connection.exec_driver_sql("BEGIN")
        return
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    _execute_patiently(raw, "BEGIN IMMEDIATE")


def _execute_patiently(connection: sqlite3.Connection, statement: str) -> None:
    give_up_at, wait_s = time.monotonic() + SQLITE_LOCK_WAIT_S, 0.001
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up_at:
                raise
            time.sleep(wait_s * (0.5 + random.random()))  # gevent's sleep, once patched
            wait_s = min(wait_s * 2, 0.05)


def _lacks_table(error: DBAPIError) -> bool:
    """Nobody has migrated yet. SQLite calls that an OperationalError; `/ready` says what to do."""
    return type(error.orig).__name__ == "UndefinedTable"


def init_app(app: Flask, database: Database, source: str) -> None:
    """Make a database that is away a 503 with one warning, not a 500 with a stack trace."""
    app.extensions["database"] = database

    def on_database_error(error: Exception) -> Response:
        # an error that says "not a valid value for this column" is ours, not the database's day off
        lost = isinstance(error, PoolTimeout | OperationalError | InterfaceError | sqlite3.OperationalError) or (
            isinstance(error, DBAPIError) and (error.connection_invalidated or _lacks_table(error))
        )
        if not lost or isinstance(error, IntegrityError):
            log.error("database_error", exc_info=error)
            return problems.response(
                problems.InternalError("Something went wrong on our side; the request id finds it in our logs."),
                source,
            )
        log.warning("database_unavailable", reason=str(getattr(error, "orig", error)).splitlines()[0][:200])
        return problems.response(
            problems.ServiceUnavailable("The database is not available just now.", code="DATABASE_UNAVAILABLE"),
            source,
        )

    for kind in (PoolTimeout, DBAPIError, sqlite3.OperationalError):
        app.register_error_handler(kind, on_database_error)
