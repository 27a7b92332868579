"""What the gateway's parts share: made once in `create_app`, handed to each exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from flask import Flask

from common.health import Health
from common.tokens import Verifier
from gateway.backend import Backend
from gateway.backend.health import InstanceHealth
from gateway.cache.store import CacheStore
from gateway.limits import Limits
from gateway.observability.metrics import Metrics
from gateway.router import Router
from gateway.services import Service
from gateway.settings import GatewaySettings


@dataclass(frozen=True, slots=True)
class Runtime:
    """One per app and worker. Each part says itself how greenlets may share it."""

    settings: GatewaySettings
    services: Mapping[str, Service]
    verifier: Verifier
    limits: Limits
    cache: CacheStore
    backends: Mapping[str, Backend]
    router: Router
    metrics: Metrics
    health: Health
    instance_health: InstanceHealth


def init_app(app: Flask, runtime: Runtime) -> None:
    app.extensions["gateway"] = runtime


def runtime_of(app: Flask) -> Runtime:
    return cast("Runtime", app.extensions["gateway"])
