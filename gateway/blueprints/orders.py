"""Orders: everything needs a token; whose orders one sees is the service's to say.

`cached` keeps nothing of these answers; it is here because an order empties the catalogue's cache.
"""

from __future__ import annotations

from gateway.blueprints import ServiceBlueprint
from gateway.exchange import Answer, Exchange
from gateway.forwarding import forward
from gateway.policies.cached import cached
from gateway.policies.identity import require_jwt
from gateway.policies.limited import limited
from gateway.policies.sized import sized

bp = ServiceBlueprint("orders", __name__)


@bp.proxy("/")
@bp.proxy("/<path:rest>")
@limited
@sized
@require_jwt
@cached
def orders(exchange: Exchange) -> Answer:
    return forward(exchange)
