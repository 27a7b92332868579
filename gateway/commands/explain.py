"""`explain`: why a request is answered as it is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
from flask.cli import with_appcontext
from pydantic import TypeAdapter

from gateway.commands.asking import Document, Gateway, as_json, at_url, of_file, reach, running, tell
from gateway.explanation import from_dict
from gateway.incidents import Asked, Incident
from gateway.telling import lines, plain


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="METHOD URL | REQUEST_ID")
@click.option("-H", "--header", "headers", multiple=True, help="A field, as 'Name: value'; may be repeated.")
@click.option("--token", help="The caller's token. It is verified, and not shown.")
@click.option("--caller", default="127.0.0.1", help="The caller's address.")
@click.option("--body-bytes", default=0, type=click.IntRange(min=0), help="How long the body would be.")
@at_url
@of_file
@as_json
@with_appcontext
def explain(
    words: tuple[str, ...],
    headers: tuple[str, ...],
    token: str | None,
    caller: str,
    body_bytes: int,
    url: str | None,
    file: Path | None,
    is_json: bool,
) -> None:
    """Why a request is answered as it is, without sending it.

    URL is a path, or a whole URL whose host counts. With the request id of a problem instead, as it stands in the
    answer: what happened then, and what would happen now. Exits with 1 if the request would be refused.
    """
    if len(words) == 1 and file is None:
        _explain_incident(words[0], url, is_json)
        return
    if len(words) != 2:
        raise click.UsageError("wants METHOD and URL, or the request id of a problem that the running gateway made")
    gateway = reach(url, file)
    question: dict[str, object] = {
        "method": words[0],
        "url": words[1],
        "headers": [_pair(header) for header in headers],
        "token": token,
        "caller": caller,
        "body_bytes": body_bytes,
        "look": gateway.is_running,
    }
    found = gateway.ask("POST", "/explain", question)
    if is_json:
        tell({**found, "source": gateway.source, "is_running": gateway.is_running})
    else:
        _tell(found)
    if found["code"]:
        raise SystemExit(1)


def _pair(header: str) -> tuple[str, str]:
    name, colon, value = header.partition(":")
    if not colon or not name.strip():
        raise click.UsageError(f"a header is written 'Name: value', not {header!r}")
    return name.strip(), value.strip()


def _explain_incident(request_id: str, url: str | None, is_json: bool) -> None:
    gateway: Gateway = running(url)
    found = gateway.ask("GET", f"/explain/{request_id}")
    if is_json:
        tell({**found, "source": gateway.source})
        return
    incident = {name: value for name, value in found["incident"].items() if name != "way_out"}
    for line in _happened(TypeAdapter(Incident).validate_python(incident), found["incident"]["way_out"]):
        click.echo(plain(line))
    click.echo()
    if found["now"] is None:
        click.echo("It could not be read, so nothing of it is known that could be tried again.")
        return
    click.echo("Now, without query, fields and body, which are not remembered:")
    _tell(found["now"])


def _happened(incident: Incident, way_out: str) -> Iterator[str]:
    asked, moment = incident.asked, datetime.fromtimestamp(incident.at, UTC)
    request = f"{asked.method} {asked.path}".strip() or "an unreadable request"
    yield f"{moment:%Y-%m-%d %H:%M:%S} UTC  {request}: {incident.status} {incident.code}"
    yield f"  {incident.detail}"
    facts = {
        "refused by": incident.whence.place,
        "because of": incident.whence.reason,
        "caller": asked.caller,
        "user": asked.user and f"{asked.user} ({_as(asked)})",
        "host": asked.host,
        "route": incident.route,
        "service": incident.service,
        "notes": " ".join(f"{name}={value}" for name, value in incident.notes.items()),
    }
    yield from (f"  {name:<10}  {value}" for name, value in facts.items() if value)
    yield f"What to do: {way_out}"


def _as(asked: Asked) -> str:
    return f"API key {asked.key}" if asked.key else ", ".join(asked.roles) or "no roles"


def _tell(document: Document) -> None:
    for line in lines(from_dict(document)):
        click.echo(line)
