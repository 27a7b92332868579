"""The service over HTTP: everybody has their own orders; some may see and cancel those of others."""

from __future__ import annotations

from uuid import UUID

from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app

from common import auditing, problems
from common.defaults import problems_source
from common.models import Page, utc_now
from common.permissions import ORDERS_READ, ORDERS_READ_ANY, ORDERS_WRITE, ORDERS_WRITE_ANY, Requirement
from common.problems import Conflict, NotFound, Problem, ServiceUnavailable, UnprocessableContent
from common.tokens import current_identity, signed_in
from order_service.checkout import Checkout, Outcome
from order_service.orders import Orders, UnknownOrder
from order_service.product_client import OutOfStock, ProductError, ProductsUnavailable, UnknownProduct
from order_service.schemas import NewOrder, OrderAnswer, OrderHistory, OrderPage, OrderQuery
from order_service.tables import Order

bp = APIBlueprint("orders", __name__, tag="orders")

READ = (ORDERS_READ, ORDERS_READ_ANY)
BODY = (400, 413, 415, 422)
"""How a body can be wrong."""
AWAY = 503
"""The database, product_service, or what the token is verified with, is not available."""


@bp.post("/orders")
@signed_in(permissions=(ORDERS_WRITE,))
@bp.input(NewOrder)
@bp.output(OrderAnswer, 201)
@bp.doc(summary="Place an order", security="bearer", responses=[*BODY, 401, 403, 409, AWAY])
def place(json_data: NewOrder) -> tuple[Order, int, dict[str, str]]:
    outcome = _checkout().place(current_identity().user_id, json_data.quantities, now=utc_now())
    return outcome.order, 201, {"Location": f"/orders/{outcome.order.id}"} | _invalidation(outcome)


@bp.get("/orders")
@signed_in(permissions=READ)
@bp.input(OrderQuery, location="query")
@bp.output(OrderPage)
@bp.doc(summary="My orders, newest first", security="bearer", responses=[401, 403, 422, AWAY])
def browse(query_data: OrderQuery) -> OrderPage:
    orders, total = _orders().page(
        of_user=_whose(query_data), status=query_data.status, offset=query_data.offset, limit=query_data.per_page
    )
    return OrderPage(
        items=[OrderAnswer.model_validate(order) for order in orders],
        page=query_data.page,
        per_page=query_data.per_page,
        total=total,
        pages=Page.count(total, query_data.per_page),
    )


@bp.get("/orders/<uuid:order_id>")
@signed_in(permissions=READ)
@bp.output(OrderAnswer)
@bp.doc(summary="One order", security="bearer", responses=[401, 403, 404, AWAY])
def show(order_id: UUID) -> Order:
    return _visible(order_id, ORDERS_READ_ANY)


@bp.get("/orders/<uuid:order_id>/history")
@signed_in(permissions=READ)
@bp.output(OrderHistory)
@bp.doc(summary="What became of an order", security="bearer", responses=[401, 403, 404, AWAY])
def history(order_id: UUID) -> OrderHistory:
    return OrderHistory.model_validate(_visible(order_id, ORDERS_READ_ANY))


@bp.post("/orders/<uuid:order_id>/cancel")
@signed_in(permissions=(ORDERS_WRITE, ORDERS_WRITE_ANY))
@bp.output(OrderAnswer)
@bp.doc(summary="Cancel an order", security="bearer", responses=[401, 403, 404, AWAY])
def cancel(order_id: UUID) -> tuple[Order, int, dict[str, str]]:
    order = _visible(order_id, ORDERS_WRITE_ANY)
    by = "the customer" if order.user_id == current_identity().user_id else "an administrator"
    outcome = _checkout().cancel(order, note=f"Cancelled by {by}.", now=utc_now())
    return outcome.order, 200, _invalidation(outcome)


@bp.errorhandler(UnknownOrder)
@bp.errorhandler(ProductError)
def on_rule_broken(error: UnknownOrder | ProductError) -> Response:
    return problems.response(_problem(error), problems_source())


def _problem(error: UnknownOrder | ProductError) -> Problem:
    match error:
        case UnknownOrder():
            return NotFound(str(error), code="ORDER_NOT_FOUND")
        case OutOfStock():
            return Conflict(str(error), code="OUT_OF_STOCK", errors=error.faults)
        case UnknownProduct():
            return UnprocessableContent(str(error), code="UNKNOWN_PRODUCT", errors=error.faults)
        case ProductsUnavailable():
            text = "Products can't be reserved just now, so nothing was ordered. Try again."
            return ServiceUnavailable(text, code="PRODUCTS_UNAVAILABLE", retry_after_s=2)
        case _:
            raise error


def _visible(order_id: UUID, any_of: str) -> Order:
    """The order, if it is the caller's or the caller has the permission `any_of`; for others there is none."""
    identity = current_identity()
    order = _orders().get(str(order_id), of_user=None if identity.may(any_of) else identity.user_id)
    if order.user_id != identity.user_id:
        auditing.note("orders.seen", subject=order.user_id, details={"order": order.id, "permission": any_of})
    return order


def _whose(query: OrderQuery) -> str | None:
    """Whose orders are asked for; None for everybody's."""
    identity = current_identity()
    whose = query.user_id or (None if query.all else identity.user_id)
    if whose != identity.user_id:
        Requirement(permissions=(ORDERS_READ_ANY,)).check(identity)
        auditing.note("orders.listed", subject=whose or "everybody")
    return whose


def _invalidation(outcome: Outcome) -> dict[str, str]:
    return {"Cache-Group-Invalidation": outcome.invalidates} if outcome.invalidates else {}


def _orders() -> Orders:
    orders: Orders = current_app.extensions["orders"]
    return orders


def _checkout() -> Checkout:
    checkout: Checkout = current_app.extensions["checkout"]
    return checkout


def init_app(app: APIFlask, orders: Orders, checkout: Checkout) -> None:
    app.extensions["orders"] = orders
    app.extensions["checkout"] = checkout
    app.register_blueprint(bp)
