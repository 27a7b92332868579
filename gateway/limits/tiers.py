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
from gateway.limits.asked import Asked, Limit, LimitSet, as_key
from gateway.limits.verdict import Tier
from gateway.services import ADDRESS_LIMIT, BURST_LIMIT, DEFAULT_LIMIT, Plan, Service

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.settings import GatewaySettings


MOST_SETS = 4096
"""Of two kilobytes each."""
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


def of_route(exchange: Exchange, limit: str, *, by_caller: bool) -> Asked:
    """What counts a request to a service that has limits. `limit` is the name of the route's rate, or `default`."""
    identity, address = exchange.identity, exchange.forwarding.counted_as
    tier, whom = _caller(identity, address)
    plan = exchange.table.configuration.plans.get(identity.plan) if tier == "key" and identity else None
    limits = exchange.runtime.limits.sets.of(exchange.service, plan, tier, limit)
    caller, at = as_key(whom), as_key(address)
    whoms = [caller, caller, b""] if plan else [caller, at, caller, b""]
    if limit != DEFAULT_LIMIT:
        whoms.insert(0, caller if by_caller else at)
    return Asked(limits, whoms)


def of_address(exchange: Exchange) -> Asked:
    """What counts a request that belongs to no service."""
    address = as_key(exchange.forwarding.counted_as)
    return Asked(exchange.runtime.limits.sets.of_no_service, [address, address, b""])


class LimitSets:
    """Those of one worker, made when they are first asked for. Shared by its greenlets: each method is one step."""

    def __init__(self, rates: Rates, *, most: int = MOST_SETS) -> None:
        self._rates, self._most = rates, most
        self._all = Limit("global", "global", rates.all)
        self.of_no_service = LimitSet(
            [Limit("address", ADDRESS_LIMIT, rates.address), Limit("burst", BURST_LIMIT, rates.burst), self._all]
        )
        self._known: dict[tuple[int, int, Tier, str], tuple[Service, Plan | None, LimitSet]] = {}

    def of(self, service: Service, plan: Plan | None, tier: Tier, limit: str) -> LimitSet:
        """For callers of that tier. Services and plans of another configuration are other objects, and what is known
        keeps its own alive: no two ever have the same id."""
        key = (id(service), id(plan), tier, limit)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= self._most:
                self._known.clear()
            known = self._known[key] = (service, plan, LimitSet(self._limits(service, plan, tier, limit)))
        return known[2]

    def _limits(self, service: Service, plan: Plan | None, tier: Tier, limit: str) -> list[Limit]:
        """The narrowest first: of several that are full the first one is told."""
        rate = plan.default if plan else service.limit_of_callers(is_known=tier != "address")
        limits = [Limit(tier, DEFAULT_LIMIT, rate, service.name)]
        if limit != DEFAULT_LIMIT:
            limits.insert(0, Limit("endpoint", limit, service.limit(limit), service.name))
        if plan is None:
            limits.append(_own_or(service, Limit("address", ADDRESS_LIMIT, self._rates.address_beside(rate))))
        if plan and plan.burst:
            limits.append(Limit("burst", BURST_LIMIT, plan.burst))
        else:
            limits.append(_own_or(service, Limit("burst", BURST_LIMIT, self._rates.burst_beside(rate))))
        return [*limits, self._all]


def _caller(identity: Identity | None, address: str) -> tuple[Tier, str]:
    if identity is None:
        return "address", address
    if key_id := identity.key_id:
        return "key", f"key:{key_id}"
    issuer = "" if identity.issuer == ISSUER else f"@{identity.issuer}"  # its users' ids are not ours
    return "user", f"user:{identity.user_id}{issuer}"


def _own_or(service: Service, limit: Limit) -> Limit:
    """The service's own limit of that name, if it has one, which then counts for it alone."""
    own = service.limits.get(limit.name) if service.limits else None
    return Limit(limit.tier, limit.name, own, service.name) if own else limit


@lru_cache(maxsize=1024)
def _at_least(rate: RateLimitItem, wanted: int) -> RateLimitItem:
    return rate if rate.amount >= wanted else RateLimitItemPerSecond(wanted, rate.get_expiry())
