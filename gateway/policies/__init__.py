"""Policies: each decides whether or how a request may pass. One file each, written as a decorator of handlers.

`STACK` is the order for services that are known by configuration only, outermost first:

1. `limited`   count first: a flood of refused requests spends its caller's budget
2. `sized`     a body that is too long is refused before anybody works for it
3. `addresses`  may one come from there at all?
4. `maintained`  is anybody to be let in just now?
5. `require_jwt`  who is it, and may they?
6. `validated`  is it what the service's OpenAPI document describes? Only those who may ask are told what is wrong
7. `redirected`  another address, but only for those who might have come in here
8. `cached`    only then: nobody gets from the cache what they may not have from the service

`AROUND` stands outside of these, for services whose policies are written in code too: who answers, what the answer's
header says, and for these services 3 and 4. They write 6 themselves, `@validated`, which does what the file says.

To add a policy, write a file with a decorator here and a line in `STACK`. A line says when a route wants the policy;
what it does not want does not exist at run time.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.exchange import Handler, Policy
from gateway.policies.addresses import addresses
from gateway.policies.cached import cached
from gateway.policies.changed import changed
from gateway.policies.identity import require_jwt
from gateway.policies.limited import limited
from gateway.policies.maintenance import maintained
from gateway.policies.redirected import redirected
from gateway.policies.sized import sized
from gateway.policies.split import split
from gateway.policies.validated import validated
from gateway.services import DEFAULT_LIMIT, RouteRule, Service
from gateway.services_file import CODED

STACK: tuple[Callable[[Service, RouteRule | None], Policy | None], ...] = (
    lambda service, rule: None if service.limits is None else _limited(service, rule),
    lambda service, rule: None if service.max_body_bytes is None else sized,
    lambda service, rule: _addresses(service),
    lambda service, rule: _maintained(service),
    lambda service, rule: None if service.is_public else _require_jwt(service),
    lambda service, rule: validated if service.validation else None,
    lambda service, rule: redirected(rule.redirect) if rule and rule.redirect else None,
    lambda service, rule: cached if service.is_cached else None,
)

AROUND: tuple[Callable[[Service], Policy | None], ...] = (
    lambda service: changed(service.response_headers) if service.response_headers else None,
    lambda service: split(service.split) if service.split else None,
    lambda service: _addresses(service) if service.name in CODED else None,
    lambda service: _maintained(service) if service.name in CODED else None,
)


def _addresses(service: Service) -> Policy | None:
    allowed, denied = service.allow_from, service.deny_from
    return addresses(allowed, denied) if allowed or denied else None


def _maintained(service: Service) -> Policy | None:
    return maintained(service.maintenance) if service.maintenance else None


def _limited(service: Service, rule: RouteRule | None) -> Policy:
    return limited(rule.limit, by_caller=not service.is_public) if rule and rule.limit else limited(DEFAULT_LIMIT)


def _require_jwt(service: Service) -> Policy:
    return require_jwt(roles=service.roles, permissions=service.permissions, second_factor=service.wants_second_factor)


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
