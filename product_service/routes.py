"""The catalogue over HTTP: everybody reads it, who has `products:write` changes it.

Answers say to which cache group they belong, and changes which group they invalidate (RFC 9875).
"""

from __future__ import annotations

from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app, request
from werkzeug.routing import BaseConverter

from common import auditing, problems
from common.defaults import problems_source
from common.models import MAX_PRODUCT_ID, Page, Schema
from common.permissions import PRODUCTS_WRITE
from common.problems import NotFound
from common.tokens import signed_in
from product_service.products import Products, UnknownProduct
from product_service.schemas import (
    NewProduct,
    ProductAnswer,
    ProductChange,
    ProductPage,
    ProductQuery,
)
from product_service.tables import Product

bp = APIBlueprint("products", __name__, tag="products")

BODY = (400, 413, 415, 422)
"""How a body can be wrong."""
AWAY = 503
"""The database, or what the token is verified with, is not available."""
FRESH = {"Cache-Control": "public, max-age=0, s-maxage=10", "Cache-Groups": '"products"'}
INVALIDATES = {"Cache-Group-Invalidation": '"products"'}


@bp.get("/products")
@bp.input(ProductQuery, location="query")
@bp.output(ProductPage)
@bp.doc(summary="Browse and search", responses=[304, 422, AWAY])
def browse(query_data: ProductQuery) -> Response:
    products, total = _products().page(query_data)
    page = ProductPage(
        items=[ProductAnswer.model_validate(product) for product in products],
        page=query_data.page,
        per_page=query_data.per_page,
        total=total,
        pages=Page.count(total, query_data.per_page),
    )
    return _cacheable(page)


@bp.get("/products/<int:product_id>")
@bp.output(ProductAnswer)
@bp.doc(summary="One product", responses=[304, 404, AWAY])
def show(product_id: int) -> Response:
    return _cacheable(ProductAnswer.model_validate(_products().get(product_id)))


@bp.post("/products")
@signed_in(permissions=(PRODUCTS_WRITE,))
@bp.input(NewProduct)
@bp.output(ProductAnswer, 201)
@bp.doc(summary="Add a product", security="bearer", responses=[*BODY, 401, 403, AWAY])
def add(json_data: NewProduct) -> tuple[Product, int, dict[str, str]]:
    product = _products().add(json_data)
    auditing.note("product.added", subject=str(product.id))
    return product, 201, {"Location": f"/products/{product.id}"} | INVALIDATES


@bp.put("/products/<int:product_id>")
@signed_in(permissions=(PRODUCTS_WRITE,))
@bp.input(NewProduct)
@bp.output(ProductAnswer)
@bp.doc(summary="Replace a product", security="bearer", responses=[*BODY, 401, 403, 404, AWAY])
def replace(product_id: int, json_data: NewProduct) -> tuple[Product, int, dict[str, str]]:
    product = _products().change(product_id, json_data)
    auditing.note("product.changed", subject=str(product_id))
    return product, 200, INVALIDATES


@bp.patch("/products/<int:product_id>")
@signed_in(permissions=(PRODUCTS_WRITE,))
@bp.input(ProductChange)
@bp.output(ProductAnswer)
@bp.doc(summary="Change a product", security="bearer", responses=[*BODY, 401, 403, 404, AWAY])
def change(product_id: int, json_data: ProductChange) -> tuple[Product, int, dict[str, str]]:
    product = _products().change(product_id, json_data)
    auditing.note("product.changed", subject=str(product_id))
    return product, 200, INVALIDATES


@bp.delete("/products/<int:product_id>")
@signed_in(permissions=(PRODUCTS_WRITE,))
@bp.doc(summary="Sell a product no longer", security="bearer", responses=[204, 401, 403, 404, AWAY])
def remove(product_id: int) -> tuple[str, int, dict[str, str]]:
    _products().remove(product_id)
    auditing.note("product.removed", subject=str(product_id))
    return "", 204, INVALIDATES


@bp.errorhandler(UnknownProduct)
def on_unknown_product(error: UnknownProduct) -> Response:
    return problems.response(NotFound(str(error), code="PRODUCT_NOT_FOUND"), problems_source())


def _cacheable(answer: Schema) -> Response:
    """An answer that shared caches may keep; 304 to a caller who has it already (RFC 9110, 13.1.2)."""
    response = Response(answer.model_dump_json(), content_type="application/json", headers=FRESH)
    response.add_etag()
    response.make_conditional(request)
    return response


def _products() -> Products:
    products: Products = current_app.extensions["products"]
    return products


class ProductId(BaseConverter):
    """A path segment as a product's id; one that can't be an id becomes 0, which no product has."""

    def to_python(self, value: str) -> int:
        is_id = value.isascii() and value.isdigit() and len(value) <= len(str(MAX_PRODUCT_ID))
        return int(value) if is_id and int(value) <= MAX_PRODUCT_ID else 0


def init_app(app: APIFlask, products: Products) -> None:
    app.extensions["products"] = products
    app.url_map.converters["int"] = ProductId  # by this name APIFlask documents an integer; the usual one overflows
    app.register_blueprint(bp)
