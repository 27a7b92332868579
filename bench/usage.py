"""What a process and all below it have used, by Linux' /proc."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.processes import process_tree, pss_bytes

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
MB = 1_000_000


def ticks(stat: str) -> int:
    """User and system time in a line of /proc/PID/stat, that of ended children which were waited for included."""
    fields = stat.rpartition(")")[2].split()  # the name before it may contain anything
    return sum(map(int, fields[11:15]))


def cpu_s(root: int) -> float:
    """CPU seconds of the process `root` and all below it, since they began."""
    return sum(ticks(stat) for pid in process_tree(root) if (stat := _stat(pid))) / TICKS_PER_S


def memory_mb(root: int) -> tuple[float, float]:
    """PSS of the whole tree, and of the process in it that has most."""
    sizes = [pss_bytes(pid) / MB for pid in process_tree(root)]
    return sum(sizes), max(sizes)


def _stat(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text("latin-1")
    except (FileNotFoundError, ProcessLookupError):  # it has ended since; its parent has its time
        return ""
