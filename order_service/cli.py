"""Commands: `flask --app order_service reconcile`."""

from __future__ import annotations

import click
from apiflask import APIFlask

from common.models import utc_now
from order_service.checkout import Checkout


def init_app(app: APIFlask, checkout: Checkout) -> None:
    app.cli.add_command(_reconcile(checkout))


def _reconcile(checkout: Checkout) -> click.Command:
    @click.command("reconcile")
    def reconcile() -> None:
        """Finish with product_service what is due: confirm orders that stand, give back the stock of others."""
        click.echo(f"{checkout.settle_due(now=utc_now())} orders were settled.")

    return reconcile
