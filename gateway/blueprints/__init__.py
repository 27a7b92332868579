"""A blueprint for each service, and the one class that they are made of.

    bp = ServiceBlueprint("products", __name__)

    @bp.proxy("/", methods=["GET"])
    @limited
    @cached
    def browse(exchange: Exchange) -> Answer:
        return forward(exchange)

The decorators are the contract of a route, and they are composed once, at import. Registering the blueprint on the
gateway puts its routes into the router and its prefix into Flask's map, under each face (`/x`, `/api/x`, `/api/v1/x`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Flask, Response, current_app, request
from flask.sansio.app import App
from werkzeug.routing import Rule

from gateway.exchange import EXCHANGE, Answer, Exchange, Handler
from gateway.router import ANY, FACES, Route
from gateway.runtime import Runtime, runtime_of


@dataclass(frozen=True, slots=True)
class _Template:
    template: str
    methods: tuple[str, ...]
    handler: Handler
    name: str


class ServiceBlueprint(Blueprint):
    """A blueprint whose views are handlers. `service` names the entry in `services.yaml`; default: `name`."""

    def __init__(self, name: str, import_name: str, *, service: str = "") -> None:
        super().__init__(name, import_name)
        self.prefix = name
        self.service_name = service or name
        self._templates: list[_Template] = []

    def proxy(self, template: str, methods: Iterable[str] = ANY) -> Callable[[Handler], Handler]:
        """Make a handler the route of `template` (`/`, `/login`, `/<id>`, `/<path:rest>`) for `methods`."""

        def decorate(handler: Handler) -> Handler:
            name = f"{self.name}.{getattr(handler, '__name__', 'handler')}"
            self._templates.append(_Template(template, tuple(methods), handler, name))
            return handler

        return decorate

    def same_routes_as(self, other: ServiceBlueprint) -> None:
        """Take over the routes of `other`: the same handlers under another name."""
        self._templates.extend(other._templates)

    def register(self, app: App, options: dict[str, Any]) -> None:
        super().register(app, options)
        assert isinstance(app, Flask)
        runtime = runtime_of(app)
        service = runtime.services.get(self.service_name)
        if service is None:
            raise LookupError(f"the blueprint {self.name} needs an entry {self.service_name} in the services file")
        for item in self._templates:
            runtime.router.add(Route(item.name, service, self.prefix, item.template, item.methods, item.handler))
        endpoint = f"{self.name}.proxied"
        app.view_functions[endpoint] = proxied
        for face in FACES:
            for path in (f"{face}/{self.prefix}", f"{face}/{self.prefix}/<path:_rest>"):
                # Flask's add_url_rule would narrow the methods; the router is the one that knows them
                app.url_map.add(Rule(path, endpoint=endpoint, methods=None))


def proxied(**_rest: str) -> Response:
    """The Flask view of every proxied path: hands the exchange to the router."""
    exchange: Exchange = request.environ[EXCHANGE]
    runtime: Runtime = runtime_of(current_app)
    return flask_response(runtime.router.dispatch(exchange))


def flask_response(answer: Answer) -> Response:
    response = Response(answer.body, status=answer.status, headers=answer.headers, direct_passthrough=True)
    if answer.header("content-type") is None:
        response.headers.remove("Content-Type")  # Flask's default; a service that names no type named none
    return response
