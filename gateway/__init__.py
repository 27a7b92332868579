"""The API gateway: one request flows one way through few rooms.

caller ─► edge ─► router ─► policies of the route ─► forward ─► Backend ─► service
"""

from __future__ import annotations

import os

from flask import Flask, request

from common import logs, problems, tokens
from common.internal import user_service
from common.settings import load
from common.verifying import verifier_of
from gateway import auditing, cli, limits, runtime, shared
from gateway.api_keys import ApiKeys
from gateway.backend.checks import Checks
from gateway.backend.discovery import Discovery
from gateway.backend.dns import Resolver
from gateway.backend.drains import Drains
from gateway.backend.duty import Duty
from gateway.backend.health import InstanceHealth
from gateway.backend.mirroring import Mirroring
from gateway.backend.registry import Registry
from gateway.backend.sharing import Sharing
from gateway.backend.shedding import Entrance, worker_gate
from gateway.blueprints import (
    auth,
    drains,
    explanations,
    operations,
    orders,
    pages,
    products,
    proxied,
    registrations,
    users,
)
from gateway.bus import Bus
from gateway.cache.store import CacheStore
from gateway.compiler import Compiler
from gateway.dispatch import DISPATCHER, Dispatcher
from gateway.edge import Edge
from gateway.exchange import EXCHANGE, SOURCE
from gateway.incidents import Incidents
from gateway.observability.access import AccessLog
from gateway.observability.metrics import Metrics
from gateway.openapi.documents import Documents
from gateway.reload import Loader
from gateway.revisions import DIRECTORY
from gateway.runtime import Runtime
from gateway.services import ServicesError, load_services
from gateway.settings import GatewaySettings, service_urls
from gateway.table import compile_table

EXPLICIT = (users.bp, auth.bp, products.bp, orders.bp)
"""Blueprints whose policies are written by hand; services that stand only in the file get `configured.blueprints`."""


def create_app(given: GatewaySettings | None = None) -> Flask:
    """The gateway as a Flask app. Raises `SettingsError` and `ServicesError` with all that is wrong at once."""
    chosen = given or load(GatewaySettings, SOURCE)
    urls = service_urls()
    try:
        configuration = load_services(chosen.gateway_services, chosen, urls)
    except ServicesError:
        if cli.is_asking():
            return cli.alone(chosen, create_app)
        raise
    logs.configure(SOURCE, level=chosen.log_level, log_format=chosen.log_format)

    app = Flask(__name__, static_folder=None)
    app.url_map.strict_slashes = app.url_map.merge_slashes = False
    app.before_request(proxied)
    pool, metrics = shared.pool(chosen), Metrics()
    verifier = verifier_of(
        app, chosen, SOURCE, tell_cache=metrics.token_looked_up, tell_revocations=metrics.revocations
    )
    bus, registry = Bus(shared.client(pool)), Registry(shared.client(pool))
    duty = Duty(os.environ.get(DIRECTORY))
    sharing = Sharing(bus, Drains(shared.client(pool)), duty)
    parts = Runtime(
        settings=chosen,
        verifier=verifier,
        api_keys=ApiKeys(user_service(chosen, me=SOURCE), verifier),
        limits=limits.init_app(app, chosen, metrics),
        cache=CacheStore(shared.client(pool), shared.way(pool, chosen.redis_timeout_ms)),
        metrics=metrics,
        access=AccessLog(SOURCE, level=chosen.log_level, log_format=chosen.log_format),
        health=pages.make_health(verifier.keys),
        instance_health=InstanceHealth(),
        incidents=Incidents(shared.client(pool)),
        entrance=Entrance("gateway", worker_gate(chosen.max_in_flight), metrics),
        mirroring=Mirroring(metrics),
        bus=bus,
        registry=registry,
        discovery=Discovery(Resolver(nameservers=chosen.dns_servers).resolve, registry, bus),
        sharing=sharing,
        checks=Checks(duty, sharing, metrics, is_connected=lambda: bus.is_connected),
        documents=Documents(metrics),
        browsers=chosen.browsers(),
    )
    parts.table = compile_table(configuration, EXPLICIT, chosen, metrics)
    parts.loader = Loader(parts, Compiler(parts, urls, EXPLICIT))
    runtime.init_app(app, parts)
    tokens.init_app(app, parts.verifier)
    recorder = auditing.init_app(app, chosen)
    note = auditing.noting(recorder, parts.incidents.note)
    problems.init_app(app, SOURCE, lambda problem, error: note(problem, request.environ[EXCHANGE], error))
    for bp in EXPLICIT:
        app.register_blueprint(bp)
    pages.init_app(app)
    operations.init_app(app, explanations.bp, registrations.bp, drains.bp)
    cli.init_app(app, chosen, create_app)
    dispatcher = app.extensions[DISPATCHER] = Dispatcher(app, note)
    app.wsgi_app = Edge(app.wsgi_app, parts, dispatcher)
    return app
