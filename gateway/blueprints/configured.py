"""Services that stand only in `services.yaml`: their `routes`, else every method and path, with the policies of
`STACK`."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.blueprints import ServiceBlueprint
from gateway.forwarding import forward
from gateway.policies import compose
from gateway.services import Configuration, Service


def blueprints(configuration: Configuration, service: Service) -> Iterable[ServiceBlueprint]:
    """A blueprint for each prefix of a configured service."""
    rules = configuration.routes[service.key]
    handlers = [compose(rule.service, forward, rule) for rule in rules]
    everything = compose(service, forward)
    for prefix in service.prefixes:
        bp = ServiceBlueprint(
            service.name, __name__, prefix=prefix, base=prefix if service.path is None else service.path
        )
        for rule, handler in zip(rules, handlers, strict=True):
            bp.add_rule(rule, handler)
        if not rules:
            bp.proxy("/<path:rest>")(everything)
        yield bp
