"""`changed(changes)`: header fields of the answer are set, added or removed on its way to the caller."""

from __future__ import annotations

from functools import wraps

from gateway.exchange import Answer, Exchange, Handler, Policy
from gateway.rewriting import HeaderChanges


def changed(changes: HeaderChanges) -> Policy:
    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        def with_changes(exchange: Exchange) -> Answer:
            answer = handler(exchange)
            answer.headers = changes.apply(answer.headers)
            return answer

        return with_changes

    return decorate
