"""What a worker uses of its machine and of its connections, told to the metrics once in `SAMPLE_S`."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import gevent

from gateway.runtime import Runtime

SAMPLE_S = 1.0
_STATM = Path("/proc/self/statm")


class Usage:
    """One worker's."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._cpu_s = 0.0  # that was told
        self._connections: dict[str, tuple[int, int]] = {}  # in use and idle, as was told, by service

    def start(self, is_running: Callable[[], bool]) -> None:
        """Begin to tell, until it `is_running` no longer."""
        gevent.spawn(self._go_on, is_running)

    def _go_on(self, is_running: Callable[[], bool]) -> None:
        while is_running():
            self.sample()
            gevent.sleep(SAMPLE_S)

    def sample(self) -> None:
        """Tell what is so now."""
        metrics, backends = self._runtime.metrics, self._runtime.table.backends
        before_s, self._cpu_s = self._cpu_s, time.process_time()
        metrics.used(self._cpu_s - before_s, memory_bytes())
        for service in self._connections.keys() | backends.keys():  # also one that is gone: its last connections end
            instances = backends[service].instances if service in backends else ()
            now = sum(instance.in_use for instance in instances), sum(instance.idle for instance in instances)
            if now != self._connections.get(service, (0, 0)):
                self._connections[service] = now
                metrics.connections(service, in_use=now[0], idle=now[1])


def memory_bytes() -> int:
    """Resident now; where the system does not tell that, the most that there ever was."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
