"""Orders: what becomes of one, and what is still to be done about it at product_service.

An order is placed in this database, its stock is taken in another one, and no transaction spans both. So each row
carries, beside the `status` that its owner sees, a `settlement`: the work with product_service that is outstanding.
Both change in one transaction, which makes each row its own outbox: whatever crashes, whoever finds the row knows what
to do next. Every such step may be repeated at will; an HTTP call never happens inside a transaction.

    status      settlement   what it means                                     what is to be done
    ---------   ----------   -----------------------------------------------   -----------------------------------------
    (draft)     reserving    its request is asking for the stock just now       if that takes too long: give it up
    pending     confirming   stock is held, prices are agreed, the order stands confirm the reservation
    confirmed   settled      the stock is ours                                  nothing
    cancelled   releasing    called off                                         release the reservation
    cancelled   settled      the stock is back                                  nothing
    (draft)     releasing    never came to be, but stock may have been taken    release the reservation, remove the row

    reserving --agree--> confirming --confirm--> settled          the way of an order that goes well
    reserving --discard--> (no row)                              product_service refused; nothing was taken
    reserving --give_up--> releasing                             nobody knows whether stock was taken
    confirming, settled --cancel--> releasing                    by its owner, or because it is sold out
    releasing --released--> settled, or for a draft (no row)

A draft has no prices and no total; nobody is shown it. From `agree` on the order stands: it may wait for its
confirmation while product_service is away, and if its hold expires meanwhile a new one is taken at the agreed prices.
Only if the stock is sold by then is it cancelled, and its history says why.

The request that places or cancels an order does the next step itself. What it could not do, because product_service
was away or the worker was killed, the reconciler does once `due_at` has come (see `checkout`). Requests and any number
of reconcilers may act on one order at the same time: each transition is an UPDATE that names the settlement it leaves,
so one of them makes it and the others learn that they were late.

OrderError
└── UnknownOrder    there is no such order, or it is somebody else's
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.orm import Session

from common.db import Database
from order_service.product_client import Offer
from order_service.tables import Order, OrderEvent, OrderLine, OrderStatus, Settlement

MAX_WAIT_S = 60.0


class OrderError(Exception):
    """A rule was broken; the text may be told to the caller."""


class UnknownOrder(OrderError):
    def __init__(self) -> None:
        super().__init__("There is no such order.")


class Orders:
    """The orders in one database. Shared by greenlets, threads and processes: conditional updates protect each row.

    A transition returns whether it was made; it was not if the order has left the state meanwhile.
    """

    def __init__(self, database: Database, *, patience_s: float) -> None:
        """`patience_s` is how long the reconciler leaves the next step to the request that made a transition."""
        self._database = database
        self._patience_s = patience_s

    def get(self, order_id: str, *, of_user: str | None = None) -> Order:
        """An order that stands or stood; with `of_user` only if it is theirs."""
        with self._database.read() as session:
            order = session.get(Order, order_id)
        if order is None or order.is_draft or (of_user is not None and order.user_id != of_user):
            raise UnknownOrder
        return order

    def page(
        self, *, of_user: str | None, status: OrderStatus | None, offset: int, limit: int
    ) -> tuple[Sequence[Order], int]:
        """Orders, newest first, and how many there are on all pages; of everybody where `of_user` is None."""
        wanted: list[ColumnElement[bool]] = [Order.total.is_not(None)]
        if of_user is not None:
            wanted.append(Order.user_id == of_user)
        if status is not None:
            wanted.append(Order.status == status)
        newest = select(Order).where(*wanted).order_by(Order.created_at.desc(), Order.id.desc())
        with self._database.read() as session:
            total = session.scalar(select(func.count()).select_from(Order).where(*wanted)) or 0
            return session.scalars(newest.offset(offset).limit(limit)).all(), total

    def all_of(self, user_id: str) -> Sequence[Order]:
        """Whatever is kept of a user's orders, drafts too, the oldest first."""
        theirs = select(Order).where(Order.user_id == user_id).order_by(Order.created_at, Order.id)
        with self._database.read() as session:
            return session.scalars(theirs).all()

    def forget(self, user_id: str) -> None:
        """Take free text out of a user's orders. The rest stays: it is what the law wants kept of a sale, and the id
        in it leads to nobody any more. May be repeated."""
        theirs = select(Order.id).where(Order.user_id == user_id)
        noted = update(OrderEvent).where(OrderEvent.order_id.in_(theirs), OrderEvent.note != "")
        with self._database.write() as session:
            session.execute(noted.values(note=""), execution_options={"synchronize_session": False})

    def draft(self, user_id: str, quantities: Mapping[int, int], *, now: datetime) -> Order:
        """(nothing) -> reserving. `quantities` by product id."""
        lines = [
            OrderLine(position=position, product_id=product_id, quantity=quantity)
            for position, (product_id, quantity) in enumerate(quantities.items())
        ]
        with self._database.write() as session:
            order = Order(user_id=user_id, lines=lines, created_at=now, updated_at=now, due_at=self._later(now))
            session.add(order)
        return order

    def agree(self, order_id: str, offers: Mapping[int, Offer], *, now: datetime) -> bool:
        """reserving -> confirming: the order stands, at these prices by product id."""
        with self._database.write() as session:
            if not _move(session, order_id, Order.settlement == "reserving", to="confirming", due_at=self._later(now)):
                return False
            order = session.get_one(Order, order_id)
            for line in order.lines:
                line.name, line.unit_price = offers[line.product_id].name, offers[line.product_id].unit_price
            order.total = sum(line.line_total for line in order.lines)
            session.add(OrderEvent(order_id=order_id, status="pending", at=now))
        return True

    def discard(self, order_id: str) -> bool:
        """reserving -> (no row): nothing was taken, so nothing is to be given back."""
        with self._database.write() as session:
            return _remove(session, order_id, Order.settlement == "reserving")

    def give_up(self, order_id: str, *, now: datetime) -> bool:
        """reserving -> releasing: nobody knows whether stock was taken. The reconciler may come at once."""
        with self._database.write() as session:
            return _move(session, order_id, Order.settlement == "reserving", to="releasing", due_at=now)

    def confirm(self, order_id: str, *, now: datetime) -> bool:
        """confirming -> settled: the stock is ours."""
        with self._database.write() as session:
            if not _move(
                session, order_id, Order.settlement == "confirming", to="settled", due_at=None, status="confirmed"
            ):
                return False
            session.add(OrderEvent(order_id=order_id, status="confirmed", at=now))
        return True

    def cancel(self, order_id: str, *, note: str, now: datetime) -> bool:
        """confirming or settled -> releasing, unless it is cancelled already."""
        stands = and_(Order.settlement.in_(("confirming", "settled")), Order.status != "cancelled")
        with self._database.write() as session:
            if not _move(session, order_id, stands, to="releasing", due_at=self._later(now), status="cancelled"):
                return False
            session.add(OrderEvent(order_id=order_id, status="cancelled", at=now, note=note))
        return True

    def released(self, order_id: str) -> bool:
        """releasing -> settled, and a draft -> (no row): whatever was taken is back."""
        is_released = Order.settlement == "releasing"
        with self._database.write() as session:
            return _remove(session, order_id, and_(is_released, Order.total.is_(None))) or _move(
                session, order_id, is_released, to="settled", due_at=None
            )

    def due(self, *, now: datetime, limit: int) -> Sequence[Order]:
        """Orders whose next step somebody else than their own request has to do, the most urgent first."""
        overdue = select(Order).where(Order.due_at <= now).order_by(Order.due_at).limit(limit)
        with self._database.read() as session:
            return session.scalars(overdue).all()

    def claim(self, order: Order, *, now: datetime) -> bool:
        """Take up an order that was due, as it was seen; it is due again later, and later each time."""
        wait_s = min(self._patience_s * 2 ** min(order.attempts, 10), max(self._patience_s, MAX_WAIT_S))
        as_seen = (Order.id == order.id, Order.settlement == order.settlement, Order.due_at == order.due_at)
        claim = update(Order).where(*as_seen)
        claim = claim.values(
            due_at=now + timedelta(seconds=wait_s), attempts=Order.attempts + 1, updated_at=Order.updated_at
        )
        with self._database.write() as session:
            return session.scalar(claim.returning(Order.id)) is not None

    def _later(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self._patience_s)


def _move(
    session: Session,
    order_id: str,
    leaving: ColumnElement[bool],
    *,
    to: Settlement,
    due_at: datetime | None,
    status: OrderStatus | None = None,
) -> bool:
    change = update(Order).where(Order.id == order_id, leaving)
    change = change.values(settlement=to, due_at=due_at, attempts=0, **({"status": status} if status else {}))
    return session.scalar(change.returning(Order.id)) is not None


def _remove(session: Session, order_id: str, leaving: ColumnElement[bool]) -> bool:
    return session.scalar(delete(Order).where(Order.id == order_id, leaving).returning(Order.id)) is not None
