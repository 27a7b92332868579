"""Money: integer minor units inside, a decimal string with two places outside."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

MAX_MINOR_UNITS = 10_000_000_00


def to_minor_units(value: object) -> int:
    """`"12.50"`, `12.5` or `Decimal("12.50")` as 1250. Raises `ValueError` for anything that is not such an amount."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError("must be an amount like 12.50")
    try:
        minor = Decimal(str(value)).scaleb(2)
    except ArithmeticError:  # "abc" is an InvalidOperation, "1e999999999999999999" an Overflow
        raise ValueError("must be an amount like 12.50") from None
    if not minor.is_finite() or minor != minor.to_integral_value():
        raise ValueError("must be an amount with at most two decimal places, like 12.50")
    if not 0 <= minor <= MAX_MINOR_UNITS:
        raise ValueError("must be between 0.00 and 10000000.00")
    return int(minor)


def to_text(minor_units: int) -> str:
    """1250 as `12.50`."""
    return f"{minor_units // 100}.{minor_units % 100:02d}"


Price = Annotated[
    int,
    BeforeValidator(to_minor_units),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^(\d{1,7}(\.\d{1,2})?|10000000(\.00?)?)$"},
                {"type": "number", "minimum": 0, "maximum": 10000000, "multipleOf": 0.01},
            ],
            "examples": ["12.50"],
        }
    ),
]
"""A field of a request: an amount such as "12.50" or 12.5 in JSON, minor units in Python."""

Money = Annotated[
    int,
    PlainSerializer(to_text, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\d+\.\d{2}$", "examples": ["12.50"]}),
]
"""A field of an answer: minor units in Python, an amount such as "12.50" in JSON."""
