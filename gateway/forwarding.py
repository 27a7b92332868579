"""`forward(exchange)`: the innermost handler. Everything that may refuse has spoken; this talks to the service."""

from __future__ import annotations

from http.cookies import Morsel, SimpleCookie

from gateway.backend import Call
from gateway.body import CallerGone, refuse_torn_body
from gateway.exchange import Answer, Exchange
from gateway.headers import incoming_answer_headers, outgoing_headers


def forward(exchange: Exchange) -> Answer:
    """Send the request to its service and give back what came.

    1. Take in the body as far as its length is not known, so that a body that is too long never reaches the service.
    2. Replace the public prefix of the path by the service's own; the rest stays as the caller wrote it.
    3. Drop the fields that belong to the caller's connection or that only we may set, and set ours.
    4. Send, by the backend's rules for instances, time-outs, breakers and retries.
    5. Clean the answer's fields in the same way.
    """
    service = exchange.service
    backend = exchange.runtime.backends[service.name]
    try:
        exchange.body.bound(service.max_body_bytes)  # 1
        target = (service.path + exchange.target.after(exchange.prefix_segments)) or "/"  # 2
        if exchange.target.query is not None:
            target = f"{target}?{exchange.target.query}"
        headers = outgoing_headers(  # 3
            exchange.headers, exchange.forwarding, _identity_headers(exchange), exchange.request_id
        )
        call = Call(exchange.method, target, headers, exchange.body, _hash_key(exchange))
        answer = backend.send(call)  # 4
    except CallerGone as error:
        raise refuse_torn_body() from error
    finally:
        exchange.body.close()
    answer.headers = incoming_answer_headers(answer.headers, answer.instance_url)  # 5
    return answer


def _hash_key(exchange: Exchange) -> str:
    """What the `hash` balancer goes by: the same caller, or the same field or cookie, gets the same instance."""
    kind, _, name = exchange.service.hash_by.partition(":")
    if kind == "header":
        return exchange.headers.get(name.lower(), "")
    if kind == "cookie":
        return SimpleCookie(exchange.headers.get("cookie", "")).get(name, Morsel[str]()).value or ""
    identity = exchange.identity if kind == "user" else None
    return identity.user_id if identity else exchange.forwarding.caller


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
