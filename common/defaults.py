"""`install(app, ...)`: what each of our services has without saying so.

Errors in one shape, JSON logs with request ids, deadlines, health pages, the database with its migrations, token
verification, and an OpenAPI document that is true. A service adds its routes and rules.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import structlog
from apiflask import APIFlask
from apiflask.exceptions import HTTPError
from flask import Response, g, request
from flask.json.provider import DefaultJSONProvider
from werkzeug.datastructures import Headers

from common import VERSION, auditing, db, deadlines, health, logs, migrations, openapi, problems, tokens
from common.audit import Recorder
from common.db import Database
from common.health import Check, Health
from common.keys import Keys
from common.problems import FieldError
from common.revocations import PATH as REVOCATIONS
from common.revocations import Source
from common.security_headers import missing as missing_headers
from common.service_settings import ServiceSettings
from common.verifying import verifier_of

UNLOGGED = ("/ready", REVOCATIONS)
"""Asked again and again by our own processes."""

access_log = structlog.get_logger("access")


def new_app(name: str) -> APIFlask:
    """An APIFlask app whose errors are ours to make and whose documentation pages are off (they load from a CDN)."""
    app = APIFlask(name, docs_path=None, json_errors=True, enable_openapi=True)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.json = StrictJson(app)
    return app


class StrictJson(DefaultJSONProvider):
    """Reads with orjson, which refuses what the standard library lets in: NaN, lone surrogates, nesting without end."""

    sort_keys = False

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        return orjson.loads(s)


def install(
    app: APIFlask,
    settings: ServiceSettings,
    *,
    description: str,
    keys: Keys | None = None,
    database: Database | None = None,
    checks: Mapping[str, Check] | None = None,
    recorder: Recorder | None = None,
    revocations: Source | None = None,
) -> None:
    """Give `app`, the service `settings.name`, all of the above. `keys` defaults to user_service's published ones,
    `recorder` to one whose entries user_service stores, and `revocations` to what user_service tells of them."""
    name = settings.name
    app.config.update(SERVICE_NAME=name, SERVICE_SECRET=settings.effective_service_secret(), MAX_CONTENT_LENGTH=1 << 20)
    logs.configure(name, level=settings.log_level, log_format=settings.log_format)
    openapi.init_app(app, title=name, version=VERSION, description=description)
    problems.init_app(app, name, auditing.note_refusal)
    auditing.init_app(app, recorder or auditing.remote_recorder(name, settings))
    app.error_processor(_on_apiflask_error)
    tokens.init_app(app, verifier_of(app, settings, name, keys=keys, source=revocations))
    folder = Path(app.root_path) / "migrations"
    readiness: dict[str, Check] = dict(checks or {})
    if database is not None:
        db.init_app(app, database, name)
        migrations.init_app(app, database, folder)
        readiness["database"] = lambda: migrations.require_current(database, folder, name)
    health.init_app(app, Health(name, VERSION, readiness))
    _observe_requests(app)
    deadlines.init_app(app)  # after it, so that a refusal has its request id


def _on_apiflask_error(error: HTTPError) -> Response:
    name = problems_source()
    detail = error.detail if isinstance(error.detail, dict) else {}
    errors = [
        FieldError(field=str(field), message=str(message).removeprefix("Value error, "), location=_place(location))
        for location, fields in detail.items()
        if isinstance(fields, dict)
        for field, messages in fields.items()
        for message in (messages if isinstance(messages, list) else [messages])
    ]
    text = "Some fields are wrong; `errors` names them." if errors else ""
    kept = [(name, value) for name, value in Headers(error.headers).items() if name.lower() in problems.KEPT_HEADERS]
    return problems.response(problems.for_status(error.status_code, text, errors=errors, headers=kept), name)


def problems_source() -> str:
    from flask import current_app

    return str(current_app.config["SERVICE_NAME"])


def _place(location: object) -> str:
    return {"json": "body", "querystring": "query"}.get(str(location), str(location))


def _observe_requests(app: APIFlask) -> None:
    @app.before_request
    def begin() -> None:
        given = logs.acceptable_request_id(request.headers.get("X-Request-ID"))
        logs.bind_request(given or logs.new_request_id())
        g.began = time.perf_counter()
        has_body = request.content_length or "chunked" in request.headers.get("Transfer-Encoding", "")
        if has_body and not request.is_json:
            raise problems.UnsupportedMediaType("The body must be JSON: send Content-Type: application/json.")

    @app.after_request
    def end(answer: Response) -> Response:
        answer.headers["X-Request-ID"] = logs.current_request_id()
        answer.headers.setdefault("Cache-Control", "no-store")
        answer.headers.extend(missing_headers(answer.headers.items()))
        if not request.path.startswith("/health") and request.path not in UNLOGGED:
            access_log.info(
                "request",
                method=request.method,
                path=request.path,
                status=answer.status_code,
                ms=round((time.perf_counter() - g.get("began", time.perf_counter())) * 1000, 2),
            )
        return answer
