"""Commands: `flask --app user_service erasures list | resume`."""

from __future__ import annotations

import click
from apiflask import APIFlask

from user_service.erasure import Erasures


def init_app(app: APIFlask, erasures: Erasures) -> None:
    group = click.Group("erasures", help="Users who asked to be forgotten.")
    group.add_command(_list(erasures))
    group.add_command(_resume(erasures))
    app.cli.add_command(group)


def _list(erasures: Erasures) -> click.Command:
    @click.command("list")
    @click.option("--unfinished", is_flag=True, help="Those only that a service is missing of.")
    def list_erasures(unfinished: bool) -> None:
        """Show who was forgotten, the newest first, and which services are still to do it."""
        for erasure in erasures.all():
            missing = erasures.missing(erasure)
            if missing or not unfinished:
                state = f"waits for {', '.join(missing)}" if missing else f"finished {erasure.finished_at:%Y-%m-%d}"
                click.echo(f"{erasure.user_id}  asked {erasure.asked_at:%Y-%m-%d %H:%M:%S}Z  {state}")

    return list_erasures


def _resume(erasures: Erasures) -> click.Command:
    @click.command("resume")
    @click.pass_context
    def resume(context: click.Context) -> None:
        """Tell the services that were away. The exit code is 1 while one still is."""
        unfinished = erasures.resume()
        click.echo(f"{unfinished} erasures are unfinished.")
        context.exit(1 if unfinished else 0)

    return resume
