"""What callers send and get."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from common.models import WHOLE, Money, Page, PageQuery, Schema
from order_service.tables import OrderStatus

MAX_PRODUCT_ID = 2_147_483_647  # product_service's ids are PostgreSQL integers
MAX_QUANTITY = 1000
MAX_LINES = 50


class NewOrderLine(Schema):
    product_id: Annotated[int, Field(ge=1, le=MAX_PRODUCT_ID, strict=True), WHOLE]
    quantity: Annotated[int, Field(ge=1, le=MAX_QUANTITY, strict=True, description="Pieces."), WHOLE]


class NewOrder(Schema):
    """A product stands in one line only."""

    lines: list[NewOrderLine] = Field(min_length=1, max_length=MAX_LINES)

    @model_validator(mode="after")
    def has_each_product_once(self) -> Self:
        if len(self.quantities) != len(self.lines):
            raise ValueError("a product stands in several lines; put its quantities together")
        return self

    @property
    def quantities(self) -> dict[int, int]:
        """Quantities by product id, in the order of the lines."""
        return {line.product_id: line.quantity for line in self.lines}


class OrderQuery(PageQuery):
    status: OrderStatus | None = None
    all: bool = Field(False, description="Everybody's orders; for administrators.")
    user_id: str | None = Field(
        None, max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$", description="This user's orders; for administrators."
    )


class HistoryEntry(Schema):
    model_config = ConfigDict(extra="ignore")

    status: OrderStatus
    at: datetime
    note: str


class OrderLineAnswer(Schema):
    model_config = ConfigDict(extra="ignore")

    product_id: int
    name: str
    quantity: int
    unit_price: Money
    line_total: Money


class OrderAnswer(Schema):
    model_config = ConfigDict(extra="ignore")

    id: str
    user_id: str
    status: OrderStatus
    total: Money
    currency: str
    lines: list[OrderLineAnswer]
    created_at: datetime
    updated_at: datetime
    history: list[HistoryEntry]


class OrderPage(Page):
    items: list[OrderAnswer]


class OrderHistory(Schema):
    id: str
    status: OrderStatus
    history: list[HistoryEntry]
