"""Commands: `flask --app user_service audit verify | head | list | export | prune`."""

from __future__ import annotations

from datetime import UTC, datetime

import click
import orjson
from apiflask import APIFlask

from common.db import Database
from common.models import utc_now
from user_service.audit import Audit
from user_service.audit_chain import Head, parse_head
from user_service.tables import AuditEntry

TOLD = ("seq", "at", "event", "outcome", "actor", "subject", "source", "address", "request_id", "details", "hash")


def init_app(app: APIFlask, audit: Audit, database: Database) -> None:
    group = click.Group("audit", help="The audit log.")
    group.add_command(_verify(audit, database))
    group.add_command(_head(audit))
    group.add_command(_list(audit))
    group.add_command(_export(audit))
    group.add_command(_prune(audit))
    app.cli.add_command(group)


def _verify(audit: Audit, database: Database) -> click.Command:
    @click.command("verify")
    @click.option("--expect", type=_HeadType(), metavar="SEQ:HASH", help="A head that was noted elsewhere.")
    @click.pass_context
    def verify(context: click.Context, expect: Head | None) -> None:
        """Look for entries that were changed, removed, put in or put elsewhere. The exit code is 1 if there are any."""
        verdict = audit.chain.verify(database, expect)
        if verdict.fault:
            click.echo(f"BROKEN at {verdict.seq}: {verdict.fault}.", err=True)
            context.exit(1)
        click.echo(f"{verdict.entries} entries are as they were written. Head: {verdict.head}")

    return verify


def _head(audit: Audit) -> click.Command:
    @click.command("head")
    def head() -> None:
        """Show the last entry as SEQ:HASH, to be kept where the database's owner can't write."""
        click.echo(str(audit.head()))

    return head


def _list(audit: Audit) -> click.Command:
    @click.command("list")
    @click.option("--user", default="", help="The id of who did it, or to whom it was done.")
    @click.option("--event", default="", help="An event, or the beginning of some: login.")
    @click.option("--since", type=_Moment(), help="A time like 2030-01-31 or 2030-01-31T22:00:00Z.")
    @click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
    @click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
    def list_entries(user: str, event: str, since: datetime | None, limit: int, as_json: bool) -> None:
        """Show entries, the newest first."""
        rows, total = audit.page(of_user=user, event=event, since=since, limit=limit)
        for row in rows:
            click.echo(_line(row) if as_json else _words(row))
        if not as_json and total > len(rows):
            click.echo(f"{total - len(rows)} older ones are not shown.", err=True)

    return list_entries


def _export(audit: Audit) -> click.Command:
    @click.command("export")
    def export() -> None:
        """Write the whole log, the oldest entry first, one JSON object a line."""
        for row in audit.all():
            click.echo(_line(row))

    return export


def _prune(audit: Audit) -> click.Command:
    @click.command("prune")
    def prune() -> None:
        """Take away what is older than AUDIT_RETENTION_DAYS, as the service itself does every hour."""
        pruned = 0
        while count := audit.prune(utc_now()):
            pruned += count
        click.echo(f"{pruned} entries were taken away.")

    return prune


class _HeadType(click.ParamType[Head]):
    name = "head"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Head:
        try:
            return parse_head(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Moment(click.ParamType[datetime]):
    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail("must be a time like 2030-01-31 or 2030-01-31T22:00:00Z", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _line(row: AuditEntry) -> str:
    return orjson.dumps({name: getattr(row, name) for name in TOLD}).decode()


def _words(row: AuditEntry) -> str:
    subject = f" -> {row.subject}" if row.subject else ""
    details = " ".join(f"{name}={value}" for name, value in row.details.items())
    return f"{row.seq:>7}  {row.at:%Y-%m-%d %H:%M:%S}Z  {row.event} {row.outcome}  {row.actor}{subject}  {details}"
