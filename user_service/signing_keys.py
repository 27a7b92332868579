"""The keys that sign access tokens: Ed25519 key pairs in the database, shared by all processes (RFC 8037).

    next ---signs_from---> signing ---signs_from of the one after---> retired ---kept_s---> gone; deleted
      '-----------------------'-- withdrawn: out of use at once ---------'

A key is published for a while before it signs, so that all who verify have it by then, and for `kept_s` after it has
signed last, until its tokens have expired. Its state follows from the time stamps of the rows and the time of day
alone: all processes change together without telling each other. `key_rotation` makes and withdraws keys.

The first key is made at first need, by whichever process comes first. Each process remembers the keys and looks again
when what it knows is `max_age_s` old. While the database is away the keys that are known go on being used.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Literal

import orjson
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from common.db import Database
from common.models import utc_now
from user_service.tables import StoredKey

MAX_AGE_S = 5.0
COOL_DOWN_S = 1.0

State = Literal["next", "signing", "retired", "gone", "withdrawn"]

log = structlog.get_logger("signing_keys")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key pair; a token names it by `kid`."""

    kid: str
    private: Ed25519PrivateKey
    signs_from: datetime
    withdrawn_at: datetime | None

    def jwk(self) -> dict[str, str]:
        """The public half as a JWK (RFC 7517; OKP by RFC 8037, 2)."""
        return {**_required_members(self.private.public_key()), "kid": self.kid, "use": "sig", "alg": "EdDSA"}


class SigningKeys:
    """The keys of the database, and this process's memory of them.

    Shared by greenlets and threads: one of them reads the database while the others wait for its result, and what is
    known is replaced in one step.
    """

    def __init__(
        self,
        database: Database,
        *,
        kept_s: float = 960,
        max_age_s: float = MAX_AGE_S,
        cool_down_s: float = COOL_DOWN_S,
    ) -> None:
        self._database = database
        self.kept_s = kept_s
        self._max_age_s = max_age_s
        self._cool_down_s = cool_down_s
        self._lock = threading.Lock()
        self._known: tuple[SigningKey, ...] = ()
        self._read_at = float("-inf")

    def current(self) -> SigningKey:
        """The key to sign with, made now if there is none."""
        return self._in_state("signing", max_age_s=self._max_age_s)[0]

    def published(self) -> list[SigningKey]:
        """The keys to verify with, as the database has them now; at least one."""
        return self._in_state("next", "signing", "retired", max_age_s=0)

    def find(self, kid: str) -> Ed25519PublicKey | None:
        """The public key named `kid`, if it is published. An unknown one costs a look, once per cool-down."""
        max_age_s = self._max_age_s if any(key.kid == kid for key in self._known) else self._cool_down_s
        published = self._in_state("next", "signing", "retired", max_age_s=max_age_s)
        return next((key.private.public_key() for key in published if key.kid == kid), None)

    def _in_state(self, *wanted: State, max_age_s: float) -> list[SigningKey]:
        self._refresh(max_age_s)
        if not any(key.withdrawn_at is None for key in self._known):
            self._make_first()
            self._refresh(0)
        found = states(self._known, utc_now(), self.kept_s)
        return [key for key in self._known if found[key.kid] in wanted]

    def _refresh(self, max_age_s: float) -> None:
        asked_at = time.monotonic()
        with self._lock:
            # whoever waited here takes what the one before has just read
            if self._read_at >= asked_at - max_age_s:
                return
            began_at = time.monotonic()
            try:
                self._known = self._read()
            except SQLAlchemyError as error:
                if not self._known:
                    raise
                log.warning("signing_keys_not_refreshed", reason=type(error).__name__, keys_kept=len(self._known))
            self._read_at = began_at

    def _read(self) -> tuple[SigningKey, ...]:
        with self._database.read() as session:
            rows = session.scalars(select(StoredKey).order_by(StoredKey.number)).all()
        known = {key.kid: key.private for key in self._known}
        return tuple(_loaded(row, known.get(row.kid)) for row in rows)

    def _make_first(self) -> None:
        try:
            with self._database.write() as session:
                session.add(new_key(1, signs_from=utc_now()))
        except IntegrityError:
            pass  # another process made number 1 just now; its key serves as well


def states(keys: Sequence[SigningKey | StoredKey], now: datetime, kept_s: float) -> dict[str, State]:
    """The state of each key by its `kid`. One signs, if there is any that was not withdrawn."""
    found: dict[str, State] = dict.fromkeys((key.kid for key in keys if key.withdrawn_at), "withdrawn")
    in_use = sorted((key for key in keys if not key.withdrawn_at), key=lambda key: key.signs_from)
    begun = [key for key in in_use if key.signs_from <= now] or in_use[:1]
    found |= dict.fromkeys((key.kid for key in in_use), "next")
    found |= dict.fromkeys((key.kid for key in begun[-1:]), "signing")
    for key, successor in pairwise(begun):
        is_needed = now < successor.signs_from + timedelta(seconds=kept_s)
        found[key.kid] = "retired" if is_needed else "gone"
    return found


def new_key(number: int, *, signs_from: datetime) -> StoredKey:
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return StoredKey(number=number, kid=_thumbprint(private.public_key()), private_pem=pem, signs_from=signs_from)


def _loaded(row: StoredKey, private: Ed25519PrivateKey | None) -> SigningKey:
    if private is None:
        loaded = load_pem_private_key(row.private_pem.encode(), password=None)
        assert isinstance(loaded, Ed25519PrivateKey)
        private = loaded
    return SigningKey(row.kid, private, row.signs_from, row.withdrawn_at)


def _required_members(public: Ed25519PublicKey) -> dict[str, str]:
    return {"crv": "Ed25519", "kty": "OKP", "x": _base64(public.public_bytes_raw())}


def _thumbprint(public: Ed25519PublicKey) -> str:
    """RFC 7638: the digest of the required members, sorted, without white space."""
    canonical = orjson.dumps(_required_members(public), option=orjson.OPT_SORT_KEYS)
    return _base64(hashlib.sha256(canonical).digest())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
