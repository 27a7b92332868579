"""A blueprint for each service, and the one class that they are made of.

    bp = ServiceBlueprint("products", __name__)

    @bp.proxy("/", methods=["GET"])
    @limited
    @cached
    def browse(exchange: Exchange) -> Answer:
        return forward(exchange)

The decorators are the contract of a route, and they are composed once, at import. `table.compile_table` puts the routes
of all blueprints into the router, under each face (`/x`, `/api/x`, `/api/v1/x`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import Blueprint, Flask, Request, Response, current_app, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import MethodNotAllowed

from common.problems import status_line
from gateway.dispatch import DISPATCHER, Dispatcher
from gateway.exchange import EXCHANGE, Answer, Exchange, Handler
from gateway.policies import around
from gateway.router import ANY, NO_CONDITIONS, Route
from gateway.services import RouteRule, Service

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


OPERATIONS_ONLY = "operations.only"
"""In `app.extensions`: first segments of the pages that the public listener does not have."""


@dataclass(frozen=True, slots=True)
class _Template:
    template: str
    methods: tuple[str, ...]
    handler: Handler
    name: str
    rule: RouteRule | None = None


class ServiceBlueprint(Blueprint):
    """A blueprint whose views are handlers. `service` names the entry in `services.yaml`; default: `name`.

    `prefix` is where it is reachable, default `/NAME`; `base` what the service itself calls that, default `/SERVICE`.
    """

    def __init__(
        self, name: str, import_name: str, *, service: str = "", prefix: str | None = None, base: str | None = None
    ) -> None:
        super().__init__(name, import_name)
        self.service_name = service or name
        self._prefix = f"/{name}" if prefix is None else prefix
        self._base = base
        self._templates: list[_Template] = []

    def proxy(self, template: str, methods: Iterable[str] = ANY) -> Callable[[Handler], Handler]:
        """Make a handler the route of `template` (`/`, `/login`, `/<id>`, `/<path:rest>`) for `methods`."""

        def decorate(handler: Handler) -> Handler:
            name = f"{self.name}.{getattr(handler, '__name__', 'handler')}"
            self._templates.append(_Template(template, tuple(methods), handler, name))
            return handler

        return decorate

    def add_rule(self, rule: RouteRule, handler: Handler) -> None:
        """A route that is written in the services file."""
        self._templates.append(_Template(rule.template, rule.methods, handler, rule.name, rule))

    def same_routes_as(self, other: ServiceBlueprint) -> None:
        """Take over the routes of `other`: the same handlers under another name."""
        self._templates.extend(other._templates)

    def routes(self, service: Service, place: str = "") -> Iterator[Route]:
        """The routes of one version of the service. `place` is where the service is written."""
        base = service.path if self._base is None else self._base
        for item in self._templates:
            rule = item.rule
            of = rule.service if rule else service
            yield Route(
                name=item.name,
                service=of,
                prefix=self._prefix,
                base=f"/{self.service_name}" if base is None else base,
                template=item.template,
                methods=item.methods,
                handler=around(of, item.handler),
                conditions=rule.conditions if rule else NO_CONDITIONS,
                rewrite=rule.rewrite if rule else None,
                place=(rule.place if rule else "") or place,
            )


def proxied() -> Response | None:
    """Flask's first `before_request`: what is not one of the gateway's own pages is the router's to answer.

    Not a rule of Flask's map, because that can't change while the gateway runs, and the table of routes can.
    """
    exchange: Exchange = request.environ[EXCHANGE]
    if is_own_page(current_app, exchange, request):
        if exchange.target.fault is not None:  # which the edge has let pass for a service
            raise exchange.target.fault.problem
        return None
    dispatcher: Dispatcher = current_app.extensions[DISPATCHER]
    return flask_response(dispatcher.answer(exchange))


def is_own_page(app: Flask, exchange: Exchange, asked: Request) -> bool:
    """Whether a request, which Flask has matched, is for one of the gateway's own pages on the listener it came to."""
    if asked.url_rule is None and not isinstance(asked.routing_exception, MethodNotAllowed):
        return False
    if exchange.is_operations:
        return True
    is_private = asked.path.split("/")[1] in app.extensions.get(OPERATIONS_ONLY, ())
    return not is_private and not exchange.table.configuration.are_pages_private


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
