"""The rules about products: the catalogue that everybody reads and administrators change.

CatalogueError
└── UnknownProduct    no product has this id, or it is no longer sold
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, func, select

from common.db import Database
from product_service.schemas import NewProduct, ProductChange, ProductQuery, Sort
from product_service.tables import Product

ORDERS: dict[Sort, tuple[ColumnElement[Any], ...]] = {
    "name": (Product.search_text.asc(), Product.id.asc()),  # which begins with the name, case-folded
    "-name": (Product.search_text.desc(), Product.id.desc()),
    "price": (Product.price.asc(), Product.id.asc()),
    "-price": (Product.price.desc(), Product.id.desc()),
    "newest": (Product.created_at.desc(), Product.id.desc()),
}


class CatalogueError(Exception):
    """A rule was broken; the text may be told to the caller."""


class UnknownProduct(CatalogueError):
    def __init__(self, product_id: int) -> None:
        super().__init__(f"There is no product {product_id}." if product_id else "There is no such product.")


class Products:
    """The catalogue in one database. Shared by greenlets; it keeps nothing but the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, query: ProductQuery) -> tuple[list[Product], int]:
        """One page of what matches, in the order asked for, and how many match on all pages."""
        matching = _matching(query)
        one_page = matching.order_by(*ORDERS[query.sort]).offset(query.offset).limit(query.per_page)
        with self._database.read() as session:
            total = session.scalar(select(func.count()).select_from(matching.subquery())) or 0
            return list(session.scalars(one_page).all()), total

    def get(self, product_id: int) -> Product:
        with self._database.read() as session:
            return _sold(session.get(Product, product_id), product_id)

    def named(self, name: str) -> Product | None:
        """The first product of exactly this name that is sold."""
        with self._database.read() as session:
            first = select(Product).where(Product.is_active, Product.name == name).order_by(Product.id).limit(1)
            return session.scalar(first)

    def add(self, new: NewProduct) -> Product:
        with self._database.write() as session:
            product = Product(**new.model_dump(), search_text=_search_text(new.name, new.description))
            session.add(product)
        return product

    def change(self, product_id: int, change: NewProduct | ProductChange) -> Product:
        """Set the fields that `change` has; the others, stock above all, keep what is written there meanwhile."""
        with self._database.write() as session:
            product = _sold(session.get(Product, product_id, with_for_update=True), product_id)
            for name, value in change.model_dump(exclude_none=True).items():
                setattr(product, name, value)
            product.search_text = _search_text(product.name, product.description)
        return product

    def remove(self, product_id: int) -> None:
        """Sell it no longer. The row stays for the reservations that name it."""
        with self._database.write() as session:
            _sold(session.get(Product, product_id, with_for_update=True), product_id).is_active = False


def _sold(product: Product | None, product_id: int) -> Product:
    if product is None or not product.is_active:
        raise UnknownProduct(product_id)
    return product


def _matching(query: ProductQuery) -> Select[Product]:
    matching = select(Product).where(Product.is_active)
    if query.q:
        # autoescape: % and _ are letters like any others
        matching = matching.where(Product.search_text.contains(query.q.casefold(), autoescape=True))
    if query.category:
        matching = matching.where(Product.category == query.category)
    if query.min_price is not None:
        matching = matching.where(Product.price >= query.min_price)
    if query.max_price is not None:
        matching = matching.where(Product.price <= query.max_price)
    return matching


def _search_text(name: str, description: str) -> str:
    return f"{name}\n{description}".casefold()
