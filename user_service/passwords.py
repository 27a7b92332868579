"""Password hashes: argon2id, by default with the parameters that OWASP recommends (19 MiB, 2 passes, 1 lane).

A hash is 20 ms or more of pure computing. In a greenlet it would stop all others, so under gevent it runs in real
threads: argon2 lets go of the interpreter's lock.

Passwords are text, and some keyboards write one letter as two characters: they are brought into Unicode's form C before
they are counted or hashed (RFC 8265, 4.2.2; NIST SP 800-63B-4, 3.1.1.2).
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Callable
from functools import cached_property
from typing import ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from gevent.monkey import is_module_patched
from gevent.threadpool import ThreadPool

MEMORY_KIB, PASSES, LANES = 19_456, 2, 1
LEAST = ((47_104, 1), (19_456, 2), (12_288, 3), (9_216, 4), (7_168, 5))
"""Memory in KiB and passes that OWASP's Password Storage Cheat Sheet holds to be equally strong, and enough."""
THREADS = 2

P = ParamSpec("P")
R = TypeVar("R")


class Passwords:
    """Makes and checks hashes. Shared by greenlets: it has no state but the pool, which does its own locking."""

    def __init__(self, *, memory_kib: int = MEMORY_KIB, passes: int = PASSES) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=LANES)
        self._nobodys_hash = self._hasher.hash(secrets.token_urlsafe())

    def hash(self, password: str) -> str:
        """The hash to store, its salt and parameters inside."""
        return self._elsewhere(self._hasher.hash, normalized(password))

    def is_right(self, password: str, password_hash: str | None) -> bool:
        """Whether `password` belongs to the hash. Without a hash the answer is no, after the same work."""
        is_match = self._elsewhere(self._verify, password_hash or self._nobodys_hash, normalized(password))
        return is_match and password_hash is not None

    def is_outdated(self, password_hash: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(password_hash)

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False  # gevent's pool prints a stack trace for each exception that leaves it

    def _elsewhere(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        if not is_module_patched("threading"):  # a command or a test: nobody else waits
            return work(*args, **kwargs)
        return self._pool.apply(work, args, kwargs)

    @cached_property
    def _pool(self) -> ThreadPool:
        return ThreadPool(THREADS)  # at first need, so that it belongs to the worker and not to gunicorn's master


def normalized(password: str) -> str:
    """In Unicode's form C, in which one letter is written in one way only."""
    return unicodedata.normalize("NFC", password)


def are_enough(memory_kib: int, passes: int) -> bool:
    """Whether a hash with these parameters is as strong as OWASP asks for."""
    return any(memory_kib >= memory and passes >= least for memory, least in LEAST)
