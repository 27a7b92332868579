"""Settings of product_service."""

from __future__ import annotations

from typing import ClassVar

from pydantic import AliasChoices, Field

from common.service_settings import ServiceSettings
from common.settings import OptionalText


class ProductSettings(ServiceSettings):
    name: ClassVar[str] = "product_service"
    plural: ClassVar[str] = "products"

    port: int = Field(
        5004, ge=1, le=65535, validation_alias="PRODUCT_SERVICE_PORT", description="The port of product_service."
    )
    database_url: OptionalText = Field(
        None,
        validation_alias=AliasChoices("PRODUCTS_DATABASE_URL", "DATABASE_URL"),
        description="Where products and stock are kept: postgresql:// or sqlite:///; by default a file in VAR_DIR.",
    )
    reservation_ttl: int = Field(
        120, ge=1, le=86_400, description="Seconds for which stock is held for an order that is not confirmed."
    )
    reservation_sweep_interval: float = Field(
        3.0, ge=0.1, le=3600, description="Seconds between two looks for reservations whose time is over."
    )
