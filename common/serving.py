"""How gunicorn runs any of our processes. A component's `gunicorn.conf.py` patches first, then takes these settings.

Each setting has its reason beside it; most were learnt from a failure.
"""

from __future__ import annotations

import gc
import os
import random
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

import gevent
from gunicorn.workers.base import Worker

from common import logs
from common.incoming import Pace
from common.worker import ProblemWorker

GRACEFUL_TIMEOUT_S = 30

PARSER: Mapping[str, str | int] = {
    "http_parser": "python",  # the C parser is laxer: bare LF, obs-fold, two spaces
    "limit_request_line": 8190,
    "limit_request_fields": 100,
    "limit_request_field_size": 16380,
    "forwarded_allow_ips": "",  # we decide ourselves whom to believe (TRUSTED_PROXIES)
    "forwarder_headers": "",  # else a caller on loopback may set SCRIPT_NAME and PATH_INFO
    "header_map": "drop",  # X_User_Id must not arrive as X-User-Id
}
"""Which requests gunicorn reads, and how."""


WORKERS: Mapping[str, str] = {
    "fast": "common.fast_worker.FastWorker",
    "stock": "common.worker.ProblemWorker",
}
"""By the setting."""


class Process(Protocol):
    """What `common_settings` needs to know of a component's settings."""

    @property
    def log_level(self) -> str: ...
    @property
    def log_format(self) -> str: ...
    @property
    def caller_timeout(self) -> float: ...
    @property
    def head_timeout(self) -> float: ...
    @property
    def body_min_rate(self) -> int: ...
    @property
    def keepalive_requests(self) -> int: ...
    @property
    def keepalive_age(self) -> float: ...
    @property
    def max_connections(self) -> int: ...
    @property
    def workers(self) -> int | None: ...
    @property
    def worker(self) -> str: ...


def gunicorn_settings(
    component: str, bind: list[str], settings: Process, *, takes_any_method: bool = False
) -> dict[str, object]:
    """Settings for `globals().update(...)` in a `gunicorn.conf.py`.

    Who `takes_any_method` refuses the odd ones itself: with small letters, shorter than 3 or longer than 20.
    """
    ProblemWorker.pace = Pace(
        settings.head_timeout,
        settings.caller_timeout,
        settings.body_min_rate,
        settings.keepalive_requests,
        settings.keepalive_age,
    )
    return {
        "bind": bind,
        "proc_name": component,
        "worker_class": WORKERS[settings.worker],
        "workers": settings.workers or usable_cores(),
        "preload_app": True,  # workers share the master's memory; new code wants a restart, HUP only renews workers
        "when_ready": _share_memory,
        "worker_connections": settings.max_connections,
        "timeout": 60,  # a worker whose loop stands still that long is replaced; slow requests are no reason
        "graceful_timeout": GRACEFUL_TIMEOUT_S,
        "keepalive": 20,  # below graceful_timeout, above the time for which the gateway lets a connection idle
        **PARSER,
        "permit_unconventional_http_method": takes_any_method,
        "accesslog": None,  # the application writes its own line, which knows route and caller
        "logconfig_dict": logs.configure(component, level=settings.log_level, log_format=settings.log_format),
        "control_socket_disable": True,  # its default path is one per user, so two masters fight for it
        "worker_tmp_dir": _memory_backed_dir(),
    }


def repeat(worker: Worker, work: Callable[[], None], interval_s: float) -> None:
    """Do `work`, which does not raise, about every `interval_s` in a greenlet, until `worker` begins to stop.

    Any number of workers and hosts may do so at once; the jitter keeps them from coming at the same moment.
    """

    def go_on() -> None:
        while worker.alive:
            gevent.sleep(interval_s * random.uniform(0.75, 1.25))
            work()

    gevent.spawn(go_on)


def _share_memory(_server: object) -> None:
    """Just before the first fork: keep the collector from touching, and so copying, what the workers share.

    Threads don't survive a fork; those that only run for a moment (timers of the limits' memory storage) may end first.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(timeout=1)
    gc.collect()
    gc.freeze()


def usable_cores() -> int:
    """The cores this process may run on, at least 1 and at most 8 (more wants a deliberate WEB_CONCURRENCY)."""
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def _memory_backed_dir() -> str:
    """Where a worker's heartbeat file lives: on disk a slow fsync would look like a dead worker."""
    shared_memory = "/dev/shm"  # noqa: S108 - gunicorn makes its file there with mkstemp
    return shared_memory if os.path.isdir(shared_memory) else tempfile.gettempdir()
