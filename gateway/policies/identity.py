"""`@require_jwt` and `@require_jwt(roles=("admin",), permissions=("products:write",))`: a valid token, and any of the
roles or any of the permissions where some are named; `second_factor` and `session` ask how one has logged in.

401 without a good token, 403 for what `Requirement` lacks, 503 while no key to verify with can be had. A bad token is
refused even where the roles would not matter: whoever sends one means it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import overload

from common.identity import Identity
from common.permissions import ADMIN, OPERATIONS, Requirement
from common.problems import Problem
from common.tokens import missing_token, refusal
from gateway.exchange import Answer, Exchange, Handler, Policy
from gateway.policies.layers import layer

OPERATOR = Requirement(roles=(ADMIN,), permissions=(OPERATIONS,))


@overload
def require_jwt(handler: Handler, /) -> Handler: ...
@overload
def require_jwt(
    *, roles: tuple[str, ...] = ..., permissions: tuple[str, ...] = ..., second_factor: bool = ..., session: bool = ...
) -> Policy: ...
def require_jwt(
    handler: Handler | None = None,
    /,
    *,
    roles: tuple[str, ...] = (),
    permissions: tuple[str, ...] = (),
    second_factor: bool = False,
    session: bool = False,
) -> Handler | Policy:
    decorate = _policy(Requirement(roles, permissions, second_factor, session))
    return decorate if handler is None else decorate(handler)


def _policy(requirement: Requirement) -> Callable[[Handler], Handler]:
    def decorate(handler: Handler) -> Handler:
        @layer("require_jwt", partial(_judge, requirement))
        @wraps(handler)
        def guarded(exchange: Exchange) -> Answer:
            _require(exchange, requirement)
            return handler(exchange)

        return guarded

    return decorate


def _judge(requirement: Requirement, exchange: Exchange, _may_look: bool) -> str:
    identity = _require(exchange, requirement)
    return f"{identity.username or identity.user_id} has {requirement}"


def require_operator(exchange: Exchange) -> Identity:
    """Who calls, if they may operate the gateway. Raises the problem to tell."""
    return _require(exchange, OPERATOR)


def _require(exchange: Exchange, requirement: Requirement) -> Identity:
    outcome = exchange.verified()
    if outcome is None:
        raise missing_token()
    if isinstance(outcome, Problem):
        raise outcome
    if isinstance(outcome, Exception):
        raise refusal(outcome) from outcome
    requirement.check(outcome)
    return outcome
