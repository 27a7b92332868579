"""`@sized`: an announced body length over the service's limit is refused before anybody works for it.

Chunked bodies announce nothing; `forward` takes them in, up to the same limit, before it touches the service.
"""

from __future__ import annotations

from functools import wraps

from gateway.exchange import Answer, Exchange, Handler
from gateway.policies.layers import layer


def sized(handler: Handler) -> Handler:
    @layer("sized", _judge)
    @wraps(handler)
    def checked(exchange: Exchange) -> Answer:
        _judge(exchange)
        return handler(exchange)

    return checked


def _judge(exchange: Exchange, _may_look: bool = True) -> str:
    limit_bytes = exchange.service.max_body_bytes
    if limit_bytes is None:
        return "there is no bound"
    exchange.body.check_length(limit_bytes)
    return f"up to {limit_bytes} bytes"
