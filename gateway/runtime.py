"""What the gateway's parts share: made once in `create_app`, handed to each exchange."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from flask import Flask

from common.health import Health
from common.tokens import Verifier
from gateway.backend.health import InstanceHealth
from gateway.cache.store import CacheStore
from gateway.limits import Limits
from gateway.observability.metrics import Metrics
from gateway.settings import GatewaySettings
from gateway.table import Table


@dataclass(slots=True)
class Runtime:
    """One per app and worker. Each part says itself how greenlets may share it; `table` alone is ever assigned anew."""

    settings: GatewaySettings
    verifier: Verifier
    limits: Limits
    cache: CacheStore
    metrics: Metrics
    health: Health
    instance_health: InstanceHealth
    table: Table = field(init=False)


def init_app(app: Flask, runtime: Runtime) -> None:
    app.extensions["gateway"] = runtime


def runtime_of(app: Flask) -> Runtime:
    return cast("Runtime", app.extensions["gateway"])
