"""What is counted in plain numbers comes to the page as prometheus_client would have counted it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from gateway.observability.counts import Counts, Durations, Timings
from gateway.observability.metrics import BUCKETS_S, Metrics

SECONDS = [0.0, 0.0003, *BUCKETS_S, 0.3, 29.9, 31.0, 0.3]


def timings() -> tuple[Timings, CollectorRegistry]:
    registry = CollectorRegistry()
    counter = Counter("asked", "x", ("service", "route", "method", "status"), registry=registry)
    histogram = Histogram("seconds", "x", ("service", "route"), buckets=BUCKETS_S, registry=registry)
    return Timings(counter, histogram, BUCKETS_S), registry


def samples(registry: CollectorRegistry) -> list[bytes]:
    return [line for line in generate_latest(registry).splitlines() if b"_created" not in line and line[:1] != b"#"]


def test_timings_fall_into_the_buckets_into_which_the_library_puts_them() -> None:
    told, registry = timings()
    plain = CollectorRegistry()
    histogram = Histogram("seconds", "x", ("service", "route"), buckets=BUCKETS_S, registry=plain)

    for number, seconds in enumerate(SECONDS):
        told.add(seconds, "a", "r", "GET", str(200 + number % 2))
        histogram.labels("a", "r").observe(seconds)
        if number % 5 == 0:
            told.flush()
    told.flush()

    told_lines = [line for line in samples(registry) if line.startswith(b"seconds_")]
    assert told_lines[:-1] == samples(plain)[:-1]
    assert float(told_lines[-1].split()[-1]) == pytest.approx(sum(SECONDS))
    statuses = [float(line.split()[-1]) for line in samples(registry) if line.startswith(b"asked_total")]
    assert statuses == [10.0, 10.0]


def test_durations_fall_into_the_same_buckets() -> None:
    plain, registry = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("seconds", "x", ("service",), buckets=BUCKETS_S, registry=plain)
    told = Durations(Histogram("seconds", "x", ("service",), buckets=BUCKETS_S, registry=registry), BUCKETS_S)

    for number, seconds in enumerate(SECONDS):
        told.add(seconds, f"s{number % 2}")
        histogram.labels(f"s{number % 2}").observe(seconds)
        if number % 5 == 0:
            told.flush()
    told.flush()

    assert [line for line in samples(registry) if b"_sum" not in line] == [
        line for line in samples(plain) if b"_sum" not in line
    ]
    sums = [float(line.split()[-1]) for line in samples(registry) if b"_sum" in line]
    assert sum(sums) == pytest.approx(sum(SECONDS))


def test_nothing_is_told_twice() -> None:
    registry = CollectorRegistry()
    counts = Counts(Counter("seen", "x", ("service",), registry=registry))
    for _ in range(3):
        counts.add("a")
        counts.flush()
        counts.flush()
    counts.add("b")

    assert samples(registry) == [b'seen_total{service="a"} 3.0']


def test_a_process_that_ends_has_told_all(tmp_path: Path) -> None:
    program = "from gateway.observability.metrics import Metrics; m = Metrics(); m.start(has_others=True); "
    counted = program + "m.called('a', 'ok')"
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", counted], env=environment, check=True, timeout=30)

    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(tmp_path))

    assert b'gateway_backend_calls_total{outcome="ok",service="a"} 1.0' in generate_latest(registry)


def test_the_page_has_all_that_its_own_worker_has_counted() -> None:
    metrics = Metrics()
    metrics.began()
    metrics.began()
    metrics.answered("things", "r", "ODD1", 200, 0.1)
    metrics.called("things", "ok")

    lines = metrics.page().decode().splitlines()

    assert 'gateway_requests_total{method="other",route="r",service="things",status="200"} 1.0' in lines
    assert 'gateway_backend_calls_total{outcome="ok",service="things"} 1.0' in lines
    assert "gateway_requests_in_flight 1.0" in lines
