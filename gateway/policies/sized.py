"""`@sized`: an announced body length over the service's limit is refused before anybody works for it.

Chunked bodies announce nothing; `forward` takes them in, up to the same limit, before it touches the service.
"""

from __future__ import annotations

from functools import wraps

from gateway.exchange import Answer, Exchange, Handler


def sized(handler: Handler) -> Handler:
    @wraps(handler)
    def checked(exchange: Exchange) -> Answer:
        if exchange.service.max_body_bytes is not None:
            exchange.body.check_length(exchange.service.max_body_bytes)
        return handler(exchange)

    return checked
