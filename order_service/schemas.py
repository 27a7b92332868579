"""What callers send and get."""

from __future__ import annotations

from datetime import datetime

from pydantic import ConfigDict, Field

from common.models import Lines, Money, Page, PageQuery, Schema
from order_service.tables import OrderStatus


class NewOrder(Lines):
    """What is wanted; prices are product_service's to say."""


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
