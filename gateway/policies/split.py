"""`split(shares)`: a share of the callers is served by another service, such as the next version of this one.

Each caller stays where it is: the share is chosen by a hash of who calls (the service's `hash_by`), not by a die.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial, wraps

from gateway.exchange import Answer, Exchange, Handler, Policy
from gateway.policies.layers import layer
from gateway.services import Share


def split(shares: Sequence[Share]) -> Policy:
    def decorate(handler: Handler) -> Handler:
        @layer("split", partial(_judge, shares))
        @wraps(handler)
        def divided(exchange: Exchange) -> Answer:
            _judge(shares, exchange)
            return handler(exchange)

        return divided

    return decorate


def _judge(shares: Sequence[Share], exchange: Exchange, _may_look: bool = True) -> str:
    exchange.backend = chosen(shares, exchange.caller_key) or exchange.backend
    return f"this caller belongs to {exchange.backend}"


def chosen(shares: Sequence[Share], key: str) -> str | None:
    """The service whose share the caller with `key` belongs to, None for the rest."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8, person=b"split").digest()
    percent = int.from_bytes(digest, "big") / 2**64 * 100
    for share in shares:
        if percent < share.percent:
            return share.service
        percent -= share.percent
    return None
