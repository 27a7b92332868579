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
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response, current_app, request
from flask.sansio.app import App
from werkzeug.datastructures import Headers
from werkzeug.routing import PathConverter, Rule

from common.problems import status_line
from gateway.exchange import EXCHANGE, Answer, Exchange, Handler
from gateway.router import ANY, FACES, Route
from gateway.runtime import Runtime, runtime_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


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
        app.url_map.converters["rest"] = _Rest
        for face in FACES:
            for path in (f"{face}/{self.prefix}", f"{face}/{self.prefix}/<rest:_rest>"):
                # Flask's add_url_rule would narrow the methods; the router is the one that knows them
                app.url_map.add(Rule(path, endpoint=endpoint, methods=None))


class _Rest(PathConverter):
    """As `path`, which does not know a rest that begins with a slash."""

    regex, part_isolating = ".*?", False


def proxied(**_rest: str) -> Response:
    """The Flask view of every proxied path: hands the exchange to the router."""
    exchange: Exchange = request.environ[EXCHANGE]
    runtime: Runtime = runtime_of(current_app)
    return flask_response(runtime.router.dispatch(exchange))


class _Passing(Response):
    """An answer whose fields are not ours to mend: werkzeug would re-encode `Location`, or fail on it, drop fields of
    a 304 and claim a length of 0 for HEAD."""

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        return self.headers

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        body = super().get_app_iter(environ)
        if body is not self.response:
            self.close()  # a body that HEAD does not want must give its connection back
        return body


def flask_response(answer: Answer) -> Response:
    response = _Passing(answer.body, status=status_line(answer.status), headers=answer.headers, direct_passthrough=True)
    if answer.header("content-type") is None:
        response.headers.remove("Content-Type")  # Flask's default; a service that names no type named none
    return response
