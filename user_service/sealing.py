"""Secrets that have to be read again are kept encrypted: AES-256-GCM, with keys derived from `SERVICE_SECRET` (HKDF,
RFC 5869).

Whoever has the database alone, a backup say, has none of them. A sealed text names its key, so that what was sealed
with the secret before the present one can be read while that is known too.
"""

from __future__ import annotations

import base64
import secrets
from binascii import Error as Base64Error

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NONCE_BYTES = 12


class Unreadable(Exception):
    """It was sealed with a secret that is not known here, for another owner, or is damaged."""


class Sealer:
    """Seals texts for one purpose; `owner` is bound to each, so that none can be laid into another's row."""

    def __init__(self, purpose: str, secret: str, previous_secret: str | None = None) -> None:
        keys = [derived_key(known, purpose) for known in (secret, previous_secret) if known]
        self._keys = {derived_key(key.hex(), "label").hex()[:8]: AESGCM(key) for key in keys}
        self._label = next(iter(self._keys))

    def seal(self, text: str, owner: str) -> str:
        """`LABEL.BASE64`, some 30 bytes longer than `text` before it is encoded."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self._keys[self._label].encrypt(nonce, text.encode(), owner.encode())
        return f"{self._label}.{base64.b64encode(nonce + sealed).decode()}"

    def is_current(self, sealed: str) -> bool:
        """Whether it was sealed with the present secret."""
        return sealed.startswith(f"{self._label}.")

    def open(self, sealed: str, owner: str) -> str:
        """What was sealed for `owner`. Raises `Unreadable`."""
        label, _, encoded = sealed.partition(".")
        try:
            raw = base64.b64decode(encoded, validate=True)
            return self._keys[label].decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], owner.encode()).decode()
        except (KeyError, Base64Error, ValueError, InvalidTag):
            raise Unreadable from None


def derived_key(secret: str, purpose: str) -> bytes:
    """32 bytes that tell nothing about `secret` or about the keys for other purposes."""
    return HKDF(SHA256(), 32, salt=None, info=purpose.encode()).derive(secret.encode())
