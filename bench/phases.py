"""What is measured, in four phases.

memory      each subject alone, after a second of load: with others beside it, PSS would share pages with them
cost        all subjects side by side, at full speed
latency     the same, at a moderate rate; what goes past them, straight to the service, is subtracted
cases       the gateway alone, by what requests and answers are like, and by how many routes it has
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import load
from bench.callers import Callers, with_token
from bench.environment import Environment
from bench.figures import Spread
from bench.gateways import WORKERS, gateway_name, path_of, start_gateway
from bench.measuring import Budget, Case, Measured, in_rounds, prime
from bench.redis_counting import CountingRedis
from bench.servers import PEERS_KNOWN, Peer, Server, Service, Starter, start_peer
from bench.usage import memory_mib

RATE = 200
FEW = 8
USERS = 10_000
ROUTES = (10, 1_000, 10_000)
SCRIPTED = ("one user", "10,000 users, 1,000 addresses")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of it. Seconds of time.monotonic() in `..._until`: no round begins that would go beyond."""

    rounds: int
    seconds: int
    case_seconds: int
    latency_seconds: float
    workers: Sequence[str]
    workers_of_cases: Sequence[str]
    peers: Sequence[str]
    is_thorough: bool
    """With memory, and with a second of load before anything is measured."""
    cost_until: float
    latency_until: float
    cases_until: float

    @classmethod
    def full(cls, now: float) -> Plan:
        """Less than 15 minutes, the end included."""
        names = [peer.name for peer in PEERS_KNOWN]
        return cls(5, 2, 1, 2.5, WORKERS, WORKERS, names, True, now + 350, now + 570, now + 850)

    @classmethod
    def quick(cls, now: float) -> Plan:
        """Less than two minutes, the end included."""
        few = ("nginx", "Express + http-proxy-middleware", "FastAPI + httpx + PyJWT + redis", "Flask as usual")
        return cls(2, 1, 1, 1.5, WORKERS, WORKERS[:1], few, False, now + 40, now + 60, now + 100)


@dataclass(frozen=True, slots=True)
class Subject:
    """One who is compared, and how to start it. `few`: measured with few connections, too."""

    name: str
    start: Callable[[Starter], Server]
    headers: Sequence[str]
    counts: bool = False
    few: bool = False

    def case(self, server: Server) -> Case:
        return Case(self.name, server, headers=self.headers, counts=self.counts)


@dataclass(frozen=True, slots=True)
class Added:
    """Latency of some runs, less that of going straight to the service in the same rounds, in milliseconds."""

    p50_ms: Spread
    p99_ms: Spread

    @classmethod
    def of(cls, runs: Sequence[load.Paced], straight: Sequence[load.Paced] = ()) -> Added:
        """Without `straight`, nothing is taken off."""
        p50 = [run.p50_ms for run in straight] or [0.0] * len(runs)
        p99 = [run.p99_ms for run in straight] or [0.0] * len(runs)
        return cls(
            Spread.of([run.p50_ms - less for run, less in zip(runs, p50, strict=True)]),
            Spread.of([run.p99_ms - less for run, less in zip(runs, p99, strict=True)]),
        )


@dataclass(slots=True)
class Results:
    """All that was found, by the name of a subject or a case; `cases` by worker."""

    memory: dict[str, tuple[float, float]] = field(default_factory=dict)
    cost: Mapping[str, Measured] = field(default_factory=dict)
    latency: Mapping[str, Added] = field(default_factory=dict)
    straight: Added | None = None
    late_ms: float = 0.0
    slow_faults: list[str] = field(default_factory=list)
    cases: dict[str, Mapping[str, Measured]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def measured(self) -> Iterator[tuple[str, Measured]]:
        """Everything that was run at full speed."""
        yield from self.cost.items()
        for worker, cases in self.cases.items():
            yield from ((f"{name} ({worker})", measured) for name, measured in cases.items())

    @property
    def faults(self) -> list[str]:
        at_full_speed = (sample.faults for _, measured in self.measured for sample in measured.samples)
        return [*itertools.chain.from_iterable(at_full_speed), *self.slow_faults]


@dataclass(frozen=True, slots=True)
class Bench:
    """What all phases share. `tell` hears what is under way."""

    folder: Path
    service: Service
    redis: CountingRedis
    callers: Callers
    environment: Environment
    tell: Callable[[str], None]

    def subjects(self, plan: Plan, results: Results) -> list[Subject]:
        """Peers that are here, then the gateway; what is not here is noted in `results`."""
        found: list[Subject] = []
        for peer in PEERS_KNOWN:
            if peer.name not in plan.peers:
                continue
            if self.environment.has(peer.needs):
                found.append(self._peer(peer))
            else:
                results.skipped.append(f"{peer.name}: {self.environment.missing[peer.needs]}")
        return [*found, *(self._gateway(worker, workers) for workers in (1, 2) for worker in plan.workers)]

    def _peer(self, peer: Peer) -> Subject:
        def start(starter: Starter) -> Server:
            return start_peer(
                peer,
                starter,
                self.service,
                self.environment,
                redis_url=self.redis.database(),
                secret=self.callers.secret.value,
            )

        headers = with_token(self.callers.peers_token())
        has_policies = peer.file in ("fastapi_policies.py", "flask_usual.py")
        return Subject(peer.name, start, headers, counts=has_policies, few="httpx" in peer.name)

    def _gateway(self, worker: str, workers: int) -> Subject:
        def start(starter: Starter) -> Server:
            return start_gateway(starter, self.service, redis_url=self.redis.database(), worker=worker, workers=workers)

        return Subject(gateway_name(worker, workers), start, with_token(self.callers.token()), counts=True)

    @contextmanager
    def running(self, subjects: Sequence[Subject]) -> Generator[list[Case]]:
        """All of them, ready and warm."""
        with Starter(self.folder) as starter:
            cases = [subject.case(subject.start(starter)) for subject in subjects]
            for case in cases:
                prime(case)
                load.full_speed(case.target, 1)
            yield cases

    def measure_memory(self, subjects: Sequence[Subject], results: Results) -> None:
        for subject in subjects:
            self.tell(f"memory: {subject.name}")
            with self.running([subject]) as (case,):
                results.memory[subject.name] = memory_mib(case.server.pid)

    def compare(self, subjects: Sequence[Subject], plan: Plan, results: Results) -> None:
        """Cost and latency, of the same processes."""
        self.tell(f"starting {len(subjects)} subjects side by side")
        with self.running(subjects) as cases:
            also_few = {subject.name for subject in subjects if subject.few}
            few = [
                replace(case, name=f"{case.name}, {FEW} connections", connections=FEW)
                for case in cases
                if case.name in also_few
            ]
            self.tell(f"cost: {len(cases) + len(few)} subjects, {plan.rounds} rounds")
            budget = Budget(plan.rounds, plan.cost_until)
            results.cost = in_rounds([*cases, *few], budget, plan.seconds, self.service, self.redis)
            self.tell(f"latency at {RATE} requests a second: {plan.rounds} rounds")
            self._latency(cases, plan, results)

    def _latency(self, cases: Sequence[Case], plan: Plan, results: Results) -> None:
        straight = Case("straight", Server("straight", self.service.port, 0), headers=cases[0].headers)
        runs: dict[str, list[load.Paced]] = {case.name: [] for case in (straight, *cases)}

        def one_round(_: int) -> None:
            for case in (straight, *cases):
                runs[case.name].append(load.paced(case.target, RATE, plan.latency_seconds))

        Budget(plan.rounds, plan.latency_until).run(one_round)
        base = runs.pop("straight")
        results.straight = Added.of(base)
        results.latency = {name: Added.of(each, base) for name, each in runs.items()}
        results.late_ms = max(run.late_p99_ms for each in (base, *runs.values()) for run in each)
        results.slow_faults = [
            f"{name}: {run.other} wrong answers, {run.failed} requests failed at {RATE} a second"
            for name, each in runs.items()
            for run in each
            if run.other or run.failed
        ]

    def measure_cases(self, worker: str, plan: Plan, results: Results) -> None:
        """The gateway with this worker, one process."""
        with Starter(self.folder) as starter:
            self.tell(f"cases of the {worker} worker: starting")
            cases = [case for case in self._cases(starter, worker) if load.has_wrk() or not case.target.needs_wrk]
            for case in cases:
                prime(case)
                if plan.is_thorough or case.script:  # else many users would be many first requests
                    load.full_speed(case.target, 1)
            self.tell(f"cases of the {worker} worker: {len(cases)}, {plan.rounds} rounds")
            is_last = worker == plan.workers_of_cases[-1]
            until = plan.cases_until if is_last else (time.monotonic() + plan.cases_until) / 2
            budget = Budget(plan.rounds, until)
            results.cases[worker] = in_rounds(cases, budget, plan.case_seconds, self.service, self.redis)

    def _cases(self, starter: Starter, worker: str) -> Iterator[Case]:
        def gateway(*, routes: int = 0, with_tls: bool = False) -> Server:
            redis_url = self.redis.database()
            return start_gateway(
                starter, self.service, redis_url=redis_url, worker=worker, routes=routes, with_tls=with_tls
            )

        nginx = next(peer for peer in PEERS_KNOWN if peer.name == "nginx")
        if self.environment.has(nginx.needs):
            subject = self._peer(nginx)
            yield subject.case(subject.start(starter))
        plain = gateway()
        caller = with_token(self.callers.token())
        base = Case("GET, 1 KB answer", plain, headers=caller, counts=True)
        yield base
        for name, count in zip(SCRIPTED, (1, USERS), strict=True):
            file = self.callers.write_users(self.folder / f"users-{count}", count)
            yield replace(base, name=name, script=("many_users.lua", str(file)))
        yield replace(base, name="POST, 1 KB of JSON", script=("post.lua",))
        yield replace(base, name="100 KB answer", path="/items/large")
        yield replace(base, name="chunked answer", path="/items/chunked")
        yield replace(base, name="TLS", server=gateway(with_tls=True))
        yield replace(base, name="cached answer", path="/kept/1", asks_service=False)
        refused = replace(base, asks_service=False, counts=False)
        forged = with_token(self.callers.forged_token())
        yield replace(refused, name="401, a bad token", headers=forged, expects=401)
        file = self.callers.write_forgeries(self.folder / "forgeries", USERS)
        script = ("many_users.lua", str(file))
        yield replace(refused, name="401, 10,000 bad tokens", headers=forged, script=script, expects=401)
        yield replace(refused, name="429, over the limit", path="/limited/1", expects=429)
        yield replace(refused, name="503, breaker open", path="/dead/1", expects=503)
        for routes in ROUTES:
            yield replace(base, name=f"{routes:,} routes", server=gateway(routes=routes), path=path_of(routes - 1))
