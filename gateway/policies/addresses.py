"""`addresses(allowed, denied)`: from where a caller may come. Whoever is denied stays out, whatever else is said.

The address is the one that limits and the access line go by: the nearest one that no trusted proxy has vouched for
(`TRUSTED_PROXIES`), IPv4 in IPv6 clothes as IPv4. A caller without one, over a Unix socket, is in no network.
"""

from __future__ import annotations

from functools import partial, wraps

from common.problems import Forbidden
from gateway.callers import IPNetwork, is_trusted
from gateway.exchange import Answer, Exchange, Handler, Policy
from gateway.policies.layers import layer

Networks = tuple[IPNetwork, ...]


def addresses(allowed: Networks, denied: Networks) -> Policy:
    """None `allowed`: all that are not denied."""

    def decorate(handler: Handler) -> Handler:
        @layer("addresses", partial(_judge, allowed, denied))
        @wraps(handler)
        def checked(exchange: Exchange) -> Answer:
            _judge(allowed, denied, exchange)
            return handler(exchange)

        return checked

    return decorate


def _judge(allowed: Networks, denied: Networks, exchange: Exchange, _may_look: bool = True) -> str:
    address = exchange.forwarding.caller
    if is_trusted(address, denied) or (allowed and not is_trusted(address, allowed)):
        raise Forbidden("Requests from your address are not accepted here.", code="ADDRESS_REFUSED")
    return f"{address} is {'allowed' if allowed else 'not denied'}"
