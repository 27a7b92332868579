"""`changed(changes)`: header fields of the answer are set, added or removed on its way to the caller."""

from __future__ import annotations

from functools import partial, wraps

from gateway.exchange import Answer, Exchange, Handler, Policy
from gateway.policies.layers import layer
from gateway.rewriting import HeaderChanges


def changed(changes: HeaderChanges) -> Policy:
    def decorate(handler: Handler) -> Handler:
        @layer("changed", partial(_judge, changes))
        @wraps(handler)
        def with_changes(exchange: Exchange) -> Answer:
            answer = handler(exchange)
            answer.headers = changes.apply(answer.headers)
            return answer

        return with_changes

    return decorate


def _judge(changes: HeaderChanges, _exchange: Exchange, _may_look: bool) -> str:
    words = [f"{name}: {value}" for name, value in (*changes.set, *changes.add)]
    return ", ".join([*words, *(f"without {name}" for name in changes.remove)])
