"""Commands: `flask --app user_service roles list|put|delete`, `users grant|revoke`."""

from __future__ import annotations

import re
from typing import Any

import click
from flask import Flask

from common.permissions import BUILT_IN, MEANINGS, ROLE_PATTERN, parse_permission
from user_service.roles import RoleError, Roles
from user_service.tables import User
from user_service.users import UserError, Users


class _Reporting(click.Group):
    """A broken rule is a message, not a stack trace."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (RoleError, UserError) as error:
            raise click.ClickException(str(error)) from error


def init_app(app: Flask, users: Users, roles: Roles) -> None:
    app.cli.add_command(_roles(roles))
    app.cli.add_command(_users(users, roles))


def _roles(roles: Roles) -> click.Group:
    group = _Reporting("roles", help="Names for bundles of permissions.")

    @group.command("list")
    def list_roles() -> None:
        """Show the roles, and the permissions that the routes of ours ask for."""
        for role in roles.all():
            click.echo(f"{role.name}{' (built in)' if role.is_built_in else ''}: {' '.join(role.permissions) or '-'}")
        click.echo("\nPermissions:")
        for name, meaning in MEANINGS.items():
            click.echo(f"  {name:18}{meaning}")

    @group.command("put")
    @click.argument("name", callback=_role_name)
    @click.argument("permissions", nargs=-1, callback=_permissions)
    @click.option("--description", help="What the role is for.")
    def put(name: str, permissions: tuple[str, ...], description: str | None) -> None:
        """Give the role NAME these PERMISSIONS and no others; it is made where it is missing."""
        role = roles.put(name, permissions, description, by=None)
        click.echo(f"{role.name}: {' '.join(role.permissions) or '-'}")
        if name not in BUILT_IN and (unknown := [each for each in role.permissions if each not in MEANINGS]):
            click.echo(f"No route of ours asks for {' '.join(unknown)}; services of the file may.", err=True)

    @group.command("delete")
    @click.argument("name", callback=_role_name)
    def delete(name: str) -> None:
        """Take the role NAME from everybody, and away."""
        roles.delete(name, by=None)
        click.echo(f"{name} is gone.")

    return group


def _users(users: Users, roles: Roles) -> click.Group:
    group = _Reporting("users", help="Who has which roles.")

    @group.command("grant")
    @click.argument("username")
    @click.argument("role", callback=_role_name)
    def grant(username: str, role: str) -> None:
        """Give USERNAME the role ROLE."""
        _tell(roles.grant(_named(users, username).id, role))

    @group.command("revoke")
    @click.argument("username")
    @click.argument("role", callback=_role_name)
    def revoke(username: str, role: str) -> None:
        """Take the role ROLE from USERNAME."""
        _tell(roles.take(_named(users, username).id, role))

    return group


def _tell(user: User) -> None:
    click.echo(f"{user.username} has the roles {', '.join(user.roles) or '-'}; older tokens are void.")


def _named(users: Users, username: str) -> User:
    user = users.named(username)
    if user is None:
        raise click.ClickException(f"There is no user {username}.")
    return user


def _role_name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(ROLE_PATTERN, value):
        raise click.BadParameter("must be small letters, digits, - and _, and begin with a letter")
    return value


def _permissions(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(parse_permission(value) for value in values)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
