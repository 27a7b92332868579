"""What a worker tells of itself: CPU as it grows, memory as it is, connections when that changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest

from gateway.observability import usage
from gateway.observability.usage import Usage, memory_bytes
from gateway.runtime import Runtime


@dataclass
class Told:
    """In the place of `Metrics`."""

    connections_told: list[tuple[str, int, int]] = field(default_factory=list[tuple[str, int, int]])
    cpu_s: list[float] = field(default_factory=list[float])

    def used(self, cpu_s: float, memory_bytes: int) -> None:
        assert memory_bytes > 0
        self.cpu_s.append(cpu_s)

    def connections(self, service: str, *, in_use: int, idle: int) -> None:
        self.connections_told.append((service, in_use, idle))


def backend(*instances: tuple[int, int]) -> SimpleNamespace:
    return SimpleNamespace(instances=[SimpleNamespace(in_use=in_use, idle=idle) for in_use, idle in instances])


def test_connections_are_told_when_they_change_and_once_more_when_a_service_is_gone() -> None:
    metrics, table = Told(), SimpleNamespace(backends={"a": backend((0, 0)), "b": backend((1, 2), (3, 0))})
    sampled = Usage(cast("Runtime", SimpleNamespace(metrics=metrics, table=table)))

    sampled.sample()
    sampled.sample()
    table.backends = {"a": backend((0, 1))}
    sampled.sample()
    sampled.sample()

    first, *others = metrics.connections_told
    assert first == ("b", 4, 2)
    assert sorted(others) == [("a", 0, 1), ("b", 0, 0)]


def test_cpu_is_told_as_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, times = Told(), iter([0.5, 0.75])
    monkeypatch.setattr(usage.time, "process_time", lambda: next(times))
    sampled = Usage(cast("Runtime", SimpleNamespace(metrics=metrics, table=SimpleNamespace(backends={}))))

    sampled.sample()
    sampled.sample()

    assert metrics.cpu_s == [0.5, 0.25]


def test_memory_is_known_also_where_the_system_has_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    there = memory_bytes()
    monkeypatch.setattr(usage, "_STATM", usage.Path("/nowhere/statm"))

    assert there > 10 << 20
    assert memory_bytes() > 10 << 20
