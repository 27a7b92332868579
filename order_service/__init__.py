"""order_service: who ordered what, at which price, and what became of it."""

from __future__ import annotations

from apiflask import APIFlask

from common.db import Database
from common.defaults import install, new_app
from common.settings import load_or_exit
from order_service import cli, privacy_routes, routes
from order_service.checkout import Checkout
from order_service.orders import Orders
from order_service.product_client import ProductClient
from order_service.settings import OrderSettings

DESCRIPTION = "Orders, from placing to cancelling. Their stock is reserved at product_service."


def create_app(settings: OrderSettings | None = None) -> APIFlask:
    settings = settings or load_or_exit(OrderSettings, OrderSettings.name)
    database = Database(settings.effective_database_url, pool_size=settings.database_pool_size)
    orders = Orders(database, patience_s=settings.reconcile_after)
    products = ProductClient(
        settings.product_service_url,
        settings.effective_service_secret(),
        connect_timeout_s=settings.product_connect_timeout,
        read_timeout_s=settings.product_read_timeout,
    )
    checkout = Checkout(orders, products)

    app = new_app(OrderSettings.name)
    install(app, settings, description=DESCRIPTION, database=database)
    routes.init_app(app, orders, checkout)
    privacy_routes.init_app(app)
    cli.init_app(app, checkout)
    return app
