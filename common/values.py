"""Ids and the time. Apart from `common.models`, for those who keep nothing in a database."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime


def new_id() -> str:
    """A random UUID (RFC 9562, version 4): tells nobody how many there are, and can't be guessed."""
    return str(uuid.uuid4())


def utc_now() -> datetime:
    return datetime.now(UTC)
