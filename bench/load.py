"""Load at full speed from wrk, or from the bench's own generator where there is no wrk; both in a process of their own.

Errors:
    LoadFailed    the generator ended with an error, or said what nobody understands
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SLACK_S = 30


class LoadFailed(RuntimeError):
    """The text is what the generator said."""


@dataclass(frozen=True, slots=True)
class Load:
    """`other` counts the answers that were not 2xx or 3xx, `failed` the requests without an answer."""

    answers: int
    per_s: float
    other: int
    failed: int


@dataclass(frozen=True, slots=True)
class Paced:
    """At a fixed rate: answers, and their latency from the moment in which the request was due."""

    answers: int
    other: int
    failed: int
    p50_ms: float
    p99_ms: float
    late_p99_ms: float


@dataclass(frozen=True, slots=True)
class Target:
    """What to ask for. `script` is one of wrk's, in this folder, and what it takes."""

    url: str
    headers: Sequence[str]
    connections: int = 64
    script: Sequence[str] = ()

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].partition("/")[0])

    @property
    def path(self) -> str:
        return "/" + self.url.split("/", 3)[3]

    @property
    def needs_wrk(self) -> bool:
        return bool(self.script) or self.url.startswith("https:")


def has_wrk() -> bool:
    return shutil.which("wrk") is not None


def full_speed(target: Target, seconds: int) -> Load:
    """As fast as it goes. Raises `LoadFailed`."""
    if has_wrk():
        return parsed(_output_of(_wrk(target, seconds), seconds))
    said = json.loads(_output_of(_generator(target, 0, seconds), seconds))
    return Load(said["answers"], said["per_s"], said["not_2xx"], said["failed"])


def paced(target: Target, rate: float, seconds: float) -> Paced:
    """`rate` requests a second. Raises `LoadFailed`."""
    said = json.loads(_output_of(_generator(target, rate, seconds), seconds))
    return Paced(said["answers"], said["not_2xx"], said["failed"], said["p50_ms"], said["p99_ms"], said["late_p99_ms"])


def parsed(output: str) -> Load:
    """What wrk has printed. Raises `LoadFailed`."""
    answers = re.search(r"^\s*(\d+) requests in ", output, re.MULTILINE)
    per_s = re.search(r"^Requests/sec:\s+([\d.]+)", output, re.MULTILINE)
    if answers is None or per_s is None:
        raise LoadFailed(f"wrk said: {output}")
    other = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    errors = re.search(r"Socket errors: (.*)", output)
    failed = sum(map(int, re.findall(r"\d+", errors[1]))) if errors else 0
    return Load(int(answers[1]), float(per_s[1]), int(other[1]) if other else 0, failed)


def _wrk(target: Target, seconds: int) -> list[str]:
    fields = [word for line in target.headers for word in ("-H", line)]
    command = ["wrk", "-t1", f"-c{target.connections}", f"-d{seconds}s", *fields]
    if not target.script:
        return [*command, target.url]
    name, *given = target.script
    return [*command, "-s", str(HERE / name), target.url, "--", *given]


def _generator(target: Target, rate: float, seconds: float) -> list[str]:
    fields = [word for line in target.headers for word in ("--header", line)]
    numbers = ["--rate", str(rate), "--seconds", str(seconds), "--connections", str(target.connections)]
    where = ["--port", str(target.port), "--path", target.path]
    return [sys.executable, "-m", "bench.generator", *where, *numbers, *fields]


def _output_of(command: Sequence[str], seconds: float) -> str:
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + SLACK_S, cwd=HERE.parent, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LoadFailed(f"{command[0]} did not end") from error
    if ended.returncode:
        raise LoadFailed(f"{command[0]} ended with {ended.returncode}: {ended.stderr or ended.stdout}")
    return ended.stdout
