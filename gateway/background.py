"""What a worker does beside answering: it writes what it has answered into log and metrics, reads what was revoked,
hears what other workers tell, keeps keys and the instances of services current, and checks whether they are well.

Begun in the worker, for no greenlet survives a fork, and before it takes its first request.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gateway.observability.usage import Usage
from gateway.runtime import Runtime
from gateway.table import Table


def start(runtime: Runtime, is_running: Callable[[], bool]) -> None:
    """Begin, and go on until it `is_running` no longer. Takes four seconds at most: what was revoked is read first, and
    names are looked up."""
    runtime.access.start()
    runtime.metrics.start(has_others=runtime.settings.workers != 1)
    Usage(runtime).start(is_running)
    runtime.verifier.start(is_running)
    runtime.api_keys.start(is_running)
    runtime.bus.start(is_running)
    runtime.cache.start(is_running)
    _watch_health(runtime, runtime.table)
    runtime.followers.append(partial(_watch_health, runtime))
    runtime.followers.append(runtime.discovery.follow)
    runtime.checks.start(is_running)
    runtime.documents.start(lambda: runtime.table, is_running)
    runtime.discovery.start(runtime.table, is_running)


def _watch_health(runtime: Runtime, table: Table) -> None:
    runtime.sharing.follow(table.backends)
    runtime.checks.follow(table.backends)
