"""What a service is asked for: the request's target as it is there, on the wire."""

from __future__ import annotations

from gateway.exchange import Exchange


def outgoing_target(exchange: Exchange, asked: str = "") -> str:
    """What the service is asked for: its own prefix instead of the public one, or what the route rewrites it to.

    `asked` is the key of the service, default: the one that answers the request.
    """
    if exchange.target.is_server_wide and exchange.service.is_verbatim:
        return "*"
    asked = asked or exchange.backend
    route, own = exchange.route, exchange.table.services[asked]
    base = route.base if asked == exchange.service.key or own.path is None else own.path
    path = base + exchange.target.after(exchange.prefix_segments)
    if route.rewrite is not None:
        path = route.rewrite.path(path, exchange.captured)
    return (path or "/") if exchange.target.query is None else f"{path or '/'}?{exchange.target.query}"
