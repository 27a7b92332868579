"""Users: register, log in and refresh by anyone, everything else with a token."""

from __future__ import annotations

from gateway.blueprints import ServiceBlueprint
from gateway.exchange import Answer, Exchange
from gateway.forwarding import forward
from gateway.policies.cookie_sessions import begins_session, ends_session, renews_session
from gateway.policies.identity import require_jwt
from gateway.policies.limited import limited
from gateway.policies.sized import sized
from gateway.policies.validated import validated

bp = ServiceBlueprint("users", __name__)


@bp.proxy("/register", methods=["POST"])
@limited("register")
@sized
@validated
def register(exchange: Exchange) -> Answer:
    return forward(exchange)


@bp.proxy("/login", methods=["POST"])
@limited("login")
@sized
@begins_session
@validated
def login(exchange: Exchange) -> Answer:
    return forward(exchange)


@bp.proxy("/refresh", methods=["POST"])
@limited("refresh")
@renews_session
@sized
@validated
def refresh(exchange: Exchange) -> Answer:
    return forward(exchange)


@bp.proxy("/logout", methods=["POST"])
@bp.proxy("/logout-all", methods=["POST"])
@limited
@sized
@require_jwt
@ends_session
@validated
def log_out(exchange: Exchange) -> Answer:
    return forward(exchange)


@bp.proxy("/")
@bp.proxy("/<path:rest>")
@limited
@sized
@require_jwt
@validated
def account(exchange: Exchange) -> Answer:
    return forward(exchange)
