"""Cases, and rounds of runs: each round runs every case once, so that what disturbs the machine disturbs them all.

A run of a case: how much CPU the server's process tree used, for how many requests. When the load ends some of them are
still on their way; they are waited for, and counted where the service has seen them. Three counts must agree, so that
nobody looks cheap by not doing the work: answers with the status that the case wants, requests that the service has
seen, and scripts that Redis has run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench import load
from bench.figures import Spread
from bench.redis_counting import CountingRedis
from bench.servers import Server, Service
from bench.usage import cpu_s

PRIME_TRIES = 100
PRIME_PAUSE_S = 0.1
LOOK_PAUSE_S = 0.05
QUIET_LOOKS = 10
MOST_LOOKS = 60


class CaseFailed(RuntimeError):
    """A case can't be measured: it does not answer as it should."""


@dataclass(frozen=True, slots=True)
class Case:
    """`expects` is the status of every answer. `asks_service`: each request reaches the service, else none does."""

    name: str
    server: Server
    path: str = "/items/1"
    headers: Sequence[str] = ()
    connections: int = 64
    script: Sequence[str] = ()
    expects: int = 200
    asks_service: bool = True
    counts: bool = False
    """Each request runs a script in Redis."""

    @property
    def target(self) -> load.Target:
        return load.Target(self.server.url(self.path), self.headers, self.connections, self.script)


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. `faults` says in sentences what should not have been."""

    cpu_us: float
    per_s: float
    answers: int
    served: int
    scripts: int
    faults: Sequence[str] = ()


@dataclass(slots=True)
class Measured:
    """All runs of a case."""

    samples: list[Sample] = field(default_factory=list)

    @property
    def cpu_us(self) -> Spread:
        return Spread.of([sample.cpu_us for sample in self.samples])

    @property
    def per_s(self) -> Spread:
        return Spread.of([sample.per_s for sample in self.samples])


@dataclass(slots=True)
class Budget:
    """So many rounds, as far as there is time for one more. The first is always run."""

    rounds: int
    until: float
    """By time.monotonic()."""

    def run(self, one_round: Callable[[int], None]) -> int:
        """How many rounds were run."""
        longest_s = 0.0
        for done in range(self.rounds):
            began = time.monotonic()
            if done and began + longest_s > self.until:
                return done
            one_round(done)
            longest_s = max(longest_s, time.monotonic() - began)
        return self.rounds


def prime(case: Case, *, tries: int = PRIME_TRIES) -> None:
    """Ask until the case answers as it should: keys are there, the breaker is open. Raises `CaseFailed`."""
    status = 0
    for _ in range(tries):
        try:
            status = case.server.status(case.path, case.headers)
        except OSError:
            status = 0
        if status == case.expects:
            return
        time.sleep(PRIME_PAUSE_S)
    raise CaseFailed(f"{case.name} answers {status or 'nothing'} instead of {case.expects}")


def measure(case: Case, seconds: int, service: Service, redis: CountingRedis) -> Sample:
    """One run. Raises `LoadFailed`."""
    served, scripts, cpu = service.served(), redis.scripts(), cpu_s(case.server.pid)
    done = load.full_speed(case.target, seconds)
    served += service.looks_count
    expected = done.answers + case.connections if case.asks_service else 0
    served = settled(service, served + expected) - served
    scripts, cpu = redis.scripts() - scripts, cpu_s(case.server.pid) - cpu
    requests = max(1, served if case.asks_service else done.answers)
    return Sample(
        cpu / requests * 1e6, done.per_s, done.answers, served, scripts, faults_of(case, done, served, scripts)
    )


def settled(service: Service, expected: float = math.inf) -> int:
    """What the service has served: when that is `expected`, or when half a second brings no more; after 3 s at most.

    Each look but the first is taken off.
    """
    last, looks, quiet = service.served(), 0, 0
    while last < expected and quiet < QUIET_LOOKS and looks < MOST_LOOKS:
        time.sleep(LOOK_PAUSE_S)
        looks += 1
        now = service.served() - looks * service.looks_count
        quiet = quiet + 1 if now == last else 0
        last = now
    return last


def faults_of(case: Case, done: load.Load, served: int, scripts: int) -> Sequence[str]:
    """What in a run contradicts what the case says of itself."""
    faults: list[str] = []
    wrong = done.other if case.expects < 400 else done.answers - done.other
    if wrong or done.failed:
        faults.append(f"{wrong} of {done.answers} answers were not {case.expects}, {done.failed} requests failed")
    if case.asks_service and not done.answers <= served <= done.answers + case.connections:
        faults.append(f"{done.answers} answers, but the service has seen {served} requests")
    if not case.asks_service and served:
        faults.append(f"the service has seen {served} requests that were not meant for it")
    if case.counts and scripts < done.answers:
        faults.append(f"{done.answers} answers, but Redis has run only {scripts} scripts")
    return [f"{case.name}: {fault}" for fault in faults]


def in_rounds(
    cases: Sequence[Case], budget: Budget, seconds: int, service: Service, redis: CountingRedis
) -> Mapping[str, Measured]:
    """By the name of the case. Each round begins with another case."""
    measured = {case.name: Measured() for case in cases}

    def one_round(number: int) -> None:
        first = number % len(cases)
        for case in (*cases[first:], *cases[:first]):
            measured[case.name].samples.append(measure(case, seconds, service, redis))

    settled(service)  # somebody has just been warmed up
    budget.run(one_round)
    return measured
