"""The audit log over HTTP: administrators read it, our own processes add to it."""

from __future__ import annotations

from datetime import datetime

from apiflask import APIBlueprint, APIFlask
from flask import current_app, g
from pydantic import AwareDatetime, ConfigDict, Field

from common.audit import Entry, Outcome
from common.models import Page, PageQuery, Schema
from common.permissions import AUDIT_READ
from common.service_tokens import services_only
from common.tokens import current_identity, signed_in
from user_service.audit import Audit

bp = APIBlueprint("audit", __name__, tag="audit")

MOST_AT_ONCE = 1000
AWAY = 503


class AuditQuery(PageQuery):
    user: str = Field("", max_length=96, pattern=r"^[^\x00]*$", description="Who did it, or to whom it was done.")
    event: str = Field(
        "", max_length=64, pattern=r"^[A-Za-z0-9_.*-]*$", description="An event, or the beginning of some: `login`."
    )
    since: AwareDatetime | None = Field(None, description="Nothing that was before: 2030-01-31T22:00:00Z.")


class AuditLine(Schema):
    """One entry. `actor` and `subject` are ids; `address` is the network, not the address."""

    model_config = ConfigDict(extra="ignore")

    seq: int
    at: datetime
    event: str
    outcome: str
    actor: str
    subject: str
    source: str
    address: str
    request_id: str
    details: dict[str, str]
    hash: str


class AuditPage(Page):
    items: list[AuditLine]


class SentEntry(Schema):
    id: str = Field(min_length=1, max_length=36)
    at: AwareDatetime
    event: str
    outcome: Outcome
    actor: str
    subject: str
    address: str
    request_id: str
    details: dict[str, str]


class Batch(Schema):
    entries: list[SentEntry] = Field(max_length=MOST_AT_ONCE)


@bp.get("/users/audit")
@signed_in(permissions=(AUDIT_READ,))
@bp.input(AuditQuery, location="query")
@bp.output(AuditPage)
@bp.doc(summary="The audit log, newest first", security="bearer", responses=[401, 403, 422, AWAY])
def browse(query_data: AuditQuery) -> AuditPage:
    asked = {"event": query_data.event, "page": str(query_data.page)}
    _audit().record(
        "audit.read", outcome="success", actor=current_identity().user_id, subject=query_data.user, details=asked
    )
    rows, total = _audit().page(
        of_user=query_data.user,
        event=query_data.event,
        since=query_data.since,
        offset=query_data.offset,
        limit=query_data.per_page,
    )
    return AuditPage(
        items=[AuditLine.model_validate(row) for row in rows],
        page=query_data.page,
        per_page=query_data.per_page,
        total=total,
        pages=Page.count(total, query_data.per_page),
    )


@bp.post("/internal/audit")
@services_only
@bp.input(Batch)
@bp.doc(summary="Entries of another process", security="bearer", responses=[204, 400, 401, 413, 415, 422, AWAY])
def add(json_data: Batch) -> tuple[str, int]:
    source = str(g.calling_service)
    _audit().store([Entry(source=source, **sent.model_dump()) for sent in json_data.entries])
    return "", 204


def _audit() -> Audit:
    audit: Audit = current_app.extensions["audit"]
    return audit


def init_app(app: APIFlask) -> None:
    app.register_blueprint(bp)
