"""The base of all request and answer schemas."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Schema(BaseModel):
    """Unknown fields are refused; rows of the database can be read by attribute."""

    model_config = ConfigDict(extra="forbid", from_attributes=True, frozen=True)


class Query(BaseModel):
    """The base of query strings: parameters that nobody knows (`utm_source`, ...) do no harm."""

    model_config = ConfigDict(extra="ignore", frozen=True)
