"""What user_service asks about a user: the reservations of their orders. Nothing here names users, so there is nothing
to forget: a reservation knows its order, and that leads to nobody once the user is forgotten elsewhere."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from apiflask import APIBlueprint, APIFlask
from flask import current_app
from pydantic import ConfigDict, Field

from common.models import Money, Schema
from common.service_tokens import services_only
from product_service.reservations import Reservations
from product_service.tables import ReservationStatus

bp = APIBlueprint("privacy", __name__, tag="privacy")

MOST_AT_ONCE = 500
AWAY = 503


class OrderIds(Schema):
    orders: list[Annotated[str, Field(max_length=36, pattern=r"^[0-9A-Za-z-]+$")]] = Field(max_length=MOST_AT_ONCE)


class ExportedLine(Schema):
    model_config = ConfigDict(extra="ignore")

    product_id: int
    name: str
    quantity: int
    unit_price: Money


class ExportedReservation(Schema):
    """`id` is the order's."""

    model_config = ConfigDict(extra="ignore")

    id: str
    status: ReservationStatus
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    lines: list[ExportedLine]


class ExportedReservations(Schema):
    reservations: list[ExportedReservation]


@bp.post("/internal/users/<uuid:user_id>/data")
@services_only
@bp.input(OrderIds)
@bp.output(ExportedReservations)
@bp.doc(
    summary="The reservations of a user's orders", security="bearer", responses=[400, 401, 404, 413, 415, 422, AWAY]
)
def data(user_id: UUID, json_data: OrderIds) -> ExportedReservations:
    rows = _reservations().of_orders(json_data.orders)
    return ExportedReservations(reservations=[ExportedReservation.model_validate(row) for row in rows])


def _reservations() -> Reservations:
    reservations: Reservations = current_app.extensions["reservations"]
    return reservations


def init_app(app: APIFlask) -> None:
    app.register_blueprint(bp)
