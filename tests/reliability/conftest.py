"""The gateways of the integration tests, under load while their services suffer."""

from tests.integration.conftest import database, start_gateway, valkey

__all__ = ["database", "start_gateway", "valkey"]
