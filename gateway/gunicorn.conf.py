"""gunicorn for the gateway: `gunicorn -c gateway/gunicorn.conf.py gateway.wsgi:app`."""

# first of all, or HTTPS through requests ends in a RecursionError
from gevent import monkey

monkey.patch_all()

import atexit  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import tempfile  # noqa: E402
from typing import Any  # noqa: E402

# before prometheus_client is imported anywhere: it looks at this once
_metrics_dir = os.environ.get("PROMETHEUS_MULTIPROC_DIR") or tempfile.mkdtemp(prefix="gateway-metrics-")


def _remove_metrics(master: int) -> None:
    if os.getpid() == master:
        shutil.rmtree(_metrics_dir, ignore_errors=True)


if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    # not gunicorn's on_exit: a start that fails never gets there, and after a reload this file sees the variable as set
    atexit.register(_remove_metrics, os.getpid())
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics_dir

from prometheus_client import multiprocess  # noqa: E402

from common.serving import gunicorn_settings  # noqa: E402
from common.settings import load_or_exit  # noqa: E402
from gateway.services import ServicesError, load_services  # noqa: E402
from gateway.settings import GatewaySettings, service_urls  # noqa: E402

_settings = load_or_exit(GatewaySettings, "gateway")
try:
    load_services(_settings.gateway_services, _settings, service_urls())
except ServicesError as error:
    raise SystemExit(f"gateway cannot start: {error}") from None

globals().update(
    gunicorn_settings(
        "gateway",
        [
            f"{_settings.gateway_host}:{_settings.gateway_port}",
            f"{_settings.operations_host}:{_settings.operations_port}",
        ],
        _settings,
    )
)
# the share of each worker when Redis is away
os.environ["WEB_CONCURRENCY"] = str(globals()["workers"])


def on_starting(server: Any) -> None:
    """Old counters would be added to the new ones."""
    os.makedirs(_metrics_dir, exist_ok=True)
    for name in os.listdir(_metrics_dir):
        if name.endswith(".db"):
            os.remove(os.path.join(_metrics_dir, name))


def post_worker_init(worker: Any) -> None:
    """A worker that is stopping says so on /ready. What gauges said before the fork was lost with it."""
    runtime = worker.wsgi.extensions["gateway"]
    runtime.health.is_draining = lambda: not worker.alive
    runtime.metrics.limit_store_up(True)
    for backend in runtime.table.backends.values():
        for instance in backend.instances:
            if instance.breaker:
                instance.breaker.announce()


def child_exit(server: Any, worker: Any) -> None:
    multiprocess.mark_process_dead(worker.pid)
