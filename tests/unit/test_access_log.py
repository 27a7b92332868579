"""The access log: lines of several requests in one write, in order, whole, and the same as any other line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

BEGIN = """
import gevent, structlog, sys
from common import logs
from gateway.observability.access import AccessLog, Line

logs.configure("gateway", level={level!r}, log_format={log_format!r})
log, other = AccessLog("gateway", level={level!r}, log_format={log_format!r}), structlog.get_logger("x")

def add(number, **changes):
    facts = "GET", f"/x/{{number}}", 200, 0.0123456, "things", "r", "203.0.113.0", "", {{}}
    log.add(Line(1772366400.25, f"req-{{number}}", *facts)._replace(**changes))
"""


def written(then: str, out: IO[str] | int = subprocess.PIPE, *, level: str = "INFO", log_format: str = "json") -> str:
    """What a process of its own writes that does `then`."""
    program = BEGIN.format(level=level, log_format=log_format) + then
    done = subprocess.run([sys.executable, "-c", program], stdout=out, text=True, check=True, timeout=30)
    return done.stdout or ""


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_is_as_any_other_line_with_the_same_fields() -> None:
    fields = """
fields = dict(method="GET", path="/x/ada@example.org", status=200, ms=12.35, to="things", route="r",
              caller="203.0.113.77", user="ada@example.org", cache="hit", tries=2, peer="203.0.113.78",
              error="password=hunter2 was wrong")
"""
    ours, theirs = lines_of(
        written(
            fields
            + """
add(1, path=fields["path"], user=fields["user"], notes={name: fields[name] for name in list(fields)[8:]})
logs.bind_request("req-1")
other.info("request", **fields)
"""
        )
    )

    assert ours.pop("time") == "2026-03-01T12:00:00.250000Z"
    theirs.pop("time")
    assert list(ours.items()) == list(theirs.items())
    assert (ours["caller"], ours["path"], ours["user"]) == ("203.0.113.0", "/x/[...]", "ada@example.org")


def test_lines_that_wait_are_written_before_any_other_and_at_the_end() -> None:
    text = written("""
import logging
log.start()
add(1); add(2); other.warning("between"); add(3); logging.getLogger("y").warning("later"); add(4)
""")

    assert [line.get("request_id", line["event"]) for line in lines_of(text)] == [
        "req-1", "req-2", "between", "req-3", "later", "req-4"
    ]  # fmt: skip


def test_lines_wait_for_others_but_not_for_long() -> None:
    text = written("""
log.start()
add(1)
sys.stdout.write("first\\n"); sys.stdout.flush()
gevent.sleep(1)
sys.stdout.write("second\\n"); sys.stdout.flush()
""")

    assert [line[:5] for line in text.splitlines()] == ["first", '{"tim', "secon"]


def test_what_waits_is_bounded_and_nothing_is_dropped() -> None:
    text = written("""
from gateway.observability import access
log.start()
most = 0
for number in range(1000):
    add(number)
    most = max(most, len(log._waiting))
sys.stderr.write("") if most < access.MOST_WAITING else sys.exit("too many wait")
""")

    assert [line["request_id"] for line in lines_of(text)] == [f"req-{number}" for number in range(1000)]


@pytest.mark.parametrize("path", ["/x/" + "a" * 100, "/x/" + "a b" * 170])
def test_lines_of_several_workers_in_one_pipe_stay_whole(path: str) -> None:
    text = written(f"""
import os
log.start()
child = os.fork()
for number in range(5000):
    add(number, path={path!r}, notes={{"of": "child" if child == 0 else "parent"}})
log.flush()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
""")

    found = lines_of(text)
    assert len(found) == 10_000
    for of in ("child", "parent"):
        assert [line["request_id"] for line in found if line["of"] == of] == [f"req-{n}" for n in range(5000)]


def test_in_a_file_they_are_in_order_too(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as out:
        written("log.start()\nfor number in range(500): add(number)\nother.warning('last')", out)

    found = lines_of((tmp_path / "log").read_text())
    assert [line.get("request_id") for line in found] == [*(f"req-{number}" for number in range(500)), None]


def test_the_console_form_and_the_level_are_those_of_all_lines() -> None:
    told = written("add(1, notes={'cache': 'hit'})", log_format="console")

    assert told.startswith("12:00:00 info    request method=GET path=/x/1 status=200 ms=12.35 to=things route=r")
    assert told.endswith("caller=203.0.113.0 cache=hit request_id=req-1\n")
    assert written("log.start()\nadd(1)", level="WARNING") == ""


def test_a_name_that_is_no_text_harms_no_other_line() -> None:
    found = lines_of(written("log.start()\nadd(1); add(2, user='\\ud800'); add(3)"))

    assert [line["request_id"] for line in found] == ["req-1", "req-2", "req-3"]
    assert found[1]["user"] == "\ud800"
