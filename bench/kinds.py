"""The gateway by what is asked of it: kinds of requests, of answers, of refusals, and how many routes it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench.callers import Callers, with_token
from bench.gateways import path_of
from bench.measuring import Case
from bench.servers import Server

USERS = 10_000
ROUTES = (10, 1_000, 10_000)
SCRIPTED = ("one user", "10,000 users, 1,000 addresses")
Gateways = Callable[[int, bool], Server]
"""Starts one with so many routes, and with TLS or without."""


def of(gateways: Gateways, routes: Sequence[int], callers: Callers, folder: Path) -> Iterator[Case]:
    """All kinds, each with a gateway that is running, some with so many `routes`. Files with tokens go to `folder`."""
    plain = gateways(0, False)
    caller = with_token(callers.token())
    base = Case("GET, 1 KB answer", plain, headers=caller, counts=True)
    yield base
    for name, count in zip(SCRIPTED, (1, USERS), strict=True):
        file = callers.write_users(folder / f"users-{count}", count)
        yield replace(base, name=name, script=("many_users.lua", str(file)))
    yield replace(base, name="POST, 1 KB of JSON", script=("post.lua",))
    yield replace(base, name="100 KB answer", path="/items/large")
    yield replace(base, name="chunked answer", path="/items/chunked")
    yield replace(base, name="TLS", server=gateways(0, True))
    yield replace(base, name="cached answer", path="/kept/1", asks_service=False)
    refused = replace(base, asks_service=False, counts=False)
    forged = with_token(callers.forged_token())
    yield replace(refused, name="401, a bad token", headers=forged, expects=401)
    file = callers.write_forgeries(folder / "forgeries", USERS)
    script = ("many_users.lua", str(file))
    yield replace(refused, name="401, 10,000 bad tokens", headers=forged, script=script, expects=401)
    yield replace(refused, name="429, over the limit", path="/limited/1", expects=429)
    yield replace(refused, name="503, breaker open", path="/dead/1", expects=503)
    for count in routes:
        yield replace(base, name=f"{count:,} routes", server=gateways(count, False), path=path_of(count - 1))
