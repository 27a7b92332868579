"""What was measured, as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.bars import bars
from bench.figures import number, percent
from bench.kinds import ROUTES, SCRIPTED
from bench.measuring import Measured
from bench.phases import RATE, Plan
from bench.results import Results

MARKS = ("<!-- figures: written by `make bench` -->", "<!-- figures end -->")
PLOT = "img/performance"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Where, when and with what it was measured."""

    made_at: datetime
    machine: str
    versions: Mapping[str, str]
    service: str
    load: str

    @classmethod
    def here(cls, versions: Mapping[str, str], service: str, load: str) -> Circumstances:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        machine = f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}"
        return cls(datetime.now(UTC), machine, versions, service, load)


def text(results: Results, plan: Plan, circumstances: Circumstances, *, with_plot: bool = False) -> str:
    """All of it, without the marks."""
    parts = [
        _heading(plan, circumstances),
        *(["", f"![CPU per request]({PLOT}.png)"] if with_plot else []),
        *_section("What was to be reached", bar_table(results)),
        *_section(f"Beside others: {_rounds(results.cost)}", cost_table(results)),
        *(line for worker in results.kinds for line in _kinds_section(worker, results.kinds[worker])),
        *_section("The stages of a request", stage_table(results)),
        *_section("That nothing was skipped", checks(results)),
    ]
    if results.skipped:
        parts.extend(_section("Not measured", [f"- {name}: {why}" for name, why in results.skipped.items()]))
    return "\n".join(parts) + "\n"


def placed(page: str, figures: str) -> str:
    """The page with `figures` between its marks. Raises ValueError where it has none."""
    begin, end = MARKS
    head, found, rest = page.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found or not found_end:
        raise ValueError("the page has no marks for the figures")
    return f"{head}{begin}\n{figures}{end}{tail}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; all columns but the first are numbers."""
    rules = ["---", *("---:" for _ in header[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (header, rules, *rows)]


def bar_table(results: Results) -> list[str]:
    said = {True: "yes", False: "**no**", None: ""}
    rows = [(bar.figure, bar.bar, bar.reach, bar.value, said[bar.holds], said[bar.reaches]) for bar in bars(results)]
    return table(("figure", "bar", "reach for", "measured", "holds", "reached"), rows)


def cost_table(results: Results) -> list[str]:
    """A row a subject, the cheapest first."""
    base = results.cost["nginx"].cpu_us.median if "nginx" in results.cost else None
    rows = [
        (
            name,
            str(measured.cpu_us),
            number(measured.cpu_us.median / base) if base else "",
            str(measured.per_s),
            *_added(results, name),
            f"{results.memory[name][0]:.0f}" if name in results.memory else "",
        )
        for name, measured in sorted(results.cost.items(), key=lambda item: item[1].cpu_us.median)
    ]
    header = ("", "CPU-us a request", "/ nginx", "requests/s", "added p50 ms", "added p99 ms", "PSS MB")
    return [*table(header, rows), "", *_straight(results)]


def kind_table(kinds: Mapping[str, Measured]) -> list[str]:
    base = kinds["nginx"].cpu_us.median if "nginx" in kinds else None
    rows = [
        (
            name,
            str(measured.cpu_us),
            number(measured.cpu_us.median / base) if base else "",
            str(measured.per_s),
        )
        for name, measured in kinds.items()
    ]
    return table(("", "CPU-us a request", "/ nginx", "requests/s"), rows)


def stage_table(results: Results) -> list[str]:
    """What `Server-Timing` said."""
    rows = [(stage, number(ms)) for stage, ms in results.stages.items()]
    return [*table((f"at {RATE} requests a second", "p99 ms"), rows)]


def growth(kinds: Mapping[str, Measured]) -> Iterator[str]:
    """Lines that say what more of something costs."""
    counts = [f"{count:,} routes" for count in ROUTES]
    for small, great in ((counts[0], counts[1]), (counts[0], counts[2]), SCRIPTED):
        if small in kinds and great in kinds:
            ratio = kinds[great].cpu_us.median / kinds[small].cpu_us.median
            yield f"- {great} instead of {small}: x {ratio:.3f} ({percent(ratio - 1)})"


def checks(results: Results) -> list[str]:
    """What was counted on three sides, and every contradiction."""
    samples = [sample for _, measured in results.measured for sample in measured.samples]
    answers = sum(sample.answers for sample in samples)
    rows = [
        (
            name,
            *(
                f"{sum(values):,}"
                for values in zip(*((s.answers, s.served, s.scripts) for s in measured.samples), strict=True)
            ),
        )
        for name, measured in results.cost.items()
    ]
    return [
        f"In {len(samples)} runs with {answers:,} answers it was checked that each had the status that is wanted, that",
        "the service had seen as many requests (none, where the gateway itself answers), and that Redis had run a",
        "script for each, wherever limits are counted. "
        + ("**It was not always so:**" if results.faults else "It was so in all of them."),
        *(f"\n- {fault}" for fault in results.faults),
        "",
        *table(("", "answers", "requests at the service", "scripts in Redis"), rows),
        "",
        "A run ends with requests on their way: the service has seen those, and nobody has got their answers.",
    ]


def _heading(plan: Plan, circumstances: Circumstances) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in circumstances.versions.items())
    return "\n".join(
        [
            f"Measured on {circumstances.made_at:%Y-%m-%d %H:%M} UTC: {circumstances.machine}.",
            f"Load: {circumstances.load}; service: {circumstances.service}. {versions}.",
            f"Medians of interleaved rounds, {plan.seconds} s a run ({plan.kind_seconds} s by what is asked); "
            "in brackets the least and the greatest.",
        ]
    )


def _section(title: str, lines: Iterable[str]) -> list[str]:
    return ["", f"### {title}", "", *lines]


def _kinds_section(worker: str, kinds: Mapping[str, Measured]) -> list[str]:
    title = f"By what is asked: one process, {worker} worker, {_rounds(kinds)}"
    return _section(title, [*kind_table(kinds), "", *growth(kinds)])


def _rounds(measured: Mapping[str, Measured]) -> str:
    count = min((len(each.samples) for each in measured.values()), default=0)
    return f"{count} round{'' if count == 1 else 's'}"


def _added(results: Results, name: str) -> tuple[str, str]:
    added = results.latency.get(name)
    return (str(added.p50_ms), str(added.p99_ms)) if added else ("", "")


def _straight(results: Results) -> list[str]:
    if results.straight is None:
        return []
    return [
        f"Straight to the service, at {RATE} requests a second: p50 {results.straight.p50_ms} ms, p99 "
        f"{results.straight.p99_ms} ms. In no run did the generator send more than 1 % of the requests later than "
        f"{number(results.late_ms)} ms after they were due.",
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
