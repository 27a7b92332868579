"""How gunicorn runs order_service. The patch comes first: what is imported earlier keeps sockets that block."""

from gevent import monkey

monkey.patch_all()

import atexit  # noqa: E402
from functools import partial  # noqa: E402

from flask import Flask  # noqa: E402
from gunicorn.workers.base import Worker  # noqa: E402

from common import audit, tokens  # noqa: E402
from common.serving import gunicorn_settings, repeat  # noqa: E402
from common.settings import load_or_exit  # noqa: E402
from order_service.reconciler import reconcile  # noqa: E402
from order_service.settings import OrderSettings  # noqa: E402

settings = load_or_exit(OrderSettings, OrderSettings.name)
globals().update(gunicorn_settings(OrderSettings.name, [f"{settings.service_host}:{settings.port}"], settings))


def post_worker_init(worker: Worker) -> None:
    """Until the worker begins to stop it is in the registry, and reconciles; from then on `/ready` says so."""
    app = worker.wsgi
    assert isinstance(app, Flask)
    app.extensions["health"].is_draining = lambda: not worker.alive
    tokens.start(app, lambda: worker.alive)
    if settings.registry_url:
        from common.registration import announce  # here: redis-py weighs 7 MB, which others do without

        announce(settings, lambda: worker.alive)
    repeat(worker, app.extensions["recorder"].tick, audit.ROUND_S)
    atexit.register(app.extensions["recorder"].close)
    repeat(worker, partial(reconcile, app.extensions["checkout"]), settings.reconcile_interval)
