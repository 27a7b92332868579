"""The same running gateway as in the integration tests."""

from __future__ import annotations

from tests.integration.conftest import database, gateway, shared_gateway, shared_stub, valkey

__all__ = ["database", "gateway", "shared_gateway", "shared_stub", "valkey"]
