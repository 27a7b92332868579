"""Medians, and how far the runs were apart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some runs, the least and the greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Raises ValueError for none."""
        if not values:
            raise ValueError("no run")
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{number(self.median)} [{number(self.least)}-{number(self.greatest)}]"


def number(value: float) -> str:
    """With three digits that mean something, more where they stand before the point: 0.123, 12.3, 12,345."""
    magnitude = abs(value)
    digits = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2
    return f"{value:,.{digits}f}"


def percent(share: float) -> str:
    return f"{share * 100:+.1f} %"
