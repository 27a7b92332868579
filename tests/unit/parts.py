"""The gateway's parts, real ones, put together for tests that need no process and mostly no socket."""

from __future__ import annotations

import io
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from flask import Flask
from limits import parse

from common.settings import load
from gateway import create_app
from gateway.body import Body
from gateway.callers import Forwarding
from gateway.exchange import Answer, Exchange, Handler, HeaderList
from gateway.runtime import Runtime, runtime_of
from gateway.services import Address, Service, Sources
from gateway.settings import GatewaySettings
from gateway.targets import parse_target
from tests.support.processes import KEPT

NOWHERE = "redis://127.0.0.1:1/0"
"""Nobody listens there, and being told so takes no time."""

UNHURRIED: Mapping[str, object] = {"redis_url": NOWHERE, "limits_timeout_ms": 2000}
"""So that a machine that is busy with other tests makes no difference."""

CALLER = "192.0.2.1"


@contextmanager
def clean_environment(**variables: str) -> Generator[pytest.MonkeyPatch]:
    """Only these variables and what any program needs are in `os.environ`, until the end of the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(KEPT):
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield patch


def settings(**given: object) -> GatewaySettings:
    """Settings that the developer's environment has no say in; Redis is away unless `redis_url` is given."""
    with clean_environment():
        return load(GatewaySettings, "gateway", _env_file=None, **{**UNHURRIED, **given})


def app(directory: Path, entries: Mapping[str, Mapping[str, object]] | None = None, **given: object) -> Flask:
    """A gateway with its three services and `entries`, whose files are in `directory`."""
    known = {name: {"url": "http://127.0.0.1:1"} for name in ("users", "orders", "products")}
    file = directory / "services.yaml"
    file.write_text(yaml.safe_dump({"services": {**known, **(entries or {})}}))
    chosen = settings(gateway_services=file, **given)
    with clean_environment():
        return create_app(chosen)


def runtime(directory: Path, entries: Mapping[str, Mapping[str, object]] | None = None, **given: object) -> Runtime:
    """The parts of such a gateway."""
    return runtime_of(app(directory, entries, **given))


def service(name: str = "things", **changes: object) -> Service:
    """A service without anything special."""
    fields: dict[str, object] = {
        "name": name,
        "sources": Sources((Address("http://127.0.0.1:1"),)),
        "prefixes": (f"/{name}",),
        "is_public": True,
        "limits": {"default": parse("1000/minute")},
        "max_body_bytes": 1 << 20,
        "timeout_s": 1.0,
        "try_timeout_s": 1.0,
        "connect_timeout_s": 1.0,
    }
    return Service(**{**fields, **changes})  # pyright: ignore[reportArgumentType] - the table above has the types


def exchange(
    parts: Runtime,
    method: str = "GET",
    target: str = "/things",
    headers: Mapping[str, str] | None = None,
    *,
    body: bytes = b"",
    is_chunked: bool = False,
    of: Service | None = None,
    caller: str = CALLER,
    request_id: str = "req-1",
) -> Exchange:
    """One request's facts, as the edge would have found them; routed already if the service is given by `of`."""
    made = Exchange(
        method=method,
        target=parse_target(method, target, "h"),
        headers=dict(headers or {}),
        body=Body(io.BytesIO(body), None if is_chunked else len(body)),
        forwarding=Forwarding(caller, "http", "h", ()),
        request_id=request_id,
        runtime=parts,
        table=parts.table,
        is_operations=False,
    )
    if of is not None:
        made.service, made.backend, made.prefix_segments = of, of.key, 1
    return made


def answering(
    status: int = 200, headers: HeaderList | None = None, body: bytes = b"answer", calls: list[Exchange] | None = None
) -> Handler:
    """An innermost handler: gives this answer each time and notes in `calls` what it was asked."""

    def handler(exchange: Exchange) -> Answer:
        if calls is not None:
            calls.append(exchange)
        return Answer(status, list(headers or []), (body,))

    return handler
