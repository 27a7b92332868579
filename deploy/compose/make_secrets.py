"""Random secrets, made once: `python -m deploy.compose.make_secrets`. What is there already is never changed.

Each reader has a volume of its own, so a service can't read another's password:

    /secrets/postgres/postgres_password      the server's superuser, for `postgres` and `database_setup`
    /secrets/users/users_database_url        the role `users` with its password; products and orders alike
    /secrets/users/service_secret            one secret, the same for the three services and the gateway

The files are named as common.settings wants them in SECRETS_DIR. No value is ever printed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

ROOM = Path("/secrets")
DATABASES = ("users", "products", "orders")
"""The databases, named like the roles that own them."""
READERS = (*DATABASES, "gateway")
"""Who proves with the service secret that it is one of us."""
SERVER = "postgres:5432"

OWNER_ONLY = 0o400
ANY_USER = 0o444  # of the containers that mount the volume: PostgreSQL runs as another user than we do


def make_all(room: Path) -> list[Path]:
    """Make what is missing under `room`; returns the paths that are new."""
    wanted = [(room / "postgres" / "postgres_password", secrets.token_urlsafe(32), ANY_USER)]
    service_secret = _kept(room / name / "service_secret" for name in READERS) or secrets.token_urlsafe(48)
    for name in DATABASES:
        url = f"postgresql://{name}:{secrets.token_urlsafe(32)}@{SERVER}/{name}"
        wanted.append((room / name / f"{name}_database_url", url, OWNER_ONLY))
    wanted += [(room / name / "service_secret", service_secret, OWNER_ONLY) for name in READERS]
    return [path for path, value, mode in wanted if _write_once(path, value, mode)]


def _kept(paths: Iterable[Path]) -> str | None:
    return next((path.read_text() for path in paths if path.exists()), None)


def _write_once(path: Path, value: str, mode: int) -> bool:
    """Whether the file was missing. It appears whole or not at all."""
    if path.exists():
        return False
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)  # of a run that was interrupted
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask
        file.write(value)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    return True


if __name__ == "__main__":
    made = make_all(ROOM)
    print(f"Secrets made: {', '.join(str(path.relative_to(ROOM)) for path in made) or 'none, all are there already'}.")
