"""`app`, for `gunicorn -c gateway/gunicorn.conf.py gateway.wsgi:app`."""

import os
from pathlib import Path

import structlog

from gateway import create_app
from gateway.revisions import DIRECTORY
from gateway.runtime import runtime_of

app = create_app()
if shared := os.environ.get(DIRECTORY):
    runtime_of(app).loader.share(Path(shared))
for warning in runtime_of(app).table.configuration.warnings:
    structlog.get_logger("configuration").warning("services_file_warning", text=warning)
