"""Taking an instance out of service and back. Only the operations listener has these pages.

    POST /instances/drain      {"service": "orders", "url": "http://10.0.0.9:5003"}
    POST /instances/undrain    the same

A drained instance gets no new request from any worker of any host; what it has begun it finishes. It stays so until it
is undrained, also when it, or the gateway, is started anew.
"""

from __future__ import annotations

import redis
from flask import Blueprint, Response, request

from common.health import page
from common.problems import NotFound, ServiceUnavailable
from gateway import auditing
from gateway.backend.health import row_of
from gateway.backend.sharing import UnknownInstance
from gateway.blueprints.pages import current_exchange
from gateway.blueprints.registrations import LARGEST_BYTES, Registered, read_as
from gateway.policies.identity import require_operator

bp = Blueprint("drains", __name__)


@bp.post("/instances/drain")
def drain() -> Response:
    """No new request goes there."""
    return _told(is_draining=True)


@bp.post("/instances/undrain")
def undrain() -> Response:
    """Requests go there again, slowly at first where the service wants that."""
    return _told(is_draining=False)


def _told(*, is_draining: bool) -> Response:
    """The instance's row, as it is now. Raises 401, 403, 404, 422, and 503 when the other workers can't be told."""
    exchange = current_exchange()
    by = f"user:{require_operator(exchange).user_id}"
    request.max_content_length = LARGEST_BYTES
    named = read_as(Registered, request.get_json(), "body")
    try:
        instance = exchange.runtime.sharing.drain(named.service, named.url, is_draining, by=by)
    except UnknownInstance:
        raise NotFound(f"The service {named.service} has no such instance; /services lists them.") from None
    except redis.RedisError as error:
        raise ServiceUnavailable("Redis is away, so the other workers can't be told; nothing has changed.") from error
    auditing.note("instance.drained" if is_draining else "instance.undrained", subject=f"{named.service} {named.url}")
    return page({"service": named.service, "instance": row_of(instance)})
