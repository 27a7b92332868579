"""`flask --app gateway check [FILE] | schema | services`: look at the configuration without starting anything.

Exit codes are fit for CI: 0 for good, 1 for faults. `--json` everywhere.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
from flask import Flask

from gateway.router import faces
from gateway.runtime import runtime_of
from gateway.services import FIRST_VERSION, ServicesError, load_services
from gateway.services_file import ServicesFile
from gateway.settings import service_urls

as_json = click.option("--json", "is_json", is_flag=True, help="For programs.")


def init_app(app: Flask) -> None:
    @app.cli.command("check")
    @click.argument("file", required=False, type=click.Path(path_type=Path))
    @as_json
    def check(file: Path | None, is_json: bool) -> None:
        """Find all faults of FILE (default: the services file in use), each as file:line:column."""
        settings = runtime_of(app).settings
        path = file or settings.gateway_services
        try:
            faults: list[str] = []
            known = load_services(path, settings, service_urls()).services
        except ServicesError as error:
            faults, known = error.problems, {}
        if is_json:
            click.echo(json.dumps({"file": str(path), "faults": faults, "services": sorted(known)}))
        elif faults:
            click.echo("\n".join(faults), err=True)
        else:
            click.echo(f"{path}: {len(known)} services, no faults")
        if faults:
            raise SystemExit(1)

    @app.cli.command("schema")
    def schema() -> None:
        """The JSON Schema of the services file, for editors."""
        click.echo(schema_text(), nl=False)

    @app.cli.command("services")
    @as_json
    def services(is_json: bool) -> None:
        """Every service with its routes: methods, path, name. Each is there under all faces."""
        rows = [
            {
                "methods": list(route.methods),
                "path": f"{route.prefix}{route.template}",
                "service": route.service.name,
                "name": route.name,
            }
            for route in runtime_of(app).table.router.routes
        ]
        if is_json:
            click.echo(json.dumps({"faces": list(faces(FIRST_VERSION)), "routes": rows}))
            return
        for row in rows:
            methods = ",".join(row["methods"]).replace("*", "ANY")
            click.echo(f"{methods:<18} {row['path']:<28} {row['service']:<12} {row['name']}")


def schema_text() -> str:
    """`gateway/services.schema.json`, made from the types that read the file."""
    return json.dumps(ServicesFile.model_json_schema(), indent=2) + "\n"
