"""The tables of product_service."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from common.models import Timestamped, UtcDateTime, new_metadata

ReservationStatus = Literal["held", "confirmed", "released", "expired"]


class Base(DeclarativeBase):
    metadata = new_metadata()


class Product(Timestamped, Base):
    """Something that is sold. One that is no longer sold stays as an inactive row: old reservations name it.

    `price` is in minor units. `search_text` is name and description, case-folded here because the databases differ
    in which letters they can fold.
    """

    __tablename__ = "products"
    __table_args__ = (
        CheckConstraint("stock >= 0", name="stock_not_negative"),
        CheckConstraint("price >= 0", name="price_not_negative"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text)
    category: Mapped[str] = mapped_column(String(50), index=True)
    price: Mapped[int]
    stock: Mapped[int]
    is_active: Mapped[bool] = mapped_column(default=True)
    search_text: Mapped[str] = mapped_column(Text)


class Reservation(Timestamped, Base):
    """Stock taken for one order; `id` is the order's. `expires_at` is set only while it is held."""

    __tablename__ = "reservations"
    __table_args__ = (
        CheckConstraint("status IN ('held', 'confirmed', 'released', 'expired')", name="status_known"),
        Index("ix_reservations_expires_at", "expires_at"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    status: Mapped[ReservationStatus] = mapped_column(String(16))
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    lines: Mapped[list[ReservationLine]] = relationship(
        order_by="ReservationLine.product_id", lazy="selectin", cascade="all, delete-orphan"
    )


class ReservationLine(Base):
    """`name` and `unit_price` are the product's at the time the stock was taken."""

    __tablename__ = "reservation_lines"
    __table_args__ = (CheckConstraint("quantity > 0", name="quantity_positive"),)

    reservation_id: Mapped[str] = mapped_column(ForeignKey("reservations.id"), primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    quantity: Mapped[int]
    unit_price: Mapped[int]
