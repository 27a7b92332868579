"""`check`, `schema`, `diff`, `reload`, `rollback`: the services file, and the configuration in force."""

from __future__ import annotations

import json
from pathlib import Path

import click
from flask.cli import with_appcontext

from gateway.commands.asking import Refusal, as_json, at_url, current, reach, running, tell, with_token
from gateway.differences import Difference
from gateway.runtime import runtime_of
from gateway.services import ServicesError
from gateway.services_file import ServicesFile
from gateway.telling import near, plain

a_file = click.Path(path_type=Path)


@click.command()
@click.argument("file", required=False, type=a_file)
@click.option("--strict", "is_strict", is_flag=True, help="Exit with 1 for warnings, too.")
@as_json
@with_appcontext
def check(file: Path | None, is_strict: bool, is_json: bool) -> None:
    """Find all faults of FILE (default: the services file in use), each as file:line:column."""
    surroundings = current()
    path = file or surroundings.settings.gateway_services
    faults, warnings, known = list[str](), list[str](), list[str]()
    try:
        configuration = runtime_of(surroundings.make(path)).table.configuration
        warnings, known = list(configuration.warnings), sorted(configuration.services)
    except ServicesError as error:
        faults = error.problems
    if is_json:
        tell({"file": str(path), "faults": faults, "warnings": warnings, "services": known})
    else:
        for text in faults:
            click.echo(plain(near(text)), err=True)
        for text in warnings:
            click.echo(f"warning: {plain(near(text))}", err=True)
        if not faults:
            click.echo(f"{near(str(path))}: {len(known)} services, no faults")
    if faults or (warnings and is_strict):
        raise SystemExit(1)


@click.command()
def schema() -> None:
    """The JSON Schema of the services file, for editors."""
    click.echo(schema_text(), nl=False)


def schema_text() -> str:
    """`gateway/services.schema.json`, made from the types that read the file."""
    return json.dumps(ServicesFile.model_json_schema(), indent=2) + "\n"


@click.command()
@click.argument("file", type=a_file)
@at_url
@as_json
@with_appcontext
def diff(file: Path, url: str | None, is_json: bool) -> None:
    """What FILE means otherwise than the configuration in force; exits with 1 if anything."""
    gateway = reach(url, None)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{file} can't be read ({type(error).__name__})") from None
    found = gateway.ask("POST", "/config/diff", {"text": text, "path": str(file)})
    faults, differences = found["faults"], [Difference(**each) for each in found["differences"]]
    if is_json:
        tell({**found, "source": gateway.source, "is_running": gateway.is_running})
    else:
        for fault in faults:
            click.echo(plain(near(fault)), err=True)
        for difference in differences:
            click.echo(plain(str(difference)))
        if not faults and not differences:
            what = f"revision {found['revision']}" if gateway.is_running else near(gateway.source)
            click.echo(f"{near(str(file))} means the same as {what}")
    if faults or differences:
        raise SystemExit(1)


@click.command()
@at_url
@with_token
@as_json
@with_appcontext
def reload(url: str | None, token: str | None, is_json: bool) -> None:
    """Let the running gateway take its services file as it is now."""
    _change("/config/reload", url, token, is_json)


@click.command()
@at_url
@with_token
@as_json
@with_appcontext
def rollback(url: str | None, token: str | None, is_json: bool) -> None:
    """Let the running gateway go back to the configuration before the one in force."""
    _change("/config/rollback", url, token, is_json)


def _change(path: str, url: str | None, token: str | None, is_json: bool) -> None:
    if not token:
        raise click.UsageError("this wants an administrator's token: --token, or GATEWAY_TOKEN in the environment")
    try:
        told = running(url).ask("POST", path, token=token)
    except Refusal as refusal:
        if is_json:
            tell(refusal.document)
            raise SystemExit(1) from None
        raise
    if is_json:
        tell(told)
    elif told["changed"]:
        click.echo(f"revision {told['revision']} is in force; before, it was {told['previous']}")
    else:
        click.echo(f"revision {told['revision']} is in force already")
