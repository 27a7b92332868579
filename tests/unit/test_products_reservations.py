"""Reservations against a real SQLite database: stock is never lost, doubled or negative."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from common.db import Database
from product_service.products import Products
from product_service.reservations import (
    ReservationConflict,
    ReservationError,
    ReservationExpired,
    Reservations,
    UnknownReservation,
)
from product_service.schemas import NewProduct, ProductChange
from product_service.stock import OutOfStock, StockError, UnknownProducts
from product_service.tables import Base, Product, Reservation

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
HOLD_S = 120
LATER = NOW + timedelta(seconds=HOLD_S)
ORDER = "00000000-0000-4000-8000-000000000001"
OTHER = "00000000-0000-4000-8000-000000000002"


class Shop:
    """A database with mugs (id 1, 5 pieces, 12.50) and pans (id 2, 3 pieces, 44.90)."""

    def __init__(self, url: str) -> None:
        self.database = Database(url, pool_size=30)
        Base.metadata.create_all(self.database.engine)
        self.products = Products(self.database)
        self.reservations = Reservations(self.database, hold_s=HOLD_S)
        self.products.add(NewProduct.model_validate({"name": "Mug", "category": "c", "price": "12.50", "stock": 5}))
        self.products.add(NewProduct.model_validate({"name": "Pan", "category": "c", "price": "44.90", "stock": 3}))

    def stock(self) -> dict[int, int]:
        with self.database.read() as session:
            return {product.id: product.stock for product in session.scalars(select(Product))}

    def taken(self) -> dict[int, int]:
        """Pieces by product id in held and confirmed reservations."""
        found = {1: 0, 2: 0}
        with self.database.read() as session:
            for reservation in session.scalars(
                select(Reservation).where(Reservation.status.in_(["held", "confirmed"]))
            ):
                for line in reservation.lines:
                    found[line.product_id] += line.quantity
        return found

    def status(self, order_id: str = ORDER) -> str:
        return self.reservations.get(order_id).status


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(f"sqlite:///{tmp_path / 'products.db'}")
    yield shop
    shop.database.dispose()


def test_reserving_takes_the_stock_and_keeps_name_and_price(shop: Shop) -> None:
    reservation = shop.reservations.reserve(ORDER, {2: 1, 1: 2}, now=NOW)

    assert (reservation.status, reservation.expires_at) == ("held", LATER)
    lines = [(line.product_id, line.name, line.quantity, line.unit_price) for line in reservation.lines]
    assert lines == [(1, "Mug", 2, 1250), (2, "Pan", 1, 4490)]
    assert shop.stock() == {1: 3, 2: 2}


def test_reserving_again_for_the_same_lines_changes_nothing(shop: Shop) -> None:
    shop.reservations.reserve(ORDER, {1: 2}, now=NOW)
    shop.products.change(1, ProductChange.model_validate({"price": "99.00"}))

    again = shop.reservations.reserve(ORDER, {1: 2}, now=NOW + timedelta(seconds=60))

    assert (again.expires_at, again.lines[0].unit_price) == (LATER, 1250)
    assert shop.stock()[1] == 3


@pytest.mark.parametrize("other", [{1: 3}, {2: 2}, {1: 2, 2: 1}])
def test_reserving_other_lines_for_the_same_order_is_a_conflict(shop: Shop, other: dict[int, int]) -> None:
    shop.reservations.reserve(ORDER, {1: 2}, now=NOW)

    with pytest.raises(ReservationConflict):
        shop.reservations.reserve(ORDER, other, now=NOW)

    assert shop.stock() == {1: 3, 2: 3}


def test_a_shortage_names_each_short_product_and_takes_nothing(shop: Shop) -> None:
    shop.products.add(NewProduct.model_validate({"name": "Bowl", "category": "c", "price": 1, "stock": 9}))

    with pytest.raises(OutOfStock) as refusal:
        shop.reservations.reserve(ORDER, {3: 1, 1: 6, 2: 4}, now=NOW)

    assert refusal.value.left == {1: 5, 2: 3}
    assert shop.stock() == {1: 5, 2: 3, 3: 9}
    with pytest.raises(UnknownReservation):
        shop.reservations.get(ORDER)


def test_unknown_and_removed_products_are_named_before_any_shortage(shop: Shop) -> None:
    shop.products.remove(2)

    with pytest.raises(UnknownProducts) as refusal:
        shop.reservations.reserve(ORDER, {1: 6, 2: 1, 77: 1}, now=NOW)

    assert refusal.value.product_ids == [2, 77]
    assert shop.stock()[1] == 5


def test_a_confirmed_reservation_never_expires(shop: Shop) -> None:
    shop.reservations.reserve(ORDER, {1: 2}, now=NOW)

    shop.reservations.confirm(ORDER, now=NOW)
    confirmed_again = shop.reservations.confirm(ORDER, now=LATER)

    assert (confirmed_again.status, confirmed_again.expires_at) == ("confirmed", None)
    assert shop.reservations.expire_due(now=LATER) == 0
    assert shop.stock()[1] == 3


@pytest.mark.parametrize("is_swept", [False, True])
def test_a_hold_whose_time_is_over_cannot_be_confirmed(shop: Shop, is_swept: bool) -> None:
    shop.reservations.reserve(ORDER, {1: 2}, now=NOW)
    if is_swept:
        shop.reservations.expire_due(now=LATER)

    with pytest.raises(ReservationExpired):
        shop.reservations.confirm(ORDER, now=LATER)


@pytest.mark.parametrize("is_swept", [False, True])
def test_an_expired_reservation_can_be_made_again_at_the_new_price(shop: Shop, is_swept: bool) -> None:
    shop.reservations.reserve(ORDER, {1: 2, 2: 1}, now=NOW)
    shop.products.change(1, ProductChange.model_validate({"price": "13.00"}))
    if is_swept:
        shop.reservations.expire_due(now=LATER)

    again = shop.reservations.reserve(ORDER, {1: 2, 2: 1}, now=LATER)

    assert (again.status, again.lines[0].unit_price) == ("held", 1300)
    assert shop.reservations.get(ORDER).lines[0].unit_price == 1300
    assert again.expires_at == LATER + timedelta(seconds=HOLD_S)
    assert shop.stock() == {1: 3, 2: 2}


def test_an_expired_reservation_takes_nothing_when_others_have_bought_it(shop: Shop) -> None:
    shop.reservations.reserve(ORDER, {1: 2}, now=NOW)
    shop.reservations.expire_due(now=LATER)
    shop.reservations.reserve(OTHER, {1: 4}, now=LATER)

    with pytest.raises(OutOfStock):
        shop.reservations.reserve(ORDER, {1: 2}, now=LATER)

    assert (shop.status(), shop.stock()[1]) == ("expired", 1)


def _nothing(_reservations: Reservations) -> None: ...
def _confirm(reservations: Reservations) -> None:
    reservations.confirm(ORDER, now=NOW)


def _expire(reservations: Reservations) -> None:
    reservations.expire_due(now=LATER)


@pytest.mark.parametrize("before", [_nothing, _confirm, _expire])
def test_releasing_gives_back_what_is_taken_exactly_once(shop: Shop, before: Callable[[Reservations], None]) -> None:
    shop.reservations.reserve(ORDER, {1: 2, 2: 3}, now=NOW)
    before(shop.reservations)

    shop.reservations.release(ORDER)
    shop.reservations.release(ORDER)
    shop.reservations.expire_due(now=LATER)

    assert (shop.status(), shop.stock()) == ("released", {1: 5, 2: 3})
    with pytest.raises(ReservationConflict):
        shop.reservations.reserve(ORDER, {1: 2, 2: 3}, now=NOW)
    with pytest.raises(ReservationConflict):
        shop.reservations.confirm(ORDER, now=NOW)


def test_releasing_an_order_never_heard_of_stops_a_reservation_that_comes_late(shop: Shop) -> None:
    shop.reservations.release(ORDER)

    with pytest.raises(ReservationConflict):
        shop.reservations.reserve(ORDER, {1: 1}, now=NOW)

    assert shop.stock()[1] == 5


def test_stock_of_a_product_that_was_removed_meanwhile_is_given_back_too(shop: Shop) -> None:
    shop.reservations.reserve(ORDER, {1: 2}, now=NOW)
    shop.products.remove(1)

    shop.reservations.release(ORDER)

    assert shop.stock()[1] == 5


def test_expired_holds_are_given_back_at_once_to_whoever_would_go_away_empty(shop: Shop) -> None:
    shop.reservations.reserve(ORDER, {1: 5}, now=NOW)

    shop.reservations.reserve(OTHER, {1: 5}, now=LATER)

    assert (shop.status(ORDER), shop.status(OTHER), shop.stock()[1]) == ("expired", "held", 0)


def test_holds_that_have_time_left_are_not_given_to_others(shop: Shop) -> None:
    shop.reservations.reserve(ORDER, {1: 5}, now=NOW)

    with pytest.raises(OutOfStock):
        shop.reservations.reserve(OTHER, {1: 1}, now=LATER - timedelta(seconds=1))

    assert shop.status(ORDER) == "held"


@pytest.mark.parametrize("change", [{"stock": -1}, {"price": -1}])
def test_the_database_itself_refuses_negative_stock_and_prices(shop: Shop, change: dict[str, int]) -> None:
    with pytest.raises(IntegrityError), shop.database.write() as session:
        session.execute(update(Product).where(Product.id == 1).values(**change))


def test_confirming_or_reading_an_unknown_reservation_says_so(shop: Shop) -> None:
    with pytest.raises(UnknownReservation):
        shop.reservations.confirm(ORDER, now=NOW)
    with pytest.raises(UnknownReservation):
        shop.reservations.get(ORDER)


def _at_once(count: int, act: Callable[[int], object]) -> list[object]:
    """What `act` returned or raised in `count` threads that begin together."""
    barrier = threading.Barrier(count)

    def run(number: int) -> object:
        barrier.wait()
        try:
            return act(number)
        except (StockError, ReservationError) as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def _order(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def test_twenty_at_once_get_exactly_the_last_five(shop: Shop) -> None:
    results = _at_once(20, lambda number: shop.reservations.reserve(_order(number), {1: 1}, now=NOW))

    assert sum(isinstance(result, Reservation) for result in results) == 5
    assert sum(isinstance(result, OutOfStock) for result in results) == 15
    assert shop.stock()[1] == 0


def test_the_same_reservation_made_ten_times_at_once_takes_the_stock_once(shop: Shop) -> None:
    results = _at_once(10, lambda _number: shop.reservations.reserve(ORDER, {1: 2, 2: 1}, now=NOW))

    assert all(isinstance(result, Reservation) for result in results)
    assert shop.stock() == {1: 3, 2: 2}


def test_sweepers_that_come_at_once_give_each_hold_back_once(shop: Shop) -> None:
    for number in range(4):
        shop.reservations.reserve(_order(number), {1: 1}, now=NOW)

    expired = _at_once(8, lambda _number: shop.reservations.expire_due(now=LATER))

    assert sum(int(str(count)) for count in expired) == 4
    assert shop.stock()[1] == 5


def test_releasing_while_reserving_leaves_nothing_taken(shop: Shop) -> None:
    def act(number: int) -> object:
        if number % 2:
            return shop.reservations.release(ORDER)
        return shop.reservations.reserve(ORDER, {1: 2}, now=NOW)

    _at_once(10, act)

    assert (shop.status(), shop.stock()[1]) == ("released", 5)


class Stock(RuleBasedStateMachine):
    """Any interleaving of what callers, sweepers and time can do keeps every piece accounted for."""

    orders = st.sampled_from([_order(number) for number in range(4)])
    quantities = st.dictionaries(st.sampled_from([1, 2]), st.integers(1, 4), min_size=1)

    def __init__(self) -> None:
        super().__init__()
        self.shop = Shop("sqlite:///:memory:")
        self.now = NOW
        self.released: set[str] = set()

    @rule(order=orders, wanted=quantities)
    def reserve(self, order: str, wanted: dict[int, int]) -> None:
        try:
            self.shop.reservations.reserve(order, wanted, now=self.now)
        except (StockError, ReservationConflict):
            return
        assert order not in self.released
        assert self.shop.status(order) in ("held", "confirmed")

    @rule(order=orders)
    def confirm(self, order: str) -> None:
        try:
            self.shop.reservations.confirm(order, now=self.now)
        except ReservationError:
            return
        assert self.shop.status(order) == "confirmed"

    @rule(order=orders)
    def release(self, order: str) -> None:
        self.shop.reservations.release(order)
        self.released.add(order)

    @rule()
    def sweep(self) -> None:
        self.shop.reservations.expire_due(now=self.now)

    @rule(seconds=st.integers(1, HOLD_S))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        stock, taken = self.shop.stock(), self.shop.taken()
        assert {id_: stock[id_] + taken[id_] for id_ in stock} == {1: 5, 2: 3}
        assert all(count >= 0 for count in stock.values())

    @invariant()
    def what_was_released_stays_released(self) -> None:
        assert all(self.shop.status(order) == "released" for order in self.released)

    def teardown(self) -> None:
        self.shop.database.dispose()


Stock.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestStock = Stock.TestCase
