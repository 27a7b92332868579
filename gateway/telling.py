"""An explanation for people: one line a step, in columns, the place of each at its end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gateway.explanation import Explanation, Step


def verdict(explanation: Explanation) -> str:
    """`401 TOKEN_REQUIRED, refused by require_jwt`."""
    if explanation.passes:
        return f"passes, to {explanation.service}"
    status = " ".join(filter(None, (str(explanation.status or ""), explanation.code)))
    done = "refused" if explanation.code else "answered"
    return ", ".join(filter(None, (status, f"{done} by {explanation.decided_by}")))


def lines(explanation: Explanation) -> Iterator[str]:
    """All of it."""
    yield plain(f"{explanation.method} {explanation.target}: {verdict(explanation)}")
    yield from step_lines(explanation.steps)
    for heading, rows in (
        ("Passed over:", explanation.passed_over),
        ("Instances:", [f"{url}  {state}" for url, state in explanation.instances]),
        (f"{explanation.service} is sent:", [f"{name}: {value}" for name, value in explanation.shown_headers]),
        ("Changed in the answer:", list(_changes(explanation))),
    ):
        if rows:
            yield heading
            yield from (plain(f"  {row}") for row in rows)
    if explanation.way_out:
        yield f"What to do: {explanation.way_out}"


def step_lines(steps: Sequence[Step]) -> Iterator[str]:
    yield from table((step.part, step.outcome, near(step.place) or "-", step.words) for step in steps)


def table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """`rows` in columns, indented."""
    texts = [[plain(text) for text in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(*texts, strict=True)]
    for row in texts:
        yield "  " + "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()


def near(place: str) -> str:
    """A place as seen from the current directory."""
    return place.removeprefix(f"{Path.cwd()}{os.sep}")


def plain(text: str) -> str:
    """`text` without what a terminal would obey."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _changes(explanation: Explanation) -> Iterator[str]:
    changes = explanation.response_headers
    yield from (f"{name}: {value}" for name, value in (*changes.set, *changes.add))
    yield from (f"without {name}" for name in changes.remove)
