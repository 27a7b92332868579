"""`@limited` and `@limited("login")`: how often one caller may ask, see `gateway.limits.tiers`.

The bare form counts against what counts every request; the other one also against the rate that `services.yaml` has
under that name. In code such rates count by address, for they guard what one calls without a token: counted by user, a
valid token would let its owner try passwords from a second budget. In the services file they do so where a route is
open to all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, wraps
from typing import overload

from gateway.exchange import Answer, Exchange, Handler, Policy
from gateway.limits import Bucket, StoreDown
from gateway.limits.telling import too_many, uncounted
from gateway.limits.tiers import of_address, of_route
from gateway.policies.layers import layer
from gateway.services import ADDRESS_LIMIT, BURST_LIMIT, DEFAULT_LIMIT

NO_SERVICE = "gateway"
"""Whom metrics name where a request belongs to no service."""


@overload
def limited(handler: Handler, /) -> Handler: ...
@overload
def limited(name: str, /, *, by_caller: bool = ...) -> Policy: ...
def limited(handler: Handler | str, /, *, by_caller: bool = False) -> Handler | Policy:
    if isinstance(handler, str):
        return _policy(handler, by_caller)
    return _policy(DEFAULT_LIMIT, by_caller)(handler)


def _policy(name: str, by_caller: bool) -> Policy:
    def decorate(handler: Handler) -> Handler:
        @layer("limited", partial(_judge, name, by_caller))
        @wraps(handler)
        def counted(exchange: Exchange) -> Answer:
            if exchange.service.limits is not None:
                _count(exchange, of_route(exchange, name, by_caller=by_caller), exchange.service.name)
            return handler(exchange)

        return counted

    return decorate


def count_unrouted(exchange: Exchange) -> None:
    """Count a request that the router refuses: looking for what is there costs the address's budget."""
    if not exchange.is_operations:
        _count(exchange, of_address(exchange), NO_SERVICE)


def _count(exchange: Exchange, buckets: Sequence[Bucket], service: str) -> None:
    cost, when_down = (1, "local") if service == NO_SERVICE else (exchange.service.cost, exchange.service.on_store_down)
    try:
        verdict = exchange.runtime.limits.hit(buckets, cost, when_down)
    except StoreDown:
        raise uncounted() from None
    finally:
        if exchange.stages:
            exchange.stages.ended("limits")
    exchange.answer_headers += verdict.headers()
    if verdict.refused:
        bucket = verdict.refused.bucket
        exchange.notes |= {"limit": bucket.name, "tier": bucket.tier}
        exchange.runtime.metrics.limited(service, bucket.name)
        raise too_many(verdict)


def _judge(name: str, by_caller: bool, exchange: Exchange, may_look: bool) -> str:
    service = exchange.service
    if service.limits is None:
        return "nothing is counted here"
    buckets = of_route(exchange, name, by_caller=by_caller)
    foreseen = exchange.runtime.limits.foresee(buckets, service.cost) if may_look else None
    if foreseen and foreseen.refused:
        raise too_many(foreseen)
    used = [row.bucket.rate.amount - row.remaining for row in foreseen.rows] if foreseen else []
    words = [f"{each.name}: {each.rate}{_for_whom(each)}" for each in buckets]
    if used:
        words = [f"{said}, {so_far} so far" for said, so_far in zip(words, used, strict=True)]
    costs = [f"counts as {service.cost}"] if service.cost > 1 else []
    return "; ".join(words + costs)


def _for_whom(bucket: Bucket) -> str:
    """Where the name of the limit does not say it."""
    says_it = bucket.name in (ADDRESS_LIMIT, BURST_LIMIT) or not bucket.whom
    return "" if says_it else f" for {bucket.whom.replace(':', ' ', 1)}"
