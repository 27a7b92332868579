"""Alembic runs this file; everything in it is `common.migrations`."""

from common import migrations
from order_service.settings import OrderSettings
from order_service.tables import Base

migrations.run(Base.metadata, OrderSettings.name)
