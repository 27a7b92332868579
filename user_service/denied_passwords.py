"""Passwords that nobody may choose: the well-known ones of a file, and one's own name (NIST SP 800-63B-4, 3.1.1.2)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self

from user_service.passwords import normalized


class DeniedPasswords:
    """A set that is never changed. In memory a password takes about 100 bytes, in each worker."""

    def __init__(self, passwords: Iterable[str]) -> None:
        self._folded = frozenset(_folded(password) for password in passwords)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Of a text file, one password a line. What is not UTF-8 in there can't be typed either, and does no harm."""
        with path.open(encoding="utf-8", errors="replace") as lines:
            return cls(text for line in lines if (text := line.rstrip("\r\n")))

    def has(self, password: str) -> bool:
        """In any spelling of its case."""
        return _folded(password) in self._folded


def is_name(password: str, username: str) -> bool:
    return _folded(password) == _folded(username)


def _folded(text: str) -> str:
    return normalized(text).casefold()
