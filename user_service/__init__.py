"""user_service: who people are. Registers them, checks passwords, signs access tokens, publishes its keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from apiflask import APIFlask

from common.audit import Recorder
from common.db import Database
from common.defaults import install, new_app
from common.internal import Internal
from common.keys import FixedKeys
from common.settings import load_or_exit
from user_service import (
    api_key_routes,
    audit_commands,
    audit_routes,
    cli,
    erasure_commands,
    internal_key_routes,
    internal_routes,
    login_commands,
    privacy_routes,
    role_commands,
    role_routes,
    routes,
    second_factor_routes,
    session_routes,
)
from user_service.access_tokens import AccessTokens
from user_service.api_keys import TOKEN_LIFETIME_S, ApiKeys
from user_service.audit import Audit
from user_service.denied_passwords import DeniedPasswords
from user_service.erasure import Erasures
from user_service.export import Export
from user_service.guard import Guard
from user_service.key_rotation import KeyRotation
from user_service.login import Login
from user_service.passwords import Passwords
from user_service.revocation_feed import OwnLog
from user_service.revocations import MARGIN_S, Revocations
from user_service.roles import Roles
from user_service.sealing import Sealer
from user_service.second_factor import SecondFactor
from user_service.sessions import Sessions
from user_service.settings import UserSettings
from user_service.signing_keys import SigningKeys
from user_service.sweeper import Rounds
from user_service.users import Users

DESCRIPTION = "Accounts, log-in and the public keys with which everybody verifies our access tokens."


def create_app(settings: UserSettings | None = None) -> APIFlask:
    settings = settings or load_or_exit(UserSettings, UserSettings.name)
    database = Database(settings.effective_database_url, pool_size=settings.database_pool_size)
    users = Users(
        database,
        Passwords(memory_kib=settings.argon2_memory_kib, passes=settings.argon2_passes),
        password_min_length=settings.password_min_length,
        denied=DeniedPasswords.read(settings.password_deny_list) if settings.password_deny_list else None,
    )
    token_ttl = max(settings.access_token_ttl, TOKEN_LIFETIME_S)  # of an API key's token
    keys = None if settings.jwt_secret_key else SigningKeys(database, kept_s=token_ttl + MARGIN_S)
    rotation = keys and KeyRotation(database, lead_s=settings.key_publish_lead, kept_s=keys.kept_s)

    app = new_app(UserSettings.name)
    secret = settings.audit_secret or settings.effective_service_secret()
    audit = app.extensions["audit"] = Audit(
        database,
        secret,
        previous_secret=settings.service_secret_previous,
        retention_days=settings.audit_retention_days,
    )
    recorder = Recorder(UserSettings.name, audit.store)
    verification_keys = FixedKeys(keys.find) if keys else None  # None: with the shared secret
    revocations = Revocations(database, token_ttl)
    install(
        app,
        settings,
        description=DESCRIPTION,
        keys=verification_keys,
        database=database,
        recorder=recorder,
        revocations=OwnLog(revocations),
    )
    tokens = AccessTokens(app, keys=keys, secret=settings.jwt_secret_key, lifetime_s=settings.access_token_ttl)
    roles = Roles(database, revocations, audit)
    sessions = Sessions(
        database,
        revocations,
        audit,
        tokens,
        permissions_of=roles.permissions_of,
        terms=settings.session_terms(),
    )
    guard = Guard(
        database,
        settings.effective_service_secret(),
        free=settings.login_failures_free,
        address_free=settings.login_failures_address,
        longest_s=settings.login_lock_max_s,
    )
    sealer = Sealer("second factor", settings.effective_service_secret(), settings.service_secret_previous)
    second_factor = SecondFactor(database, sealer, issuer=settings.totp_issuer)
    login = Login(users, guard, second_factor, sessions, audit.record)
    routes.init_app(app, users, tokens)
    second_factor_routes.init_app(app, login, second_factor)
    session_routes.init_app(app, sessions)
    internal_routes.init_app(app, revocations)
    role_routes.init_app(app, roles)
    api_keys = ApiKeys(database, tokens, roles, revocations, audit, most_per_user=settings.api_keys_per_user)
    api_key_routes.init_app(app, api_keys)
    internal_key_routes.init_app(app)
    audit_routes.init_app(app)
    asking = partial(Internal, secret=settings.effective_service_secret(), me=UserSettings.name)
    orders = asking(settings.order_service_url, audience="order_service")
    products = asking(settings.product_service_url, audience="product_service")
    erasures = Erasures(database, revocations, audit, {"order_service": orders}, forget_name=guard.forget)
    privacy_routes.init_app(app, Export(database, orders, products), erasures)
    cli.init_app(app, settings, users, rotation, roles)
    role_commands.init_app(app, users, roles)
    login_commands.init_app(app, users, guard, second_factor, audit.record)
    audit_commands.init_app(app, audit, database)
    erasure_commands.init_app(app, erasures)
    app.extensions["rounds"] = _rounds(settings, sessions, api_keys, rotation)
    return app


def _rounds(settings: UserSettings, sessions: Sessions, api_keys: ApiKeys, rotation: KeyRotation | None) -> Rounds:
    rounds: dict[str, Callable[[], int]] = {"sessions_deleted": sessions.sweep, "api_keys_deleted": api_keys.sweep}
    if rotation is not None:
        rounds["signing_keys_deleted"] = rotation.sweep
        if settings.key_rotation_days:
            rounds["signing_keys_made"] = partial(rotation.rotate_when_older, settings.key_rotation_days)
    return rounds
