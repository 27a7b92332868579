"""The gateway without its fast lane: every request goes through Flask. For `test_gateway_parity` alone."""

from __future__ import annotations

from gateway.dispatch import Dispatcher
from gateway.exchange import Exchange


def takes_nothing(self: Dispatcher, exchange: Exchange) -> bool:
    return False


Dispatcher.takes = takes_nothing

from gateway.wsgi import app  # noqa: E402

__all__ = ["app"]
