"""The service over HTTP. The gateway forwards `/users/...` and `/auth/...` here, both as `/users/...`."""

from __future__ import annotations

from uuid import UUID

from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app, request

from common import auditing, problems
from common.auditing import caller_address
from common.defaults import problems_source
from common.models import Page, PageQuery
from common.permissions import PROFILE_READ, PROFILE_WRITE, USERS_READ
from common.problems import (
    Conflict,
    FieldError,
    Forbidden,
    NotFound,
    Problem,
    TooManyRequests,
    Unauthorized,
    UnprocessableContent,
)
from common.tokens import current_identity, signed_in
from user_service.access_tokens import AccessTokens
from user_service.guard import TooManyFailures
from user_service.login import Login
from user_service.schemas import (
    Credentials,
    JwkSet,
    PasswordChange,
    Profile,
    ProfileChange,
    Registration,
    TokenPair,
    UserPage,
)
from user_service.second_factor import AlreadyActive, NotEnrolled
from user_service.session_routes import pair
from user_service.sessions import Sessions
from user_service.tables import User
from user_service.users import (
    MalformedName,
    NameTaken,
    PasswordDenied,
    PasswordTooShort,
    SecondFactorRequired,
    UnknownUser,
    UserError,
    Users,
    WrongCode,
    WrongCredentials,
    WrongPassword,
)

bp = APIBlueprint("users", __name__, tag="users")

BODY = (400, 413, 415, 422)
"""How a body can be wrong."""
AWAY = 503
"""The database, or what the token is verified with, is not available."""


@bp.post("/users/register")
@bp.input(Registration)
@bp.output(Profile, 201)
@bp.doc(summary="Register", responses=[*BODY, 409, AWAY])
def register(json_data: Registration) -> tuple[User, int, dict[str, str]]:
    user = _users().register(json_data.username, json_data.password, json_data.email)
    auditing.note("user.registered", subject=user.id)
    return user, 201, {"Location": "/users/profile"}


@bp.post("/users/login")
@bp.input(Credentials)
@bp.output(TokenPair)
@bp.doc(summary="Log in", responses=[*BODY, 401, 429, AWAY])
def login(json_data: Credentials) -> TokenPair:
    address = caller_address()
    found = _login().authenticate(json_data.username, json_data.password, json_data.otp, address)
    sessions: Sessions = current_app.extensions["sessions"]
    device = request.headers.get("User-Agent", "")
    return pair(sessions.begin(found.user, found.amr, device=device, address=address))


@bp.get("/users/profile")
@signed_in(permissions=(PROFILE_READ,))
@bp.output(Profile)
@bp.doc(summary="My profile", security="bearer", responses=[401, 403, AWAY])
def profile() -> User:
    return myself()


@bp.patch("/users/profile")
@signed_in(permissions=(PROFILE_WRITE,))
@bp.input(ProfileChange)
@bp.output(Profile)
@bp.doc(summary="Change my profile", security="bearer", responses=[*BODY, 401, 403, AWAY])
def change_profile(json_data: ProfileChange) -> User:
    return _users().change_email(myself(), json_data.email)


@bp.post("/users/password")
@signed_in(session=True)
@bp.input(PasswordChange)
@bp.doc(summary="Change my password", security="bearer", responses=[204, *BODY, 401, 403, 429, AWAY])
def change_password(json_data: PasswordChange) -> tuple[str, int]:
    _login().change_password(
        myself(),
        json_data.current_password,
        json_data.new_password,
        address=caller_address(),
        session=current_identity().session,
    )
    return "", 204


@bp.get("/users")
@signed_in(permissions=(USERS_READ,))
@bp.input(PageQuery, location="query")
@bp.output(UserPage)
@bp.doc(summary="All users, by name", security="bearer", responses=[401, 403, 422, AWAY])
def browse(query_data: PageQuery) -> UserPage:
    auditing.note("profiles.listed", details={"page": str(query_data.page)})
    users, total = _users().page(query_data.offset, query_data.per_page)
    return UserPage(
        items=[Profile.model_validate(user) for user in users],
        page=query_data.page,
        per_page=query_data.per_page,
        total=total,
        pages=Page.count(total, query_data.per_page),
    )


@bp.get("/users/<uuid:user_id>")
@signed_in(permissions=(PROFILE_READ, USERS_READ))
@bp.output(Profile)
@bp.doc(summary="One user: oneself, or any for an administrator", security="bearer", responses=[401, 403, 404, AWAY])
def show(user_id: UUID) -> User:
    identity = current_identity()
    if identity.user_id != str(user_id) and not identity.may(USERS_READ):
        raise UnknownUser  # and not 403, which would tell that there is one
    user = _users().get(str(user_id))
    if identity.user_id != user.id:
        auditing.note("profile.seen", subject=user.id)
    return user


@bp.get("/.well-known/jwks.json")
@bp.output(JwkSet)
@bp.doc(summary="Public keys that verify access tokens", responses=[AWAY])
def jwks() -> tuple[dict[str, object], int, dict[str, str]]:
    return {"keys": _tokens().published_keys()}, 200, {"Cache-Control": "public, max-age=60"}


@bp.errorhandler(UserError)
def on_user_error(error: UserError) -> Response:
    return problems.response(_problem(error), problems_source())


def _problem(error: UserError) -> Problem:
    text = str(error)
    match error:
        case NameTaken():
            return Conflict(text, code="USERNAME_TAKEN")
        case WrongCredentials():
            return Unauthorized(text, code="WRONG_CREDENTIALS")
        case WrongPassword():
            return Forbidden(text, code="WRONG_PASSWORD")
        case UnknownUser():
            return NotFound(text, code="USER_NOT_FOUND")
        case MalformedName():
            return UnprocessableContent(text, errors=[FieldError("username", text)])
        case PasswordTooShort():
            return UnprocessableContent(text, code="PASSWORD_TOO_SHORT", errors=[FieldError(error.field, text)])
        case PasswordDenied():
            return UnprocessableContent(text, code="PASSWORD_DENIED", errors=[FieldError(error.field, text)])
        case SecondFactorRequired():
            return Unauthorized(text, code="SECOND_FACTOR_REQUIRED")
        case WrongCode():
            return Forbidden(text, code="WRONG_OTP")
        case AlreadyActive():
            return Conflict(text, code="SECOND_FACTOR_ACTIVE")
        case NotEnrolled():
            return Conflict(text, code="SECOND_FACTOR_NOT_ENROLLED")
        case TooManyFailures():
            wait = ("Retry-After", str(error.retry_after_s))
            return TooManyRequests(text, code="LOGIN_BLOCKED", headers=[wait])
        case _:
            raise error


def myself() -> User:
    """The user whom the token speaks for; one who is gone has no valid token."""
    try:
        return _users().get(current_identity().user_id)
    except UnknownUser:
        raise Unauthorized(
            "The user of this token no longer exists.", code="INVALID_TOKEN", error="invalid_token"
        ) from None


def _login() -> Login:
    login: Login = current_app.extensions["login"]
    return login


def _users() -> Users:
    users: Users = current_app.extensions["users"]
    return users


def _tokens() -> AccessTokens:
    tokens: AccessTokens = current_app.extensions["access_tokens"]
    return tokens


def init_app(app: APIFlask, users: Users, tokens: AccessTokens) -> None:
    app.extensions["users"] = users
    app.extensions["access_tokens"] = tokens
    app.register_blueprint(bp)
