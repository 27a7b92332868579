"""`flask --app user_service keys list|rotate|retire`: the keys that sign access tokens."""

from __future__ import annotations

import click
from apiflask import APIFlask

from user_service.key_rotation import KeyRotation, RotationError
from user_service.login import Record
from user_service.login_commands import ACTOR

SIMPLE_MODE = "Tokens are signed with JWT_SECRET_KEY (HS256); there are no key pairs."


def init_app(app: APIFlask, rotation: KeyRotation | None) -> None:
    """`rotation` is None where tokens are signed with a shared secret."""
    group = click.Group("keys", help="The keys that sign access tokens.")
    record: Record = app.extensions["audit"].record
    for command in (_list(rotation), _rotate(rotation, record), _retire(rotation, record)):
        group.add_command(command)
    app.cli.add_command(group)


def _list(rotation: KeyRotation | None) -> click.Command:
    @click.command("list")
    def list_keys() -> None:
        """Show the keys, the oldest first."""
        if rotation is None:
            click.echo(SIMPLE_MODE)
            return
        keys = rotation.list()
        for key in keys:
            click.echo(f"{key.kid}  {key.state:9}  signs from {key.signs_from:%Y-%m-%d %H:%M:%S}Z")
        if not keys:
            click.echo("There is none yet; the first log-in makes one.")

    return list_keys


def _rotate(rotation: KeyRotation | None, record: Record) -> click.Command:
    @click.command("rotate")
    def rotate() -> None:
        """Make a new key. It is published at once and signs after KEY_PUBLISH_LEAD seconds, by itself."""
        if rotation is None:
            raise click.ClickException(
                f"{SIMPLE_MODE} To change the secret, set another one and restart all processes."
            )
        try:
            key = rotation.rotate()
        except RotationError as error:
            raise click.ClickException(str(error)) from error
        record("signing_key.made", outcome="success", actor=ACTOR, subject=key.kid)
        click.echo(f"{key.kid} is published and signs from {key.signs_from:%Y-%m-%d %H:%M:%S}Z.")

    return rotate


def _retire(rotation: KeyRotation | None, record: Record) -> click.Command:
    @click.command("retire", context_settings={"ignore_unknown_options": True})  # a kid may begin with a hyphen
    @click.argument("kid")
    def retire(kid: str) -> None:
        """Take the key KID out of use now, because it was stolen: all tokens that it signed are void."""
        if rotation is None:
            raise click.ClickException(SIMPLE_MODE)
        try:
            successor = rotation.retire(kid)
        except RotationError as error:
            raise click.ClickException(str(error)) from error
        record("signing_key.retired", outcome="success", actor=ACTOR, subject=kid)
        click.echo(f"{kid} is out of use; its tokens are refused within about a minute.")
        if successor:
            click.echo(f"{successor.kid} signs from now on.")

    return retire
