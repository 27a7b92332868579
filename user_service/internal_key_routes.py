"""API keys for the gateway: what it exchanges them for, and how often they were used."""

from __future__ import annotations

from typing import Annotated

from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app
from pydantic import Field

from common import problems
from common.defaults import problems_source
from common.models import Schema
from common.service_tokens import services_only
from user_service.api_key_routes import problem_of
from user_service.api_keys import ApiKeyError, ApiKeys, Exchanged

bp = APIBlueprint("internal_api_keys", __name__, enable_openapi=False)

LONGEST_TEXT = 256
MOST_COUNTS = 10_000
MOST_USES = 1_000_000_000


class ShownKey(Schema):
    key: str = Field(max_length=LONGEST_TEXT)


class ExchangedAnswer(Schema):
    access_token: str
    expires_in: int
    key_id: str
    plan: str


class Usage(Schema):
    counts: dict[str, Annotated[int, Field(gt=0, le=MOST_USES)]] = Field(max_length=MOST_COUNTS)


@bp.post("/internal/api-keys/exchange")
@services_only
@bp.input(ShownKey)
@bp.output(ExchangedAnswer)
def exchange(json_data: ShownKey) -> Exchanged:
    return _keys().exchange(json_data.key)


@bp.post("/internal/api-keys/usage")
@services_only
@bp.input(Usage)
def count_uses(json_data: Usage) -> tuple[str, int]:
    _keys().count_uses(json_data.counts)
    return "", 204


@bp.errorhandler(ApiKeyError)
def on_api_key_error(error: ApiKeyError) -> Response:
    return problems.response(problem_of(error), problems_source())


def _keys() -> ApiKeys:
    keys: ApiKeys = current_app.extensions["api_keys"]
    return keys


def init_app(app: APIFlask) -> None:
    app.register_blueprint(bp)
