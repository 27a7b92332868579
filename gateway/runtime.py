"""What the gateway's parts share: made once in `create_app`, handed to each exchange."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from flask import Flask

from common.health import Health
from common.tokens import Verifier
from gateway.api_keys import ApiKeys
from gateway.backend.checks import Checks
from gateway.backend.discovery import Discovery
from gateway.backend.health import InstanceHealth
from gateway.backend.mirroring import Mirroring
from gateway.backend.registry import Registry
from gateway.backend.sharing import Sharing
from gateway.backend.shedding import Entrance
from gateway.browsers import Browsers
from gateway.bus import Bus
from gateway.cache.store import CacheStore
from gateway.incidents import Incidents
from gateway.limits import Limits
from gateway.observability.access import AccessLog
from gateway.observability.metrics import Metrics
from gateway.openapi.documents import Documents
from gateway.settings import GatewaySettings
from gateway.table import Table

if TYPE_CHECKING:
    from gateway.reload import Loader


@dataclass(slots=True)
class Runtime:
    """One per app and worker. Each part says itself how greenlets may share it; `table` alone is ever assigned anew."""

    settings: GatewaySettings
    verifier: Verifier
    api_keys: ApiKeys
    limits: Limits
    cache: CacheStore
    metrics: Metrics
    access: AccessLog
    health: Health
    instance_health: InstanceHealth
    incidents: Incidents
    entrance: Entrance  # before all services
    mirroring: Mirroring
    bus: Bus
    registry: Registry
    discovery: Discovery
    sharing: Sharing
    checks: Checks
    documents: Documents
    browsers: Browsers = field(default_factory=Browsers)
    table: Table = field(init=False)
    loader: Loader = field(init=False)
    followers: list[Callable[[Table], None]] = field(default_factory=list[Callable[[Table], None]])
    """Told of each new table when it is in force; they neither raise nor wait."""

    def adopt(self, table: Table) -> None:
        """Put `table` in force: one assignment. Requests under way finish with the table they began with; instances
        that are in the old one alone keep no connection that is not in use."""
        before, self.table = self.table, table
        for follow in self.followers:
            follow(table)
        known = {id(instance) for backend in table.backends.values() for instance in backend.instances}
        for backend in before.backends.values():
            for instance in backend.instances:
                if id(instance) not in known:
                    instance.close()


def init_app(app: Flask, runtime: Runtime) -> None:
    app.extensions["gateway"] = runtime


def runtime_of(app: Flask) -> Runtime:
    return cast("Runtime", app.extensions["gateway"])
