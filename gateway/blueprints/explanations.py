"""Why the gateway does what it does, for operators. Only the operations listener has these pages; they change nothing.

    POST /explain               what would become of a request: {"method": "GET", "url": "/products", ...}
    GET  /explain/<request_id>  what became of one that the gateway refused, and what would become of it now
    GET  /config/routes         every route in force, with its policies and the states of its instances
    POST /config/diff           {"text": "services: ...", "path": "new.yaml"}: what that would change

`flask --app gateway explain`, `routes` and `diff` ask these. Requests are explained without being sent; a token that
comes along is verified and not shown.
"""

from __future__ import annotations

import time
from dataclasses import asdict

from flask import Blueprint, Response, current_app, request
from pydantic import BaseModel, ConfigDict, Field

from common.health import page
from common.identity import KEY_SESSION, Identity
from common.problems import NotFound
from gateway.backend.health import row_of
from gateway.blueprints.pages import current_exchange
from gateway.blueprints.registrations import read_as
from gateway.differences import differences, words_of
from gateway.explaining import explain
from gateway.explanation import Explanation, way_out
from gateway.incidents import ROUND_S, Asked, Incident
from gateway.policies.layers import layers
from gateway.rehearsing import HeaderPairs, Rehearsal, rehearsal_of
from gateway.router import Route
from gateway.services import ServicesError
from gateway.table import Table

bp = Blueprint("explanations", __name__)

LARGEST_QUESTION = 256 << 10
LARGEST_FILE = 1 << 20


class Question(BaseModel):
    """A request that is to be explained."""

    model_config = ConfigDict(extra="forbid")

    method: str
    url: str  # a request target or a whole URL
    headers: list[tuple[str, str]] = Field(default_factory=list)
    token: str | None = None
    caller: str = "127.0.0.1"
    body_bytes: int = Field(0, ge=0)
    look: bool = True  # at what is counted and kept


class Proposal(BaseModel):
    """A services file that is to be compared with the configuration in force."""

    model_config = ConfigDict(extra="forbid")

    text: str
    path: str = "the file"


@bp.post("/explain")
def explained() -> Response:
    request.max_content_length = LARGEST_QUESTION
    question = read_as(Question, request.get_json(), "body")
    headers: HeaderPairs = tuple(question.headers)
    if question.token is not None:
        headers = (*headers, ("Authorization", f"Bearer {question.token}"))
    rehearsal = rehearsal_of(
        question.method,
        question.url,
        headers,
        current_exchange().runtime.settings,
        caller=question.caller,
        body_bytes=question.body_bytes,
    )
    return page(_explanation(rehearsal, may_look=question.look).to_dict())


@bp.get("/explain/<request_id>")
def explained_incident(request_id: str) -> Response:
    """A request that has just been refused by another worker is written within half a second: it is waited for."""
    incidents = current_exchange().runtime.incidents
    incident = incidents.find(request_id)
    if incident is None:
        time.sleep(1.5 * ROUND_S)
        incident = incidents.find(request_id)
    if incident is None:
        raise NotFound(_nobody_remembers(is_shared=incidents.is_shared))
    rehearsal = _again(incident)
    now = _explanation(rehearsal, may_look=True).to_dict() if rehearsal else None
    return page({"incident": {**asdict(incident), "way_out": way_out(incident.code)}, "now": now})


@bp.get("/config/routes")
def routes() -> Response:
    table = current_exchange().table
    rows = [_row(route, table) for route in table.router.routes]
    return page({"revision": table.revision, "path": table.configuration.file.path, "routes": rows})


@bp.post("/config/diff")
def diff() -> Response:
    """`differences` is empty where the text means the same; a text with `faults` is not compared."""
    request.max_content_length = LARGEST_FILE
    exchange = current_exchange()
    proposal = read_as(Proposal, request.get_json(), "body")
    in_force = exchange.table.configuration
    found: dict[str, object] = {"revision": exchange.table.revision, "path": in_force.file.path}
    try:
        proposed = exchange.runtime.loader.compiler.read_text(proposal.text, proposal.path)
    except ServicesError as error:
        return page({**found, "differences": [], "faults": error.problems})
    return page({**found, "differences": [each._asdict() for each in differences(in_force, proposed)], "faults": []})


def _explanation(rehearsal: Rehearsal, *, may_look: bool) -> Explanation:
    return explain(current_app, rehearsal, may_look=may_look)


def _again(incident: Incident) -> Rehearsal | None:
    """The request as far as it is remembered, None for one that could not be read."""
    asked = incident.asked
    if not asked.method:
        return None
    version = (("API-Version", asked.version),) if asked.version else ()
    host = (("Host", asked.host),) if asked.host else ()
    return Rehearsal(asked.method, asked.path, (*host, *version), asked.caller, 0, _identity(asked))


def _identity(asked: Asked) -> Identity | None:
    if not asked.user:
        return None
    return Identity(
        asked.user,
        asked.user,
        frozenset(asked.roles),
        time.time() + 1,
        frozenset(asked.permissions),
        session=f"{KEY_SESSION}{asked.key}" if asked.key else "",
        amr=frozenset(asked.amr),
    )


def _nobody_remembers(*, is_shared: bool) -> str:
    where = "" if is_shared else " Redis is away, so this worker knows its own requests only."
    return (
        "Nobody remembers a request of that id that the gateway refused within the last 15 minutes; what a service "
        f"answered by itself stands in that service's log.{where}"
    )


def _row(route: Route, table: Table) -> dict[str, object]:
    backend = table.backends[route.service.key]
    return {
        "name": route.name,
        "service": route.service.key,
        "methods": list(route.methods),
        "path": f"{route.prefix}{route.template}",
        "hosts": [*route.service.hosts, *route.conditions.hosts],
        "conditions": words_of(route.conditions),
        "policies": [layer.name for layer in layers(route.handler)],
        "place": route.place,
        "instances": [row_of(instance) for instance in backend.instances],
    }
