"""Refresh tokens: how they look, and how one follows the other. Only digests are stored: 256 random bits need no salt.

The next token is an HMAC of a random seed, keyed by the one before. Where a used token is forgiven for a moment, its
row keeps the seed until the next token is used: whoever shows the old token again gets the same next one again. The
database alone gives nothing, and neither does an old token alone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from datetime import timedelta

from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from common.models import utc_now
from user_service.tables import RefreshToken

PREFIX = "shop_rt_"


def issue(db_session: Session, session_id: str) -> str:
    """The first token of a session."""
    return _stored(db_session, session_id, _written(secrets.token_bytes(32)))


def rotate(db_session: Session, session_id: str, token: str, *, grace_s: float, kept_s: float) -> str | None:
    """The token that follows `token` of this session, whose row is locked. None: it was used, and longer than
    `grace_s` ago, or the one that followed was used too. Used ones are remembered for `kept_s`."""
    used, now = db_session.get_one(RefreshToken, digest(token)), utc_now()
    if used.used_at is not None:
        is_forgiven = now - used.used_at <= timedelta(seconds=grace_s)
        return _next(token, used.seed) if used.seed and is_forgiven else None
    _forget(db_session, session_id, older_than_s=kept_s)
    seed = secrets.token_hex(32)
    used.used_at, used.seed = now, seed if grace_s else None
    return _stored(db_session, session_id, _next(token, seed))


def digest(token: str) -> str:
    """What a token is known by."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _forget(db_session: Session, session_id: str, *, older_than_s: float) -> None:
    """Tokens of the family that would have expired anyway, and the seed of the one whose next is being used."""
    used = (RefreshToken.session_id == session_id) & RefreshToken.used_at.is_not(None)
    oldest = utc_now() - timedelta(seconds=older_than_s)
    db_session.execute(delete(RefreshToken).where(used, RefreshToken.issued_at < oldest))
    db_session.execute(update(RefreshToken).where(used, RefreshToken.seed.is_not(None)).values(seed=None))


def _stored(db_session: Session, session_id: str, token: str) -> str:
    db_session.add(RefreshToken(digest=digest(token), session_id=session_id, issued_at=utc_now()))
    return token


def _next(token: str, seed: str) -> str:
    return _written(hmac.digest(token.encode(), bytes.fromhex(seed), "sha256"))


def _written(key: bytes) -> str:
    return PREFIX + base64.urlsafe_b64encode(key).rstrip(b"=").decode()
