"""What callers send and get."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from common.models import WHOLE, Lines, Money, Page, PageQuery, Price, Schema
from product_service.tables import ReservationStatus

MAX_STOCK = 1_000_000

Sort = Literal["name", "-name", "price", "-price", "newest"]

# no control characters (PostgreSQL refuses NUL), no blanks at the ends
LINE_PATTERN = r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$"
TEXT_PATTERN = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=LINE_PATTERN, examples=["Enamel mug"])]
Description = Annotated[str, Field(max_length=2000, pattern=TEXT_PATTERN)]
Category = Annotated[str, Field(min_length=1, max_length=50, pattern=LINE_PATTERN, examples=["kitchen"])]
Stock = Annotated[int, Field(ge=0, le=MAX_STOCK, strict=True), WHOLE]


class NewProduct(Schema):
    name: Name
    description: Description = ""
    category: Category
    price: Price
    stock: Stock = 0


class ProductChange(Schema):
    """A field that is missing or null stays as it is; one at least must be there."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    name: Name | None = None
    description: Description | None = None
    category: Category | None = None
    price: Price | None = None
    stock: Stock | None = None

    @model_validator(mode="after")
    def has_a_field(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("name at least one field to change")
        return self


class ProductQuery(PageQuery):
    q: str | None = Field(
        None, max_length=100, pattern=TEXT_PATTERN, description="Text in name or description, in any case."
    )
    category: str | None = Field(None, max_length=50, pattern=TEXT_PATTERN)
    min_price: Price | None = None
    max_price: Price | None = None
    sort: Sort = "name"

    @model_validator(mode="after")
    def has_a_price_range(self) -> Self:
        if self.min_price is not None and self.max_price is not None and self.min_price > self.max_price:
            raise ValueError("min_price must not be greater than max_price")
        return self


class ProductAnswer(Schema):
    model_config = ConfigDict(extra="ignore")

    id: int
    name: str
    description: str
    category: str
    price: Money
    stock: int
    created_at: datetime
    updated_at: datetime


class ProductPage(Page):
    items: list[ProductAnswer]


class ReservationRequest(Lines):
    """The stock of an order."""


class ReservationLineAnswer(Schema):
    product_id: int
    name: str
    quantity: int
    unit_price: Money


class ReservationAnswer(Schema):
    id: str
    status: ReservationStatus
    expires_at: datetime | None
    lines: list[ReservationLineAnswer]
