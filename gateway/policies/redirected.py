"""`redirected(to)`: the answer is another address; the service is not asked."""

from __future__ import annotations

from functools import partial, wraps

from gateway.exchange import Answer, Exchange, Handler, Policy
from gateway.policies.layers import Answers, layer
from gateway.rewriting import Redirect


def redirected(redirect: Redirect) -> Policy:
    def decorate(handler: Handler) -> Handler:
        @layer("redirected", partial(_judge, redirect))
        @wraps(handler)
        def answered(exchange: Exchange) -> Answer:
            location = redirect.location(exchange.captured, exchange.target.query)
            return Answer(redirect.status, [("Location", location), ("Content-Length", "0")], ())

        return answered

    return decorate


def _judge(redirect: Redirect, exchange: Exchange, _may_look: bool) -> str:
    location = redirect.location(exchange.captured, exchange.target.query)
    raise Answers(f"{redirect.status} to {location}", redirect.status, location)
