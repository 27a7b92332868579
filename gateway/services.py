"""What stands behind the gateway: one frozen `Service` for each entry of the services file, every number filled in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from limits import RateLimitItem, parse

from gateway.services_file import NAME, ServiceEntry, ServicesError, Strategy, free_name, parse_address, read
from gateway.settings import GatewaySettings

DEFAULT_LIMIT = "default"


@dataclass(frozen=True, slots=True)
class Service:
    """One service behind the gateway, every number filled in."""

    name: str
    instances: tuple[str, ...]  # addresses, at least one
    path: str  # what replaces the public prefix on the way to the service: "" or "/students"
    is_public: bool
    roles: tuple[str, ...]
    is_cached: bool
    limits: Mapping[str, RateLimitItem]
    max_body_bytes: int
    timeout_s: float  # for all tries together
    try_timeout_s: float
    connect_timeout_s: float
    balance: Strategy
    hash_by: str
    retries: int
    retry_on: frozenset[int]
    retry_budget: float

    def limit(self, name: str) -> RateLimitItem:
        """The rate called `name`, or the service's default one."""
        return self.limits.get(name) or self.limits[DEFAULT_LIMIT]


def load_services(
    path: Path, settings: GatewaySettings, urls: Mapping[str, str], *, needed: Iterable[str] = ()
) -> dict[str, Service]:
    """The services of the file, with the addresses of `urls` (see `settings.service_urls`) laid over them.

    `needed` are those without which there is no start, because their routes are written in code.
    """
    entries = dict(read(path).services)
    problems: list[str] = []
    for name, url in urls.items():
        owner = next((known for known, entry in entries.items() if name in (known, *entry.aliases)), "")
        try:
            addresses = [parse_address(part.strip()) for part in url.split(",")]
            if not owner and not re.fullmatch(NAME, free_name(name)):
                raise ValueError(f"a service can't be called {name}")
        except ValueError as error:
            problems.append(f"{name.upper().replace('-', '_')}_SERVICE_URL: {error}")
            continue
        if not owner:
            entries[name] = ServiceEntry.model_validate({"instances": addresses})
        # of several variables for one service its own name wins, then the first alias
        elif name == next(known for known in (owner, *entries[owner].aliases) if known in urls):
            entries[owner] = entries[owner].model_copy(update={"url": None, "instances": addresses})
    problems += [f"{path}: needs an entry {name}, for its routes are fixed" for name in needed if name not in entries]
    if problems:
        raise ServicesError(problems)
    return {name: _fill(name, entry, settings) for name, entry in entries.items()}


def _fill(name: str, entry: ServiceEntry, settings: GatewaySettings) -> Service:
    rates = {limit: parse(rate) for limit, rate in entry.limits.items()}
    rates.setdefault(DEFAULT_LIMIT, parse(f"{settings.rate_limit_requests} per {settings.rate_limit_window} second"))
    return Service(
        name=name,
        instances=entry.addresses,
        path=f"/{name}" if entry.path is None else entry.path,
        is_public=entry.public,
        roles=tuple(entry.roles),
        is_cached=entry.cache,
        limits=rates,
        max_body_bytes=settings.max_request_size if entry.max_body is None else entry.max_body,
        timeout_s=entry.timeout_s or settings.request_timeout,
        try_timeout_s=entry.try_timeout_s or entry.timeout_s or settings.request_timeout,
        connect_timeout_s=entry.connect_timeout_s or settings.connect_timeout,
        balance=entry.balance,
        hash_by=entry.hash_by,
        retries=entry.retries,
        retry_on=frozenset(entry.retry_on),
        retry_budget=entry.retry_budget,
    )
