"""`@limited` and `@limited("login")`: how often one caller may ask one service.

The rate comes from `services.yaml` under that name; the bare form is the service's `default` rate. A caller is the user
of a valid token, else the address. Named rates count by address always, for they guard what one calls without a token,
and they count besides the default rate, never instead of it.
"""

from __future__ import annotations

from functools import partial, wraps
from typing import overload

from gateway.exchange import Answer, Exchange, Handler, Policy
from gateway.limits import Bucket, too_many
from gateway.policies.layers import layer
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
        @layer("limited", partial(_judge, name))
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


def _judge(name: str, exchange: Exchange, may_look: bool) -> str:
    if exchange.service.limits is None:
        return "nothing is counted here"
    words: list[str] = []
    for bucket in _buckets(exchange, name):
        used = exchange.runtime.limits.used(bucket) if may_look else None
        if used is not None and used >= bucket.rate.amount:
            raise too_many(bucket.name, bucket.rate, 1)
        so_far = "" if used is None else f", {used} so far"
        kind, _, whom = bucket.key.removeprefix(f"{exchange.service.name}:").removeprefix(f"{name}:").partition(":")
        words.append(f"{bucket.name}: {bucket.rate} for {kind} {whom}{so_far}")
    return "; ".join(words)


def _buckets(exchange: Exchange, name: str) -> list[Bucket]:
    service, identity, address = exchange.service, exchange.identity, exchange.forwarding.caller
    caller = f"user:{identity.user_id}" if identity else f"address:{address}"
    buckets = [Bucket(DEFAULT_LIMIT, service.limit(DEFAULT_LIMIT), f"{service.name}:{caller}")]
    if name != DEFAULT_LIMIT:
        buckets.insert(0, Bucket(name, service.limit(name), f"{service.name}:{name}:address:{address}"))
    return buckets
