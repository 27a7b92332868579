"""Commands: `flask --app user_service unlock | reset-second-factor`, for people who can't get in."""

from __future__ import annotations

import click
from flask import Flask

from user_service.guard import Guard
from user_service.login import Record
from user_service.second_factor import SecondFactor
from user_service.tables import User
from user_service.users import Users

ACTOR = "command line"


def init_app(app: Flask, users: Users, guard: Guard, second_factor: SecondFactor, record: Record) -> None:
    app.cli.add_command(_unlock(users, guard, record))
    app.cli.add_command(_reset_second_factor(users, second_factor, record))


def _unlock(users: Users, guard: Guard, record: Record) -> click.Command:
    @click.command("unlock")
    @click.argument("username")
    def unlock(username: str) -> None:
        """Let USERNAME log in at once: forget their failures to do so."""
        user = _named(users, username)
        guard.forget(user.username)
        record("user.unlocked", outcome="success", actor=ACTOR, subject=user.id)
        click.echo(f"{user.username} may log in again. An address that was blocked for other names stays blocked.")

    return unlock


def _reset_second_factor(users: Users, second_factor: SecondFactor, record: Record) -> click.Command:
    @click.command("reset-second-factor")
    @click.argument("username")
    def reset_second_factor(username: str) -> None:
        """Take USERNAME's second factor away, who has lost device and recovery codes. Be sure who is asking."""
        user = _named(users, username)
        if not second_factor.remove(user):
            raise click.ClickException(f"{user.username} has no second factor.")
        record("second_factor.removed", outcome="success", actor=ACTOR, subject=user.id)
        click.echo(f"{user.username} logs in with the password alone now.")

    return reset_second_factor


def _named(users: Users, username: str) -> User:
    if user := users.named(username):
        return user
    raise click.ClickException(f"There is no user {username}.")
