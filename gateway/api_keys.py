"""API keys at the gateway: each is exchanged for a short access token, so that services see tokens only.

A token that was got is used to its end, and renewed beside that shortly before, so user_service is asked once in
minutes for each key and worker. The first time one request asks, and others with the key wait for what it gets. A key
that was refused is not asked about again for a while, and an address that shows one unknown key after another gets
429 instead of user_service being asked. When user_service is away, keys that are not known get 503.

Each use verifies the token anew, and so hears of revocations within a second. A token that is void is exchanged once
more: the owner may have got other roles; a revoked key is refused then.

Keys are known by their digests. Uses are counted by key and told to user_service every `FLUSH_S`, and when the worker
ends; what could not be told stays counted. Should an answer to that get lost, uses count twice.
"""

from __future__ import annotations

import atexit
import hashlib
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import gevent
import structlog

from common import key_format
from common.identity import Identity
from common.internal import Internal, InternalError, InternalRefused, InternalUnavailable
from common.keys import InvalidToken, KeysUnavailable
from common.problems import TooManyRequests, Unauthorized
from common.tokens import Verifier
from gateway.callers import whose_address

T = TypeVar("T")
log = structlog.get_logger("api_keys")

MOST_KNOWN = 10_000
RENEWED_S = 30.0  # before a token expires
REFUSED_S = 10.0
AWAY_S = RETRY_S = 1.0
FLUSH_S = 5.0
LAST_FLUSH_S = 0.25
WAIT_S = 5.0
MOST_GUESSES, GUESSES_S = 30, 60.0


@dataclass(frozen=True, slots=True)
class _Exchanged:
    """A token that was got, and until when it is good and need not be renewed. Times of `clock`."""

    token: str
    expires_at: float
    renewed_at: float


class _Refused(Exception):
    pass


class _Away(Exception):
    pass


class ApiKeys:
    """One per worker. Shared by greenlets: what they share is changed without a switch between."""

    def __init__(
        self,
        internal: Internal,
        verifier: Verifier,
        *,
        most_known: int = MOST_KNOWN,
        clock: Callable[[], float] = time.monotonic,
        spawn: Callable[[Callable[[], None]], object] = gevent.spawn,
    ) -> None:
        """`internal` asks user_service."""
        self._internal, self._verifier, self._most_known = internal, verifier, most_known
        self._clock, self._spawn = clock, spawn
        self._known: OrderedDict[bytes, _Exchanged] = OrderedDict()
        self._refused: OrderedDict[bytes, float] = OrderedDict()  # until when
        self._asking: dict[bytes, Future[_Exchanged]] = {}
        self._guesses = _Guesses(most_known, clock)
        self._away_until = float("-inf")
        self._uses: Counter[str] = Counter()
        self._is_behind = False

    def exchange(self, key: str, address: str = "") -> tuple[str, Identity]:
        """A token for `key`, and what it says. `address` is who shows it.

        Raises `Unauthorized`, `KeysUnavailable`, or `TooManyRequests` to an address that guesses.
        """
        if not key_format.is_well_formed(key):
            raise _not_valid()
        digest = hashlib.sha256(key.encode()).digest()
        is_new, guesser = digest not in self._known and digest not in self._refused, whose_address(address)
        if is_new:
            self._guesses.refuse_too_many(guesser)
        try:
            token, identity = self._verified(digest, key)
        except _Refused:
            if is_new:
                self._guesses.note(guesser)
            raise _not_valid() from None
        except _Away:
            raise KeysUnavailable("API keys can't be exchanged") from None
        if identity.key_id in self._uses or len(self._uses) < self._most_known:
            self._uses[identity.key_id] += 1
        return token, identity

    def start(self, is_running: Callable[[], bool]) -> None:
        """Tell the uses while it `is_running`, and what comes after that as it comes."""

        def go_on() -> None:
            while True:
                gevent.sleep(FLUSH_S if is_running() else LAST_FLUSH_S)
                self.flush()

        self._spawn(go_on)
        atexit.register(self.flush)

    def flush(self) -> None:
        """Tell the uses that were counted. Never raises; one warning until it works again."""
        if not self._uses:
            return
        told, self._uses = self._uses, Counter()
        try:
            self._internal.post("/internal/api-keys/usage", {"counts": dict(told)})
        except InternalError as error:
            if not self._is_behind:
                log.warning("api_key_uses_not_told", reason=str(error))
            self._is_behind = True
            self._uses.update(told)
        else:
            self._is_behind = False

    def _verified(self, digest: bytes, key: str) -> tuple[str, Identity]:
        exchanged = self._exchanged(digest, key)
        try:
            return exchanged.token, self._verifier.verify(exchanged.token)
        except InvalidToken:
            if self._known.get(digest) is exchanged:
                del self._known[digest]
        exchanged = self._exchanged(digest, key)
        try:
            return exchanged.token, self._verifier.verify(exchanged.token)
        except InvalidToken:  # it was revoked while we asked
            raise _Refused from None

    def _exchanged(self, digest: bytes, key: str) -> _Exchanged:
        now, known = self._clock(), self._known.get(digest)
        if known is not None and now < known.renewed_at:
            self._known.move_to_end(digest)
            return known
        if known is not None and now < known.expires_at:
            known = self._known[digest] = replace(known, renewed_at=now + RETRY_S)  # one of all who come now is enough
            self._spawn(lambda: self._renew(digest, key))
            return known
        if now < self._refused.get(digest, now):
            raise _Refused
        return self._ask_once(digest, key)

    def _renew(self, digest: bytes, key: str) -> None:
        """Nobody waits for it."""
        with suppress(_Refused, _Away):
            self._ask_once(digest, key)

    def _ask_once(self, digest: bytes, key: str) -> _Exchanged:
        """One request at a time asks about a key; the others share what it gets."""
        mine: Future[_Exchanged] = Future()
        asking = self._asking.setdefault(digest, mine)
        if asking is not mine:
            return _shared(asking)
        try:
            mine.set_result(self._ask(digest, key))
        except (_Refused, _Away) as outcome:
            mine.set_exception(type(outcome)())
            raise
        finally:
            del self._asking[digest]
            mine.cancel()  # if this greenlet was ended, the others need not wait
        return mine.result()

    def _ask(self, digest: bytes, key: str) -> _Exchanged:
        if self._clock() < self._away_until:
            raise _Away
        began = self._clock()
        try:
            answer = self._internal.post("/internal/api-keys/exchange", {"key": key})
        except InternalRefused as error:
            self._known.pop(digest, None)
            if (error.status, error.code) != (401, "INVALID_API_KEY"):  # it is us who are refused
                log.error("api_key_exchange_failed", reason=str(error))
                raise _Away from None
            self._keep(self._refused, digest, began + REFUSED_S)
            raise _Refused from None
        except InternalUnavailable as error:
            log.warning("api_key_exchange_failed", reason=str(error))
            self._away_until = self._clock() + AWAY_S
            raise _Away from None
        token, lifetime_s = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(token, str) or not isinstance(lifetime_s, int):
            log.error("api_key_exchange_failed", reason="no token in the answer")
            raise _Away
        exchanged = _Exchanged(token, began + lifetime_s, began + max(lifetime_s - RENEWED_S, lifetime_s / 2))
        self._keep(self._known, digest, exchanged)
        self._refused.pop(digest, None)
        return exchanged

    def _keep(self, among: OrderedDict[bytes, T], digest: bytes, what: T) -> None:
        among[digest] = what
        among.move_to_end(digest)
        if len(among) > self._most_known:
            among.popitem(last=False)


class _Guesses:
    """How many unknown keys an address has shown of late. Bounded: who was quiet for longest is forgotten first."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most, self._clock = most, clock
        self._made: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how many, until when they count

    def refuse_too_many(self, address: str) -> None:
        count, until = self._made.get(address, (0, 0.0))
        seconds = math.ceil(until - self._clock())
        if count >= MOST_GUESSES and seconds > 0:
            raise TooManyRequests(
                f"Too many unknown API keys came from this address; try again in {seconds} seconds.",
                headers=(("Retry-After", str(seconds)),),
                limit="api-keys",
                tier="address",
            )

    def note(self, address: str) -> None:
        now, (count, until) = self._clock(), self._made.get(address, (0, 0.0))
        self._made[address] = (count + 1, until) if now < until else (1, now + GUESSES_S)
        self._made.move_to_end(address)
        if len(self._made) > self._most:
            self._made.popitem(last=False)


def _not_valid() -> Unauthorized:
    return Unauthorized("The API key is not valid.", code="INVALID_API_KEY", error="invalid_token")


def _shared(asking: Future[_Exchanged]) -> _Exchanged:
    try:
        return asking.result(timeout=WAIT_S)
    except (_Refused, _Away) as outcome:
        raise type(outcome)() from None  # one of its own for each that waits
    except (TimeoutError, CancelledError):
        raise _Away from None
