"""The keys that sign access tokens: Ed25519 key pairs in the database, shared by all workers (RFC 8037).

The first key is made at first need, by whichever process comes first. Each process remembers the keys and looks again
when what it knows is `MAX_AGE_S` old, and when a token names a key it does not know: another process may have made it.
While the database is away the keys that are known go on being used.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from dataclasses import dataclass
from datetime import datetime

import orjson
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from common.db import Database
from user_service.tables import StoredKey

MAX_AGE_S = 60.0
COOL_DOWN_S = 5.0

log = structlog.get_logger("signing_keys")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key pair; a token names it by `kid`."""

    kid: str
    private: Ed25519PrivateKey
    created_at: datetime

    def jwk(self) -> dict[str, str]:
        """The public half as a JWK (RFC 7517; OKP by RFC 8037, 2)."""
        return {**_required_members(self.private.public_key()), "kid": self.kid, "use": "sig", "alg": "EdDSA"}


class SigningKeys:
    """The keys of the database, oldest first, and this process's memory of them.

    Shared by greenlets and threads: one of them reads the database while the others wait for its result, and what is
    known is replaced in one step.
    """

    def __init__(self, database: Database, *, max_age_s: float = MAX_AGE_S, cool_down_s: float = COOL_DOWN_S) -> None:
        self._database = database
        self._max_age_s = max_age_s
        self._cool_down_s = cool_down_s
        self._lock = threading.Lock()
        self._known: tuple[SigningKey, ...] = ()
        self._read_at = float("-inf")

    def current(self) -> SigningKey:
        """The key to sign with: the newest, made now if there is none."""
        return self.all()[-1]

    def all(self) -> tuple[SigningKey, ...]:
        """The keys to verify with, at least one, the newest last."""
        self._refresh(self._max_age_s)
        if not self._known:
            self._make_first()
            self._refresh(0)
        return self._known

    def find(self, kid: str) -> Ed25519PublicKey | None:
        """The public key named `kid`. An unknown one costs a look into the database, once per cool-down."""
        if (key := self._remembered(kid)) is None:
            self._refresh(self._cool_down_s if self._known else 0)
            key = self._remembered(kid)
        return key.private.public_key() if key else None

    def _remembered(self, kid: str) -> SigningKey | None:
        return next((key for key in self._known if key.kid == kid), None)

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
        return tuple(_loaded(row) for row in rows)

    def _make_first(self) -> None:
        try:
            with self._database.write() as session:
                session.add(_new(number=1))
        except IntegrityError:
            pass  # another process made number 1 just now; its key serves as well


def _new(number: int) -> StoredKey:
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return StoredKey(number=number, kid=_thumbprint(private.public_key()), private_pem=pem.decode())


def _loaded(row: StoredKey) -> SigningKey:
    private = load_pem_private_key(row.private_pem.encode(), password=None)
    assert isinstance(private, Ed25519PrivateKey)
    return SigningKey(row.kid, private, row.created_at)


def _required_members(public: Ed25519PublicKey) -> dict[str, str]:
    return {"crv": "Ed25519", "kty": "OKP", "x": _base64(public.public_bytes_raw())}


def _thumbprint(public: Ed25519PublicKey) -> str:
    """RFC 7638: the digest of the required members, sorted, without white space."""
    canonical = orjson.dumps(_required_members(public), option=orjson.OPT_SORT_KEYS)
    return _base64(hashlib.sha256(canonical).digest())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
