"""Numbers for the rows of a log, in the order of commits, which a database's own sequence does not give.

A number is taken by an update of the counter's row, and so its lock is held until the transaction ends: who reads
number 7 has seen 6, or 6 does not exist. Take it last, after all other rows that the transaction changes, and commit
soon: all who write to this log wait.
"""

from __future__ import annotations

from sqlalchemy import text, update
from sqlalchemy.orm import Session

from user_service.tables import Counter

_MAKE = text("INSERT INTO counters (name, value) VALUES (:name, 0) ON CONFLICT DO NOTHING")


def take(db_session: Session, name: str, count: int = 1) -> int:
    """The last of the next `count` numbers of the log `name`, which begins with 1."""
    grown = update(Counter).where(Counter.name == name).values(value=Counter.value + count).returning(Counter.value)
    grown = grown.execution_options(synchronize_session=False)
    if (value := db_session.scalar(grown)) is None:
        db_session.execute(_MAKE, {"name": name})
        value = db_session.scalars(grown).one()
    return value
