"""The figures that the gateway is held to: for each a bar, and what to reach for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench.figures import number, percent
from bench.gateways import gateway_name
from bench.kinds import SCRIPTED
from bench.phases import FEW
from bench.results import Results

FAST, STOCK, TWO = gateway_name("fast"), gateway_name("stock"), gateway_name("fast", 2)
FASTAPI = "FastAPI + httpx + PyJWT + redis"
EXPRESS = "Express + http-proxy-middleware"


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure. `holds` and `reaches` are None where nothing was measured, or nothing was set."""

    figure: str
    bar: str
    reach: str
    value: str
    holds: bool | None
    reaches: bool | None


def bars(results: Results) -> list[Bar]:
    """All of them, in the order in which they were set."""
    nginx, fast = _cpu(results, "nginx"), _cpu(results, FAST)
    httpx = [_cpu(results, name) for name in (FASTAPI, f"{FASTAPI}, {FEW} connections")]
    cheapest = min(filter(None, httpx), default=None)
    kinds = results.kinds.get("fast", {})
    beside = kinds["nginx"].cpu_us.median if "nginx" in kinds else None

    def of_kind(name: str) -> float | None:
        return kinds[name].cpu_us.median if name in kinds else None

    return [
        _at_most("CPU per request / nginx `proxy_pass`", _ratio(fast, nginx), 4.5, 3.5),
        _at_most("the same on the stock worker", _ratio(_cpu(results, STOCK), nginx), 12, 10),
        _at_least(f"CPU of {FASTAPI} (the cheaper of 64 and {FEW} connections) / ours", _ratio(cheapest, fast), 20, 25),
        _at_least(f"CPU of {EXPRESS} without policies / ours", _ratio(_cpu(results, EXPRESS), fast), 2.2, 3),
        _throughput(results),
        *_latency(results),
        *_stages(results),
        _at_most("cached answer, CPU / nginx proxying", _ratio(of_kind("cached answer"), beside), 2, 1.5),
        _at_most("bad token, CPU / nginx proxying", _ratio(of_kind("401, a bad token"), beside), 3, 2),
        _at_most("over the limit, CPU / nginx proxying", _ratio(of_kind("429, over the limit"), beside), 3, 2),
        _growth("from 10 to 10,000 routes", of_kind("10 routes"), of_kind("10,000 routes")),
        _growth("from 1 to 10,000 users", *(of_kind(name) for name in SCRIPTED)),
        *_memory(results),
    ]


def _cpu(results: Results, name: str) -> float | None:
    return results.cost[name].cpu_us.median if name in results.cost else None


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value and base else None


def _at_most(figure: str, value: float | None, bar: float, reach: float, unit: str = "") -> Bar:
    told = "not measured" if value is None else number(value) + unit
    holds = None if value is None else value <= bar
    reaches = None if value is None else value <= reach
    return Bar(figure, f"<= {bar:g}{unit}", f"{reach:g}{unit}", told, holds, reaches)


def _at_least(figure: str, value: float | None, bar: float, reach: float) -> Bar:
    told = "not measured" if value is None else number(value)
    holds = None if value is None else value >= bar
    reaches = None if value is None else value >= reach
    return Bar(figure, f">= {bar:g}", f"{reach:g}", told, holds, reaches)


def _throughput(results: Results) -> Bar:
    figure = "requests per second, two workers, the machine shared with load, service and Redis"
    if TWO not in results.cost:
        return Bar(figure, "> 10,000 in the best run", "in every run", "not measured", None, None)
    spread = results.cost[TWO].per_s
    told = f"{number(spread.greatest)} at best, {number(spread.least)} at worst"
    best, worst = spread.greatest > 10_000, spread.least > 10_000
    return Bar(figure, "> 10,000 in the best run", "in every run", told, best, worst)


def _latency(results: Results) -> Iterator[Bar]:
    added = results.latency.get(FAST)
    p50, p99 = (added.p50_ms.median, added.p99_ms.median) if added else (None, None)
    yield _at_most("added p50 at 200 requests a second", p50, 1, 0.5, " ms")
    yield _at_most("added p99 at 200 requests a second", p99, 3, 1.5, " ms")


def _stages(results: Results) -> Iterator[Bar]:
    for stage, what, bar in (
        ("route", "finding the route", 50),
        ("auth", "verifying a token that is known", 100),
        ("limits", "counting the limits", 10),
        ("instance", "choosing an instance, its breaker included", 5),
    ):
        yield _at_most(f"p99 of {what}", results.stages.get(stage), bar, bar, " ms")


def _growth(what: str, small: float | None, great: float | None) -> Bar:
    ratio = _ratio(great, small)
    told = "not measured" if ratio is None else percent(ratio - 1)
    holds = None if ratio is None else ratio < 1.1
    reaches = None if ratio is None else ratio <= 1.0
    return Bar(f"growth of CPU per request {what}", "< 10 %", "0", told, holds, reaches)


def _memory(results: Results) -> Iterator[Bar]:
    one, two = results.memory.get(FAST), results.memory.get(TWO)
    yield _at_most("memory of a worker (PSS)", one[1] if one else None, 100, 100, " MB")
    both = _at_most("memory of the master and two workers (PSS)", two[0] if two else None, 90, 90, " MB")
    yield replace(both, bar="", holds=None)
