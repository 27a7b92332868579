"""The verifier of one of our processes, made from its settings, and what it does in the background of each worker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import gevent
from flask import Flask

from common.internal import user_service
from common.issuers import foreign_issuer
from common.keys import JwkSetKeys, Keys, SharedSecret
from common.revocations import Revocations, Source, UserService
from common.settings import IdentitySettings
from common.tokens import Verifier

JWKS = "/.well-known/jwks.json"


def verifier_of(
    app: Flask,
    settings: IdentitySettings,
    component: str,
    *,
    keys: Keys | None = None,
    source: Source | None = None,
    tell_cache: Callable[[str], None] = lambda _result: None,
    tell_revocations: Callable[[bool, int], None] = lambda _is_current, _entries: None,
) -> Verifier:
    """What `component` verifies tokens with. `keys` and `source` (of revocations) default to what user_service offers.

    Nothing is fetched before the first token, or `Verifier.start`.
    """
    foreign = [foreign_issuer(entry) for entry in settings.issuers()]
    revocations = Revocations(
        source or UserService(user_service(settings, me=component)),
        lost=settings.revocations_lost,
        patience_s=settings.revocations_patience_s,
        tell=tell_revocations,
    )
    verifier = Verifier(
        app,
        keys or default_keys(settings),
        foreign=foreign,
        revoked=revocations,
        max_age_s=min(settings.cache_auth_ttl, settings.jwks_refresh_s) if keys else settings.cache_auth_ttl,
        tell=tell_cache,
    )
    verifier.in_background.append(revocations.start)
    for each in (verifier.keys, *(issuer.keys for issuer in foreign)):
        if isinstance(each, JwkSetKeys):
            each.when_keys_go = verifier.forget
            keep_fresh = partial(each.keep_fresh, max_age_s=settings.jwks_refresh_s)
            verifier.in_background.append(partial(gevent.spawn, keep_fresh))
    return verifier


def default_keys(settings: IdentitySettings) -> Keys:
    """The shared secret where there is one, else the public keys that user_service publishes."""
    if settings.jwt_secret_key:
        return SharedSecret(settings.jwt_secret_key)
    return JwkSetKeys(f"{settings.user_service_url}{JWKS}")
