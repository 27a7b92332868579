"""Keys to verify tokens with, and where they come from: a JWK set (RFC 7517), a shared secret, or a callable."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import jwt as pyjwt
import requests
import structlog

from common.http import tuned_session

log = structlog.get_logger("tokens")


class InvalidToken(Exception):
    """The token is malformed, expired, not yet valid, for somebody else or not signed by us. The text may be told."""


class KeysUnavailable(Exception):
    """No key to verify with could be had; the token may well be good."""


class Keys(Protocol):
    """Where verification keys come from. `algorithm` is the only one that is accepted."""

    algorithm: str

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


class JwkSetKeys:
    """EdDSA keys of a JWK set, fetched when first needed and, at most once per `cool_down_s`, for an unknown `kid`.

    Shared by greenlets: a lock lets one of them fetch while the others wait for its result. While the set can't be
    fetched the keys that are known go on being used.
    """

    algorithm = "EdDSA"

    def __init__(self, url: str, *, cool_down_s: float = 5.0, timeout_s: float = 2.0) -> None:
        self._url = url
        self._cool_down_s = cool_down_s
        self._timeout_s = timeout_s
        self._session = tuned_session(pool_size=2)
        self._lock = threading.Lock()
        self._keys: Mapping[str, object] = {}
        self._tried_at = float("-inf")

    @property
    def is_loaded(self) -> bool:
        return bool(self._keys)

    def find(self, kid: str | None) -> object:
        if kid is None:
            raise InvalidToken("The token names no key.")
        if kid not in self._keys:
            self._refresh(kid)
        if key := self._keys.get(kid):
            return key
        if not self._keys:
            raise KeysUnavailable("the keys of user_service could not be fetched")
        raise InvalidToken("The token was signed with a key that is not ours.")

    def warm(self) -> bool:
        """Fetch the set if that was not done yet; whether there are keys now."""
        if not self._keys:
            self._refresh("")
        return self.is_loaded

    def _refresh(self, kid: str) -> None:
        with self._lock:
            now = time.monotonic()
            # without any key a quick second try is worth more than the service's peace
            cool_down_s = self._cool_down_s if self._keys else min(1.0, self._cool_down_s)
            if kid in self._keys or now - self._tried_at < cool_down_s:
                return
            try:
                answer = self._session.get(self._url, timeout=self._timeout_s)
                answer.raise_for_status()
                fetched = _verification_keys(answer.json())
            except (requests.RequestException, ValueError, TypeError, KeyError, pyjwt.PyJWTError) as error:
                log.warning("jwks_unavailable", reason=type(error).__name__, keys_kept=len(self._keys))
            else:
                self._keys = fetched
            self._tried_at = time.monotonic()


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


def _verification_keys(document: object) -> Mapping[str, object]:
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("not a JWK set")
    keys = pyjwt.PyJWKSet.from_dict(document).keys
    usable = {key.key_id: key.key for key in keys if key.key_id and key.key_type == "OKP"}
    if not usable:
        raise ValueError("no key that signs with EdDSA")
    return usable
