"""Settings that the three services share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from common.settings import IdentitySettings, OptionalText

ADDRESS = r"^https?://[^/?#@\s]+$"
"""Where an instance is: no path, no user name or password."""
MOST_WEIGHT = 1000


def _redis_url(value: str | None) -> str | None:
    """`value`, from which a client can be made. Raises `ValueError` without it: it may hold a password."""
    if value is None:
        return None
    import redis  # here: it weighs 7 MB, which services without a registry do without

    try:
        redis.ConnectionPool.from_url(value)
    except ValueError:
        raise ValueError("must be an address like redis://localhost:6379/0, rediss://... or unix://...") from None
    return value


class ServiceSettings(IdentitySettings):
    """A service sets the three class variables, adds its own settings, and names its own `database_url` and `port`."""

    name: ClassVar[str] = "service"
    plural: ClassVar[str] = "services"
    """Prefix of its variables and name of its SQLite file: `users`, `orders`, `products`."""

    service_host: str = Field("127.0.0.1", description="The address on which the three services listen.")
    workers: int | None = Field(
        None,
        ge=1,
        le=64,
        validation_alias="WEB_CONCURRENCY",
        description="Worker processes; by default one a core.",
    )
    database_url: OptionalText = None
    database_pool_size: int = Field(10, ge=1, le=200, description="Database connections, for each worker.")
    registry_url: Annotated[OptionalText, AfterValidator(_redis_url)] = Field(
        None, description="The Redis in which the service says where it is; without one it does not."
    )
    advertised_url: OptionalText = Field(
        None,
        pattern=ADDRESS,
        description="Where the gateway reaches this instance; by default the address on which it listens, and if that "
        "is 0.0.0.0 the one from which it speaks to REGISTRY_URL.",
    )
    registry_weight: float = Field(1, gt=0, le=MOST_WEIGHT, description="This instance's share of the requests.")
    registry_lease_s: float = Field(
        15, ge=1, le=3600, description="Seconds after which an instance that died is taken out of the registry."
    )

    @property
    def effective_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.var_dir / self.plural}.db"

    def contradictions(self) -> Iterable[str]:
        yield from super().contradictions()
        if self.is_production and not self.database_url:
            yield f"{self.plural.upper()}_DATABASE_URL or DATABASE_URL: is required when ENVIRONMENT=production"
