"""`test`: are requests answered as a file of cases says?"""

from __future__ import annotations

import time
from pathlib import Path

import click
from flask.cli import with_appcontext

from gateway import case_file, cases
from gateway.cases import Result
from gateway.commands.asking import Rehearsed, as_json, current, tell
from gateway.commands.junit import document
from gateway.telling import near, plain, step_lines, verdict

a_file = click.Path(path_type=Path)


@click.command()
@click.argument("file", type=a_file)
@click.option("--services", type=a_file, help="The services file to test; default: the one in use.")
@click.option("--junit", type=a_file, help="Write a JUnit report here.")
@as_json
@with_appcontext
def test(file: Path, services: Path | None, junit: Path | None, is_json: bool) -> None:
    """Run the cases in FILE offline; exits with 1 if one fails."""
    began = time.perf_counter()
    try:
        written = case_file.read(file, current().settings)
    except case_file.CasesError as error:
        raise click.ClickException(str(error)) from None
    rehearsed = Rehearsed(services)
    results = list(cases.run(rehearsed.app, written))
    elapsed_s = time.perf_counter() - began
    failed = [result for result in results if result.failures]
    if junit is not None:
        junit.write_bytes(document(str(file), results, elapsed_s))
    if is_json:
        tell(
            {
                "file": str(file),
                "services": rehearsed.source,
                "cases": len(results),
                "seconds": elapsed_s,
                "failed": [_row(result) for result in failed],
            }
        )
    else:
        for result in failed:
            _tell(result)
        click.echo(f"{near(str(file))}: {len(results)} cases, {len(failed)} failed ({elapsed_s:.2f} s)")
    if failed:
        raise SystemExit(1)


def _tell(result: Result) -> None:
    case = result.case
    click.echo(plain(f"{near(case.place)}: {case.name}"), err=True)
    for failure in result.failures:
        click.echo(plain(f"  {failure}"), err=True)
    click.echo(plain(f"  {case.rehearsal.method} {case.rehearsal.target}: {verdict(result.explanation)}"), err=True)
    for line in step_lines(result.explanation.steps):
        click.echo(f"  {line}", err=True)


def _row(result: Result) -> dict[str, object]:
    case = result.case
    explanation = result.explanation.to_dict()
    return {"name": case.name, "place": case.place, "failures": result.failures, "explanation": explanation}
