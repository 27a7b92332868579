"""Paging: `?page=2&per_page=20`, counted from 1."""

from __future__ import annotations

from pydantic import Field

from common.models.schema import Query, Schema


class PageQuery(Query):
    page: int = Field(1, ge=1, le=100_000, description="Counted from 1.")
    per_page: int = Field(20, ge=1, le=100)

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.per_page


class Page(Schema):
    """The numbers of one page; a service's page adds `items`."""

    page: int
    per_page: int
    total: int = Field(description="Items on all pages together.")
    pages: int

    @staticmethod
    def count(total: int, per_page: int) -> int:
        return (total + per_page - 1) // per_page
