"""What `forward` makes of a request before a service is asked."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from common.problems import GatewayTimeout
from tests.unit import parts


def test_the_time_counts_from_when_the_gateway_began_with_the_request(tmp_path: Path) -> None:
    """What came before (limits, tokens) has taken all of it; nobody listens at the service's address."""
    runtime = parts.runtime(tmp_path, {"things": {"url": "http://127.0.0.1:1", "public": True, "timeout_s": 10}})
    exchange = parts.exchange(runtime, "GET", "/things/1")
    exchange.started = time.monotonic() - 10

    with pytest.raises(GatewayTimeout) as told:
        runtime.table.router.dispatch(exchange)

    assert told.value.code == "DEADLINE_EXCEEDED"
