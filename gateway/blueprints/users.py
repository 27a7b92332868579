"""Users: register and log in by anyone, everything else with a token."""

from __future__ import annotations

from gateway.blueprints import ServiceBlueprint
from gateway.exchange import Answer, Exchange
from gateway.forwarding import forward
from gateway.policies.identity import require_jwt
from gateway.policies.limited import limited
from gateway.policies.sized import sized

bp = ServiceBlueprint("users", __name__)


@bp.proxy("/register", methods=["POST"])
@limited("register")
@sized
def register(exchange: Exchange) -> Answer:
    return forward(exchange)


@bp.proxy("/login", methods=["POST"])
@limited("login")
@sized
def login(exchange: Exchange) -> Answer:
    return forward(exchange)


@bp.proxy("/")
@bp.proxy("/<path:rest>")
@limited
@sized
@require_jwt
def account(exchange: Exchange) -> Answer:
    return forward(exchange)
