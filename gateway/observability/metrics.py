"""Prometheus metrics of the gateway, summed over all workers when gunicorn runs several.

`PROMETHEUS_MULTIPROC_DIR` must be set before prometheus_client is first imported; `gunicorn.conf.py` does that.

Counters lag by `counts.FLUSH_S`, so the page of one worker waits that long for the others, and a graceful stop loses
nothing.
"""

from __future__ import annotations

import atexit
import math
import os
import time
from collections.abc import Callable

if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # prometheus_client only asks whether it is there, empty or not

import gevent
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from gateway.observability.counts import FLUSH_S, Counts, Durations, Timings

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SETTLED_S = 1.5 * FLUSH_S
"""After which all workers have told what they counted before."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BREAKER_STATES = {"closed": 0, "half-open": 1, "open": 2}


class Metrics:
    """One per app. Label values come from our own tables (services, routes), so their number is bounded."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._has_others = False
        self._counts: list[Counts | Durations] = []
        counter, gauge = self._counter, self._gauge
        labels = ("service", "route", "method", "status")
        requests = Counter("gateway_requests", "Requests answered.", labels, registry=self._registry)
        duration = Histogram(
            "gateway_request_duration_seconds",
            "From the first byte parsed to the last byte sent.",
            ("service", "route"),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._answered = Timings(requests, duration, BUCKETS_S)
        self._counts.append(self._answered)
        self._under_way = self._told_under_way = 0
        self._in_flight = gauge("gateway_requests_in_flight", "Requests being answered now.", mode="livesum")
        self._calls = counter("gateway_backend_calls", "Calls to services, by outcome.", "service", "outcome")
        took = Histogram(
            "gateway_backend_call_duration_seconds",
            "From the request sent to a service to the head of its answer, or all of a short one.",
            ("service",),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._took = Durations(took, BUCKETS_S)
        self._counts.append(self._took)
        self._retries = counter("gateway_retries", "Tries after the first, by why.", "service", "reason")
        self._hedges = counter("gateway_hedges", "Second tries beside slow ones.", "service", "outcome")
        self._shed = counter("gateway_shed", "Requests turned away for too much load.", "service", "reason")
        self._waiting = gauge("gateway_waiting", "Requests that wait for a place.", "service", mode="livesum")
        self._mirrored = counter("gateway_mirrored", "Copies of requests, by who got them.", "service", "outcome")
        self._fallbacks = counter("gateway_fallbacks", "Answers given instead of failures.", "service", "kind")
        self._breakers = gauge(
            "gateway_breaker_state", "0 closed, 1 half-open, 2 open.", "service", "instance", mode="mostrecent"
        )
        self._ejections = counter("gateway_ejections", "Instances left out for a while.", "service")
        self._instances_up = gauge(
            "gateway_instance_up", "0 while active checks fail.", "service", "instance", mode="mostrecent"
        )
        self._connections = gauge(
            "gateway_backend_connections", "Connections to services.", "service", "state", mode="livesum"
        )
        self._limited = counter("gateway_rate_limited", "Requests refused by a limit.", "service", "limit")
        self._limit_store = gauge("gateway_limit_store_up", "1 while Redis counts the limits.", mode="mostrecent")
        self._cache = counter("gateway_cache", "Answers by what the cache said.", "service", "result")
        self._credentials = counter(
            "gateway_credentials", "Tokens, keys and cookies shown, by what came of it.", "result"
        )
        self._token_cache = counter("gateway_token_cache", "Tokens, by whether they were verified before.", "result")
        self._revocations_current = gauge(
            "gateway_revocations_current", "0 while a worker does not know what was revoked.", mode="livemin"
        )
        self._revocations = gauge("gateway_revocations", "Revocations in force, as known.", mode="livemax")
        self._validated = counter(
            "gateway_validated", "Requests held against OpenAPI, by what came of it.", "service", "route", "outcome"
        )
        self._openapi = gauge(
            "gateway_openapi_known", "0 while a service's OpenAPI document is not known.", "service", mode="livemin"
        )
        self._revision = gauge(
            "gateway_config_revision",
            "Revision of the configuration in force, of the worker that lags most.",
            mode="livemin",
        )
        self._config_ok = gauge(
            "gateway_config_ok",
            "0 while the services file is refused and the last good one serves.",
            mode="livemostrecent",
        )
        self._reloads = counter("gateway_config_reloads", "Looks at the services file, and rollbacks.", "outcome")
        self._memory = gauge(
            "gateway_resident_memory_bytes", "Of all workers; what they share counts in each.", mode="livesum"
        )
        self._cpu = Counter("gateway_cpu_seconds", "User and system time of workers.", registry=self._registry)
        self._limit_store.set(1)

    def _counter(self, name: str, text: str, *labels: str) -> Counts:
        made = Counts(Counter(name, text, labels, registry=self._registry))
        self._counts.append(made)
        return made

    def _gauge(self, name: str, text: str, *labels: str, mode: str) -> Gauge:
        return Gauge(name, text, labels, registry=self._registry, multiprocess_mode=mode)  # pyright: ignore[reportArgumentType] - a literal

    def start(self, *, has_others: bool) -> None:
        """Begin to tell what is counted, as long as this worker lives. `has_others` do so beside it."""
        self._has_others = has_others
        gevent.spawn(self._go_on)
        atexit.register(self.flush)

    def _go_on(self) -> None:
        while True:
            gevent.sleep(FLUSH_S)
            self.flush()

    def flush(self) -> None:
        """Tell what was counted since the last time."""
        for each in self._counts:
            each.flush()
        if self._under_way != self._told_under_way:
            self._told_under_way = self._under_way
            self._in_flight.set(self._under_way)

    def began(self) -> None:
        self._under_way += 1

    def answered(self, service: str, route: str, method: str, status: int, seconds: float) -> None:
        self._under_way -= 1
        self._answered.add(seconds, service, route, method if method in METHODS else "other", str(status))

    def called(self, service: str, outcome: str) -> None:
        self._calls.add(service, outcome)

    def call_took(self, service: str, seconds: float) -> None:
        self._took.add(seconds, service)

    def connections(self, service: str, *, in_use: int, idle: int) -> None:
        self._connections.labels(service, "in_use").set(in_use)
        self._connections.labels(service, "idle").set(idle)

    def used(self, cpu_s: float, memory_bytes: int) -> None:
        """The worker has used so much more CPU, and has so much memory now."""
        self._cpu.inc(cpu_s)
        self._memory.set(memory_bytes)

    def retried(self, service: str, reason: str) -> None:
        self._retries.add(service, reason)

    def hedged(self, service: str, outcome: str) -> None:
        self._hedges.add(service, outcome)

    def shed(self, service: str, reason: str) -> None:
        self._shed.add(service, reason)

    def waiting(self, service: str, change: int) -> None:
        self._waiting.labels(service).inc(change)

    def mirrored(self, service: str, outcome: str) -> None:
        self._mirrored.add(service, outcome)

    def fell_back(self, service: str, kind: str) -> None:
        self._fallbacks.add(service, kind)

    def breaker(self, service: str, instance: str, state: str) -> None:
        self._breakers.labels(service, instance).set(BREAKER_STATES[state])

    def ejected(self, service: str) -> None:
        self._ejections.add(service)

    def instance_up(self, service: str, instance: str, is_up: bool) -> None:
        self._instances_up.labels(service, instance).set(1 if is_up else 0)

    def gone(self, service: str, instance: str) -> None:
        """Nothing is said any more of an instance that is none any more. Its labels can't be removed while several
        processes write metrics, so a value takes their place that `page` leaves out."""
        for gauge in (self._breakers, self._instances_up):
            gauge.labels(service, instance).set(math.nan)

    def credential_shown(self, result: str) -> None:
        self._credentials.add(result)

    def token_looked_up(self, result: str) -> None:
        self._token_cache.add(result)

    def revocations(self, is_current: bool, entries: int) -> None:
        self._revocations_current.set(1 if is_current else 0)
        self._revocations.set(entries)

    def limited(self, service: str, limit: str) -> None:
        self._limited.add(service, limit)

    def limit_store_up(self, is_up: bool) -> None:
        self._limit_store.set(1 if is_up else 0)

    def cached(self, service: str, result: str) -> None:
        self._cache.add(service, result)

    def validated(self, service: str, route: str, outcome: str) -> None:
        self._validated.add(service, route, outcome)

    def openapi_known(self, service: str, is_known: bool) -> None:
        self._openapi.labels(service).set(1 if is_known else 0)

    def configured(self, revision: int, *, is_ok: bool) -> None:
        self._revision.set(revision)
        self._config_ok.set(1 if is_ok else 0)

    def reloaded(self, outcome: str) -> None:
        self._reloads.add(outcome)

    def page(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        if self._has_others:
            time.sleep(SETTLED_S)
        self.flush()
        text = generate_latest(_collect() if "PROMETHEUS_MULTIPROC_DIR" in os.environ else self._registry)
        return b"".join(line for line in text.splitlines(keepends=True) if not line.endswith(b" NaN\n"))


def _collect() -> CollectorRegistry:
    registry = CollectorRegistry()
    collector: Callable[[CollectorRegistry], object] = MultiProcessCollector
    collector(registry)
    return registry
