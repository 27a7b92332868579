"""gunicorn for the gateway: `gunicorn -c gateway/gunicorn.conf.py gateway.wsgi:app`."""

# first of all, or HTTPS through requests ends in a RecursionError
from gevent import monkey

monkey.patch_all()

import atexit  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

# None at the start. On SIGHUP the master runs this file again, and there is the app that it loaded then
_loaded = sys.modules.get("gateway.wsgi")


def _scratch(variable: str, purpose: str) -> str:
    """A new directory, named by the environment's `variable`, that goes when this master ends."""
    directory = os.environ[variable] = tempfile.mkdtemp(prefix=f"gateway-{purpose}-")
    atexit.register(_remove, directory, os.getpid())  # not gunicorn's on_exit: a start that fails never gets there
    return directory


def _remove(directory: str, master: int) -> None:
    if os.getpid() == master:
        shutil.rmtree(directory, ignore_errors=True)


# before prometheus_client is imported anywhere: it looks at this once
_metrics_dir = os.environ.get("PROMETHEUS_MULTIPROC_DIR") or _scratch("PROMETHEUS_MULTIPROC_DIR", "metrics")

from prometheus_client import multiprocess  # noqa: E402

from common import audit  # noqa: E402
from common.serving import gunicorn_settings, repeat  # noqa: E402
from common.settings import load_or_exit  # noqa: E402
from common.tls import showing  # noqa: E402
from common.worker import ProblemWorker  # noqa: E402
from gateway import background, incidents, revisions  # noqa: E402
from gateway.reload import POLL_S  # noqa: E402
from gateway.runtime import runtime_of  # noqa: E402
from gateway.services import ServicesError, load_services  # noqa: E402
from gateway.settings import GatewaySettings, service_urls  # noqa: E402

if _loaded is None:
    _settings = load_or_exit(GatewaySettings, "gateway")
    try:
        load_services(_settings.gateway_services, _settings, service_urls())
    except ServicesError as error:
        raise SystemExit(f"gateway cannot start: {error}") from None
    _scratch(revisions.DIRECTORY, "revisions")  # not an inherited one: that is another master's
    if _settings.tls_certificate is not None:
        _tls = showing(*_settings.tls_files)
        _tls.context()  # made before the fork; later it follows its files by itself
        ProblemWorker.tls = {_settings.gateway_port: _tls}  # the operations listener goes without
else:
    _settings = runtime_of(_loaded.app).settings  # a fault in .env or in the services file must not end us now

globals().update(
    gunicorn_settings(
        "gateway",
        [
            f"{_settings.gateway_host}:{_settings.gateway_port}",
            f"{_settings.operations_host}:{_settings.operations_port}",
        ],
        _settings,
        takes_any_method=True,  # the edge refuses them, unless a service is verbatim
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


def on_reload(server: Any) -> None:
    """SIGHUP. The workers look at the services file, the new ones before they take a request."""
    try:
        revisions.InDirectory(Path(os.environ[revisions.DIRECTORY])).ask()
    except OSError as error:  # it must not end the master
        server.log.error("The workers could not be asked to look at the services file: %s", error)


def post_worker_init(worker: Any) -> None:
    """A worker that is stopping says so on /ready. What gauges said before the fork was lost with it, and so is what
    others have learnt since then of the configuration."""
    runtime = runtime_of(worker.wsgi)
    runtime.health.is_draining = lambda: not worker.alive
    runtime.metrics.limit_store_up(True)
    runtime.loader.catch_up()
    background.start(runtime, lambda: worker.alive)
    for backend in runtime.table.backends.values():
        for instance in backend.instances:
            if instance.breaker:
                instance.breaker.announce()
    repeat(worker, runtime.loader.tick, POLL_S)
    worker.note = runtime.incidents.note_unread
    repeat(worker, runtime.incidents.write, incidents.ROUND_S)
    repeat(worker, worker.wsgi.extensions["recorder"].tick, audit.ROUND_S)
    atexit.register(worker.wsgi.extensions["recorder"].close)


def child_exit(server: Any, worker: Any) -> None:
    multiprocess.mark_process_dead(worker.pid)
