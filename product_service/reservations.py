"""Reservations: stock that is taken for an order before the order is certain. A reservation has its order's id.

    (nothing) --reserve--> held --confirm--> confirmed        held, confirmed: the stock is taken
                            | ^
               time is over | | reserve
                            v |
                          expired                             expired, released: it is not

    any of them, (nothing) too, --release--> released         and that is final

- **held**: the stock is taken, until `expires_at`.
- **confirmed**: the stock is taken for good; the order stands.
- **expired**: nobody confirmed in time, so the stock was given back. The order may reserve again, with what is left.
- **released**: the order is off, and the stock, if any was taken, was given back. This is final, and an order that was
  never heard of can be released too: the row is then a tombstone that refuses a `reserve` which was long on its way.

Stock is taken exactly in `held` and `confirmed`; whoever moves a reservation into these states or out of them changes
the stock in the same transaction. So at any time, for each product:

    stock + what is held + what is confirmed == what there was

`reserve` and `release` may be repeated at will, and so may `confirm`. All lines of a reservation are taken or none.

Many workers do this at once. A reservation is changed under the lock of its row (on SQLite: of the database), or by an
UPDATE that names the state it leaves; its stock by `stock = stock - n WHERE stock >= n`. Locks are taken in one order,
first the reservation, then its products by ascending id, so there is no deadlock. Two who create the same
reservation meet at its primary key: the one who was later starts again and finds what the other left.

ReservationError
├── UnknownReservation
├── ReservationExpired     it can't be confirmed any more; reserving again may help
└── ReservationConflict    it was released, or made for other lines
(and those of `stock`: UnknownProducts, OutOfStock)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from common.db import Database
from product_service import stock
from product_service.stock import OutOfStock
from product_service.tables import Reservation, ReservationLine

EXPIRY_BATCH = 100
T = TypeVar("T")


class ReservationError(Exception):
    """A rule was broken; the text may be told to the caller."""


class UnknownReservation(ReservationError):
    def __init__(self) -> None:
        super().__init__("There is no such reservation.")


class ReservationExpired(ReservationError):
    def __init__(self) -> None:
        super().__init__("The reservation has expired; its stock is given back. Reserve again.")


class ReservationConflict(ReservationError):
    """The text tells which of the two it was."""


class Reservations:
    """The reservations in one database. Shared by greenlets, threads and processes: the database's locks protect it."""

    def __init__(self, database: Database, *, hold_s: float) -> None:
        self._database = database
        self._hold = timedelta(seconds=hold_s)

    def get(self, order_id: str) -> Reservation:
        with self._database.read() as session:
            return _known(session.get(Reservation, order_id))

    def of_orders(self, order_ids: Sequence[str]) -> Sequence[Reservation]:
        """Those that there are."""
        with self._database.read() as session:
            return session.scalars(select(Reservation).where(Reservation.id.in_(order_ids))).all()

    def reserve(self, order_id: str, quantities: Mapping[int, int], *, now: datetime) -> Reservation:
        """Take the stock for these quantities by product id, all or nothing. What is taken already is left as it is."""
        try:
            return _again_after_a_race(lambda: self._reserve(order_id, quantities, now))
        except OutOfStock as shortage:
            # the sweeper comes every few seconds only, so look ourselves for holds whose time is over
            overdue = self._overdue(now, of_products=list(shortage.left))
            if not overdue:
                raise
        self._expire_all(overdue, now)
        return _again_after_a_race(lambda: self._reserve(order_id, quantities, now))

    def confirm(self, order_id: str, *, now: datetime) -> Reservation:
        """Keep the stock for good."""
        with self._database.write() as session:
            reservation = _known(_locked(session, order_id))
            if reservation.status == "released":
                raise ReservationConflict("The reservation was released.")
            if reservation.status == "expired" or _is_overdue(reservation, now):
                raise ReservationExpired
            reservation.status, reservation.expires_at = "confirmed", None
        return reservation

    def release(self, order_id: str) -> None:
        """Give back whatever is taken, and refuse to take any for this order from now on."""
        _again_after_a_race(lambda: self._release(order_id))

    def expire_due(self, *, now: datetime) -> int:
        """Give back what is held for longer than agreed, one batch; how many reservations this call has expired."""
        return self._expire_all(self._overdue(now), now)

    def _reserve(self, order_id: str, quantities: Mapping[int, int], now: datetime) -> Reservation:
        with self._database.write() as session:
            reservation = _locked(session, order_id)
            if reservation is None:
                reservation = Reservation(id=order_id, status="held")
                session.add(reservation)
                session.flush()  # before any stock is touched: somebody else may be making it just now
            else:
                _require_same(reservation, quantities)
                if _is_taken(reservation) and not _is_overdue(reservation, now):
                    return reservation
                _give_back(session, reservation)
            taken = stock.take(session, quantities)
            reservation.lines = [
                ReservationLine(product_id=t.product_id, quantity=t.quantity, name=t.name, unit_price=t.unit_price)
                for t in taken
            ]
            reservation.status, reservation.expires_at = "held", now + self._hold
        return reservation

    def _release(self, order_id: str) -> None:
        with self._database.write() as session:
            reservation = _locked(session, order_id)
            if reservation is None:
                session.add(Reservation(id=order_id, status="released"))
                return
            _give_back(session, reservation)
            reservation.status, reservation.expires_at = "released", None

    def _overdue(self, now: datetime, *, of_products: Sequence[int] | None = None) -> Sequence[str]:
        overdue = select(Reservation.id).where(Reservation.status == "held", Reservation.expires_at <= now)
        if of_products is not None:
            overdue = overdue.where(Reservation.lines.any(ReservationLine.product_id.in_(of_products)))
        with self._database.read() as session:
            return session.scalars(overdue.order_by(Reservation.expires_at).limit(EXPIRY_BATCH)).all()

    def _expire_all(self, order_ids: Sequence[str], now: datetime) -> int:
        # a transaction each: holding the locks of several reservations' products could deadlock
        return sum(self._expire(order_id, now) for order_id in order_ids)

    def _expire(self, order_id: str, now: datetime) -> bool:
        still_overdue = (Reservation.id == order_id, Reservation.status == "held", Reservation.expires_at <= now)
        change = update(Reservation).where(*still_overdue).values(status="expired", expires_at=None)
        with self._database.write() as session:
            if session.scalar(change.returning(Reservation.id)) is None:
                return False  # confirmed, released or expired by somebody else meanwhile
            stock.put_back(session, _quantities(_known(session.get(Reservation, order_id))))
        return True


def _again_after_a_race(attempt: Callable[[], T]) -> T:
    try:
        return attempt()
    except IntegrityError:  # somebody else has made this reservation meanwhile
        return attempt()


def _locked(session: Session, order_id: str) -> Reservation | None:
    return session.get(Reservation, order_id, with_for_update=True)


def _known(reservation: Reservation | None) -> Reservation:
    if reservation is None:
        raise UnknownReservation
    return reservation


def _is_taken(reservation: Reservation) -> bool:
    return reservation.status in ("held", "confirmed")


def _is_overdue(reservation: Reservation, now: datetime) -> bool:
    return reservation.expires_at is not None and reservation.expires_at <= now


def _quantities(reservation: Reservation) -> dict[int, int]:
    return {line.product_id: line.quantity for line in reservation.lines}


def _require_same(reservation: Reservation, quantities: Mapping[int, int]) -> None:
    if reservation.status == "released":
        raise ReservationConflict("The reservation was released; that is final.")
    if _quantities(reservation) != quantities:
        raise ReservationConflict("The reservation was made for other products or quantities.")


def _give_back(session: Session, reservation: Reservation) -> None:
    if _is_taken(reservation):
        stock.put_back(session, _quantities(reservation))
