"""Products: anyone may browse, who has `products:write` changes the catalogue."""

from __future__ import annotations

from common.permissions import PRODUCTS_WRITE
from gateway.blueprints import ServiceBlueprint
from gateway.exchange import Answer, Exchange
from gateway.forwarding import forward
from gateway.policies.cached import cached
from gateway.policies.identity import require_jwt
from gateway.policies.limited import limited
from gateway.policies.sized import sized
from gateway.policies.validated import validated

bp = ServiceBlueprint("products", __name__)


@bp.proxy("/", methods=["GET"])
@bp.proxy("/<product_id>", methods=["GET"])
@limited
@sized
@validated
@cached
def browse(exchange: Exchange) -> Answer:
    return forward(exchange)


@bp.proxy("/", methods=["POST"])
@bp.proxy("/<product_id>", methods=["PUT", "PATCH", "DELETE"])
@limited
@sized
@require_jwt(permissions=(PRODUCTS_WRITE,))
@validated
@cached
def change(exchange: Exchange) -> Answer:
    return forward(exchange)
