"""Settings of order_service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import AliasChoices, Field

from common.service_settings import ServiceSettings
from common.settings import OptionalText


class OrderSettings(ServiceSettings):
    name: ClassVar[str] = "order_service"
    plural: ClassVar[str] = "orders"

    port: int = Field(
        5003, ge=1, le=65535, validation_alias="ORDER_SERVICE_PORT", description="The port of order_service."
    )
    database_url: OptionalText = Field(
        None,
        validation_alias=AliasChoices("ORDERS_DATABASE_URL", "DATABASE_URL"),
        description="Where orders are kept: postgresql:// or sqlite:///; by default a file in VAR_DIR.",
    )
    product_service_url: str = Field(
        "http://127.0.0.1:5004",
        pattern=r"^https?://[^/?#\s]+$",
        description="Where product_service is; order_service reserves stock there.",
    )
    product_connect_timeout: float = Field(
        1.0, gt=0, le=60, description="Seconds in which product_service has to accept a connection."
    )
    product_read_timeout: float = Field(
        3.0, gt=0, le=60, description="Seconds in which product_service has to answer an order's request."
    )
    reconcile_interval: float = Field(
        2.0, ge=0.1, le=3600, description="Seconds between two looks for orders whose work with product_service is due."
    )
    reconcile_after: float = Field(
        10.0, gt=0, le=3600, description="Seconds that an order's own request has to finish before others take it up."
    )

    def contradictions(self) -> Iterable[str]:
        yield from super().contradictions()
        if self.reconcile_after <= self.product_connect_timeout + self.product_read_timeout:
            yield (
                "RECONCILE_AFTER: must be longer than PRODUCT_CONNECT_TIMEOUT and PRODUCT_READ_TIMEOUT together, "
                "or slow orders are undone while they are being placed"
            )
