"""Policies: each decides whether or how a request may pass. One file each, written as a decorator of handlers.

`STACK` is the order for services that are known by configuration only, outermost first:

1. `limited`   count first: a flood of refused requests spends its caller's budget
2. `sized`     a body that is too long is refused before anybody works for it
3. `require_jwt`  who is it, and may they?
4. `redirected`  another address, but only for those who might have come in here
5. `cached`    only then: nobody gets from the cache what they may not have from the service

`AROUND` stands outside of these, for services whose policies are written in code too: it changes nothing about who may
do what, only who answers and what the answer's header says.

To add a policy, write a file with a decorator here and a line in `STACK`. A line says when a route wants the policy;
what it does not want does not exist at run time.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.exchange import Handler, Policy
from gateway.policies.cached import cached
from gateway.policies.changed import changed
from gateway.policies.identity import require_jwt
from gateway.policies.limited import limited
from gateway.policies.redirected import redirected
from gateway.policies.sized import sized
from gateway.policies.split import split
from gateway.services import DEFAULT_LIMIT, RouteRule, Service

STACK: tuple[Callable[[Service, RouteRule | None], Policy | None], ...] = (
    lambda service, rule: None if service.limits is None else limited((rule and rule.limit) or DEFAULT_LIMIT),
    lambda service, rule: None if service.max_body_bytes is None else sized,
    lambda service, rule: None if service.is_public else require_jwt(roles=service.roles),
    lambda service, rule: redirected(rule.redirect) if rule and rule.redirect else None,
    lambda service, rule: cached if service.is_cached else None,
)

AROUND: tuple[Callable[[Service], Policy | None], ...] = (
    lambda service: changed(service.response_headers) if service.response_headers else None,
    lambda service: split(service.split) if service.split else None,
)


def compose(service: Service, handler: Handler, rule: RouteRule | None = None) -> Handler:
    """`handler` inside the policies that `service`, and the route of the file if it is one, ask for."""
    for wanted in reversed(STACK):
        if (policy := wanted(service, rule)) is not None:
            handler = policy(handler)
    return handler


def around(service: Service, handler: Handler) -> Handler:
    """`handler` inside what any service may ask for in the file."""
    for wanted in reversed(AROUND):
        if (policy := wanted(service)) is not None:
            handler = policy(handler)
    return handler
