"""Models that all three services share: what a table row, a page and an amount of money look like.

Each service has its own `Base` (its own metadata, its own database); these are the pieces it is made from.
"""

from common.models.lines import MAX_PRODUCT_ID, Lines
from common.models.money import Money, Price, to_minor_units
from common.models.page import Page, PageQuery
from common.models.schema import WHOLE, Query, Schema
from common.models.tables import Timestamped, UtcDateTime, new_metadata
from common.values import new_id, utc_now

__all__ = [
    "Lines",
    "MAX_PRODUCT_ID",
    "WHOLE",
    "Money",
    "Page",
    "PageQuery",
    "Price",
    "Query",
    "Schema",
    "Timestamped",
    "UtcDateTime",
    "new_id",
    "new_metadata",
    "to_minor_units",
    "utc_now",
]
