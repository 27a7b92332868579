"""How long each stage of a request takes, as the gateway itself tells it in `Server-Timing`."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator, Mapping, Sequence

from bench.generator import percentile
from bench.servers import Server

FIELD = "Server-Timing"


def measure(server: Server, path: str, headers: Sequence[str], *, rate: float, seconds: float) -> Mapping[str, float]:
    """The 99th percentile of each stage, in milliseconds, at `rate` requests a second on one connection. A gateway
    that is not asked to tell has no stages."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    fields = dict(line.split(": ", 1) for line in headers)
    took: dict[str, list[float]] = {}
    began = time.monotonic()
    try:
        for number in range(int(rate * seconds)):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            connection.request("GET", path, headers=fields)
            answer = connection.getresponse()
            answer.read()
            for stage, ms in _stages(answer.getheader(FIELD, "")):
                took.setdefault(stage, []).append(ms)
    finally:
        connection.close()
    return {stage: percentile(values, 0.99) for stage, values in took.items()}


def _stages(field: str) -> Iterator[tuple[str, float]]:
    for part in filter(None, field.split(", ")):
        stage, _, ms = part.partition(";dur=")
        yield stage, float(ms)
