"""What is done with product_service about orders: by the requests that place and cancel them, and by the reconciler.

The states are told on top of `orders`. Each step here is a transition in our database, then a call, then a transition;
after a failure anywhere the row says how to go on, and `settle_due` does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import structlog

from order_service.orders import Orders
from order_service.product_client import (
    ProductError,
    ProductsUnavailable,
    Refused,
    ReservationConflict,
    ReservationGone,
    Reserved,
)
from order_service.tables import Order

BATCH = 50
log = structlog.get_logger("checkout")


class Products(Protocol):
    """What is needed of `ProductClient`."""

    def reserve(self, order_id: str, quantities: Mapping[int, int]) -> Reserved: ...
    def confirm(self, order_id: str) -> str: ...
    def release(self, order_id: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """The order as it is now, and the cache groups that product_service invalidated, "" for none (RFC 9875)."""

    order: Order
    invalidates: str


class Checkout:
    """Shared by greenlets; all it keeps is shared by greenlets itself."""

    def __init__(self, orders: Orders, products: Products) -> None:
        self._orders = orders
        self._products = products

    def place(self, user_id: str, quantities: Mapping[int, int], *, now: datetime) -> Outcome:
        """Place an order for these quantities by product id. Raises `Refused` and `ProductsUnavailable`.

        1. Write a draft.  2. Reserve the stock.  3. Agree on the prices; from here on the order stands.
        4. Confirm the reservation.  5. Note that.  If 4 or 5 fail the reconciler goes on, and the order is pending.
        """
        # 1
        order_id = self._orders.draft(user_id, quantities, now=now).id
        # 2
        reserved = self._reserve(order_id, quantities, now)
        # 3
        if not self._orders.agree(order_id, reserved.offers, now=now):
            raise ProductsUnavailable("so slow that the reconciler has given the order up")
        # 4, 5
        try:
            self._products.confirm(order_id)
        except ProductError as error:
            log.warning("order_left_pending", order_id=order_id, reason=type(error).__name__)
        else:
            self._orders.confirm(order_id, now=now)
        return Outcome(self._orders.get(order_id), reserved.invalidates)

    def cancel(self, order: Order, *, note: str, now: datetime) -> Outcome:
        """Call `order` off and give its stock back, now or, if product_service is away, later. May be repeated."""
        invalidates = ""
        if self._orders.cancel(order.id, note=note, now=now):
            try:
                invalidates = self._release(order.id)
            except ProductError as error:
                log.warning("stock_not_released_yet", order_id=order.id, reason=type(error).__name__)
        return Outcome(self._orders.get(order.id), invalidates)

    def settle_due(self, *, now: datetime) -> int:
        """Do the next step of orders that are due, one batch; how many were done. Any number may do so at once."""
        done = 0
        for order in self._orders.due(now=now, limit=BATCH):
            if not self._orders.claim(order, now=now):
                continue  # somebody else was faster
            try:
                self._settle(order, now)
                done += 1
            except ProductsUnavailable:
                break  # the others would wait for the same timeout
            except ProductError as error:
                log.warning("order_not_settled", order_id=order.id, reason=type(error).__name__)
        return done

    def _reserve(self, order_id: str, quantities: Mapping[int, int], now: datetime) -> Reserved:
        try:
            return self._products.reserve(order_id, quantities)
        except Refused:
            self._orders.discard(order_id)
            raise
        except ProductError as error:
            self._orders.give_up(order_id, now=now)
            raise ProductsUnavailable("stock could not be reserved") from error

    def _release(self, order_id: str) -> str:
        invalidates = self._products.release(order_id)
        self._orders.released(order_id)
        return invalidates

    def _settle(self, order: Order, now: datetime) -> None:
        match order.settlement:
            case "reserving":
                if self._orders.give_up(order.id, now=now):
                    self._release(order.id)
            case "confirming":
                self._confirm_or_cancel(order, now)
            case "releasing":
                self._release(order.id)
            case "settled":
                pass  # never due

    def _confirm_or_cancel(self, order: Order, now: datetime) -> None:
        try:
            self._confirm(order)
        except (Refused, ReservationConflict) as error:
            log.warning("order_cancelled", order_id=order.id, reason=type(error).__name__)
            if self._orders.cancel(order.id, note="Sold out before the order could be confirmed.", now=now):
                self._release(order.id)
        else:
            self._orders.confirm(order.id, now=now)

    def _confirm(self, order: Order) -> None:
        try:
            self._products.confirm(order.id)
        except ReservationGone:  # the hold has expired: take a new one; the agreed prices stay
            self._products.reserve(order.id, order.quantities)
            self._products.confirm(order.id)
