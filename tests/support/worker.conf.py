"""gunicorn for `tests.support.reflecting`: our worker and settings with nothing of the gateway's."""

# first of all, as in a component's own file
from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
from types import SimpleNamespace  # noqa: E402
from typing import cast  # noqa: E402

from common.serving import Process, gunicorn_settings  # noqa: E402
from common.tls import showing  # noqa: E402
from common.worker import ProblemWorker  # noqa: E402

_settings = SimpleNamespace(
    log_level="INFO",
    log_format="json",
    caller_timeout=float(os.environ.get("CALLER_TIMEOUT", "5")),
    head_timeout=float(os.environ.get("HEAD_TIMEOUT", "5")),
    body_min_rate=100,
    keepalive_requests=int(os.environ.get("KEEPALIVE_REQUESTS", "100000")),
    keepalive_age=3600.0,
    max_connections=int(os.environ.get("MAX_CONNECTIONS", "100")),
    workers=1,
    worker=os.environ["WORKER"],
)
_bind = [f"127.0.0.1:{os.environ['PORT']}"]
if "TLS_PORT" in os.environ:
    _port = int(os.environ["TLS_PORT"])
    _bind.append(f"127.0.0.1:{_port}")
    ProblemWorker.tls = {_port: showing(os.environ["TLS_CERTIFICATE"], os.environ["TLS_KEY"])}
globals().update(gunicorn_settings("reflecting", _bind, cast("Process", _settings), takes_any_method=True))
globals().update({name.lower(): int(os.environ[name]) for name in ("KEEPALIVE", "MAX_REQUESTS") if name in os.environ})
if other := os.environ.get("GUNICORN"):  # a setting under which the fast way is not taken
    globals()[other] = True
