"""How gunicorn runs user_service. The patch comes first: what is imported before it keeps sockets that block."""

from gevent import monkey

monkey.patch_all()

from flask import Flask  # noqa: E402
from gunicorn.workers.base import Worker  # noqa: E402

from common.registration import announce  # noqa: E402
from common.serving import gunicorn_settings  # noqa: E402
from common.settings import load_or_exit  # noqa: E402
from user_service.settings import UserSettings  # noqa: E402

settings = load_or_exit(UserSettings, UserSettings.name)
globals().update(gunicorn_settings(UserSettings.name, [f"{settings.service_host}:{settings.port}"], settings))


def post_worker_init(worker: Worker) -> None:
    """Until the worker begins to stop it is in the registry; from then on `/ready` says so."""
    app = worker.wsgi
    assert isinstance(app, Flask)
    app.extensions["health"].is_draining = lambda: not worker.alive
    announce(settings, lambda: worker.alive)
