"""The tables of order_service."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from common.models import Timestamped, UtcDateTime, new_id, new_metadata

OrderStatus = Literal["pending", "confirmed", "cancelled"]
Settlement = Literal["reserving", "confirming", "releasing", "settled"]


class Base(DeclarativeBase):
    metadata = new_metadata()


class Order(Timestamped, Base):
    """One order. `status` is what its owner sees, `settlement` what is still to be done at product_service.

    `total` is in minor units, and null while the order is a draft that nobody sees. `due_at` is when the reconciler
    takes the order up, null when there is nothing to do; `attempts` counts how often it did so in vain.
    """

    __tablename__ = "orders"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'confirmed', 'cancelled')", name="status_known"),
        CheckConstraint("settlement IN ('reserving', 'confirming', 'releasing', 'settled')", name="settlement_known"),
        Index("ix_orders_user_id_created_at", "user_id", "created_at"),
        Index("ix_orders_due_at", "due_at"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    user_id: Mapped[str] = mapped_column(String(255))
    status: Mapped[OrderStatus] = mapped_column(String(16), default="pending")
    settlement: Mapped[Settlement] = mapped_column(String(16), default="reserving")
    total: Mapped[int | None] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(String(3), default="EUR")
    due_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    attempts: Mapped[int] = mapped_column(default=0)
    lines: Mapped[list[OrderLine]] = relationship(order_by="OrderLine.position", lazy="selectin")
    history: Mapped[list[OrderEvent]] = relationship(order_by="OrderEvent.id", lazy="selectin")

    @property
    def is_draft(self) -> bool:
        return self.total is None

    @property
    def quantities(self) -> dict[int, int]:
        """Quantities by product id."""
        return {line.product_id: line.quantity for line in self.lines}


class OrderLine(Base):
    """`name` and `unit_price` are what was agreed when the order was placed, and null in a draft."""

    __tablename__ = "order_lines"
    __table_args__ = (CheckConstraint("quantity > 0", name="quantity_positive"),)

    order_id: Mapped[str] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    product_id: Mapped[int]
    quantity: Mapped[int]
    name: Mapped[str | None] = mapped_column(String(200))
    unit_price: Mapped[int | None]

    @property
    def line_total(self) -> int:
        return self.quantity * (self.unit_price or 0)


class OrderEvent(Base):
    """One entry of an order's history: the status it came into."""

    __tablename__ = "order_events"
    __table_args__ = (Index("ix_order_events_order_id", "order_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"))
    status: Mapped[OrderStatus] = mapped_column(String(16))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    note: Mapped[str] = mapped_column(String(200), default="")
