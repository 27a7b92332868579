"""A role and a database for each service: `python -m deploy.compose.make_databases`. Doing it again changes nothing.

Not an init script of the PostgreSQL image: that runs on an empty server only, and a service that comes later would get
no database. The passwords are those in the services' database URLs, so a URL that was made anew works again, too.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from psycopg import Connection, connect
from psycopg.sql import SQL, Identifier, Literal

from deploy.compose.make_secrets import DATABASES, ROOM


def main(room: Path = ROOM) -> None:
    """Make what is missing on the server that the URLs under `room` name."""
    password = (room / "postgres" / "postgres_password").read_text()
    for name in DATABASES:
        url = urlsplit((room / name / f"{name}_database_url").read_text())
        with connect(
            host=url.hostname, port=url.port, user="postgres", password=password, dbname="postgres", autocommit=True
        ) as server:
            is_new = make_database(server, name, url.password or "")
        print(f"The database {name} was made." if is_new else f"The database {name} is there already.")


def make_database(server: Connection, name: str, password: str) -> bool:
    """A role `name` that owns a database `name`, which nobody else may open. Whether the database is new."""
    role = Identifier(name)
    if not server.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).rowcount:
        server.execute(SQL("CREATE ROLE {}").format(role))
    # the server sees the hash only, so no log of its statements holds the password
    verifier = server.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
    server.execute(SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(role, Literal(verifier)))

    is_new = not server.execute("SELECT FROM pg_database WHERE datname = %s", [name]).rowcount
    if is_new:
        server.execute(SQL("CREATE DATABASE {} OWNER {}").format(role, role))
    server.execute(SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(role))
    return is_new


if __name__ == "__main__":
    main()
