"""API keys over HTTP: everybody makes their own, for programs. A key can't make or see keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app
from pydantic import AwareDatetime, Field

from common import problems
from common.defaults import problems_source
from common.models import Query, Schema
from common.permissions import USERS_READ, USERS_WRITE, Requirement
from common.problems import Conflict, FieldError, Forbidden, NotFound, Problem, Unauthorized, UnprocessableContent
from common.tokens import current_identity, signed_in
from user_service.api_keys import (
    TOKEN_LIFETIME_S,
    ApiKeyError,
    ApiKeys,
    BeyondOwner,
    EndsTooSoon,
    NotActive,
    Refused,
    TooManyApiKeys,
    UnknownApiKey,
)
from user_service.role_routes import MOST_PERMISSIONS, Permission
from user_service.tables import ApiKey
from user_service.users import UnknownUser

bp = APIBlueprint("api_keys", __name__, tag="api keys")

BODY = (400, 413, 415, 422)
AWAY = 503
LONGEST_OVERLAP_S = 86_400

Name = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$", examples=["nightly export"])
]
Plan = Annotated[
    str, Field(max_length=32, pattern=r"^([a-z][a-z0-9-]*)?$", description="A plan of the gateway; '' for none.")
]


class NewApiKey(Schema):
    name: Name
    scopes: list[Permission] = Field(
        min_length=1,
        max_length=MOST_PERMISSIONS,
        description="The permissions that the key gets, of those that you have.",
        examples=[["orders:read"]],
    )
    expires_at: AwareDatetime | None = Field(None, description="At least five minutes from now; null for never.")
    plan: Plan = Field("", description="For those who may set plans.")


class ApiKeyChange(Schema):
    name: Name


class ApiKeyTerms(Schema):
    """What administrators may set."""

    name: Name | None = None
    plan: Plan | None = None
    expires_at: AwareDatetime | None = Field(None, description="At least five minutes from now; null for never.")


class Rotation(Query):
    overlap_s: int = Field(
        0,
        ge=0,
        le=LONGEST_OVERLAP_S,
        description=f"Seconds for which the old key stays good: 0, or at least {TOKEN_LIFETIME_S}.",
    )


class ApiKeyAnswer(Schema):
    id: str
    name: str
    beginning: str = Field(description="The first characters of the key.")
    scopes: list[str]
    plan: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    uses: int = Field(description="Requests with this key; a few seconds behind.")
    replaced_by: str | None = Field(description="The id of the key that this one was rotated into.")


class NewApiKeyAnswer(ApiKeyAnswer):
    key: str = Field(description="The key itself. It is told this once.")


class ApiKeyList(Schema):
    items: list[ApiKeyAnswer]


@bp.get("/users/api-keys")
@signed_in(session=True)
@bp.output(ApiKeyList)
@bp.doc(summary="My API keys", security="bearer", responses=[401, 403, AWAY])
def browse() -> ApiKeyList:
    return _list(_me())


@bp.post("/users/api-keys")
@signed_in(session=True)
@bp.input(NewApiKey)
@bp.output(NewApiKeyAnswer, 201)
@bp.doc(summary="Make an API key", security="bearer", responses=[*BODY, 401, 403, 409, AWAY])
def create(json_data: NewApiKey) -> tuple[NewApiKeyAnswer, int]:
    identity = current_identity()
    if json_data.plan:
        Requirement(permissions=(USERS_WRITE,)).check(identity)
    made = _keys().create(
        identity.user_id,
        json_data.name,
        json_data.scopes,
        permitted=identity.permissions,
        plan=json_data.plan,
        expires_at=json_data.expires_at,
    )
    return _told(*made), 201


@bp.patch("/users/api-keys/<uuid:key_id>")
@signed_in(session=True)
@bp.input(ApiKeyChange)
@bp.output(ApiKeyAnswer)
@bp.doc(summary="Rename an API key of mine", security="bearer", responses=[*BODY, 401, 403, 404, 409, AWAY])
def rename(key_id: UUID, json_data: ApiKeyChange) -> ApiKey:
    return _keys().change(_me(), str(key_id), by=_me(), name=json_data.name)


@bp.post("/users/api-keys/<uuid:key_id>/rotate")
@signed_in(session=True)
@bp.input(Rotation, location="query")
@bp.output(NewApiKeyAnswer, 201)
@bp.doc(summary="Replace an API key of mine", security="bearer", responses=[401, 403, 404, 409, 422, AWAY])
def rotate(key_id: UUID, query_data: Rotation) -> tuple[NewApiKeyAnswer, int]:
    overlap_s = query_data.overlap_s
    if 0 < overlap_s < TOKEN_LIFETIME_S:
        fault = FieldError("overlap_s", f"must be 0, or at least {TOKEN_LIFETIME_S}", "query")
        raise UnprocessableContent("Some fields are wrong; `errors` names them.", errors=[fault])
    return _told(*_keys().rotate(_me(), str(key_id), overlap_s=overlap_s)), 201


@bp.delete("/users/api-keys/<uuid:key_id>")
@signed_in(session=True)
@bp.doc(summary="Revoke an API key of mine", security="bearer", responses=[204, 401, 403, 404, AWAY])
def revoke(key_id: UUID) -> tuple[str, int]:
    _keys().revoke(_me(), str(key_id), by=_me())
    return "", 204


@bp.get("/users/<uuid:user_id>/api-keys")
@signed_in(permissions=(USERS_READ,))
@bp.output(ApiKeyList)
@bp.doc(summary="The API keys of a user", security="bearer", responses=[401, 403, 404, AWAY])
def browse_of(user_id: UUID) -> ApiKeyList:
    return _list(str(user_id))


@bp.patch("/users/<uuid:user_id>/api-keys/<uuid:key_id>")
@signed_in(permissions=(USERS_WRITE,))
@bp.input(ApiKeyTerms)
@bp.output(ApiKeyAnswer)
@bp.doc(summary="Change plan and expiry of an API key", security="bearer", responses=[*BODY, 401, 403, 404, 409, AWAY])
def change(user_id: UUID, key_id: UUID, json_data: ApiKeyTerms) -> ApiKey:
    return _keys().change(
        str(user_id),
        str(key_id),
        by=_me(),
        name=json_data.name,
        plan=json_data.plan,
        expiry=(json_data.expires_at,) if "expires_at" in json_data.model_fields_set else None,
    )


@bp.delete("/users/<uuid:user_id>/api-keys/<uuid:key_id>")
@signed_in(permissions=(USERS_WRITE,))
@bp.doc(summary="Revoke an API key of a user", security="bearer", responses=[204, 401, 403, 404, AWAY])
def revoke_of(user_id: UUID, key_id: UUID) -> tuple[str, int]:
    _keys().revoke(str(user_id), str(key_id), by=_me())
    return "", 204


@bp.errorhandler(ApiKeyError)
@bp.errorhandler(UnknownUser)
def on_api_key_error(error: ApiKeyError | UnknownUser) -> Response:
    return problems.response(problem_of(error), problems_source())


def problem_of(error: ApiKeyError | UnknownUser) -> Problem:
    text = str(error)
    match error:
        case UnknownUser():  # for oneself only: a token that outlived its user
            return Unauthorized("The user of this token no longer exists.", code="INVALID_TOKEN", error="invalid_token")
        case UnknownApiKey():
            return NotFound(text, code="API_KEY_NOT_FOUND")
        case NotActive():
            return Conflict(text, code="API_KEY_NOT_ACTIVE")
        case TooManyApiKeys():
            return Conflict(text, code="TOO_MANY_API_KEYS")
        case BeyondOwner():
            return Forbidden(text, code="BEYOND_ONES_OWN")
        case EndsTooSoon():
            fault = FieldError("expires_at", text)
            return UnprocessableContent("Some fields are wrong; `errors` names them.", errors=[fault])
        case Refused():
            return Unauthorized(text, code="INVALID_API_KEY", error="invalid_token")
        case _:
            raise error


def _list(user_id: str) -> ApiKeyList:
    return ApiKeyList(items=[_answer(key) for key in _keys().of(user_id)])


def _answer(key: ApiKey) -> ApiKeyAnswer:
    return ApiKeyAnswer.model_validate(key)


def _told(key: ApiKey, text: str) -> NewApiKeyAnswer:
    return NewApiKeyAnswer(**_answer(key).model_dump(), key=text)


def _me() -> str:
    return current_identity().user_id


def _keys() -> ApiKeys:
    keys: ApiKeys = current_app.extensions["api_keys"]
    return keys


def init_app(app: APIFlask, keys: ApiKeys) -> None:
    app.extensions["api_keys"] = keys
    app.register_blueprint(bp)
