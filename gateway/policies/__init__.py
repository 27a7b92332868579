"""Policies: each decides whether or how a request may pass. One file each, written as a decorator of handlers.

`STACK` is the order for services that are known by configuration only, outermost first:

1. `limited`   count first: a flood of refused requests spends its caller's budget
2. `sized`     a body that is too long is refused before anybody works for it
3. `require_jwt`  who is it, and may they?
4. `cached`    only then: nobody gets from the cache what they may not have from the service

To add a policy, write a file with a decorator here and a line in `STACK`. A line says when a service wants the policy;
what it does not want does not exist at run time.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.exchange import Handler, Policy
from gateway.policies.cached import cached
from gateway.policies.identity import require_jwt
from gateway.policies.limited import limited
from gateway.policies.sized import sized
from gateway.services import Service

STACK: tuple[Callable[[Service], Policy | None], ...] = (
    lambda service: limited,
    lambda service: sized,
    lambda service: None if service.is_public else require_jwt(roles=service.roles),
    lambda service: cached if service.is_cached else None,
)


def compose(service: Service, handler: Handler) -> Handler:
    """`handler` inside the policies that `service` asks for."""
    for wanted in reversed(STACK):
        if (policy := wanted(service)) is not None:
            handler = policy(handler)
    return handler
