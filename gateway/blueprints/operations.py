"""What an operator does to the running gateway: see its configuration, reload it, roll it back.

Only the operations listener has these pages; on the public one they are not there. Reading is open to whoever reaches
that listener. What changes something wants an administrator's token even there: a page that an operator looks at may
make the browser send a POST to the operator's own machine, but it cannot make it send a token.
"""

from __future__ import annotations

from datetime import UTC, datetime

from flask import Blueprint, Flask, Response

from common.health import page
from common.problems import Conflict, FieldError, ServiceUnavailable, UnprocessableContent
from gateway import auditing
from gateway.blueprints import OPERATIONS_ONLY
from gateway.blueprints.pages import current_exchange
from gateway.policies.identity import require_operator
from gateway.reload import Change, Loader, Refused
from gateway.revisions import NothingBefore, NotNow

bp = Blueprint("operations", __name__)


@bp.get("/config")
def configuration() -> Response:
    """Which revision is in force, since when, and what is wrong with the file if something is."""
    exchange = current_exchange()
    history = exchange.runtime.loader.history
    *earlier, newest = history.revisions
    return page(
        {
            "revision": newest.number,
            "path": str(exchange.runtime.settings.gateway_services),
            "sha256": newest.sha256,
            "since": _time(newest.since),
            "restores": newest.restores,
            "earlier": [revision.number for revision in earlier],
            "looked_at": _time(history.look.at),
            "faults": list(history.look.faults),
            "warnings": list(exchange.table.configuration.warnings),
        }
    )


@bp.post("/config/reload")
def reload() -> Response:
    """Take the services file as it is now."""
    loader, by = _loader_for_administrator()
    try:
        return _told(loader.reload(by), "configuration.reloaded")
    except Refused as refused:
        raise UnprocessableContent(
            "The services file has faults; the configuration in force stays.",
            code="CONFIGURATION_REFUSED",
            errors=[_field_error(fault) for fault in refused.faults],
            revision=loader.history.newest.number,
        ) from None
    except NotNow as busy:
        raise ServiceUnavailable(str(busy)) from None


@bp.post("/config/rollback")
def rollback() -> Response:
    """Go back to the revision before the one in force; again, to the one before that."""
    loader, by = _loader_for_administrator()
    try:
        return _told(loader.roll_back(by), "configuration.rolled_back")
    except NothingBefore:
        raise Conflict("No revision before the one in force is kept.") from None
    except NotNow as busy:
        raise ServiceUnavailable(str(busy)) from None


def _loader_for_administrator() -> tuple[Loader, str]:
    """With the name by which the log calls who wants something. Raises 401 and 403."""
    exchange = current_exchange()
    require_operator(exchange)
    return exchange.runtime.loader, f"user:{exchange.identity.user_id}" if exchange.identity else ""


def _told(change: Change, event: str) -> Response:
    auditing.note(event, details={"revision": str(change.revision), "previous": str(change.previous)})
    is_changed = change.revision != change.previous
    return page({"revision": change.revision, "previous": change.previous, "changed": is_changed, "faults": []})


def _field_error(fault: str) -> FieldError:
    place, _, words = fault.partition(": ")
    return FieldError(place, words or fault, "file")


def _time(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="seconds")


def init_app(app: Flask, *others: Blueprint) -> None:
    """Register these pages and those of `others`; the public listener has none of them."""
    for blueprint in (bp, *others):
        app.register_blueprint(blueprint)
    names = {blueprint.name for blueprint in (bp, *others)}
    paths = [rule.rule for rule in app.url_map.iter_rules() if rule.endpoint.partition(".")[0] in names]
    app.extensions[OPERATIONS_ONLY] = {path.split("/")[1] for path in paths}
