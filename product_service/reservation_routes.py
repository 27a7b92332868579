"""Reservations over HTTP, for our own services only. What becomes of them is told on top of `reservations`."""

from __future__ import annotations

from uuid import UUID

from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app

from common import problems
from common.defaults import problems_source
from common.models import utc_now
from common.problems import Conflict, FieldError, NotFound, Problem, UnprocessableContent
from common.service_tokens import services_only
from product_service.reservations import (
    ReservationConflict,
    ReservationError,
    ReservationExpired,
    Reservations,
    UnknownReservation,
)
from product_service.routes import AWAY, BODY, INVALIDATES
from product_service.schemas import ReservationAnswer, ReservationRequest
from product_service.stock import OutOfStock, StockError, UnknownProducts
from product_service.tables import Reservation

bp = APIBlueprint("reservations", __name__, tag="reservations")


@bp.get("/reservations/<uuid:order_id>")
@services_only
@bp.output(ReservationAnswer)
@bp.doc(summary="One order's reservation", security="bearer", responses=[401, 404, AWAY])
def show_reservation(order_id: UUID) -> Reservation:
    return _reservations().get(str(order_id))


@bp.put("/reservations/<uuid:order_id>")
@services_only
@bp.input(ReservationRequest)
@bp.output(ReservationAnswer)
@bp.doc(summary="Take stock", security="bearer", responses=[*BODY, 401, 404, 409, AWAY])
def reserve(order_id: UUID, json_data: ReservationRequest) -> tuple[Reservation, int, dict[str, str]]:
    try:
        reservation = _reservations().reserve(str(order_id), json_data.quantities, now=utc_now())
    except StockError as error:
        raise _refusal(error, json_data) from error
    return reservation, 200, INVALIDATES


@bp.post("/reservations/<uuid:order_id>/confirm")
@services_only
@bp.output(ReservationAnswer)
@bp.doc(summary="Keep the stock", security="bearer", responses=[401, 404, 409, AWAY])
def confirm(order_id: UUID) -> tuple[Reservation, int, dict[str, str]]:
    return _reservations().confirm(str(order_id), now=utc_now()), 200, INVALIDATES


@bp.delete("/reservations/<uuid:order_id>")
@services_only
@bp.doc(summary="Give the stock back", security="bearer", responses=[204, 401, 404, AWAY])
def release(order_id: UUID) -> tuple[str, int, dict[str, str]]:
    _reservations().release(str(order_id))
    return "", 204, INVALIDATES


@bp.errorhandler(ReservationError)
def on_reservation_error(error: ReservationError) -> Response:
    return problems.response(_problem(error), problems_source())


def _problem(error: ReservationError) -> Problem:
    text = str(error)
    match error:
        case UnknownReservation():
            return NotFound(text, code="RESERVATION_NOT_FOUND")
        case ReservationExpired():
            return Conflict(text, code="RESERVATION_EXPIRED")
        case ReservationConflict():
            return Conflict(text, code="RESERVATION_CONFLICT")
        case _:
            raise error


def _refusal(error: StockError, wanted: ReservationRequest) -> Problem:
    """The problem, each fault pointing to the line of the request that it is about."""
    places = {line.product_id: f"lines.{index}" for index, line in enumerate(wanted.lines)}
    match error:
        case UnknownProducts():
            faults = [
                FieldError(f"{places[id_]}.product_id", f"There is no product {id_}.") for id_ in error.product_ids
            ]
            return UnprocessableContent(str(error), code="UNKNOWN_PRODUCT", errors=faults)
        case OutOfStock():
            faults = [
                FieldError(f"{places[id_]}.quantity", f"Only {left} left of product {id_}.")
                for id_, left in error.left.items()
            ]
            return Conflict(str(error), code="OUT_OF_STOCK", errors=faults)
        case _:
            raise error


def _reservations() -> Reservations:
    reservations: Reservations = current_app.extensions["reservations"]
    return reservations


def init_app(app: APIFlask, reservations: Reservations) -> None:
    app.extensions["reservations"] = reservations
    app.register_blueprint(bp)
