"""Where does a problem come from? The line that refused, found in its traceback."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType

from common.problems import Problem

_ROOT = Path(__file__).resolve().parents[1]
_WHO_REFUSES = (
    "gateway/policies/", "gateway/backend/", "gateway/blueprints/", "gateway/router.py", "gateway/targets.py",
    "gateway/edge.py", "gateway/forwarding.py",
)  # fmt: skip


@dataclass(slots=True)
class Whence:
    """Where a problem came from."""

    place: str  # the code that refused, file:line
    reason: str  # class of the error behind it, "" where the refusal stands for itself

    @classmethod
    def of(cls, error: BaseException) -> Whence:
        return cls(place_of(error), reason_of(error))


def place_of(error: BaseException) -> str:
    """`file:line` of the deepest line of those who refuse requests, in the traceback of `error`; "" for none."""
    place, line = "", 0
    for file, number in _lines(error.__traceback__):
        if own := _refusing(file):
            place, line = own, number
    return f"{place}:{line}" if place else ""


def deepest_place(error: BaseException) -> str:
    """`file:line` of the deepest line of all, the file by its last three parts."""
    lines = [*_lines(error.__traceback__)]
    return f"{'/'.join(Path(lines[-1][0]).parts[-3:])}:{lines[-1][1]}" if lines else ""


def _lines(trace: TracebackType | None) -> Iterator[tuple[str, int]]:
    """File and line of each frame, the deepest last."""
    while trace is not None:
        yield trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next


@cache
def _refusing(name: str) -> str:
    """As `own_file`, but "" for those who refuse nothing."""
    own = own_file(name)
    return own if own.startswith(_WHO_REFUSES) else ""


@cache
def own_file(name: str) -> str:
    """A file of ours as seen from the repository's root, "" for those of others."""
    path = Path(name).resolve()
    return path.relative_to(_ROOT).as_posix() if path.is_relative_to(_ROOT) else ""


def reason_of(error: BaseException) -> str:
    """Class of the innermost error, "" for a refusal that stands for itself."""
    innermost = error
    while innermost.__cause__ is not None:
        innermost = innermost.__cause__
    return "" if isinstance(innermost, Problem) else type(innermost).__name__
