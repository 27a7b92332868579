"""product_service: what is sold, how many there are, and which of them are taken for orders."""

from __future__ import annotations

from apiflask import APIFlask

from common.db import Database
from common.defaults import install, new_app
from common.settings import load_or_exit
from product_service import cli, privacy_routes, reservation_routes, routes
from product_service.products import Products
from product_service.reservations import Reservations
from product_service.settings import ProductSettings

DESCRIPTION = "The catalogue, its stock, and the reservations that order_service makes of it."


def create_app(settings: ProductSettings | None = None) -> APIFlask:
    settings = settings or load_or_exit(ProductSettings, ProductSettings.name)
    database = Database(settings.effective_database_url, pool_size=settings.database_pool_size)
    products = Products(database)
    reservations = Reservations(database, hold_s=settings.reservation_ttl)

    app = new_app(ProductSettings.name)
    install(app, settings, description=DESCRIPTION, database=database)
    routes.init_app(app, products)
    reservation_routes.init_app(app, reservations)
    privacy_routes.init_app(app)
    cli.init_app(app, settings, products)
    return app
