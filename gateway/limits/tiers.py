"""Which limits count a request: all of these at once.

    endpoint  a rate that the route names, or has; by address where anybody may ask, else by caller
    user      `default` (or `user`) of the service, by user; for an API key (tier `key`) its plan says how much; for
              a caller without a token (tier `address`) it counts by address
    address   all that an address asks, whoever it is: many users share one, so it takes much more than one of them.
              Programs with a plan are not counted: their plan says what they may
    burst     what a caller may ask at once, in a second
    global    what the whole gateway bears

`default` counts for each service; address, burst and global for the whole gateway, unless the service has `address` or
`burst` among its `limits`, which then count for it alone. Where nobody says how much an address or a burst may be, they
never refuse what the service's own rate lets one caller do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from limits import RateLimitItem, RateLimitItemPerSecond

from common.tokens import ISSUER, Identity
from gateway.limits.verdict import Bucket, Tier, whose_address
from gateway.services import ADDRESS_LIMIT, BURST_LIMIT, DEFAULT_LIMIT, Service

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.settings import GatewaySettings


CALLERS_OF_AN_ADDRESS = 10
"""So many may use up their limits at one address, unless it is said how much an address may."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Of the whole gateway."""

    all: RateLimitItem
    address: RateLimitItem
    burst: RateLimitItem
    is_address_set: bool = True  # else a service's own greater numbers raise it
    is_burst_set: bool = True

    @classmethod
    def of(cls, settings: GatewaySettings) -> Rates:
        window_s = settings.rate_limit_window
        return cls(
            RateLimitItemPerSecond(settings.global_rate_limit_requests, window_s),
            RateLimitItemPerSecond(settings.address_requests, window_s),
            RateLimitItemPerSecond(settings.burst_requests, settings.burst_rate_limit_window),
            settings.address_rate_limit_requests is not None,
            settings.burst_rate_limit_requests is not None,
        )

    def address_beside(self, rate: RateLimitItem) -> RateLimitItem:
        """Of an address whose callers may ask a service at this rate."""
        window_s = self.address.get_expiry()
        wanted = CALLERS_OF_AN_ADDRESS * rate.amount * window_s // rate.get_expiry()
        return self.address if self.is_address_set else _at_least(self.address, wanted)

    def burst_beside(self, rate: RateLimitItem) -> RateLimitItem:
        """Of a caller who may ask a service at this rate: all of it at once, unless it is said otherwise."""
        return self.burst if self.is_burst_set else _at_least(self.burst, rate.amount)


def of_route(exchange: Exchange, limit: str, *, by_caller: bool) -> list[Bucket]:
    """What counts a request to a service that has limits. `limit` is the name of the route's rate, or `default`.

    The narrowest first: of several that are full the first one is told.
    """
    service, identity = exchange.service, exchange.identity
    rates, plans = exchange.runtime.limits.rates, exchange.table.configuration.plans
    address = f"address:{whose_address(exchange.forwarding.caller)}"
    tier, whom = _caller(identity, address)
    plan = plans.get(identity.plan) if identity and tier == "key" else None
    rate = plan.default if plan else service.limit_of_callers(is_known=identity is not None)
    buckets = [Bucket(tier, DEFAULT_LIMIT, rate, service.name, whom)]
    if limit != DEFAULT_LIMIT:
        buckets.insert(0, Bucket("endpoint", limit, service.limit(limit), service.name, whom if by_caller else address))
    if plan is None:
        buckets.append(_of(service, "address", ADDRESS_LIMIT, rates.address_beside(rate), address))
    if plan and plan.burst:
        buckets.append(Bucket("burst", BURST_LIMIT, plan.burst, "", whom))
    else:
        buckets.append(_of(service, "burst", BURST_LIMIT, rates.burst_beside(rate), whom))
    buckets.append(_of_all(rates))
    return buckets


def of_address(exchange: Exchange) -> list[Bucket]:
    """What counts a request that belongs to no service."""
    rates, address = exchange.runtime.limits.rates, f"address:{whose_address(exchange.forwarding.caller)}"
    return [
        Bucket("address", ADDRESS_LIMIT, rates.address, "", address),
        Bucket("burst", BURST_LIMIT, rates.burst, "", address),
        _of_all(rates),
    ]


def _caller(identity: Identity | None, address: str) -> tuple[Tier, str]:
    if identity is None:
        return "address", address
    if identity.key_id:
        return "key", f"key:{identity.key_id}"
    issuer = "" if identity.issuer == ISSUER else f"@{identity.issuer}"  # its users' ids are not ours
    return "user", f"user:{identity.user_id}{issuer}"


def _of(service: Service, tier: Tier, name: str, rate: RateLimitItem, whom: str) -> Bucket:
    own = service.limits.get(name) if service.limits else None
    return Bucket(tier, name, own, service.name, whom) if own else Bucket(tier, name, rate, "", whom)


@lru_cache(maxsize=1024)
def _at_least(rate: RateLimitItem, wanted: int) -> RateLimitItem:
    return rate if rate.amount >= wanted else RateLimitItemPerSecond(wanted, rate.get_expiry())


def _of_all(rates: Rates) -> Bucket:
    return Bucket("global", "global", rates.all)
