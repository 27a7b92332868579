"""What does a request cost? `make bench`, or `python -m bench [--quick]`.

Measures CPU, throughput, latency and memory of the gateway beside other gateways, on this machine and on loopback only.
The full run takes less than 15 minutes and writes docs/performance.md, between its marks; the quick one takes less than
two, installs nothing and only prints. Whatever was started is ended, also on Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import environment, load, report
from bench.callers import Callers
from bench.measuring import CaseFailed
from bench.phases import Bench, Plan
from bench.redis_counting import CountingRedis
from bench.results import Results
from bench.servers import Starter, start_service
from bench.service import write_files
from deploy.local.child import NotStarted

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/performance.md"
BELOW = ROOT / "var/bench"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="What does a request cost?")
    parser.add_argument("--quick", action="store_true", help="fewer subjects and rounds; writes nothing")
    is_quick = parser.parse_args().quick
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who is started in the background ignores it
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # unwinds, so that all children are ended
    began = time.monotonic()
    plan = Plan.quick(began) if is_quick else Plan.full(began)
    there = environment.prepare(BELOW, may_install=not is_quick)
    try:
        results, service = run(plan, there)
    except (NotStarted, CaseFailed, load.LoadFailed) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    generator = "wrk -t1 -c64" if load.has_wrk() else "bench.generator (wrk is not installed)"
    circumstances = report.Circumstances.here(environment.versions(there), service, generator)
    if is_quick:
        print(report.text(results, plan, circumstances))
    else:
        figures = report.text(results, plan, circumstances, with_plot=draw(results, there))
        PAGE.write_text(report.placed(PAGE.read_text(), figures))
        print(figures)
    print(f"took {time.monotonic() - began:.0f} s")
    return 0


def run(plan: Plan, there: environment.Environment) -> tuple[Results, str]:
    """All phases; and who played the service."""
    results = Results()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder, callers = Path(name), Callers()
        write_files(folder, callers.jwks)
        with CountingRedis(folder) as redis, Starter(folder) as starter:
            service = start_service(starter)
            bench = Bench(folder, service, redis, callers, there, tell)
            subjects = bench.subjects(plan, results)
            if plan.is_thorough:
                bench.measure_memory(subjects, plan, results)
            bench.compare(subjects, plan, results)
            bench.measure_stages(plan, results)
            for worker in plan.workers_of_kinds:
                bench.measure_kinds(worker, plan, results)
    if not load.has_wrk():
        results.skipped["many users, POST and TLS"] = "wrk is not installed"
    return results, service.program


def draw(results: Results, there: environment.Environment) -> bool:
    """PNG and SVG beside the page. Whether they are there: without matplotlib they are not made, and that is told."""
    if not there.has("python"):
        results.skipped["plot"] = there.missing["python"]
        return False
    bars = [
        {
            "name": name,
            "cpu_us": measured.cpu_us.median,
            "least": measured.cpu_us.least,
            "greatest": measured.cpu_us.greatest,
            "is_ours": "this gateway" in name,
        }
        for name, measured in results.cost.items()
    ]
    command = [str(there.python), "-m", "bench.plot", str(PAGE.parent / "img")]
    subprocess.run(command, input=json.dumps(bars), text=True, cwd=ROOT, timeout=120, check=True)
    return True


def tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
