"""Alembic runs this file; everything in it is `common.migrations`."""

from common import migrations
from product_service.settings import ProductSettings
from product_service.tables import Base

migrations.run(Base.metadata, ProductSettings.name)
