"""`@require_jwt` and `@require_jwt(roles=("admin",))`: a valid token, and any of the roles where some are named.

401 without a good token, 403 without the role, 503 while no key to verify with can be had. A bad token is refused even
where the roles would not matter: whoever sends one means it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import overload

from common.keys import InvalidToken, KeysUnavailable
from common.tokens import Identity, lacking_role, missing_token, refusal
from gateway.exchange import Answer, Exchange, Handler, Policy
from gateway.policies.layers import layer


@overload
def require_jwt(handler: Handler, /) -> Handler: ...
@overload
def require_jwt(*, roles: tuple[str, ...]) -> Policy: ...
def require_jwt(handler: Handler | None = None, /, *, roles: tuple[str, ...] = ()) -> Handler | Policy:
    decorate = _policy(roles)
    return decorate if handler is None else decorate(handler)


def _policy(roles: tuple[str, ...]) -> Callable[[Handler], Handler]:
    def decorate(handler: Handler) -> Handler:
        @layer("require_jwt", partial(_judge, roles))
        @wraps(handler)
        def guarded(exchange: Exchange) -> Answer:
            require(exchange, roles)
            return handler(exchange)

        return guarded

    return decorate


def _judge(roles: tuple[str, ...], exchange: Exchange, _may_look: bool) -> str:
    identity = require(exchange, roles)
    return f"{identity.username or identity.user_id} has " + (f"one of: {', '.join(roles)}" if roles else "a token")


def require(exchange: Exchange, roles: tuple[str, ...] = ()) -> Identity:
    """Who calls. Raises the problem to tell unless the caller has a valid token and any of `roles`."""
    try:
        identity = exchange.require_identity()
    except (InvalidToken, KeysUnavailable) as error:
        raise refusal(error) from error
    if identity is None:
        raise missing_token()
    if not identity.has_any(roles):
        raise lacking_role(roles)
    return identity
