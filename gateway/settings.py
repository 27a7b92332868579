"""The gateway's settings: the environment, once, as one frozen object."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import redis
from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from common.settings import OptionalPath, OptionalText, Secret
from common.tls import CertificateFault, server_context
from gateway.backend.dns import parse_nameserver
from gateway.browsers import BrowserSettings
from gateway.callers import IPNetwork, Networks

_SIZE = re.compile(r"(\d+)\s*(B|KB|MB|GB|KIB|MIB|GIB)?", re.IGNORECASE)
_UNITS = {"": 1, "B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
DEFAULT_SERVICES = Path(__file__).with_name("services.yaml")


def parse_size(value: object) -> int:
    """Bytes in `10MB`, `512 KB` or `4096`; a KB has 1024. Raises `ValueError`."""
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("must be a size like 10MB, 512KB or 4096")
    return int(match[1]) * _UNITS[(match[2] or "").upper()]


def parse_networks(value: object) -> tuple[IPNetwork, ...]:
    """`10.0.0.0/8, 192.0.2.7` as networks. Raises `ValueError` naming the entry that is wrong."""
    if not isinstance(value, str):
        return tuple(value) if isinstance(value, tuple | list) else ()
    networks: list[IPNetwork] = []
    for entry in filter(None, (part.strip() for part in value.split(","))):
        try:
            networks.append(ipaddress.ip_network(entry))
        except ValueError:
            raise ValueError(f"{entry!r} is not an address or network like 10.0.0.0/8") from None
    return tuple(networks)


def parse_nameservers(value: object) -> tuple[str, ...]:
    """`10.0.0.2, 10.0.0.3:5353` as they are. Raises `ValueError` naming the one that is no address."""
    if not isinstance(value, str):
        return tuple(value) if isinstance(value, tuple | list) else ()
    nameservers = tuple(filter(None, (part.strip() for part in value.split(","))))
    for nameserver in nameservers:
        parse_nameserver(nameserver)
    return nameservers


def check_redis_url(value: str) -> str:
    """Raises `ValueError` for what no client could be made from. The value may hold a password."""
    try:
        redis.ConnectionPool.from_url(value)
    except ValueError:
        raise ValueError("must be an address like redis://localhost:6379/0, rediss://... or unix://...") from None
    return value


class GatewaySettings(BrowserSettings):
    """What the gateway reads from its environment; services are described in `services.yaml`."""

    gateway_host: str = Field("0.0.0.0", description="The address of the public listener.")  # noqa: S104 - it is public
    gateway_port: int = Field(5001, ge=1, le=65535, description="The port of the public listener.")
    operations_host: str = Field(
        "127.0.0.1",
        validation_alias="GATEWAY_OPERATIONS_HOST",
        description="The address of the operations listener (metrics, detailed health); never publish it.",
    )
    operations_port: int = Field(
        5101,
        ge=1,
        le=65535,
        validation_alias="GATEWAY_OPERATIONS_PORT",
        description="The port of the operations listener.",
    )
    operations_open: bool = Field(
        False,
        description="Says that the network keeps strangers from the operations listener; without it production wants a "
        "loopback address in GATEWAY_OPERATIONS_HOST.",
    )
    tls_certificate: OptionalPath = Field(
        None, description="PEM file with the certificate, and its chain, that the public listener speaks HTTPS with."
    )
    tls_key: OptionalPath = Field(None, description="PEM file with the key of TLS_CERTIFICATE, without a password.")
    tls_client_ca: OptionalPath = Field(
        None, description="PEM file with those who certify callers: with it nobody gets in without a certificate."
    )
    gateway_services: Path = Field(
        DEFAULT_SERVICES, examples=["gateway/services.yaml"], description="The file that describes the services."
    )
    workers: int | None = Field(
        None, ge=1, le=64, validation_alias="WEB_CONCURRENCY", description="Worker processes; by default one a core."
    )
    redis_url: Annotated[str, AfterValidator(check_redis_url)] = Field(
        "redis://localhost:6379/0", description="Redis or Valkey, for what the workers share: limits and cache."
    )
    redis_pool_size: int = Field(20, ge=1, le=1000, description="Connections to Redis, for each worker.")
    redis_timeout_ms: int = Field(500, ge=10, le=10_000, description="How long one call to Redis may take.")
    registry_token: Secret = Field(
        None,
        description="Who sends it may register instances on the operations listener, as an administrator may.",
    )
    dns_servers: Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_nameservers)] = Field(
        (),
        description="IP addresses of the nameservers that `dns:` names are looked up with, by comma, each perhaps with "
        "a port; by default those of /etc/resolv.conf.",
    )
    limits_timeout_ms: int = Field(
        50, ge=5, le=10_000, description="How long a request may wait for Redis to count it; then the worker counts."
    )
    rate_limit_requests: int = Field(
        100,
        ge=1,
        description="Requests that a caller may make of a service in a window, unless services.yaml says otherwise.",
    )
    user_rate_limit_requests: int | None = Field(
        None,
        ge=1,
        description="The same for callers with a token; default: RATE_LIMIT_REQUESTS. Where only this one is set, it "
        "is for all callers.",
    )
    rate_limit_window: int = Field(
        60, ge=1, le=86_400, description="The length of that window, an address' and all callers', in seconds."
    )
    address_rate_limit_requests: int | None = Field(
        None,
        ge=1,
        description="Requests of an address in a window, whoever asks, to all services together; default: ten times "
        "what one caller may ask of the service, at least 1000, for many users may share an address.",
    )
    global_rate_limit_requests: int = Field(
        1_000_000, ge=1, description="Requests of all callers in a window, to all services together."
    )
    burst_rate_limit_requests: int | None = Field(
        None,
        ge=1,
        description="Requests of a caller in BURST_RATE_LIMIT_WINDOW, to all services together; default: as "
        "many as one caller may ask of the service, at least 100.",
    )
    burst_rate_limit_window: int = Field(1, ge=1, le=3600, description="The length of a burst, in seconds.")
    request_timeout: float = Field(
        30, gt=0, le=3600, description="Seconds that a request to a service may take, all tries together."
    )
    connect_timeout: float = Field(2, gt=0, le=60, description="Seconds that connecting to a service may take.")
    max_in_flight: int = Field(
        1000, ge=1, le=100_000, description="Requests to services at once, for each worker; more wait, then get 503."
    )
    backend_pool_size: int = Field(
        200, ge=1, le=5000, description="Connections to one instance of a service, for each worker."
    )
    cache_default_ttl: int = Field(
        0,
        ge=0,
        le=86_400,
        description="Seconds for which answers are kept, where `cache` is on, that say nothing about it themselves.",
    )
    max_request_size: Annotated[int, BeforeValidator(parse_size)] = Field(
        10 << 20, examples=["10MB"], description="The largest request body, with a unit."
    )
    trusted_proxies: Annotated[
        tuple[IPNetwork, ...], NoDecode, BeforeValidator(parse_networks), AfterValidator(Networks)
    ] = Field((), description="Addresses or networks whose X-Forwarded-* are believed, by comma.")
    breaker_failures: int = Field(
        5,
        ge=1,
        validation_alias="CIRCUIT_BREAKER_FAILURE_THRESHOLD",
        description="Failures in a row that open the breaker of an instance.",
    )
    breaker_recovery_s: float = Field(
        10,
        gt=0,
        validation_alias="CIRCUIT_BREAKER_RECOVERY_TIMEOUT",
        description="Seconds after which an open breaker lets one trial request through.",
    )
    prometheus_dir: OptionalText = Field(
        None,
        validation_alias="PROMETHEUS_MULTIPROC_DIR",
        description="Where the workers keep their metrics; by default a temporary folder.",
    )
    server_timing: bool = Field(
        False, description="Tells in Server-Timing how long each stage of a request took, to any caller who looks."
    )

    @property
    def user_requests(self) -> int:
        """Of a caller with a token, to a service."""
        return self.user_rate_limit_requests or self.rate_limit_requests

    @property
    def anonymous_requests(self) -> int:
        """Of an address without a token, to a service."""
        return self.rate_limit_requests if "rate_limit_requests" in self.model_fields_set else self.user_requests

    @property
    def address_requests(self) -> int:
        """Of an address, to all services."""
        return self.address_rate_limit_requests or max(1000, 10 * self.anonymous_requests)

    @property
    def burst_requests(self) -> int:
        """Of a caller, to all services, in a burst."""
        return self.burst_rate_limit_requests or max(100, self.anonymous_requests, self.user_requests)

    def contradictions(self) -> Iterable[str]:
        yield from super().contradictions()
        if self.gateway_port == self.operations_port:
            yield "GATEWAY_OPERATIONS_PORT: must differ from GATEWAY_PORT"
        yield from self._why_no_tls()
        if self.is_production and not (self.operations_open or is_loopback(self.operations_host)):
            yield (
                "GATEWAY_OPERATIONS_HOST: must be a loopback address when ENVIRONMENT=production, for whoever reaches "
                "that port may do all that an operator may; set OPERATIONS_OPEN=true if only operators can reach it"
            )
        if self.is_production:
            given = {name.upper() for name in self.model_fields_set}
            for name in ("REDIS_URL", "USER_SERVICE_URL"):
                if name not in given:
                    alternatives = " or AUTH_SERVICE_URL" if name == "USER_SERVICE_URL" else ""
                    yield f"{name}{alternatives}: is required when ENVIRONMENT=production"

    def _why_no_tls(self) -> Iterable[str]:
        certificate, key, ca = self.tls_files
        if bool(certificate) != bool(key):
            yield "TLS_CERTIFICATE and TLS_KEY: are needed together; set both or neither"
        elif ca and not certificate:
            yield "TLS_CLIENT_CA: wants TLS_CERTIFICATE and TLS_KEY, too"
        elif certificate:
            try:
                server_context(certificate, key, ca)
            except CertificateFault as fault:
                yield f"TLS_{'CLIENT_CA' if fault.part == 'ca' else fault.part.upper()}: {fault.words}"

    @property
    def tls_files(self) -> tuple[str, str, str]:
        """Paths of the certificate, its key and the callers' CA; "" for none."""
        certificate, key, ca = (str(path or "") for path in (self.tls_certificate, self.tls_key, self.tls_client_ca))
        return certificate, key, ca


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def service_urls() -> dict[str, str]:
    """`X_SERVICE_URL` variables, of `.env` too, as `x` to address; they override, or add, service `x`."""
    pairs = {**dotenv_values(".env"), **os.environ}
    return {
        name.removesuffix("_SERVICE_URL").lower().replace("_", "-"): value.strip()
        for name, value in pairs.items()
        if name.endswith("_SERVICE_URL") and name != "_SERVICE_URL" and value and value.strip()
    }
