"""`services`, `routes`: what is in force, and how the instances are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from flask.cli import with_appcontext

from gateway.commands.asking import Document, Gateway, as_json, at_url, of_file, reach, tell
from gateway.telling import near, plain, table


@click.command()
@at_url
@of_file
@as_json
@with_appcontext
def services(url: str | None, file: Path | None, is_json: bool) -> None:
    """Every service with its instances and how they are."""
    gateway = reach(url, file)
    found = gateway.ask("GET", "/services")
    if is_json:
        tell({**found, "source": gateway.source, "is_running": gateway.is_running})
        return
    click.echo(_heading(gateway, found["configuration"]["revision"]))
    for line in table([("service", "prefixes", "instance", "state", "breaker", "in flight"), *_instances(found)]):
        click.echo(line)
    if faults := found["configuration"]["faults"]:
        click.echo("The services file has faults now, so what was in force before stays in force:")
        for fault in faults:
            click.echo(f"  {plain(near(fault))}")


@click.command()
@at_url
@of_file
@as_json
@with_appcontext
def routes(url: str | None, file: Path | None, is_json: bool) -> None:
    """Every route: what it takes, its policies, where it is written, how many instances are well."""
    gateway = reach(url, file)
    found = gateway.ask("GET", "/config/routes")
    if is_json:
        tell({**found, "source": gateway.source, "is_running": gateway.is_running})
        return
    click.echo(_heading(gateway, found["revision"]))
    heading = ("methods", "path", "route", "policies", "well", "written in")
    for line in table([heading, *(_route(row) for row in found["routes"])]):
        click.echo(line)


def _heading(gateway: Gateway, revision: int) -> str:
    if gateway.is_running:
        return f"revision {revision} at {gateway.source}"
    return f"{near(gateway.source)}, not running"


def _instances(found: Document) -> Iterator[tuple[str, ...]]:
    for service in found["services"]:
        name, prefixes = service["name"], " ".join(prefix or "/" for prefix in service["prefixes"])
        rows = service["instances"]
        if not rows:
            yield name, prefixes, "none", "-", "-", "-"
        for row in rows:
            yield name, prefixes, row["url"], row["state"], row["breaker"], str(row["in_flight"])
            name = prefixes = ""


def _route(row: Document) -> tuple[str, ...]:
    methods = ",".join(row["methods"]).replace("*", "ANY")
    wanted = [*row["hosts"], *row["conditions"]]
    path = " if ".join([row["path"], *wanted])
    well = sum(instance["state"] == "well" for instance in row["instances"])
    policies = " ".join(row["policies"]) or "-"
    return methods, path, row["name"], policies, f"{well} of {len(row['instances'])}", near(row["place"]) or "-"
