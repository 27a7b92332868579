"""Alembic runs this file; everything in it is `common.migrations`."""

from common import migrations
from user_service.settings import UserSettings
from user_service.tables import Base

migrations.run(Base.metadata, UserSettings.name)
