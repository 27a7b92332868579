"""The base of all request and answer schemas."""

from __future__ import annotations

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Schema(BaseModel):
    """Unknown fields are refused; rows of the database can be read by attribute."""

    model_config = ConfigDict(extra="forbid", from_attributes=True, frozen=True)


class Query(BaseModel):
    """The base of query strings: parameters that nobody knows (`utm_source`, ...) do no harm."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def _without_point(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_without_point)
"""Beside `Field(strict=True)` an integer as JSON Schema has it: 5 and 5.0 are one; "5", true and 5.5 are none.

It has to stand last in `Annotated[...]`, or the limits don't get into the document.
"""
