"""What the gateway itself answers: who it is, how it fares, what stands behind it.

`/`, `/health`, `/ready` and `/health/startup` are open to all. The rest is open on the operations listener; on the
public one it wants an administrator's token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from typing import ParamSpec

from flask import Blueprint, Flask, Response, request

from common import VERSION, health
from common.codes import CODES
from common.health import Check, Health, page
from common.keys import JwkSetKeys, Keys
from common.problems import NotFound, Problem
from gateway.backend.call import Call
from gateway.backend.countdown import Countdown
from gateway.backend.health import row_of
from gateway.blueprints import flask_response
from gateway.body import Body
from gateway.exchange import EXCHANGE, Answer, Exchange
from gateway.observability.metrics import CONTENT_TYPE
from gateway.openapi import documents
from gateway.policies.identity import require_operator
from gateway.policies.layers import layer
from gateway.router import Route, faces
from gateway.runtime import runtime_of
from gateway.services import FIRST_VERSION, Service
from gateway.table import Table

P = ParamSpec("P")

bp = Blueprint("pages", __name__)


def operators_only(view: Callable[P, Response]) -> Callable[P, Response]:
    """Open on the operations listener, for administrators on the public one."""

    @layer("operators_only", _judge_operator)
    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> Response:
        _judge_operator(current_exchange())
        return view(*args, **kwargs)

    return guarded


def _judge_operator(exchange: Exchange, _may_look: bool = True) -> str:
    if exchange.is_operations:
        return "the operations listener is open"
    try:
        return f"{require_operator(exchange).username} may operate the gateway"
    except Problem as problem:
        problem.detail += " This page is for administrators, or for anybody on the operations port."
        raise


def current_exchange() -> Exchange:
    exchange: Exchange = request.environ[EXCHANGE]
    return exchange


@bp.get("/")
def home() -> Response:
    """What this is, and where to go on."""
    table = current_exchange().table
    return page(
        {
            "name": "API gateway",
            "version": VERSION,
            "services": {prefix[1:] or prefix: _main_face(prefix) for prefix in table.router.prefixes},
            "health": "/health",
            "ready": "/ready",
            "problems": "/problems",
            "documentation": {name: f"/openapi/{name}.json" for name in sorted(table.services)},
        }
    )


def _main_face(prefix: str) -> str:
    return prefix if prefix == "/" else f"/api/v1{prefix}"


@bp.get("/openapi/<name>.json")
def openapi(name: str) -> Response:
    """The OpenAPI document of a service, as the service gives it."""
    exchange = current_exchange()
    backend = exchange.table.backends.get(name)
    if backend is None:
        raise NotFound(f"There is no service {name} here.", code="SERVICE_NOT_FOUND")
    if backend.service.openapi.startswith("file:"):
        return Response(documents.read(backend), content_type="application/json")
    nothing = Body(exchange.body.reader, 0, is_bounded=True)
    time, headers = Countdown(backend.service.timeout_s), [("X-Request-ID", exchange.request_id)]
    answer = backend.send(Call("GET", backend.service.openapi, headers, nothing, time, backend.service.try_timeout_s))
    kept = [(key, value) for key, value in answer.headers if key.lower() in ("content-type", "content-length")]
    return flask_response(Answer(answer.status, kept, answer.body))


@bp.get("/problems")
def problem_list() -> Response:
    """What the codes mean."""
    return page({"problems": [{"type": f"/problems/{code.slug}", **asdict(code)} for code in CODES]})


@bp.get("/problems/<slug>")
def problem_type(slug: str) -> Response:
    """What a problem's `type` leads to (RFC 9457, 3.1.1)."""
    found = next((code for code in CODES if code.slug == slug), None)
    if found is None:
        raise NotFound("There is no problem of that type; /problems lists them.")
    return page({"type": f"/problems/{found.slug}", **asdict(found)})


@bp.get("/metrics")
@operators_only
def metrics() -> Response:
    return Response(current_exchange().runtime.metrics.page(), content_type=CONTENT_TYPE)


@operators_only
def services() -> Response:
    """What is registered: one row a service."""
    exchange = current_exchange()
    table = exchange.table
    rows = [
        {
            "name": service.key,
            "prefixes": sorted({route.prefix for route in _routes(table, service)}),
            "routes": [f"{','.join(r.methods)} {r.prefix}{r.template}" for r in _routes(table, service)],
            "instances": [row_of(instance) for instance in table.backends[service.key].instances],
            "sources": [asdict(state) for state in exchange.runtime.discovery.states(service)],
        }
        for service in table.services.values()
    ]
    faults = list(exchange.runtime.loader.history.look.faults)
    return page({"configuration": {"revision": table.revision, "faults": faults}, "services": rows})


def _routes(table: Table, service: Service) -> list[Route]:
    return [route for route in table.router.routes if route.service.key == service.key]


@bp.get("/health/services")
@operators_only
def services_health() -> Response:
    """One row an instance: whether it answers its health check within a second, asked at most once a second, and what
    this worker knows of it."""
    exchange = current_exchange()
    rows = exchange.runtime.instance_health.rows(exchange.table.backends.values())
    is_well = all(row["status"] == "up" for row in rows)
    return page({"status": "up" if is_well else "degraded", "instances": rows})


def readiness_checks(keys: Keys) -> dict[str, Check]:
    """What the gateway can't work without: keys to verify tokens with, if any service wants tokens.

    Services may be down, Redis may be away.
    """

    def identity() -> None:
        wants_tokens = any(not service.is_public for service in current_exchange().table.services.values())
        if wants_tokens and isinstance(keys, JwkSetKeys) and not keys.warm():
            raise ConnectionError("user_service gives no keys")

    return {"identity": identity}


def init_app(app: Flask) -> None:
    health.init_app(app, runtime_of(app).health)
    for face in faces(FIRST_VERSION):
        app.add_url_rule(f"{face}/services", "pages.services", services)
    app.register_blueprint(bp)
    limiter = app.extensions["limiter_of_pages"]
    for view in _views_of("health", app):
        limiter.exempt(view)  # probes must never be limited
    limiter.request_filter(lambda: current_exchange().is_operations)  # nor operators, while Redis is away least of all


def _views_of(blueprint: str, app: Flask) -> list[Callable[..., object]]:
    return [view for name, view in app.view_functions.items() if name.startswith(f"{blueprint}.")]


def make_health(keys: Keys) -> Health:
    return Health("gateway", VERSION, readiness_checks(keys))
