"""What production refuses to start with, each by name and all at once."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path

import pytest

from common.settings import Settings, SettingsError, load
from gateway.settings import GatewaySettings
from order_service.settings import OrderSettings
from product_service.settings import ProductSettings
from tests.support.certificates import Authority
from tests.unit import parts
from user_service.settings import UserSettings

ONE = "Kx9vT2mQ8rLw4ZcN7bYh1GdP5sJf3aEu"
OTHER = "bT5nWq8ZsX1cV4mKj7hG2fD9pL6oI3uY"
SERVICES = (UserSettings, OrderSettings, ProductSettings)
ALL = (GatewaySettings, *SERVICES)
GOOD = {
    "ENVIRONMENT": "production",
    "SERVICE_SECRET": ONE,
    "REDIS_URL": "redis://redis:6379/0",
    "USER_SERVICE_URL": "http://users",
    "DATABASE_URL": "postgresql://d/x",
}
WEAK = ("changeme", "secret" * 8, "0123456789abcdef" * 2, "your-256-bit-secret-your-256-bit-secret", "x" * 40)


@pytest.fixture(autouse=True)
def environment(tmp_path: Path) -> Generator[pytest.MonkeyPatch]:
    with parts.clean_environment(**GOOD) as patch:
        patch.chdir(tmp_path)
        yield patch


def refused(settings: type[Settings]) -> list[str]:
    """The variables that are refused."""
    try:
        load(settings, "it")
    except SettingsError as error:
        return [problem.partition(":")[0] for problem in error.problems]
    return []


@pytest.mark.parametrize("settings", ALL)
def test_production_starts_with_all_that_it_needs(settings: type[Settings]) -> None:
    assert refused(settings) == []


ROWS: list[tuple[tuple[type[Settings], ...], Mapping[str, str], list[str]]] = [
    (ALL, {"DEBUG": "true"}, ["DEBUG"]),
    (ALL, {"DEMO_DATA": "true"}, ["DEMO_DATA"]),
    (ALL, {"SERVICE_SECRET": ""}, ["SERVICE_SECRET"]),
    *((ALL, {"SERVICE_SECRET": weak}, ["SERVICE_SECRET"]) for weak in WEAK),
    *((ALL, {"JWT_SECRET_KEY": weak}, ["JWT_SECRET_KEY or SECRET_KEY"]) for weak in WEAK),
    *(((GatewaySettings,), {"REGISTRY_TOKEN": weak}, ["REGISTRY_TOKEN"]) for weak in WEAK),
    (ALL, {"JWT_SECRET_KEY": ONE}, ["SERVICE_SECRET"]),
    ((GatewaySettings,), {"REGISTRY_TOKEN": ONE}, ["REGISTRY_TOKEN"]),
    ((GatewaySettings,), {"REDIS_URL": ""}, ["REDIS_URL"]),
    ((GatewaySettings,), {"USER_SERVICE_URL": ""}, ["USER_SERVICE_URL or AUTH_SERVICE_URL"]),
    ((GatewaySettings,), {"CORS_ORIGINS": "*", "CORS_CREDENTIALS": "true"}, ["CORS_CREDENTIALS"]),
    *(
        ((GatewaySettings,), {"GATEWAY_OPERATIONS_HOST": host}, ["GATEWAY_OPERATIONS_HOST"])
        for host in ("0.0.0.0", "10.0.0.5", "::", "gateway.internal")
    ),
    *(
        ((GatewaySettings,), {"GATEWAY_OPERATIONS_HOST": host}, [])
        for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost")
    ),
    ((GatewaySettings,), {"GATEWAY_OPERATIONS_HOST": "0.0.0.0", "OPERATIONS_OPEN": "true"}, []),
    ((GatewaySettings,), {"OPERATIONS_OPEN": "true"}, []),
    ((UserSettings,), {"DATABASE_URL": ""}, ["USERS_DATABASE_URL or DATABASE_URL"]),
    ((OrderSettings,), {"DATABASE_URL": ""}, ["ORDERS_DATABASE_URL or DATABASE_URL"]),
    ((ProductSettings,), {"DATABASE_URL": ""}, ["PRODUCTS_DATABASE_URL or DATABASE_URL"]),
    ((UserSettings,), {"ADMIN_USERNAME": "root", "ADMIN_PASSWORD": "changemechangeme"}, ["ADMIN_PASSWORD"]),
    ((UserSettings,), {"ADMIN_USERNAME": "root", "ADMIN_PASSWORD": "short"}, ["ADMIN_PASSWORD"]),
]


@pytest.mark.parametrize(
    ("settings", "given", "names"),
    [(one, given, names) for settings, given, names in ROWS for one in settings],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value)[:60],
)
def test_production_refuses_by_name(
    environment: pytest.MonkeyPatch, settings: type[Settings], given: Mapping[str, str], names: list[str]
) -> None:
    for name, value in given.items():
        environment.setenv(name, value)

    assert refused(settings) == names


def test_elsewhere_one_secret_may_do_for_all(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ENVIRONMENT", "development")
    environment.setenv("JWT_SECRET_KEY", ONE)

    assert refused(GatewaySettings) == []


def test_all_that_the_gateway_refuses_is_told_at_once(environment: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DEBUG": "1",
        "DEMO_DATA": "1",
        "SERVICE_SECRET": "",
        "REDIS_URL": "",
        "USER_SERVICE_URL": "",
        "GATEWAY_OPERATIONS_HOST": "0.0.0.0",
        "CORS_ORIGINS": "*",
        "CORS_CREDENTIALS": "1",
        "TLS_CERTIFICATE": "nowhere.pem",
        "TLS_KEY": "nowhere.key",
        "JWT_SECRET_KEY": "changeme",
    }.items():
        environment.setenv(name, value)

    assert sorted(refused(GatewaySettings)) == [
        "CORS_CREDENTIALS",
        "DEBUG",
        "DEMO_DATA",
        "GATEWAY_OPERATIONS_HOST",
        "JWT_SECRET_KEY or SECRET_KEY",
        "REDIS_URL",
        "SERVICE_SECRET",
        "TLS_CERTIFICATE",
        "USER_SERVICE_URL or AUTH_SERVICE_URL",
    ]


def test_no_refusal_shows_a_secret(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("JWT_SECRET_KEY", ONE)
    environment.setenv("SERVICE_SECRET", "hunter2hunter2hunter2hunter2hunter2")

    with pytest.raises(SettingsError) as caught:
        load(GatewaySettings, "it")

    assert ONE not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("environment_name", ["development", "test"])
def test_elsewhere_an_open_operations_port_is_ones_own_affair(
    environment: pytest.MonkeyPatch, environment_name: str
) -> None:
    environment.setenv("ENVIRONMENT", environment_name)
    environment.setenv("GATEWAY_OPERATIONS_HOST", "0.0.0.0")

    assert refused(GatewaySettings) == []


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"TLS_CERTIFICATE": "server.pem"}, "TLS_CERTIFICATE and TLS_KEY: are needed together; set both or neither"),
        ({"TLS_KEY": "server.key"}, "TLS_CERTIFICATE and TLS_KEY: are needed together; set both or neither"),
        ({"TLS_CLIENT_CA": "authority.pem"}, "TLS_CLIENT_CA: wants TLS_CERTIFICATE and TLS_KEY, too"),
        ({"TLS_CERTIFICATE": "other.key", "TLS_KEY": "other.key"}, "TLS_CERTIFICATE: holds no certificate in PEM form"),
        ({"TLS_CERTIFICATE": "server.pem", "TLS_KEY": "other.key"}, "TLS_KEY: is not the key of the certificate"),
        ({"TLS_CERTIFICATE": "server.pem", "TLS_KEY": "gone.key"}, "TLS_KEY: there is no such file"),
        (
            {"TLS_CERTIFICATE": "server.pem", "TLS_KEY": "server.key", "TLS_CLIENT_CA": "server.key"},
            "TLS_CLIENT_CA: holds no certificate in PEM form",
        ),
        ({"TLS_CERTIFICATE": "server.pem", "TLS_KEY": "server.key", "TLS_CLIENT_CA": "authority.pem"}, ""),
    ],
)  # fmt: skip
def test_certificates_that_cannot_be_used_keep_the_gateway_from_starting(
    environment: pytest.MonkeyPatch, tmp_path: Path, given: Mapping[str, str], problem: str
) -> None:
    authority = Authority(tmp_path)
    authority.issue()
    authority.issue("other")
    for name, file in given.items():
        environment.setenv(name, file)

    try:
        load(GatewaySettings, "it")
        told: tuple[str, ...] = ()
    except SettingsError as error:
        told = error.problems

    assert told == ((problem,) if problem else ())
