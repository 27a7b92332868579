"""What user_service asks about a user's orders: a copy of all of them, and to forget what need not be kept."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from apiflask import APIBlueprint, APIFlask
from flask import current_app
from pydantic import ConfigDict

from common.models import Money, Schema
from common.service_tokens import services_only
from order_service.orders import Orders
from order_service.schemas import HistoryEntry
from order_service.tables import OrderStatus

bp = APIBlueprint("privacy", __name__, tag="privacy")

AWAY = 503


class ExportedLine(Schema):
    """Name and price are null in an order that never came to be."""

    model_config = ConfigDict(extra="ignore")

    position: int
    product_id: int
    name: str | None
    quantity: int
    unit_price: Money | None


class ExportedOrder(Schema):
    model_config = ConfigDict(extra="ignore")

    id: str
    user_id: str
    status: OrderStatus
    total: Money | None
    currency: str
    created_at: datetime
    updated_at: datetime
    lines: list[ExportedLine]
    history: list[HistoryEntry]


class ExportedOrders(Schema):
    orders: list[ExportedOrder]


@bp.get("/internal/users/<uuid:user_id>/data")
@services_only
@bp.output(ExportedOrders)
@bp.doc(summary="All orders of a user", security="bearer", responses=[401, 404, AWAY])
def data(user_id: UUID) -> ExportedOrders:
    orders = _orders().all_of(str(user_id))
    return ExportedOrders(orders=[ExportedOrder.model_validate(order) for order in orders])


@bp.post("/internal/users/<uuid:user_id>/erasure")
@services_only
@bp.doc(summary="Forget a user", security="bearer", responses=[204, 401, 404, AWAY])
def erase(user_id: UUID) -> tuple[str, int]:
    _orders().forget(str(user_id))
    return "", 204


def _orders() -> Orders:
    orders: Orders = current_app.extensions["orders"]
    return orders


def init_app(app: APIFlask) -> None:
    app.register_blueprint(bp)
