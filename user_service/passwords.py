"""Password hashes: argon2id with the parameters that OWASP recommends (19 MiB, 2 passes, 1 lane).

A hash is 20 ms or more of pure computing. In a greenlet it would stop all others, so under gevent it runs in real
threads: argon2 lets go of the interpreter's lock.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import cached_property
from typing import ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from gevent.monkey import is_module_patched
from gevent.threadpool import ThreadPool

MEMORY_KIB, PASSES, LANES = 19_456, 2, 1
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
        return self._elsewhere(self._hasher.hash, password)

    def is_right(self, password: str, password_hash: str | None) -> bool:
        """Whether `password` belongs to the hash. Without a hash the answer is no, after the same work."""
        is_match = self._elsewhere(self._verify, password_hash or self._nobodys_hash, password)
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
