"""Searching and changing the catalogue, against a real SQLite database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.db import Database
from product_service.products import Products, UnknownProduct
from product_service.schemas import NewProduct, ProductChange, ProductQuery
from product_service.tables import Base

GOODS = [
    {"name": "Übergroße Tasse", "description": "Holds a litre.", "category": "kitchen", "price": "18.00"},
    {"name": "mug", "description": "100% stoneware", "category": "kitchen", "price": "9.99"},
    {"name": "Mug_blue", "description": "Enamel", "category": "kitchen", "price": "12.50"},
    {"name": "Atlas", "description": "Maps of small islands", "category": "books", "price": "38.50"},
]


@pytest.fixture
def products(tmp_path: Path) -> Iterator[Products]:
    database = Database(f"sqlite:///{tmp_path / 'products.db'}")
    Base.metadata.create_all(database.engine)
    products = Products(database)
    for goods in GOODS:
        products.add(NewProduct.model_validate(goods))
    yield products
    database.dispose()


def _found(products: Products, **query: object) -> list[str]:
    return [product.name for product in products.page(ProductQuery.model_validate(query))[0]]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, ["Atlas", "mug", "Mug_blue", "Übergroße Tasse"]),
        ({"q": "MUG"}, ["mug", "Mug_blue"]),
        ({"q": "ISLANDS"}, ["Atlas"]),
        ({"q": "übergrosse"}, ["Übergroße Tasse"]),
        ({"q": "ÜBERGROSSE"}, ["Übergroße Tasse"]),
        ({"q": "%"}, ["mug"]),
        ({"q": "_"}, ["Mug_blue"]),
        ({"q": "/"}, []),
        ({"category": "books"}, ["Atlas"]),
        ({"category": "Books"}, []),
        ({"min_price": "12.50"}, ["Atlas", "Mug_blue", "Übergroße Tasse"]),
        ({"max_price": "12.50"}, ["mug", "Mug_blue"]),
        ({"min_price": "10", "max_price": "20", "category": "kitchen"}, ["Mug_blue", "Übergroße Tasse"]),
        ({"sort": "-name"}, ["Übergroße Tasse", "Mug_blue", "mug", "Atlas"]),
        ({"sort": "price"}, ["mug", "Mug_blue", "Übergroße Tasse", "Atlas"]),
        ({"sort": "-price"}, ["Atlas", "Übergroße Tasse", "Mug_blue", "mug"]),
        ({"sort": "newest"}, ["Atlas", "Mug_blue", "mug", "Übergroße Tasse"]),
        ({"per_page": 3, "page": 2}, ["Übergroße Tasse"]),
        ({"page": 9}, []),
    ],
)
def test_a_search_finds_what_matches_in_the_order_asked_for(
    products: Products, query: dict[str, object], names: list[str]
) -> None:
    assert _found(products, **query) == names


def test_the_total_counts_all_pages(products: Products) -> None:
    page, total = products.page(ProductQuery.model_validate({"q": "mug", "per_page": 1}))

    assert (len(page), total) == (1, 2)


def test_a_change_touches_only_the_fields_it_has(products: Products) -> None:
    before = products.get(2)

    after = products.change(2, ProductChange.model_validate({"price": "11.00"}))

    assert (after.price, after.name, after.description, after.stock) == (1100, before.name, before.description, 0)
    assert after.updated_at > before.updated_at


def test_a_renamed_product_is_found_by_its_new_name_only(products: Products) -> None:
    products.change(4, ProductChange(name="Globe"))

    assert _found(products, q="globe") == ["Globe"]
    assert _found(products, q="atlas") == []


def test_a_replaced_product_loses_what_the_new_one_does_not_say(products: Products) -> None:
    products.change(2, ProductChange(stock=7))

    after = products.change(2, NewProduct.model_validate({"name": "cup", "category": "kitchen", "price": 1}))

    assert (after.name, after.description, after.price, after.stock) == ("cup", "", 100, 0)


def test_a_removed_product_is_nowhere_to_be_found(products: Products) -> None:
    products.remove(4)

    assert "Atlas" not in _found(products)
    for act in (
        lambda: products.get(4),
        lambda: products.remove(4),
        lambda: products.change(4, ProductChange(stock=1)),
    ):
        with pytest.raises(UnknownProduct):
            act()
