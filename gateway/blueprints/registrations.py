"""The registry by HTTP, for services that can't write it themselves. Only the operations listener has these pages.

    POST    /registrations    {"service": "students", "url": "http://10.0.0.9:5005", "weight": 1, "lease_s": 15}
    DELETE  /registrations?service=students&url=http://10.0.0.9:5005
    GET     /registrations

A lease that is not renewed by the same POST is over after `lease_s`. Who registers decides where callers' requests and
their tokens go, so it takes an administrator's token or the REGISTRY_TOKEN.
"""

from __future__ import annotations

import hmac
from typing import Annotated, Literal, TypeVar

import redis
import structlog
from flask import Blueprint, Response, request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from common.health import page
from common.keys import InvalidToken
from common.problems import FieldError, NotFound, ServiceUnavailable, UnprocessableContent
from common.registry import LEASE_S
from common.service_settings import MOST_WEIGHT
from common.tokens import bearer_token
from gateway import auditing
from gateway.blueprints.pages import current_exchange
from gateway.notation import parse_address
from gateway.policies.identity import require_operator
from gateway.table import Table

log = structlog.get_logger("registrations")

bp = Blueprint("registrations", __name__)

LARGEST_BYTES = 4096


def _address(value: str) -> str:
    try:
        return parse_address(value)
    except ValueError:
        right = "must be an address like http://10.0.0.9:5005, without path, user name or password"
        raise ValueError(right) from None


class Registered(BaseModel):
    """An instance of a service, NAME or NAME@VERSION."""

    model_config = ConfigDict(extra="forbid")

    service: str
    url: Annotated[str, Field(max_length=300), AfterValidator(_address)]


class Registration(Registered):
    """The same, for `lease_s` seconds."""

    weight: float = Field(1.0, gt=0, le=MOST_WEIGHT)
    lease_s: float = Field(LEASE_S, ge=1, le=3600)


R = TypeVar("R", bound=BaseModel)


@bp.get("/registrations")
def listed() -> Response:
    """Who is registered, with the seconds that are left of each lease."""
    exchange = current_exchange()
    try:
        rows = [
            {
                "service": service,
                "url": member.url,
                "weight": member.weight,
                "seconds_left": round(min(member.seconds_left, 1e9), 1),
            }
            for service in _registries(exchange.table)
            for member in exchange.runtime.registry.members(service)
        ]
    except redis.RedisError as error:
        raise _away() from error
    return page({"services": _registries(exchange.table), "registrations": rows})


@bp.post("/registrations")
def register() -> Response:
    """Begin a lease, or renew it."""
    by = _authorized()
    request.max_content_length = LARGEST_BYTES
    wanted = read_as(Registration, request.get_json(), "body")
    exchange = current_exchange()
    _check_service(wanted.service, exchange.table)
    try:
        is_new = exchange.runtime.registry.register(
            wanted.service, wanted.url, weight=wanted.weight, lease_s=wanted.lease_s
        )
    except redis.RedisError as error:
        raise _away() from error
    if is_new:
        log.info("registered", to=wanted.service, url=wanted.url, weight=wanted.weight, by=by)
        auditing.note("instance.registered", by=by, subject=f"{wanted.service} {wanted.url}")
    return page({**wanted.model_dump(), "renew_within_s": wanted.lease_s / 3}, 201 if is_new else 200)


@bp.delete("/registrations")
def deregister() -> Response:
    """End a lease; that there is none is no fault."""
    by = _authorized()
    wanted = read_as(Registered, request.args.to_dict(), "query")
    exchange = current_exchange()
    _check_service(wanted.service, exchange.table)
    try:
        exchange.runtime.registry.deregister(wanted.service, wanted.url)
    except redis.RedisError as error:
        raise _away() from error
    log.info("deregistered", to=wanted.service, url=wanted.url, by=by)
    auditing.note("instance.deregistered", by=by, subject=f"{wanted.service} {wanted.url}")
    return Response(status=204)


def _authorized() -> str:
    """Who sends this, for the log. Raises 401 and 403."""
    exchange = current_exchange()
    own = exchange.runtime.settings.registry_token
    try:
        given = bearer_token(exchange.headers.get("authorization"))
    except InvalidToken:
        given = None  # told below
    if own and given and hmac.compare_digest(given.encode(), own.encode()):
        return "registry token"
    return f"user:{require_operator(exchange).user_id}"


def read_as(kind: type[R], given: object, location: Literal["body", "query"]) -> R:
    """`given` as it should be. Raises 422 that names each field that is not."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        faults = [
            FieldError(".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, "), location)
            for fault in error.errors()
        ]
        raise UnprocessableContent("The request has faults; errors names each.", errors=faults) from None


def _check_service(service: str, table: Table) -> None:
    """Raises 404 for a service that takes no registrations; it says what to do."""
    known = table.services.get(service)
    if known is not None and known.sources.registered is not None:
        return
    way_out = "give it `instances: [registry]` in the services file"
    fault = f"There is no service {service}" if known is None else f"The service {service} does not ask the registry"
    others = ", ".join(_registries(table)) or "none so far"
    raise NotFound(f"{fault}: {way_out}. Those that do: {others}.", code="SERVICE_NOT_FOUND")


def _registries(table: Table) -> list[str]:
    return sorted(key for key, service in table.services.items() if service.sources.registered is not None)


def _away() -> ServiceUnavailable:
    return ServiceUnavailable("Redis, where the registry is, can't be asked just now.")
