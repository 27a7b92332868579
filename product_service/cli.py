"""Commands: `flask --app product_service seed-demo`."""

from __future__ import annotations

import csv
from pathlib import Path

import click
from apiflask import APIFlask

from product_service.products import Products
from product_service.schemas import NewProduct
from product_service.settings import ProductSettings

DEMO_FILE = Path(__file__).with_name("demo_products.csv")


def init_app(app: APIFlask, settings: ProductSettings, products: Products) -> None:
    app.cli.add_command(_seed_demo(settings, products))


def demo_products() -> list[NewProduct]:
    """A small shop to look around in."""
    with DEMO_FILE.open(encoding="utf-8", newline="") as file:
        return [NewProduct.model_validate(row | {"stock": int(row["stock"])}) for row in csv.DictReader(file)]


def _seed_demo(settings: ProductSettings, products: Products) -> click.Command:
    @click.command("seed-demo")
    def seed_demo() -> None:
        """Add demo products. Those whose name is there already are left as they are. For development only."""
        if settings.is_production:
            raise click.ClickException("Demo products are refused when ENVIRONMENT=production.")
        wanted = demo_products()
        missing = [product for product in wanted if products.named(product.name) is None]
        for product in missing:
            products.add(product)
        click.echo(f"{len(missing)} demo products were added, {len(wanted) - len(missing)} were there already.")

    return seed_demo
