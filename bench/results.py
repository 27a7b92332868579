"""What was found."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bench.figures import Spread
from bench.load import Paced
from bench.measuring import Measured


@dataclass(frozen=True, slots=True)
class Added:
    """Latency of some runs, less that of going straight to the service in the same rounds, in milliseconds."""

    p50_ms: Spread
    p99_ms: Spread

    @classmethod
    def of(cls, runs: Sequence[Paced], straight: Sequence[Paced] = ()) -> Added:
        """Without `straight`, nothing is taken off."""
        p50 = [run.p50_ms for run in straight] or [0.0] * len(runs)
        p99 = [run.p99_ms for run in straight] or [0.0] * len(runs)
        return cls(
            Spread.of([run.p50_ms - less for run, less in zip(runs, p50, strict=True)]),
            Spread.of([run.p99_ms - less for run, less in zip(runs, p99, strict=True)]),
        )


@dataclass(slots=True)
class Results:
    """All that was found, by the name of a subject or a kind; `kinds` by worker."""

    memory: dict[str, tuple[float, float]] = field(default_factory=dict)
    cost: Mapping[str, Measured] = field(default_factory=dict)
    latency: Mapping[str, Added] = field(default_factory=dict)
    straight: Added | None = None
    late_ms: float = 0.0
    slow_faults: list[str] = field(default_factory=list)
    kinds: dict[str, Mapping[str, Measured]] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    """The 99th percentile of each, in milliseconds."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Why, by what."""

    @property
    def measured(self) -> Iterator[tuple[str, Measured]]:
        """Everything that was run at full speed."""
        yield from self.cost.items()
        for worker, kinds in self.kinds.items():
            yield from ((f"{name} ({worker})", measured) for name, measured in kinds.items())

    @property
    def faults(self) -> list[str]:
        at_full_speed = (sample.faults for _, measured in self.measured for sample in measured.samples)
        return [*itertools.chain.from_iterable(at_full_speed), *self.slow_faults]
