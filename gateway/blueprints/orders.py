"""Orders: everything needs a token; whose orders one sees is the service's to say.

`cached` keeps nothing of these answers; it is here because an order empties the catalogue's cache.
"""

from __future__ import annotations

from common.permissions import ORDERS_READ, ORDERS_READ_ANY, ORDERS_WRITE, ORDERS_WRITE_ANY
from gateway.blueprints import ServiceBlueprint
from gateway.exchange import Answer, Exchange
from gateway.forwarding import forward
from gateway.policies.cached import cached
from gateway.policies.identity import require_jwt
from gateway.policies.limited import limited
from gateway.policies.sized import sized
from gateway.policies.validated import validated

READING = ("GET", "HEAD", "OPTIONS")

bp = ServiceBlueprint("orders", __name__)


@bp.proxy("/", methods=READING)
@bp.proxy("/<path:rest>", methods=READING)
@limited
@sized
@require_jwt(permissions=(ORDERS_READ, ORDERS_READ_ANY))
@validated
@cached
def read(exchange: Exchange) -> Answer:
    return forward(exchange)


@bp.proxy("/")
@bp.proxy("/<path:rest>")
@limited
@sized
@require_jwt(permissions=(ORDERS_WRITE, ORDERS_WRITE_ANY))
@validated
@cached
def change(exchange: Exchange) -> Answer:
    return forward(exchange)
