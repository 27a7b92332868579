"""Services that stand only in `services.yaml`: every method and path, with the policies of `STACK`."""

from __future__ import annotations

from gateway.blueprints import ServiceBlueprint
from gateway.forwarding import forward
from gateway.policies import compose
from gateway.services import Service


def blueprint(service: Service) -> ServiceBlueprint:
    """The blueprint of a configured service: `/NAME` and all below it."""
    bp = ServiceBlueprint(service.name, __name__)
    handler = compose(service, forward)
    bp.proxy("/")(handler)
    bp.proxy("/<path:rest>")(handler)
    return bp
