"""The table: all that the gateway knows of services and routes at one moment, compiled from one configuration.

It never changes. A new configuration is compiled to a new table, which takes the old one's place by one assignment;
requests that are under way finish with the table they began with. Backends that mean the same in both go over from one
to the other, with their connections, breakers and all they have learnt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.backend.backend import Backend
from gateway.blueprints import ServiceBlueprint, configured
from gateway.observability.metrics import Metrics
from gateway.router import Router
from gateway.services import Configuration, Service, ServicesError
from gateway.settings import GatewaySettings


@dataclass(frozen=True, slots=True)
class Table:
    """What greenlets of a worker share to find routes and services; see there who protects what."""

    revision: int  # counts configurations since the gateway was started, from 1
    configuration: Configuration
    router: Router
    backends: Mapping[str, Backend]  # by the service's key

    @property
    def services(self) -> Mapping[str, Service]:
        return self.configuration.services


def compile_table(
    configuration: Configuration,
    explicit: Iterable[ServiceBlueprint],
    settings: GatewaySettings,
    metrics: Metrics,
    *,
    revision: int = 1,
    previous: Table | None = None,
) -> Table:
    """Raises `ServicesError` when two services claim one prefix, or a service two routes that are the same.

    `explicit` are the blueprints whose routes are written in code; every other service gets `configured.blueprint`.
    """
    router, problems = Router(), list[str]()
    by_code = list(explicit)
    coded = {blueprint.service_name for blueprint in by_code}
    for service in configuration.services.values():
        own = [blueprint for blueprint in by_code if blueprint.service_name == service.name]
        for blueprint in own if service.name in coded else configured.blueprints(configuration, service):
            for route in blueprint.routes(service, configuration.place(service)):
                try:
                    router.add(route)
                except ValueError as error:
                    place = configuration.file.place(("services", service.name))
                    problems.append(f"{place}: services.{service.name}: {error}")
    if problems:
        raise ServicesError(list(dict.fromkeys(problems)))
    backends = {key: _backend(service, settings, metrics, previous) for key, service in configuration.services.items()}
    return Table(revision, configuration, router, backends)


def _backend(service: Service, settings: GatewaySettings, metrics: Metrics, previous: Table | None) -> Backend:
    known = previous.backends.get(service.key) if previous else None
    if known is not None and known.service == service:
        return known
    return Backend(service, settings, metrics, before=known)
