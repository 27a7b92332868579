"""Keys to verify tokens with, and where they come from: JWK sets (RFC 7517), a shared secret, or a callable.

A set is fetched by one worker for all of a master (`noticeboard`): when its age asks for it, in a greenlet of its own,
and for a key that nobody knows yet, at most once per cool-down, however many such keys are asked for. What a fetch did
not find is not looked for again for a while. While a set can't be had the keys that are known go on being used.
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import orjson
import requests
import structlog
from urllib3.exceptions import HTTPError

from common.http import tuned_session
from common.key_sets import Name, safe_url, usable_keys
from common.noticeboard import Noticeboard

MAX_AGE_S = 60.0
TICK_S = 5.0
UNKNOWN_FOR_S = 15.0
MAX_UNKNOWN = 1000
MAX_SET_BYTES = 256 << 10
WAIT_POLL_S = 0.02

log = structlog.get_logger("tokens")


class InvalidToken(Exception):
    """The token is malformed, expired, not yet valid, for somebody else or not signed by us. The text may be told."""


class KeysUnavailable(Exception):
    """No key to verify with could be had; the token may well be good."""


class Keys(Protocol):
    """Where the verification keys of our own tokens come from. `algorithm` is the only one that is accepted."""

    @property
    def algorithm(self) -> str: ...

    def find(self, kid: str | None) -> object:
        """The key named `kid`. Raises `InvalidToken` for an unknown one, `KeysUnavailable` when none can be had."""
        ...


class SharedSecret:
    """HS256 with `JWT_SECRET_KEY`."""

    algorithm = "HS256"

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def find(self, kid: str | None) -> object:
        return self._secret


class FixedKeys:
    """EdDSA keys handed over by a callable: user_service itself reads them from its database."""

    algorithm = "EdDSA"

    def __init__(self, find: Callable[[str], object | None]) -> None:
        self._find = find

    def find(self, kid: str | None) -> object:
        key = self._find(kid) if kid else None
        if key is None:
            raise InvalidToken("The token was signed with a key that is not ours.")
        return key


class JwkSetKeys:
    """The keys of a JWK set: each for the algorithms of `algorithms` that fit its kind.

    Shared by greenlets: a lock lets one of them look while the others wait for its result.
    """

    def __init__(
        self,
        url: str,
        *,
        algorithms: Iterable[str] = ("EdDSA",),
        discovers: str = "",
        ca_file: str = "",
        cool_down_s: float = 5.0,
        timeout_s: float = 2.0,
        unknown_for_s: float = UNKNOWN_FOR_S,
        max_unknown: int = MAX_UNKNOWN,
    ) -> None:
        """`url` is the set's; with `discovers`, the name of an issuer, that of its metadata, which name the set's."""
        self._url, self._discovers = url, discovers
        self._algorithms = tuple(algorithms)
        self._cool_down_s, self._timeout_s = cool_down_s, timeout_s
        self._unknown_for_s, self._max_unknown = unknown_for_s, max_unknown
        self._longest_s = 2 * timeout_s + 1
        self._session = tuned_session(pool_size=2)
        self._session.verify = ca_file or True
        self._lock = threading.Lock()
        self._board = Noticeboard()
        self._version = 0
        self._keys: Mapping[Name, object] = {}
        self._unknown: OrderedDict[Name, float] = OrderedDict()  # until when not to look again
        self.when_keys_go: Callable[[], None] = lambda: None

    @property
    def algorithm(self) -> str:
        return self._algorithms[0]

    @property
    def is_loaded(self) -> bool:
        return bool(self._keys)

    def find(self, kid: str | None, algorithm: str | None = None) -> object:
        """The key named `kid` for `algorithm`. Raises `InvalidToken` or `KeysUnavailable`."""
        if not kid:
            raise InvalidToken("The token names no key.")
        name = kid, algorithm or self.algorithm
        if name not in self._keys:
            self._look_for(name)
        if key := self._keys.get(name):
            return key
        if not self._keys:
            raise KeysUnavailable("the keys could not be fetched")
        raise InvalidToken("The token was signed with a key that is not ours.")

    def warm(self) -> bool:
        """Fetch the set if that was not done yet; whether there are keys now."""
        if not self._keys:
            self._look_for(("", ""))
        return self.is_loaded

    def refresh(self, max_age_s: float = MAX_AGE_S) -> None:
        """Take what others have fetched; fetch if nobody has in the last `max_age_s`."""
        with self._lock:
            self._take_news()
            self._fetch_if_due(max_age_s if self._keys else self._soon_s)

    def keep_fresh(
        self,
        is_wanted: Callable[[], bool],
        *,
        max_age_s: float = MAX_AGE_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`refresh`, again and again, until it `is_wanted` no longer."""
        tick_s = min(TICK_S, max_age_s / 4)
        while is_wanted():
            self.refresh(max_age_s * random.uniform(0.75, 1))
            sleep(tick_s * random.uniform(0.75, 1.25))

    @property
    def _soon_s(self) -> float:
        """Without any key a quick second try is worth more than the service's peace."""
        return min(1.0, self._cool_down_s)

    def _look_for(self, name: Name) -> None:
        with self._lock:
            if name in self._keys or self._unknown.get(name, 0) > time.monotonic():
                return
            self._take_news()
            if name in self._keys:
                return
            if not self._fetch_or_wait(name) and name not in self._keys:
                self._fetch_or_wait(name)  # what was waited for may have been begun before the key was published

    def _fetch_or_wait(self, name: Name) -> bool:
        """Whether it was fetched here."""
        before = self._version
        if self._fetch_if_due(self._cool_down_s if self._keys else self._soon_s, is_urgent=True):
            if self._version > before and name not in self._keys:
                self._note_unknown(name)
            return True
        while self._board.is_busy(self._longest_s):  # another worker fetches just now
            time.sleep(WAIT_POLL_S)
        self._take_news()
        return False

    def _note_unknown(self, name: Name) -> None:
        self._unknown[name] = time.monotonic() + self._unknown_for_s
        while len(self._unknown) > self._max_unknown:
            self._unknown.popitem(last=False)

    def _fetch_if_due(self, pause_s: float, *, is_urgent: bool = False) -> bool:
        """Whether it was this worker's turn."""
        if not self._board.may_fetch(pause_s, self._longest_s, is_urgent=is_urgent):
            return False
        document = None
        try:
            fetched = self._fetch()
            usable_keys(fetched, self._algorithms)
            document = fetched
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            log.warning("jwks_unavailable", url=self._url, reason=type(error).__name__, keys_kept=len(self._keys))
        finally:
            self._board.fetched(document)
        self._take_news()
        return True

    def _take_news(self) -> None:
        if (notice := self._board.news(self._version)) is None:
            return
        keys = usable_keys(notice.document, self._algorithms)
        before, self._version, self._keys = self._keys, notice.version, keys
        if any(keys.get(name) != key for name, key in before.items()):
            self.when_keys_go()

    def _fetch(self) -> bytes:
        if not self._discovers:
            return self._get(self._url)
        metadata = orjson.loads(self._get(self._url))
        if not isinstance(metadata, dict) or metadata.get("issuer") != self._discovers:
            raise ValueError("the metadata are of another issuer")
        return self._get(safe_url(metadata.get("jwks_uri"), near=self._url))

    def _get(self, url: str) -> bytes:
        give_up_at = time.monotonic() + 2 * self._timeout_s
        with self._session.get(url, timeout=self._timeout_s, stream=True) as answer:
            answer.raise_for_status()
            document = b""
            while part := answer.raw.read1(16 << 10, decode_content=True):  # what has come, not what may yet come
                document += part
                if len(document) > MAX_SET_BYTES or time.monotonic() > give_up_at:
                    raise ValueError("too much, or too slow")
        return document
