"""Placing, cancelling and reconciling orders, with a product_service that fails whenever it hurts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from common.db import Database
from order_service.checkout import Checkout, Outcome
from order_service.orders import Orders, UnknownOrder
from order_service.product_client import (
    Offer,
    OutOfStock,
    ProductClient,
    ProductError,
    ProductsUnavailable,
    ReservationConflict,
    ReservationGone,
    Reserved,
    UnknownProduct,
)
from order_service.tables import Base, Order, OrderLine
from tests.support.deadlines import Clock, serving
from tests.support.stub import StubService

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
PATIENCE_S = 10
LATER = NOW + timedelta(seconds=PATIENCE_S)
MUCH_LATER = NOW + timedelta(hours=1)

Fate = Literal["ok", "lost before", "lost after", "killed before", "killed after"]
FATES: list[Fate] = ["ok", "lost before", "lost after", "killed before", "killed after"]


class Killed(BaseException):
    """The worker is gone: nothing after this line of it happens."""


class Shop:
    """product_service in a dictionary: five mugs (id 1) for 12.50, three pans (id 2) for 44.90."""

    def __init__(self) -> None:
        self.stock = {1: 5, 2: 3}
        self.offers = {1: Offer("Mug", 1250), 2: Offer("Pan", 4490)}
        self.reservations: dict[str, tuple[str, dict[int, int]]] = {}
        self.fates: list[Fate] = []
        self.calls: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self._lock = threading.RLock()

    def reserve(self, order_id: str, quantities: Mapping[int, int]) -> Reserved:
        self._suffer("reserve", lambda: self._reserve(order_id, dict(quantities)))
        return Reserved({product_id: self.offers[product_id] for product_id in quantities}, '"products"')

    def confirm(self, order_id: str) -> str:
        self._suffer("confirm", lambda: self._confirm(order_id))
        return '"products"'

    def release(self, order_id: str) -> str:
        self._suffer("release", lambda: self._release(order_id))
        return '"products"'

    def expire(self) -> None:
        for order_id, (status, lines) in self.reservations.items():
            if status == "held":
                self._put(lines, +1)
                self.reservations[order_id] = ("expired", lines)

    def taken(self) -> dict[int, int]:
        found = {1: 0, 2: 0}
        for status, lines in self.reservations.values():
            for product_id, quantity in lines.items() if status in ("held", "confirmed") else ():
                found[product_id] += quantity
        return found

    def _suffer(self, call: str, effect: Callable[[], None]) -> None:
        with self._lock:
            self.calls.append(call)
            fate = self.fates.pop(0) if self.fates else "ok"
            if fate == "lost before":
                raise ProductsUnavailable
            if fate == "killed before":
                raise Killed
            effect()
        self.meanwhile()
        if fate == "lost after":
            raise ProductsUnavailable
        if fate == "killed after":
            raise Killed

    def _reserve(self, order_id: str, quantities: dict[int, int]) -> None:
        status, lines = self.reservations.get(order_id, ("expired", quantities))
        if status == "released" or lines != quantities:
            raise ReservationConflict
        if status == "expired":
            if unknown := quantities.keys() - self.stock.keys():
                raise UnknownProduct(f"no products {unknown}")
            if any(self.stock[product_id] < quantity for product_id, quantity in quantities.items()):
                raise OutOfStock("too few")
            self._put(quantities, -1)
            self.reservations[order_id] = ("held", quantities)

    def _confirm(self, order_id: str) -> None:
        status, lines = self.reservations.get(order_id, ("expired", {}))
        if status == "expired":
            raise ReservationGone
        if status == "released":
            raise ReservationConflict
        self.reservations[order_id] = ("confirmed", lines)

    def _release(self, order_id: str) -> None:
        status, lines = self.reservations.get(order_id, ("expired", {}))
        if status in ("held", "confirmed"):
            self._put(lines, +1)
        self.reservations[order_id] = ("released", lines)

    def _put(self, lines: Mapping[int, int], sign: int) -> None:
        for product_id, quantity in lines.items():
            self.stock[product_id] += sign * quantity


class Bench:
    """A checkout between a database and a shop."""

    def __init__(self, url: str) -> None:
        self.database = Database(url, pool_size=30)
        Base.metadata.create_all(self.database.engine)
        self.shop = Shop()
        self.orders = Orders(self.database, patience_s=PATIENCE_S)
        self.checkout = Checkout(self.orders, self.shop)

    def place(self, quantities: Mapping[int, int] | None = None, user_id: str = "u1") -> Outcome:
        return self.checkout.place(user_id, quantities or {1: 2}, now=NOW)

    def rows(self) -> list[Order]:
        with self.database.read() as session:
            return list(session.scalars(select(Order)).all())

    def states(self) -> list[tuple[str, str]]:
        return [(order.status, order.settlement) for order in self.rows()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(f"sqlite:///{tmp_path / 'orders.db'}")
    yield bench
    bench.database.dispose()


def _history(order: Order) -> list[str]:
    return [event.status for event in order.history]


def test_an_order_agrees_on_prices_and_is_confirmed_at_once(bench: Bench) -> None:
    outcome = bench.place({2: 1, 1: 2})

    order = outcome.order
    assert (order.status, order.settlement, order.total, outcome.invalidates) == (
        "confirmed", "settled", 4490 + 2 * 1250, '"products"',
    )  # fmt: skip
    lines = [(line.product_id, line.name, line.quantity, line.unit_price, line.line_total) for line in order.lines]
    assert lines == [(2, "Pan", 1, 4490, 4490), (1, "Mug", 2, 1250, 2500)]
    assert _history(order) == ["pending", "confirmed"]
    assert bench.shop.calls == ["reserve", "confirm"]


@pytest.mark.parametrize(("quantities", "error"), [({1: 6}, OutOfStock), ({1: 1, 9: 1}, UnknownProduct)])
def test_a_refused_order_leaves_no_trace(bench: Bench, quantities: dict[int, int], error: type[ProductError]) -> None:
    with pytest.raises(error):
        bench.place(quantities)

    assert bench.rows() == []
    with bench.database.read() as session:
        assert session.scalar(select(func.count()).select_from(OrderLine)) == 0


@pytest.mark.parametrize("fate", ["lost before", "lost after"])
def test_an_order_whose_reservation_got_no_answer_is_undone_by_the_reconciler(bench: Bench, fate: Fate) -> None:
    bench.shop.fates = [fate]
    with pytest.raises(ProductsUnavailable):
        bench.place()
    assert bench.states() == [("pending", "releasing")]

    done = bench.checkout.settle_due(now=NOW)

    assert (done, bench.rows(), bench.shop.stock[1]) == (1, [], 5)


def test_a_draft_is_shown_to_nobody(bench: Bench) -> None:
    bench.shop.fates = ["lost before"]
    with pytest.raises(ProductsUnavailable):
        bench.place()

    (draft,) = bench.rows()

    assert bench.orders.page(of_user=None, status=None, offset=0, limit=9) == ([], 0)
    with pytest.raises(UnknownOrder):
        bench.orders.get(draft.id)


@pytest.mark.parametrize("fate", ["lost before", "lost after"])
def test_an_order_whose_confirmation_got_no_answer_stands_and_is_confirmed_later(bench: Bench, fate: Fate) -> None:
    bench.shop.fates = ["ok", fate]

    order = bench.place().order
    early = bench.checkout.settle_due(now=LATER - timedelta(seconds=1))
    done = bench.checkout.settle_due(now=LATER)

    assert (order.status, order.total, early, done) == ("pending", 2500, 0, 1)
    assert bench.states() == [("confirmed", "settled")]
    assert _history(bench.orders.get(order.id)) == ["pending", "confirmed"]


def test_an_order_whose_hold_has_expired_gets_a_new_one_at_the_agreed_price(bench: Bench) -> None:
    bench.shop.fates = ["ok", "lost before"]
    order = bench.place().order
    bench.shop.expire()
    bench.shop.offers[1] = Offer("Mug, dearer", 9900)

    bench.checkout.settle_due(now=LATER)

    order = bench.orders.get(order.id)
    assert (order.status, order.total, order.lines[0].name) == ("confirmed", 2500, "Mug")
    assert bench.shop.stock[1] == 3


def test_an_order_that_was_sold_out_before_it_was_confirmed_is_cancelled_and_says_why(bench: Bench) -> None:
    bench.shop.fates = ["ok", "lost before"]
    order = bench.place().order
    bench.shop.expire()
    bench.place({1: 5})

    bench.checkout.settle_due(now=LATER)

    order = bench.orders.get(order.id)
    assert (order.status, order.settlement) == ("cancelled", "settled")
    assert [(event.status, event.note) for event in order.history] == [
        ("pending", ""),
        ("cancelled", "Sold out before the order could be confirmed."),
    ]
    assert bench.shop.stock[1] == 0


def test_cancelling_gives_the_stock_back_at_once(bench: Bench) -> None:
    order = bench.place().order

    outcome = bench.checkout.cancel(order, note="Cancelled by the customer.", now=NOW)

    assert (outcome.order.status, outcome.order.settlement, outcome.invalidates) == (
        "cancelled",
        "settled",
        '"products"',
    )
    assert bench.shop.stock[1] == 5
    assert outcome.order.history[-1].note == "Cancelled by the customer."


def test_cancelling_twice_changes_nothing_the_second_time(bench: Bench) -> None:
    order = bench.place().order
    bench.checkout.cancel(order, note="first", now=NOW)

    again = bench.checkout.cancel(order, note="second", now=LATER)

    assert [event.note for event in again.order.history] == ["", "", "first"]
    assert bench.shop.calls.count("release") == 1


@pytest.mark.parametrize("fate", ["lost before", "lost after"])
def test_cancelling_succeeds_without_product_service_and_the_stock_comes_back_later(bench: Bench, fate: Fate) -> None:
    order = bench.place().order
    bench.shop.fates = [fate]

    outcome = bench.checkout.cancel(order, note="", now=NOW)
    bench.checkout.settle_due(now=LATER)

    assert (outcome.order.status, outcome.order.settlement, outcome.invalidates) == ("cancelled", "releasing", "")
    assert (bench.states(), bench.shop.stock[1]) == ([("cancelled", "settled")], 5)


def test_an_order_cancelled_while_it_is_being_confirmed_stays_cancelled(bench: Bench) -> None:
    def cancel_between_reservation_and_confirmation() -> None:
        if bench.shop.calls == ["reserve", "confirm"]:
            bench.shop.meanwhile = lambda: None
            bench.checkout.cancel(bench.rows()[0], note="", now=NOW)

    bench.shop.meanwhile = cancel_between_reservation_and_confirmation

    outcome = bench.place()

    assert (outcome.order.status, outcome.order.settlement) == ("cancelled", "settled")
    assert bench.shop.stock[1] == 5


def test_an_order_that_the_reconciler_gave_up_meanwhile_is_not_placed(bench: Bench) -> None:
    def reconcile_while_the_reservation_is_on_its_way() -> None:
        bench.shop.meanwhile = lambda: None
        bench.checkout.settle_due(now=LATER)

    bench.shop.meanwhile = reconcile_while_the_reservation_is_on_its_way

    with pytest.raises(ProductsUnavailable):
        bench.place()

    assert (bench.rows(), bench.shop.stock[1]) == ([], 5)


def test_reconciling_stops_at_the_first_order_that_gets_no_answer(bench: Bench) -> None:
    for _ in range(3):
        bench.shop.fates = ["ok", "lost before"]
        bench.place({1: 1})
    bench.shop.calls, bench.shop.fates = [], ["lost before"]

    done = bench.checkout.settle_due(now=LATER)

    assert (done, bench.shop.calls) == (0, ["confirm"])


def test_an_order_that_is_tried_in_vain_waits_longer_each_time(bench: Bench) -> None:
    always: list[Fate] = ["lost before"] * 9
    bench.shop.fates = ["ok", *always]
    bench.place()
    tried_after_s: list[int] = []

    for second in range(150):
        calls = len(bench.shop.calls)
        bench.checkout.settle_due(now=NOW + timedelta(seconds=second))
        if len(bench.shop.calls) > calls:
            tried_after_s.append(second)

    assert tried_after_s == [10, 20, 40, 80, 140]


def test_of_two_who_saw_an_order_due_only_one_gets_it(bench: Bench) -> None:
    bench.shop.fates = ["ok", "lost before"]
    bench.place()
    (seen,) = bench.orders.due(now=LATER, limit=9)

    claims = [bench.orders.claim(seen, now=LATER) for _ in range(2)]

    assert claims == [True, False]
    assert bench.orders.due(now=LATER, limit=9) == []


def test_reconcilers_that_come_at_once_do_each_order_once(bench: Bench) -> None:
    for _ in range(4):
        bench.shop.fates = ["ok", "lost before"]
        bench.place({1: 1})
    bench.shop.calls = []

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(bench.checkout.settle_due, now=LATER) for _ in range(6)]
    done = [each.result() for each in running]

    assert (sum(done), bench.shop.calls) == (4, ["confirm"] * 4)
    assert bench.states() == [("confirmed", "settled")] * 4


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService() as stub:
        yield stub


@dataclass(frozen=True, slots=True)
class Hurried:
    """Reserves in the shop, for so long that the request's time is over then; for all else it asks the client."""

    shop: Shop
    client: ProductClient
    clock: Clock

    def reserve(self, order_id: str, quantities: Mapping[int, int]) -> Reserved:
        reserved = self.shop.reserve(order_id, quantities)
        self.clock.now += 60
        return reserved

    def confirm(self, order_id: str) -> str:
        return self.client.confirm(order_id)

    def release(self, order_id: str) -> str:
        return self.client.release(order_id)


def _client(stub: StubService) -> ProductClient:
    return ProductClient(stub.url, "s" * 32, connect_timeout_s=1, read_timeout_s=5)


def test_an_order_whose_time_is_over_before_its_reservation_is_undone_by_the_reconciler(
    bench: Bench, stub: StubService
) -> None:
    checkout = Checkout(bench.orders, _client(stub))

    with serving(250) as clock:
        clock.now += 60
        with pytest.raises(ProductsUnavailable):
            checkout.place("u1", {1: 2}, now=NOW)
    states = bench.states()
    done = checkout.settle_due(now=NOW)

    assert (states, done, bench.rows()) == ([("pending", "releasing")], 1, [])
    assert [request.method for request in stub.requests] == ["DELETE"]


def test_an_order_whose_time_is_over_after_its_reservation_stands_and_is_confirmed_later(
    bench: Bench, stub: StubService
) -> None:
    client = _client(stub)

    with serving(250) as clock:
        order = Checkout(bench.orders, Hurried(bench.shop, client, clock)).place("u1", {1: 2}, now=NOW).order
    calls_in_time = len(stub.requests)
    done = Checkout(bench.orders, client).settle_due(now=LATER)

    assert (order.status, order.settlement, order.total, calls_in_time) == ("pending", "confirming", 2500, 0)
    assert (done, bench.states()) == (1, [("confirmed", "settled")])
    assert [request.target for request in stub.requests] == [f"/reservations/{order.id}/confirm"]


def test_an_order_cancelled_when_the_time_is_over_gives_its_stock_back_later(bench: Bench, stub: StubService) -> None:
    order = bench.place().order
    checkout = Checkout(bench.orders, _client(stub))

    with serving(250) as clock:
        clock.now += 60
        outcome = checkout.cancel(order, note="", now=NOW)
    calls_in_time = len(stub.requests)
    done = checkout.settle_due(now=LATER)

    assert (outcome.order.status, outcome.order.settlement, calls_in_time) == ("cancelled", "releasing", 0)
    assert (done, bench.states()) == (1, [("cancelled", "settled")])


def test_orders_are_paged_newest_first_and_only_ones_own(bench: Bench) -> None:
    placed = [bench.checkout.place("u1", {1: 1}, now=NOW + timedelta(seconds=number)).order.id for number in range(3)]
    bench.place({2: 1}, user_id="u2")

    newest, total = bench.orders.page(of_user="u1", status=None, offset=0, limit=2)
    _, of_everybody = bench.orders.page(of_user=None, status="confirmed", offset=0, limit=2)
    _, cancelled = bench.orders.page(of_user=None, status="cancelled", offset=0, limit=2)

    assert ([order.id for order in newest], total) == ([placed[2], placed[1]], 3)
    assert (of_everybody, cancelled) == (4, 0)


@pytest.mark.parametrize("order_id", ["6f9619ff-8b86-4d01-b42d-00c04fc964ff", "garbage", ""])
def test_an_order_nobody_has_placed_is_unknown(bench: Bench, order_id: str) -> None:
    with pytest.raises(UnknownOrder):
        bench.orders.get(order_id)


def test_somebody_elses_order_is_unknown_too(bench: Bench) -> None:
    order = bench.place().order

    with pytest.raises(UnknownOrder):
        bench.orders.get(order.id, of_user="u2")

    assert bench.orders.get(order.id, of_user="u1").id == order.id


ACTIONS = st.lists(st.sampled_from(["place", "place two", "cancel", "reconcile", "expire"]), max_size=12)


@given(actions=ACTIONS, fates=st.lists(st.sampled_from(FATES), max_size=25))
@settings(max_examples=150, deadline=None)
def test_whatever_fails_whenever_in_the_end_stock_and_orders_agree(actions: list[str], fates: list[Fate]) -> None:
    bench = Bench("sqlite:///:memory:")
    bench.shop.fates, now = list(fates), NOW

    for action in actions:
        now += timedelta(seconds=PATIENCE_S)
        try:
            match action:
                case "place" | "place two":
                    bench.checkout.place("u1", {1: 2} if action == "place" else {1: 1, 2: 1}, now=now)
                case "cancel" if shown := bench.orders.page(of_user="u1", status=None, offset=0, limit=1)[0]:
                    bench.checkout.cancel(shown[0], note="", now=now)
                case "reconcile":
                    bench.checkout.settle_due(now=now)
                case _:
                    bench.shop.expire()
        except (ProductError, Killed):
            pass
    bench.shop.fates = []  # product_service is well again, and time goes by
    for hour in range(1, 4):
        bench.checkout.settle_due(now=now + timedelta(hours=hour))

    confirmed = [order for order in bench.rows() if order.status == "confirmed"]
    bought = {id_: sum(order.quantities.get(id_, 0) for order in confirmed) for id_ in (1, 2)}
    assert all(settlement == "settled" for _, settlement in bench.states())
    assert bench.shop.taken() == bought
    assert {id_: bench.shop.stock[id_] + bought[id_] for id_ in (1, 2)} == {1: 5, 2: 3}
    bench.database.dispose()
