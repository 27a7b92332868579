"""Random secrets as manifests: `python -m deploy.kubernetes.make_secrets | kubectl create -f -`.

One `Secret` a reader, so that a service can't read another's password. Mounted at SECRETS_DIR, each key is a file named
as common.settings wants it. `create` and not `apply`: what is there already must not change.

    auth-secrets, order-secrets, product-secrets    the service's database URL and SERVICE_SECRET
    gateway-secrets                                 SERVICE_SECRET and REDIS_URL
    postgres-secrets, redis-secrets                 the passwords of the servers
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping

import yaml

NAMESPACE = "microservices"
DATABASES = {"auth": "users", "order": "orders", "product": "products"}
"""The services' names in the cluster, and the roles that own their databases."""
POSTGRES, REDIS = f"postgres.{NAMESPACE}.svc.cluster.local:5432", f"redis.{NAMESPACE}.svc.cluster.local:6379"


def values() -> dict[str, dict[str, str]]:
    """New ones: for each reader, by the setting's name in lower case."""
    service_secret, redis_password = secrets.token_urlsafe(48), secrets.token_urlsafe(32)
    passwords = {name: secrets.token_urlsafe(32) for name in DATABASES.values()}
    of_services = {
        service: {
            f"{name}_database_url": f"postgresql://{name}:{passwords[name]}@{POSTGRES}/{name}",
            "service_secret": service_secret,
        }
        for service, name in DATABASES.items()
    }
    of_roles = {f"{name}_password": password for name, password in passwords.items()}
    return {
        **of_services,
        "gateway": {"redis_url": f"redis://:{redis_password}@{REDIS}/0", "service_secret": service_secret},
        "redis": {"redis_password": redis_password},
        "postgres": {"postgres_password": secrets.token_urlsafe(32), **of_roles},
    }


def manifest(reader: str, of_reader: Mapping[str, str]) -> dict[str, object]:
    """A Secret of the cluster."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{reader}-secrets", "namespace": NAMESPACE},
        "type": "Opaque",
        "stringData": dict(of_reader),
    }


if __name__ == "__main__":
    made = [manifest(reader, of_reader) for reader, of_reader in values().items()]
    yaml.safe_dump_all(made, sys.stdout, sort_keys=False)
