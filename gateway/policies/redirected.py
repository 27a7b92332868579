"""`redirected(to)`: the answer is another address; the service is not asked."""

from __future__ import annotations

from functools import wraps

from gateway.exchange import Answer, Exchange, Handler, Policy
from gateway.rewriting import Redirect


def redirected(redirect: Redirect) -> Policy:
    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        def answered(exchange: Exchange) -> Answer:
            location = redirect.location(exchange.captured, exchange.target.query)
            return Answer(redirect.status, [("Location", location), ("Content-Length", "0")], ())

        return answered

    return decorate
