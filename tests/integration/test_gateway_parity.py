"""There are two lanes through the gateway, and two loops that serve a connection. Whoever calls can't tell them apart.

The whole table of cases goes through all four combinations, each with its own stub and database. Status, fields (but
for dates and ids) and body must be the same, and so must be what arrived at the service.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.integration.conftest import ADMIN, Gateway, bearer
from tests.support import wire
from tests.support.parity_cases import Case, cases
from tests.support.stub import StubService
from tests.support.wire import Pairs

FAST, FLASK = "gateway.wsgi:app", "tests.support.flask_lane:app"
WAYS = {
    "fast lane, fast worker": (FAST, "fast"),
    "Flask, fast worker": (FLASK, "fast"),
    "fast lane, stock worker": (FAST, "stock"),
    "Flask, stock worker": (FLASK, "stock"),
}
VARYING = (
    (re.compile(r"req-[0-9a-f]{24}"), "{id}"),
    (re.compile(r"127\.0\.0\.1:\d+"), "{address}"),
    (re.compile(r"(?<=;t=)\d+"), "{t}"),
    (re.compile(r"(?<=ttl=)-?\d+"), "{ttl}"),
    (re.compile(r"""(X-Request-Timeout-Ms['"], ['"])\d+"""), r"\1{ms}"),
    (re.compile(r'"connection": \d+'), '"connection": {n}'),
    (re.compile(r'(?<="latency_ms":)\d+\.\d+'), "{ms}"),
)
QUICK = {"CALLER_TIMEOUT": "1", "HEAD_TIMEOUT": "1", "RATE_LIMIT_WINDOW": "3600", "BURST_RATE_LIMIT_WINDOW": "3600"}
"""No case takes long, and no window ends meanwhile."""
Outcomes = Mapping[str, Mapping[str, object]]
UNSTEADY = frozenset({"date", "x-ratelimit-reset", "age", "allow"})  # Flask's Allow is a set, in any order


def test_all_ways_through_the_gateway_are_alike(tmp_path: Path, database: Callable[[], str]) -> None:
    shown = {"nobody": (), "customer": bearer(), "admin": ADMIN, "liar": [("Authorization", "Bearer a.b.c")]}

    def told(number: int, app: str, worker: str) -> Outcomes:
        return outcomes(tmp_path / str(number), database(), app, worker, shown)

    with ThreadPoolExecutor(len(WAYS)) as threads:
        waiting = [threads.submit(told, number, *way) for number, way in enumerate(WAYS.values())]
        reference, *others = (future.result() for future in waiting)

    assert len(reference) > 2500
    for way, other in zip(list(WAYS)[1:], others, strict=True):
        unlike = [
            f"{case}: {part} was {expected}, but by {way} {other[case].get(part)}"
            for case, parts in reference.items()
            for part in sorted(parts.keys() | other[case].keys())
            if (expected := parts.get(part)) != other[case].get(part)
        ]
        assert not unlike, f"{len(unlike)} differences in {len(other)} cases:\n" + "\n".join(unlike[:20])


def outcomes(directory: Path, redis_url: str, app: str, worker: str, shown: Mapping[str, Pairs]) -> Outcomes:
    """What came of each case, by its name."""
    env = {"WEB_CONCURRENCY": "1", "WORKER": worker, **QUICK}
    with StubService() as stub, Gateway(directory, stub=stub, redis_url=redis_url, env=env, app=app) as gateway:
        routes = gateway.operations("/config/routes").json()["routes"]
        assert isinstance(routes, list)
        every = cases([route["path"] for route in routes], shown)
        return {case.name: outcome(gateway, case) for case in every}


def outcome(gateway: Gateway, case: Case) -> Mapping[str, object]:
    """Status, fields and body, and what the stub got, without what differs from run to run."""
    gateway.stub.clear()
    with wire.Connection(gateway.port, timeout=15) as connection:
        try:
            connection.send(case.raw)
            answer = connection.answer(to=case.method)
        except ConnectionError as error:
            return {"error": type(error).__name__}
    names = {name.lower() for name, _ in answer.headers}
    return {
        "status": (*answer.interim, answer.status),
        **{name: [steady(text) for text in answer.all(name)] for name in names - UNSTEADY},
        "body": steady(answer.body.decode("latin-1")),
        "end": (answer.is_complete, answer.closed),
        "arrived": [(each.method, each.target, steady(str(each.headers))) for each in gateway.arrived],
    }


def steady(text: str) -> str:
    for pattern, name in VARYING:
        text = pattern.sub(name, text)
    return text
