"""What our own processes ask: which tokens are void before they expire. A long poll, so that they know at once."""

from __future__ import annotations

from apiflask import APIBlueprint, APIFlask
from flask import current_app
from pydantic import Field

from common.health import Health
from common.models import Query
from common.revocations import Batch
from common.service_tokens import services_only
from user_service.revocation_feed import OwnLog
from user_service.revocations import Revocations

bp = APIBlueprint("internal", __name__, enable_openapi=False)

LONGEST_WAIT_S = 30


class RevocationsQuery(Query):
    after: int = Field(0, ge=0, lt=1 << 62, description="The last number that is known; 0 asks for all in force.")
    wait: float = Field(0, ge=0, le=LONGEST_WAIT_S, description="Seconds to wait for more.")


@bp.get("/internal/revocations")
@services_only
@bp.input(RevocationsQuery, location="query")
@bp.output(Batch)
def revocations(query_data: RevocationsQuery) -> Batch:
    log: Revocations = current_app.extensions["revocations"]
    health: Health = current_app.extensions["health"]
    if query_data.wait:
        log.wait_for_more(query_data.after, query_data.wait, lambda: not health.is_draining())
    return OwnLog(log).after(query_data.after, 0)


def init_app(app: APIFlask, revocations: Revocations) -> None:
    app.extensions["revocations"] = revocations
    app.register_blueprint(bp)
