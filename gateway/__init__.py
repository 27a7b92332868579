"""The API gateway: one request flows one way through few rooms.

caller ─► edge ─► router ─► policies of the route ─► forward ─► Backend ─► service
"""

from __future__ import annotations

from flask import Flask

from common import logs, problems, tokens
from common.keys import JwkSetKeys, SharedSecret
from common.settings import load
from common.tokens import Verifier
from gateway import cli, limits, runtime, shared
from gateway.backend import Backend
from gateway.backend.health import InstanceHealth
from gateway.blueprints import auth, configured, orders, pages, products, users
from gateway.cache.store import CacheStore
from gateway.edge import Edge
from gateway.exchange import SOURCE
from gateway.observability.metrics import Metrics
from gateway.router import Router
from gateway.runtime import Runtime
from gateway.services import load_services
from gateway.settings import GatewaySettings, service_urls

EXPLICIT = (users.bp, auth.bp, products.bp, orders.bp)
"""Blueprints whose policies are written by hand; services that stand only in the file get `configured.blueprint`."""

EXPLICIT_NAMES = sorted({bp.service_name for bp in EXPLICIT})


def create_app(given: GatewaySettings | None = None) -> Flask:
    """The gateway as a Flask app. Raises `SettingsError` and `ServicesError` with all that is wrong at once."""
    chosen = given or load(GatewaySettings, SOURCE)
    services = load_services(chosen.gateway_services, chosen, service_urls(), needed=EXPLICIT_NAMES)
    logs.configure(SOURCE, level=chosen.log_level, log_format=chosen.log_format)

    app = Flask(__name__, static_folder=None)
    app.url_map.strict_slashes = app.url_map.merge_slashes = False
    keys = SharedSecret(chosen.jwt_secret_key) if chosen.jwt_secret_key else JwkSetKeys(_jwks_url(chosen))
    pool, metrics = shared.pool(chosen), Metrics()
    parts = Runtime(
        settings=chosen,
        services=services,
        verifier=Verifier(app, keys),
        limits=limits.init_app(app, chosen, pool, metrics),
        cache=CacheStore(shared.client(pool)),
        backends={name: Backend(service, chosen, metrics) for name, service in services.items()},
        router=Router(),
        metrics=metrics,
        health=pages.make_health(keys),
        instance_health=InstanceHealth(services.values()),
    )
    runtime.init_app(app, parts)
    tokens.init_app(app, parts.verifier)
    problems.init_app(app, SOURCE)
    for bp in EXPLICIT:
        app.register_blueprint(bp)
    for name in sorted(services.keys() - set(EXPLICIT_NAMES)):
        app.register_blueprint(configured.blueprint(services[name]))
    pages.init_app(app)
    cli.init_app(app, EXPLICIT_NAMES)
    app.wsgi_app = Edge(app.wsgi_app, parts)
    return app


def _jwks_url(chosen: GatewaySettings) -> str:
    return f"{chosen.user_service_url}/.well-known/jwks.json"
