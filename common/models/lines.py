"""Lines of an order: so many pieces of a product. order_service takes them from callers and hands them on."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from common.models.schema import WHOLE, Schema

MAX_PRODUCT_ID = 2_147_483_647  # ids are PostgreSQL integers
MAX_QUANTITY = 1000
MAX_LINES = 50


class Line(Schema):
    product_id: Annotated[int, Field(ge=1, le=MAX_PRODUCT_ID, strict=True), WHOLE]
    quantity: Annotated[int, Field(ge=1, le=MAX_QUANTITY, strict=True, description="Pieces."), WHOLE]


class Lines(Schema):
    """A product stands in one line only."""

    lines: list[Line] = Field(min_length=1, max_length=MAX_LINES)

    @model_validator(mode="after")
    def has_each_product_once(self) -> Self:
        if len(self.quantities) != len(self.lines):
            raise ValueError("a product stands in several lines; put its quantities together")
        return self

    @property
    def quantities(self) -> dict[int, int]:
        """Quantities by product id, in the order of the lines."""
        return {line.product_id: line.quantity for line in self.lines}
