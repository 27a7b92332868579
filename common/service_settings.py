"""Settings that the three services share."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, ClassVar

import redis
from pydantic import AfterValidator, Field

from common.settings import IdentitySettings, OptionalText, Secret, strong_secret

ADDRESS = r"^https?://[^/?#@\s]+$"
"""Where an instance is: no path, no user name or password."""
MOST_WEIGHT = 1000


def _redis_url(value: str | None) -> str | None:
    """`value`, from which a client can be made. Raises `ValueError` without it: it may hold a password."""
    try:
        if value is not None:
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
    var_dir: Path = Field(Path("var"), description="Where a development run keeps its databases and secrets.")
    database_url: OptionalText = None
    database_pool_size: int = Field(10, ge=1, le=200, description="Database connections, for each worker.")
    service_secret: Secret = Field(
        None, description="With it the services prove to each other who they are. Required in production."
    )

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

    def effective_service_secret(self) -> str:
        """`SERVICE_SECRET`, or on a development run a random one that the processes of this folder share."""
        return self.service_secret or shared_development_secret(self.var_dir / "service_secret")

    def contradictions(self) -> Iterable[str]:
        yield from super().contradictions()
        if self.is_production and not self.database_url:
            yield f"{self.plural.upper()}_DATABASE_URL or DATABASE_URL: is required when ENVIRONMENT=production"
        if self.is_production and not self.service_secret:
            yield "SERVICE_SECRET: is required when ENVIRONMENT=production; make one with: openssl rand -base64 48"


def shared_development_secret(path: Path) -> str:
    """The secret in the file `path`, which is made, readable by its owner only, where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(48))
    try:
        os.link(draft, path)  # atomic, and it loses politely against another process
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    secret = strong_secret(path.read_text().strip())
    assert secret is not None
    return secret
