"""What is measured, in five phases.

memory      each subject alone, after some load: with others beside it, PSS would share pages with them
cost        all subjects side by side, at full speed
latency     the same, at a moderate rate; what goes past them, straight to the service, is subtracted
kinds       the gateway alone, by what is asked of it
stages      the gateway alone, as it tells itself how long each stage of a request takes
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench import kinds, load, stages
from bench.callers import Callers, with_token
from bench.environment import Environment
from bench.gateways import WORKERS, gateway_name, start_gateway
from bench.measuring import Budget, Case, CaseFailed, in_rounds, prime
from bench.redis_counting import CountingRedis
from bench.results import Added, Results
from bench.servers import PEERS_KNOWN, Peer, Server, Service, Starter, start_peer
from bench.usage import memory_mb
from deploy.local.child import NotStarted

RATE = 200
SHOWN_S = 6
"""In so many seconds the tokens of all users have been shown and verified, on a slow machine too."""
FEW = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of it. Seconds of time.monotonic() in `..._until`: no round begins that would go beyond."""

    rounds: int
    seconds: int
    kind_rounds: int
    kind_seconds: int
    latency_seconds: float
    peers: Sequence[str]
    gateways: Sequence[tuple[str, int]]
    """Kind of worker, and how many."""
    workers_of_kinds: Sequence[str]
    routes: Sequence[int]
    is_thorough: bool
    """With memory, and with load before anything is measured."""
    warm_seconds: int
    """Before anything is measured: what compiles while it runs has done so then."""
    cost_until: float
    latency_until: float
    kinds_until: float

    @classmethod
    def full(cls, now: float) -> Plan:
        """Less than 15 minutes, the end included."""
        return cls(
            rounds=5,
            seconds=2,
            kind_rounds=8,
            kind_seconds=1,
            latency_seconds=2.5,
            peers=[peer.name for peer in PEERS_KNOWN],
            gateways=[(worker, count) for count in (1, 2) for worker in WORKERS],
            workers_of_kinds=WORKERS,
            routes=kinds.ROUTES,
            is_thorough=True,
            warm_seconds=2,
            cost_until=now + 380,
            latency_until=now + 600,
            kinds_until=now + 850,
        )

    @classmethod
    def quick(cls, now: float) -> Plan:
        """Less than two minutes, the end included."""
        return cls(
            rounds=2,
            seconds=1,
            kind_rounds=2,
            kind_seconds=1,
            latency_seconds=1.5,
            peers=["nginx", "Express + http-proxy-middleware", "FastAPI + httpx + PyJWT + redis", "Flask as usual"],
            gateways=[("fast", 1), ("stock", 1), ("fast", 2)],
            workers_of_kinds=["fast"],
            routes=[kinds.ROUTES[0], kinds.ROUTES[-1]],
            is_thorough=False,
            warm_seconds=1,
            cost_until=now + 40,
            latency_until=now + 50,
            kinds_until=now + 90,
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """One who is compared, and how to start it. `few`: measured with few connections, too."""

    name: str
    start: Callable[[Starter], Server]
    headers: Sequence[str]
    counts: bool = False
    few: bool = False
    is_ours: bool = False

    def case(self, server: Server) -> Case:
        return Case(self.name, server, headers=self.headers, counts=self.counts)


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
                results.skipped[peer.name] = self.environment.missing[peer.needs]
        return [*found, *(self._gateway(worker, count) for worker, count in plan.gateways)]

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

        headers = with_token(self.callers.token())
        return Subject(gateway_name(worker, workers), start, headers, counts=True, is_ours=True)

    @contextmanager
    def running(self, subjects: Sequence[Subject], plan: Plan, results: Results) -> Generator[list[Case]]:
        """All of them, ready and warm, but for peers that can't be started: those are noted in `results`."""
        with Starter(self.folder) as starter:
            cases: list[Case] = []
            for subject in subjects:
                try:
                    case = subject.case(subject.start(starter))
                    prime(case)
                except (NotStarted, CaseFailed) as error:
                    if subject.is_ours:
                        raise
                    results.skipped[subject.name] = str(error)
                else:
                    cases.append(case)
            for case in cases:
                load.full_speed(case.target, plan.warm_seconds)
            yield cases

    def measure_memory(self, subjects: Sequence[Subject], plan: Plan, results: Results) -> None:
        for subject in subjects:
            self.tell(f"memory: {subject.name}")
            with self.running([subject], plan, results) as cases:
                results.memory.update((case.name, memory_mb(case.server.pid)) for case in cases)

    def compare(self, subjects: Sequence[Subject], plan: Plan, results: Results) -> None:
        """Cost and latency, of the same processes."""
        self.tell(f"starting {len(subjects)} subjects side by side")
        with self.running(subjects, plan, results) as cases:
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

    def measure_kinds(self, worker: str, plan: Plan, results: Results) -> None:
        """The gateway with this worker, one process, and nginx beside it."""
        with Starter(self.folder) as starter:
            self.tell(f"by what is asked, {worker} worker: starting")
            asked = kinds.of(self._gateways(starter, worker), plan.routes, self.callers, self.folder)
            cases = [*self._nginx(starter), *asked]
            cases = [case for case in cases if load.has_wrk() or not case.target.needs_wrk]
            for case in cases:
                prime(case)
                if case.name == kinds.SCRIPTED[-1]:  # else many users would be many first requests
                    load.full_speed(replace(case.target, script=(*case.script, "1")), SHOWN_S)
                elif plan.is_thorough:
                    load.full_speed(case.target, 1)
            self.tell(f"by what is asked, {worker} worker: {len(cases)} kinds, {plan.kind_rounds} rounds")
            is_last = worker == plan.workers_of_kinds[-1]
            until = plan.kinds_until if is_last else (time.monotonic() + plan.kinds_until) / 2
            budget = Budget(plan.kind_rounds, until)
            results.kinds[worker] = in_rounds(cases, budget, plan.kind_seconds, self.service, self.redis)

    def measure_stages(self, plan: Plan, results: Results) -> None:
        """At the same moderate rate as latency."""
        self.tell("the stages of a request")
        with Starter(self.folder) as starter:
            gateway = start_gateway(
                starter, self.service, redis_url=self.redis.database(), worker="fast", tells_stages=True
            )
            case = Case("stages", gateway, headers=with_token(self.callers.token()))
            prime(case)
            seconds = plan.rounds * plan.latency_seconds
            results.stages = stages.measure(gateway, case.path, case.headers, rate=RATE, seconds=seconds)

    def _nginx(self, starter: Starter) -> Iterator[Case]:
        for peer in PEERS_KNOWN:
            if peer.name == "nginx" and self.environment.has(peer.needs):
                subject = self._peer(peer)
                yield subject.case(subject.start(starter))

    def _gateways(self, starter: Starter, worker: str) -> kinds.Gateways:
        def start(routes: int, with_tls: bool) -> Server:
            redis_url = self.redis.database()
            return start_gateway(
                starter, self.service, redis_url=redis_url, worker=worker, routes=routes, with_tls=with_tls
            )

        return start
