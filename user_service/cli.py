"""Commands: `flask --app user_service create-admin | ensure-admin | seed-demo | keys ...`."""

from __future__ import annotations

import sys

import click
from apiflask import APIFlask

from user_service import key_commands
from user_service.key_rotation import KeyRotation
from user_service.login import Record
from user_service.login_commands import ACTOR
from user_service.roles import Roles
from user_service.settings import UserSettings
from user_service.users import ADMIN, CUSTOMER, NameTaken, UserError, Users

DEMO_USERS = (
    ("admin", "admin", (CUSTOMER, ADMIN)),
    ("alice", "password123", (CUSTOMER,)),
    ("bob", "password123", (CUSTOMER,)),
)


def init_app(app: APIFlask, settings: UserSettings, users: Users, rotation: KeyRotation | None, roles: Roles) -> None:
    record: Record = app.extensions["audit"].record
    app.cli.add_command(_create_admin(users, roles, record))
    app.cli.add_command(_ensure_admin(settings, users, record))
    app.cli.add_command(_seed_demo(settings, users))
    key_commands.init_app(app, rotation)


def _create_admin(users: Users, roles: Roles, record: Record) -> click.Command:
    @click.command("create-admin")
    @click.argument("username")
    @click.option("--promote", is_flag=True, help="Make an administrator of a user who exists; needs no password.")
    @click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of asking.")
    def create_admin(username: str, promote: bool, password_stdin: bool) -> None:
        """Make an administrator called USERNAME."""
        if user := users.named(username):
            if not promote:
                raise click.ClickException(f"{user.username} exists; add --promote to make an administrator of them.")
            roles.grant(user.id, ADMIN)
            click.echo(f"{user.username} is an administrator now.")
            return
        if promote:
            raise click.ClickException(f"There is no user {username} to promote.")
        _register_admin(users, username, _asked_password(from_stdin=password_stdin), record)

    return create_admin


def _ensure_admin(settings: UserSettings, users: Users, record: Record) -> click.Command:
    @click.command("ensure-admin")
    def ensure_admin() -> None:
        """Make the administrator that ADMIN_USERNAME and ADMIN_PASSWORD name, unless there is one of that name."""
        name, password = settings.admin_username, settings.admin_password
        if name is None or password is None:
            click.echo("ADMIN_USERNAME and ADMIN_PASSWORD are not set; nothing to do.")
            return
        if (user := users.named(name)) is None:
            _register_admin(users, name, password, record)
        elif ADMIN in user.roles:
            click.echo(f"The administrator {user.username} exists already.")
        else:  # anybody may have registered that name before us
            raise click.ClickException(
                f"{user.username} exists and is no administrator. If you know whose account that is: "
                f"flask --app user_service create-admin {user.username} --promote"
            )

    return ensure_admin


def _seed_demo(settings: UserSettings, users: Users) -> click.Command:
    @click.command("seed-demo")
    def seed_demo() -> None:
        """Add demo users whose passwords everybody knows. For development only."""
        if settings.is_production:
            raise click.ClickException("Demo users have known passwords; they are refused when ENVIRONMENT=production.")
        click.echo("FOR DEVELOPMENT ONLY: these accounts have passwords that everybody knows.", err=True)
        for name, password, roles in DEMO_USERS:
            try:
                users.add(name, password, roles=roles)
            except NameTaken:
                click.echo(f"{name} exists already and is left as it is.")
            else:
                click.echo(f"{name} / {password} ({', '.join(roles)})")

    return seed_demo


def _register_admin(users: Users, username: str, password: str, record: Record) -> None:
    try:
        user = users.register(username, password, roles=(CUSTOMER, ADMIN))
    except UserError as error:
        raise click.ClickException(str(error)) from error
    record("user.registered", outcome="success", actor=ACTOR, subject=user.id, details={"roles": " ".join(user.roles)})
    click.echo(f"{user.username} is an administrator now.")


def _asked_password(*, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))
