"""Pieces in stock: taken and put back inside the caller's transaction, in ascending order of product ids.

StockError
├── UnknownProducts    some of the products don't exist or are no longer sold; takes precedence over OutOfStock
└── OutOfStock         names those products of which there are too few, and what is left of them
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from product_service.tables import Product


class StockError(Exception):
    """The stock can't be taken, none of it was; the text may be told to the caller."""


class UnknownProducts(StockError):
    def __init__(self, product_ids: list[int]) -> None:
        super().__init__(f"There is no product {' and no product '.join(map(str, product_ids))}.")
        self.product_ids = product_ids


class OutOfStock(StockError):
    def __init__(self, left: Mapping[int, int]) -> None:
        """`left` has the pieces in stock of each product of which there are too few."""
        super().__init__("; ".join(f"only {count} left of product {id_}" for id_, count in left.items()).capitalize())
        self.left = dict(left)


@dataclass(frozen=True, slots=True)
class Taken:
    """Pieces of one product, with its name and price at the time. `unit_price` is in minor units."""

    product_id: int
    quantity: int
    name: str
    unit_price: int


def take(session: Session, quantities: Mapping[int, int]) -> list[Taken]:
    """Take these quantities by product id. When it raises the transaction has to be rolled back."""
    taken: list[Taken] = []
    refused: list[int] = []
    for product_id in sorted(quantities):  # who takes several takes them in this order, so nobody waits in a circle
        quantity = quantities[product_id]
        fewer = (
            update(Product)
            .where(Product.id == product_id, Product.is_active, Product.stock >= quantity)
            .values(stock=Product.stock - quantity)
            .returning(Product.name, Product.price)
            .execution_options(synchronize_session=False)
        )
        if row := session.execute(fewer).one_or_none():
            taken.append(Taken(product_id, quantity, row.name, row.price))
        else:
            refused.append(product_id)
    if refused:
        raise _reason(session, refused)
    return taken


def put_back(session: Session, quantities: Mapping[int, int]) -> None:
    """Put back what was taken, of products that are no longer sold too."""
    for product_id in sorted(quantities):
        more = update(Product).where(Product.id == product_id).values(stock=Product.stock + quantities[product_id])
        session.execute(more.execution_options(synchronize_session=False))


def _reason(session: Session, refused: list[int]) -> StockError:
    rows = session.execute(select(Product.id, Product.stock).where(Product.id.in_(refused), Product.is_active))
    left = {row.id: row.stock for row in rows}
    if unknown := [product_id for product_id in refused if product_id not in left]:
        return UnknownProducts(unknown)
    return OutOfStock({product_id: left[product_id] for product_id in refused})
