"""`python -m gateway COMMAND`: the same commands as `flask --app gateway`, and `routes`, where Flask has its own."""

from __future__ import annotations

from flask.cli import FlaskGroup

from gateway import create_app

main = FlaskGroup(
    name="gateway",
    help="Look at, explain, test and change the gateway's configuration.",
    create_app=create_app,
    add_default_commands=False,
    add_version_option=False,
)

if __name__ == "__main__":
    main(prog_name="python -m gateway")
