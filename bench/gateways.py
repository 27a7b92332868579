"""The gateway as it is run, `gunicorn -c gateway/gunicorn.conf.py gateway.wsgi:app`, seen from outside only.

Everything stands at its default but for limits, which are counted and never reached.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.servers import UNLIMITED, Server, Service, Starter
from tests.support.certificates import Authority
from tests.support.ports import free_ports

ROUTES_OF_A_SERVICE = 10
WORKERS = ("fast", "stock")
COMMAND = ("-m", "gunicorn", "-c", "gateway/gunicorn.conf.py", "gateway.wsgi:app")

SERVICES = """\
services:
  users: {{url: "{users}"}}
  orders: {{url: "{url}"}}
  products: {{url: "{url}"}}
  items: {{url: "{url}"}}
  kept: {{url: "{url}", cache: true}}
  limited: {{url: "{url}", limits: {{default: 1/hour}}}}
  dead: {{url: "http://127.0.0.1:{closed}", retries: 0, breaker: {{failures: 1, recovery_s: 3600}}}}
"""
"""All want a token. `items` is what is compared; the others are for the cases that are named like them."""


def start_gateway(
    starter: Starter,
    service: Service,
    *,
    redis_url: str,
    worker: str,
    workers: int = 1,
    routes: int = 0,
    with_tls: bool = False,
    tells_stages: bool = False,
) -> Server:
    """With `routes`, so many more of them are configured, of services with ten each. Raises `NotStarted`."""
    port, operations_port, closed = free_ports(3)
    text = SERVICES.format(url=service.url, users=service.users_url, closed=closed)
    file = starter.folder / f"{port}-services.yaml"
    file.write_text(text + "\n".join(more_services(service.url, routes)) + "\n")
    env = {
        "WORKER": worker,
        "WEB_CONCURRENCY": str(workers),
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "GATEWAY_OPERATIONS_PORT": str(operations_port),
        "GATEWAY_SERVICES": str(file),
        "USER_SERVICE_URL": service.users_url,
        "REDIS_URL": redis_url,
        "SERVICE_SECRET": secrets.token_hex(32),
        "TRUSTED_PROXIES": "127.0.0.1",
        "RATE_LIMIT_REQUESTS": UNLIMITED,
        "GLOBAL_RATE_LIMIT_REQUESTS": UNLIMITED,
        "LIMITS_TIMEOUT_MS": "5000",  # a busy machine is no reason to count without Redis
        **({"SERVER_TIMING": "true"} if tells_stages else {}),
        **(_certified(starter.folder) if with_tls else {}),
    }
    name = gateway_name(worker, workers)
    return starter.start(name, [sys.executable, *COMMAND], port=port, env=env, ready="/health", is_tls=with_tls)


def gateway_name(worker: str, workers: int = 1) -> str:
    return f"this gateway, {worker} worker" + (f" x {workers}" if workers > 1 else "")


def more_services(url: str, routes: int) -> Iterator[str]:
    """Lines of the services file."""
    for first in range(0, routes, ROUTES_OF_A_SERVICE):
        yield f"  {service_of(first)}:"
        yield f'    url: "{url}"'
        yield "    routes:"
        for route in range(first, min(routes, first + ROUTES_OF_A_SERVICE)):
            yield f"      - {{path: /part-{route}/<id>}}"


def service_of(route: int) -> str:
    return f"more-{route // ROUTES_OF_A_SERVICE}"


def path_of(route: int) -> str:
    """A path that this one of the routes takes."""
    return f"/{service_of(route)}/part-{route}/1"


def _certified(folder: Path) -> Mapping[str, str]:
    pair = Authority(folder, "bench").issue()
    return {"TLS_CERTIFICATE": pair.certificate, "TLS_KEY": pair.key}
