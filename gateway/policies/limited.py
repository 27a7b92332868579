"""`@limited` and `@limited("login")`: how often one caller may ask one service.

The rate comes from `services.yaml` under that name; the bare form is the service's `default` rate. A caller is the user
of a valid token, else the address. Named rates count by address always, for they guard what one calls without a token,
and they count besides the default rate, never instead of it.
"""

from __future__ import annotations

from functools import wraps
from typing import overload

from gateway.exchange import Answer, Exchange, Handler, Policy
from gateway.limits import Bucket, too_many
from gateway.services import DEFAULT_LIMIT


@overload
def limited(handler: Handler, /) -> Handler: ...
@overload
def limited(name: str, /) -> Policy: ...
def limited(handler: Handler | str, /) -> Handler | Policy:
    if isinstance(handler, str):
        return _policy(handler)
    return _policy(DEFAULT_LIMIT)(handler)


def _policy(name: str) -> Policy:
    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        def counted(exchange: Exchange) -> Answer:
            if exchange.service.limits is None:
                return handler(exchange)
            verdict = exchange.runtime.limits.hit(_buckets(exchange, name))
            exchange.answer_headers += verdict.headers()
            if not verdict.is_allowed:
                exchange.notes["limit"] = verdict.bucket.name
                exchange.runtime.metrics.limited(exchange.service.name, verdict.bucket.name)
                raise too_many(verdict.bucket.name, verdict.bucket.rate, verdict.retry_after_s)
            return handler(exchange)

        return counted

    return decorate


def _buckets(exchange: Exchange, name: str) -> list[Bucket]:
    service, identity, address = exchange.service, exchange.identity, exchange.forwarding.caller
    caller = f"user:{identity.user_id}" if identity else f"address:{address}"
    buckets = [Bucket(DEFAULT_LIMIT, service.limit(DEFAULT_LIMIT), f"{service.name}:{caller}")]
    if name != DEFAULT_LIMIT:
        buckets.insert(0, Bucket(name, service.limit(name), f"{service.name}:{name}:address:{address}"))
    return buckets
