"""What an API key looks like: `gk_ab12cd34_<43 characters>_<6 characters>`.

The first eight characters tell keys apart and are kept; the next are 256 random bits; the last are a CRC-32 of what
stands before them. So typing errors are found without asking anybody, and those who search repositories for leaked
secrets know one of ours for sure. The checksum proves nothing else: anybody can make one that fits.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import zlib

_KEY = re.compile(r"gk_[a-z0-9]{8}_[A-Za-z0-9_-]{43}_[A-Za-z0-9_-]{6}")
_BEGINNING = len("gk_") + 8
_CHECKSUM = 6
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


def new_key() -> str:
    name = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    text = f"gk_{name}_{secrets.token_urlsafe(32)}"
    return f"{text}_{_checksum(text)}"


def is_well_formed(key: str) -> bool:
    """Whether it looks like one, and the checksum fits."""
    return _KEY.fullmatch(key) is not None and key[-_CHECKSUM:] == _checksum(key[: -_CHECKSUM - 1])


def beginning(key: str) -> str:
    """What may be shown of a key."""
    return key[:_BEGINNING]


def digest(key: str) -> str:
    """What is kept of a key. A plain hash will do: nobody guesses 256 bits."""
    return hashlib.sha256(key.encode()).hexdigest()


def _checksum(text: str) -> str:
    return base64.urlsafe_b64encode(zlib.crc32(text.encode()).to_bytes(4)).rstrip(b"=").decode()
