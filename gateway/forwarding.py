"""`forward(exchange)`: the innermost handler. Everything that may refuse has spoken; this talks to the service."""

from __future__ import annotations

import sys

from gateway.backend.backend import Call
from gateway.body import CallerGone, refuse_torn_body
from gateway.exchange import Answer, Exchange, HeaderList
from gateway.headers import incoming_answer_headers, outgoing_headers


def forward(exchange: Exchange) -> Answer:
    """Send the request to its service and give back what came.

    1. Take in the body as far as its length is not known, so that a body that is too long never reaches the service.
    2. Replace the public prefix of the path by the service's own, or rewrite it as the route says; the rest stays as
       the caller wrote it.
    3. Drop the fields that belong to the caller's connection or that only we may set, and set ours.
    4. Send, by the backend's rules for instances, time-outs, breakers and retries.
    5. Clean the answer's fields in the same way.
    """
    service = exchange.service
    backend = exchange.table.backends[exchange.backend]
    try:
        exchange.body.bound(service.max_body_bytes or sys.maxsize)  # 1
        target = outgoing_target(exchange)  # 2
        headers = outgoing_headers(  # 3
            exchange.headers, exchange.forwarding, _identity_headers(exchange), exchange.request_id
        )
        headers = service.request_headers.apply(_with_host(headers, exchange))
        call = Call(exchange.method, target, headers, exchange.body, exchange.caller_key)
        answer = backend.send(call)  # 4
    except CallerGone as error:
        raise refuse_torn_body() from error
    finally:
        exchange.body.close()
    answer.headers = incoming_answer_headers(answer.headers, answer.instance_url)  # 5
    return answer


def outgoing_target(exchange: Exchange) -> str:
    """What the service is asked for: its own prefix instead of the public one, or what the route rewrites it to."""
    route, own = exchange.route, exchange.table.services[exchange.backend]
    base = route.base if exchange.backend == exchange.service.key or own.path is None else own.path
    path = base + exchange.target.after(exchange.prefix_segments)
    if route.rewrite is not None:
        path = route.rewrite.path(path, exchange.captured)
    return (path or "/") if exchange.target.query is None else f"{path or '/'}?{exchange.target.query}"


def _with_host(headers: HeaderList, exchange: Exchange) -> HeaderList:
    host = exchange.service.host
    if host == "instance":
        return headers
    return [("Host", exchange.headers.get("host", "") if host == "caller" else host), *headers]


def _identity_headers(exchange: Exchange) -> list[tuple[str, str]]:
    """Who calls, for services that don't read tokens. Names are user input: what is not plain text is left out."""
    identity = exchange.identity
    if identity is None:
        return []
    fields = [
        ("X-User-Id", identity.user_id),
        ("X-User-Name", identity.username),
        ("X-User-Roles", ",".join(sorted(identity.roles))),
    ]
    return [(name, value) for name, value in fields if value.isascii() and value.isprintable()]
