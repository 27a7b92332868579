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
from gateway.backend.health import InstanceHealth
from gateway.blueprints import auth, orders, pages, products, proxied, users
from gateway.cache.store import CacheStore
from gateway.edge import Edge
from gateway.exchange import SOURCE
from gateway.observability.metrics import Metrics
from gateway.runtime import Runtime
from gateway.services import load_services
from gateway.settings import GatewaySettings, service_urls
from gateway.table import compile_table

EXPLICIT = (users.bp, auth.bp, products.bp, orders.bp)
"""Blueprints whose policies are written by hand; services that stand only in the file get `configured.blueprints`."""


def create_app(given: GatewaySettings | None = None) -> Flask:
    """The gateway as a Flask app. Raises `SettingsError` and `ServicesError` with all that is wrong at once."""
    chosen = given or load(GatewaySettings, SOURCE)
    configuration = load_services(chosen.gateway_services, chosen, service_urls())
    logs.configure(SOURCE, level=chosen.log_level, log_format=chosen.log_format)

    app = Flask(__name__, static_folder=None)
    app.url_map.strict_slashes = app.url_map.merge_slashes = False
    app.before_request(proxied)
    keys = SharedSecret(chosen.jwt_secret_key) if chosen.jwt_secret_key else JwkSetKeys(_jwks_url(chosen))
    pool, metrics = shared.pool(chosen), Metrics()
    parts = Runtime(
        settings=chosen,
        verifier=Verifier(app, keys),
        limits=limits.init_app(app, chosen, pool, metrics),
        cache=CacheStore(shared.client(pool)),
        metrics=metrics,
        health=pages.make_health(keys),
        instance_health=InstanceHealth(),
    )
    parts.table = compile_table(configuration, EXPLICIT, chosen, metrics)
    runtime.init_app(app, parts)
    tokens.init_app(app, parts.verifier)
    problems.init_app(app, SOURCE)
    for bp in EXPLICIT:
        app.register_blueprint(bp)
    pages.init_app(app)
    cli.init_app(app)
    app.wsgi_app = Edge(app.wsgi_app, parts)
    return app


def _jwks_url(chosen: GatewaySettings) -> str:
    return f"{chosen.user_service_url}/.well-known/jwks.json"
