"""user_service: who people are. Registers them, checks passwords, signs access tokens, publishes its keys."""

from __future__ import annotations

from apiflask import APIFlask

from common.db import Database
from common.defaults import install, new_app
from common.keys import FixedKeys
from common.settings import load_or_exit
from user_service import cli, routes
from user_service.access_tokens import AccessTokens
from user_service.passwords import Passwords
from user_service.settings import UserSettings
from user_service.signing_keys import SigningKeys
from user_service.users import Users

DESCRIPTION = "Accounts, log-in and the public keys with which everybody verifies our access tokens."


def create_app(settings: UserSettings | None = None) -> APIFlask:
    settings = settings or load_or_exit(UserSettings, UserSettings.name)
    database = Database(settings.effective_database_url, pool_size=settings.database_pool_size)
    users = Users(database, Passwords(), password_min_length=settings.password_min_length)
    keys = None if settings.jwt_secret_key else SigningKeys(database)

    app = new_app(UserSettings.name)
    verification_keys = FixedKeys(keys.find) if keys else None  # None: with the shared secret
    install(app, settings, description=DESCRIPTION, keys=verification_keys, database=database)
    tokens = AccessTokens(app, keys=keys, secret=settings.jwt_secret_key, lifetime_s=settings.access_token_ttl)
    routes.init_app(app, users, tokens)
    cli.init_app(app, settings, users, keys)
    return app
