"""`maintained(rule)`: while a service is being worked on its callers are told so, and when to come back.

It ends by itself at `until`, else when the services file says so no more. Who has one of `allow_roles` passes, to look
whether all is well again. Active checks go on, so the service's instances are known to be well by the time it is back.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import partial, wraps

from common.problems import ServiceUnavailable
from gateway.exchange import Answer, Exchange, Handler, Policy
from gateway.policies.layers import layer
from gateway.services import MaintenanceRule


def maintained(rule: MaintenanceRule) -> Policy:
    def decorate(handler: Handler) -> Handler:
        @layer("maintained", partial(_judge, rule))
        @wraps(handler)
        def checked(exchange: Exchange) -> Answer:
            _judge(rule, exchange)
            return handler(exchange)

        return checked

    return decorate


def _judge(rule: MaintenanceRule, exchange: Exchange, _may_look: bool = True) -> str:
    left_s = math.inf if rule.until is None else (rule.until - datetime.now(UTC)).total_seconds()
    if left_s <= 0:
        return "the maintenance is over"
    identity = exchange.identity if rule.allow_roles else None
    if identity and not identity.roles.isdisjoint(rule.allow_roles):
        return "in maintenance, but not for this caller"
    retry_after_s = rule.retry_after_s if rule.until is None else math.ceil(left_s)
    raise ServiceUnavailable(rule.message, code="MAINTENANCE", retry_after_s=retry_after_s)
