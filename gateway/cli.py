"""The commands of `flask --app gateway` and `python -m gateway`, which stand in `commands`.

They are there, too, while the services file has faults: then above all one wants to see what is in force.
"""

from __future__ import annotations

from collections.abc import Callable

import click
from flask import Flask
from flask.cli import FlaskGroup
from werkzeug.routing import Rule

from gateway.commands import configuration, explain, limits, tables, test
from gateway.commands.asking import Surroundings, surround
from gateway.commands.configuration import schema_text
from gateway.runtime import runtime_of
from gateway.settings import GatewaySettings

__all__ = ["alone", "init_app", "is_asking", "schema_text"]

COMMANDS = (
    configuration.check,
    configuration.schema,
    configuration.diff,
    configuration.reload,
    configuration.rollback,
    tables.services,
    tables.routes,
    explain.explain,
    test.test,
    limits.limits,
)


def init_app(app: Flask, settings: GatewaySettings, create: Callable[[GatewaySettings], Flask]) -> None:
    """`create` makes the gateway that other settings describe."""
    _add(app, settings, create)
    if click.get_current_context(silent=True) is not None:
        _show_routes_to_flask(app)


def is_asking() -> bool:
    """Whether the app is made to see which commands it has."""
    context = click.get_current_context(silent=True)
    return context is not None and isinstance(context.command, FlaskGroup)


def alone(settings: GatewaySettings, create: Callable[[GatewaySettings], Flask]) -> Flask:
    """An app that has the commands and nothing else."""
    app = Flask("gateway", static_folder=None)
    _add(app, settings, create)
    return app


def _add(app: Flask, settings: GatewaySettings, create: Callable[[GatewaySettings], Flask]) -> None:
    surround(app, Surroundings(settings, create))
    for command in COMMANDS:
        app.cli.add_command(command)


def _show_routes_to_flask(app: Flask) -> None:
    """Flask's own `routes`, which under `flask` goes before ours, lists the rules of its map. In a command, and only
    there, the routes of the table stand there, too, as rules that match nothing."""
    for route in runtime_of(app).table.router.routes:
        methods = None if "*" in route.methods else route.methods
        app.url_map.add(Rule(f"{route.prefix}{route.template}", endpoint=route.name, methods=methods, build_only=True))
