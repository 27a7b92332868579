"""Roles over HTTP: who may what, for those who decide that."""

from __future__ import annotations

import re
from typing import Annotated
from uuid import UUID

from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app
from pydantic import AfterValidator, Field

from common import problems
from common.defaults import problems_source
from common.models import Schema
from common.permissions import (
    MAX_LENGTH,
    PATTERN,
    ROLE_PATTERN,
    ROLES_WRITE,
    USERS_WRITE,
    parse_permission,
)
from common.problems import Conflict, FieldError, Forbidden, NotFound, Problem, UnprocessableContent
from common.tokens import current_identity, signed_in
from user_service.roles import BeyondOnesOwn, Bundle, LastAdministrator, RoleError, RoleProtected, Roles, UnknownRole
from user_service.schemas import Profile
from user_service.tables import User
from user_service.users import UnknownUser

bp = APIBlueprint("roles", __name__, tag="roles")

BODY = (400, 413, 415, 422)
AWAY = 503
MOST_PERMISSIONS = 64  # of a role: they stand in each token
MOST_ROLES = 16  # of a user

Permission = Annotated[str, AfterValidator(parse_permission), Field(max_length=MAX_LENGTH, pattern=PATTERN)]
RoleName = Annotated[str, Field(max_length=64, pattern=ROLE_PATTERN)]


class RoleChange(Schema):
    permissions: list[Permission] = Field(max_length=MOST_PERMISSIONS, examples=[["products:write", "orders:read:any"]])
    description: str | None = Field(None, max_length=200, description="Left as it is where it is not given.")


class RoleAnswer(Schema):
    name: str
    permissions: list[str]
    description: str
    is_built_in: bool = Field(description="Such a role can't be deleted.")


class RoleList(Schema):
    items: list[RoleAnswer]


class RolesOfUser(Schema):
    roles: list[RoleName] = Field(max_length=MOST_ROLES, examples=[["customer"]])


@bp.get("/users/roles")
@signed_in(permissions=(ROLES_WRITE, USERS_WRITE))
@bp.output(RoleList)
@bp.doc(summary="All roles", security="bearer", responses=[401, 403, AWAY])
def browse() -> RoleList:
    return RoleList(items=[RoleAnswer.model_validate(role) for role in _roles().all()])


@bp.put("/users/roles/<name>")
@signed_in(permissions=(ROLES_WRITE,))
@bp.input(RoleChange)
@bp.output(RoleAnswer)
@bp.doc(summary="Make or change a role", security="bearer", responses=[*BODY, 401, 403, 409, AWAY])
def put(name: str, json_data: RoleChange) -> Bundle:
    return _roles().put(_name(name), json_data.permissions, json_data.description, by=current_identity())


@bp.delete("/users/roles/<name>")
@signed_in(permissions=(ROLES_WRITE,))
@bp.doc(
    summary="Take a role from everybody, and away", security="bearer", responses=[204, 401, 403, 404, 409, 422, AWAY]
)
def delete(name: str) -> tuple[str, int]:
    _roles().delete(_name(name), by=current_identity())
    return "", 204


@bp.put("/users/<uuid:user_id>/roles")
@signed_in(permissions=(USERS_WRITE,))
@bp.input(RolesOfUser)
@bp.output(Profile)
@bp.doc(summary="Give and take roles", security="bearer", responses=[*BODY, 401, 403, 404, 409, AWAY])
def assign(user_id: UUID, json_data: RolesOfUser) -> User:
    return _roles().assign(str(user_id), json_data.roles, by=current_identity())


@bp.errorhandler(RoleError)
@bp.errorhandler(UnknownUser)
def on_role_error(error: RoleError | UnknownUser) -> Response:
    return problems.response(_problem(error), problems_source())


def _problem(error: RoleError | UnknownUser) -> Problem:
    text = str(error)
    match error:
        case UnknownUser():
            return NotFound(text, code="USER_NOT_FOUND")
        case UnknownRole():
            return NotFound(text, code="ROLE_NOT_FOUND")
        case RoleProtected():
            return Conflict(text, code="ROLE_PROTECTED")
        case LastAdministrator():
            return Conflict(text, code="LAST_ADMINISTRATOR")
        case BeyondOnesOwn():
            return Forbidden(text, code="BEYOND_ONES_OWN")
        case _:
            raise error


def _name(text: str) -> str:
    if not re.fullmatch(ROLE_PATTERN, text):
        fault = FieldError("name", "must be small letters, digits, - and _, and begin with a letter", "path")
        raise UnprocessableContent("That can't be the name of a role.", errors=[fault])
    return text


def _roles() -> Roles:
    roles: Roles = current_app.extensions["roles"]
    return roles


def init_app(app: APIFlask, roles: Roles) -> None:
    app.extensions["roles"] = roles
    app.register_blueprint(bp)
