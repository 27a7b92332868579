"""Settings: where they are read from, what wins, and that all that is wrong is told at once and no secret with it."""

from __future__ import annotations

import base64
import ipaddress
import random
import stat
import time
from collections.abc import Generator
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import AliasChoices, Field

from common.secrets import SECRET_MIN_BYTES
from common.service_settings import ServiceSettings
from common.settings import (
    WELL_KNOWN_SECRETS,
    OptionalText,
    SettingsError,
    documented,
    load,
    load_or_exit,
    shared_development_secret,
    strong_secret,
)
from gateway.settings import GatewaySettings, parse_networks, parse_size
from tests.unit import parts

STRONG = "correct horse battery staple, and 32 bytes"
OTHER = "another quite long secret with 32 or more bytes"
SECRETS = ["JWT_SECRET_KEY", "SECRET_KEY"]


class ThingSettings(ServiceSettings):
    """As a service has them."""

    name: ClassVar[str] = "thing_service"
    plural: ClassVar[str] = "things"

    port: int = Field(5009, ge=1, le=65535, validation_alias="THINGS_PORT")
    database_url: OptionalText = Field(None, validation_alias=AliasChoices("THINGS_DATABASE_URL", "DATABASE_URL"))


@pytest.fixture(autouse=True)
def patch(tmp_path: Path) -> Generator[pytest.MonkeyPatch]:
    """An empty environment, and an empty folder as the current one."""
    with parts.clean_environment() as patch:
        patch.chdir(tmp_path)
        yield patch


@pytest.fixture
def env(patch: pytest.MonkeyPatch) -> Env:
    return Env(patch)


class Env:
    """Sets variables, and loads the settings that they make."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def __call__(self, **variables: str) -> None:
        for name, value in variables.items():
            self._patch.setenv(name, value)

    def gateway(self, **variables: str) -> GatewaySettings:
        self(**variables)
        return load(GatewaySettings, "gateway")

    def thing(self, **variables: str) -> ThingSettings:
        self(**variables)
        return load(ThingSettings, "thing_service")

    def problems(self, settings: type[GatewaySettings | ThingSettings], **variables: str) -> list[str]:
        self(**variables)
        with pytest.raises(SettingsError) as caught:
            load(settings, "it")
        return list(caught.value.problems)


def named(problems: list[str]) -> list[str]:
    """The variables that problems are about."""
    return [problem.partition(":")[0] for problem in problems]


def test_nothing_has_to_be_set_for_a_development_run(env: Env) -> None:
    gateway, thing = env.gateway(), env.thing()

    assert (gateway.gateway_port, gateway.environment, gateway.jwt_secret_key) == (5001, "development", None)
    assert (gateway.rate_limit_requests, gateway.rate_limit_window, gateway.max_request_size) == (100, 60, 10 << 20)
    assert (gateway.request_timeout, gateway.redis_pool_size, gateway.trusted_proxies) == (30, 20, ())
    assert (thing.port, thing.effective_database_url) == (5009, "sqlite:///var/things.db")


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("GATEWAY_HOST", "127.0.0.1", "gateway_host", "127.0.0.1"),
        ("GATEWAY_PORT", "8000", "gateway_port", 8000),
        ("GATEWAY_OPERATIONS_PORT", "8001", "operations_port", 8001),
        ("REDIS_URL", "redis://r:1/2", "redis_url", "redis://r:1/2"),
        ("REDIS_POOL_SIZE", "5", "redis_pool_size", 5),
        ("JWT_SECRET_KEY", STRONG, "jwt_secret_key", STRONG),
        ("SECRET_KEY", STRONG, "jwt_secret_key", STRONG),
        ("RATE_LIMIT_REQUESTS", "3", "rate_limit_requests", 3),
        ("USER_RATE_LIMIT_REQUESTS", "3", "user_requests", 3),
        ("USER_RATE_LIMIT_REQUESTS", "3", "anonymous_requests", 3),
        ("ADDRESS_RATE_LIMIT_REQUESTS", "3", "address_requests", 3),
        ("GLOBAL_RATE_LIMIT_REQUESTS", "3", "global_rate_limit_requests", 3),
        ("BURST_RATE_LIMIT_REQUESTS", "3", "burst_requests", 3),
        ("BURST_RATE_LIMIT_WINDOW", "3", "burst_rate_limit_window", 3),
        ("LIMITS_TIMEOUT_MS", "7", "limits_timeout_ms", 7),
        ("RATE_LIMIT_WINDOW", "10", "rate_limit_window", 10),
        ("REQUEST_TIMEOUT", "1.5", "request_timeout", 1.5),
        ("MAX_REQUEST_SIZE", "1MB", "max_request_size", 1 << 20),
        ("TRUSTED_PROXIES", "127.0.0.1", "trusted_proxies", (ipaddress.ip_network("127.0.0.1"),)),
        ("USER_SERVICE_URL", "http://u", "user_service_url", "http://u"),
        ("AUTH_SERVICE_URL", "http://u", "user_service_url", "http://u"),
        ("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "2", "breaker_failures", 2),
        ("CIRCUIT_BREAKER_RECOVERY_TIMEOUT", "0.5", "breaker_recovery_s", 0.5),
        ("WEB_CONCURRENCY", "3", "workers", 3),
        ("LOG_LEVEL", "DEBUG", "log_level", "DEBUG"),
        ("DEBUG", "true", "debug", True),
        ("log_level", "ERROR", "log_level", "ERROR"),
    ],
)
def test_each_variable_of_the_gateway_is_read(
    env: Env, variable: str, value: str, field: str, expected: object
) -> None:
    assert getattr(env.gateway(**{variable: value}), field) == expected


@pytest.mark.parametrize(
    ("winner", "loser", "field"),
    [
        ("JWT_SECRET_KEY", "SECRET_KEY", "jwt_secret_key"),
        ("USER_SERVICE_URL", "AUTH_SERVICE_URL", "user_service_url"),
    ],
)
def test_of_two_names_for_a_setting_one_wins(env: Env, winner: str, loser: str, field: str) -> None:
    settings = env.gateway(**{winner: STRONG, loser: OTHER})

    assert getattr(settings, field) == STRONG


@pytest.mark.parametrize(
    ("given", "user", "anonymous", "address", "burst"),
    [
        ({}, 100, 100, 1000, 100),
        ({"RATE_LIMIT_REQUESTS": "3"}, 3, 3, 1000, 100),
        ({"RATE_LIMIT_REQUESTS": "5000"}, 5000, 5000, 50_000, 5000),
        ({"USER_RATE_LIMIT_REQUESTS": "200"}, 200, 200, 2000, 200),
        ({"USER_RATE_LIMIT_REQUESTS": "300", "RATE_LIMIT_REQUESTS": "150"}, 300, 150, 1500, 300),
        ({"ADDRESS_RATE_LIMIT_REQUESTS": "7", "BURST_RATE_LIMIT_REQUESTS": "2"}, 100, 100, 7, 2),
    ],
)
def test_limits_that_are_not_set_follow_from_those_that_are(
    env: Env, given: dict[str, str], user: int, anonymous: int, address: int, burst: int
) -> None:
    gateway = env.gateway(**given)

    found = gateway.user_requests, gateway.anonymous_requests, gateway.address_requests, gateway.burst_requests
    assert found == (user, anonymous, address, burst)


def test_a_service_prefers_its_own_database_to_the_common_one(env: Env) -> None:
    assert env.thing(DATABASE_URL="sqlite://").effective_database_url == "sqlite://"
    assert env.thing(THINGS_DATABASE_URL="sqlite:///x").effective_database_url == "sqlite:///x"


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_secret_is_none(env: Env, empty: str) -> None:
    assert env.gateway(JWT_SECRET_KEY=empty).jwt_secret_key is None


def test_the_env_file_is_read_and_the_environment_wins_over_it(env: Env, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GATEWAY_PORT=6001\nLOG_LEVEL=ERROR\nUNKNOWN=1\nREDIS_URL=redis://file\n")

    settings = env.gateway(GATEWAY_PORT="7001", REDIS_URL="")

    assert (settings.gateway_port, settings.log_level, settings.redis_url) == (7001, "ERROR", "redis://file")


@pytest.mark.parametrize("name", [*SECRETS, "jwt_secret_key"])
def test_a_secret_may_be_a_file(env: Env, tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text(f"{STRONG}\n")

    assert env.gateway(SECRETS_DIR=str(tmp_path / "run")).jwt_secret_key == STRONG


def test_the_environment_wins_over_secret_files_and_they_over_the_env_file(env: Env, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"SERVICE_SECRET={STRONG}env\nJWT_SECRET_KEY={STRONG}env\n")
    (tmp_path / "run").mkdir()
    for name in ("SERVICE_SECRET", "JWT_SECRET_KEY"):
        (tmp_path / "run" / name).write_text(f"{STRONG}file")

    settings = env.thing(SECRETS_DIR=str(tmp_path / "run"), SERVICE_SECRET=OTHER)

    assert (settings.service_secret, settings.jwt_secret_key) == (OTHER, f"{STRONG}file")


def test_a_weak_secret_in_a_file_is_refused_and_not_shown(env: Env, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "JWT_SECRET_KEY").write_text("hunter2")

    (problem,) = env.problems(GatewaySettings, SECRETS_DIR=str(tmp_path / "run"))

    assert problem.startswith("JWT_SECRET_KEY or SECRET_KEY: ")
    assert "hunter2" not in problem


def test_all_that_is_wrong_is_told_at_once(env: Env) -> None:
    wrong = {
        "GATEWAY_PORT": "70000",
        "GATEWAY_OPERATIONS_PORT": "none",
        "REDIS_POOL_SIZE": "0",
        "SECRET_KEY": "short",
        "RATE_LIMIT_REQUESTS": "many",
        "RATE_LIMIT_WINDOW": "0",
        "REQUEST_TIMEOUT": "-1",
        "MAX_REQUEST_SIZE": "10 apples",
        "TRUSTED_PROXIES": "10.0.0.0/8, everywhere",
        "ENVIRONMENT": "prod",
        "LOG_LEVEL": "loud",
        "DEBUG": "perhaps",
        "WEB_CONCURRENCY": "0",
        "CIRCUIT_BREAKER_FAILURE_THRESHOLD": "0",
    }

    problems = env.problems(GatewaySettings, **wrong)

    expected = set(wrong) - {"SECRET_KEY"} | {"JWT_SECRET_KEY or SECRET_KEY"}
    assert sorted(named(problems)) == sorted(expected)
    assert not any("Value error" in problem for problem in problems)


def test_the_message_counts_and_lists_the_problems() -> None:
    assert str(SettingsError("gateway", ["A: is wrong"])) == "gateway cannot start: 1 setting is wrong\n  A: is wrong"
    assert str(SettingsError("x", ["A: a", "B: b"])) == "x cannot start: 2 settings are wrong\n  A: a\n  B: b"


@pytest.mark.parametrize("settings", [GatewaySettings, ThingSettings])
@pytest.mark.parametrize(
    "secret", ["hunter2", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "supersecret", "31 bytes of secret: xyzzy 12345"]
)
def test_a_secret_is_never_shown(
    env: Env, settings: type[GatewaySettings | ThingSettings], secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    env(JWT_SECRET_KEY=secret, SERVICE_SECRET=secret, GATEWAY_PORT=secret, THINGS_PORT=secret, LOG_LEVEL=secret)

    with pytest.raises(SystemExit) as ended:
        load_or_exit(settings, "it")

    assert "it cannot start" in str(ended.value)
    assert "JWT_SECRET_KEY" in str(ended.value)
    assert secret not in str(ended.value)
    assert ended.value.__suppress_context__
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "value",
    [
        *sorted(WELL_KNOWN_SECRETS),
        " CHANGEME ",
        "x" * 31,
        "ab" * 40,
        "short but fine",
        "secret" * 6,
        "abcdefgh" * 4,
        "Zq7!pLw2Zq7!pLw2Zq7!pLw2Zq7!pLw2Zq7!pLw",
        "changeme-changeme-changeme-12345678",
        "your-secret-key-your-secret-key-2024",
        "your-256-bit-secret-your-256-bit-secret",
        "my-super-secret-jwt-key-change-me-in-production",
        "this_is_a_very_long_secret_key_for_testing_only",
        "dev-secret-key-that-is-at-least-32-bytes-long!!",
        "SUPERSECRETKEY_SUPERSECRETKEY_123",
        "abcdefghijklmnopqrstuvwxyz0123456789",
        "zyxwvutsrqponmlkjihgfedcba9876543210",
        "0123456789abcdefghijklmnopqrstuv",
        "a" * 31 + "bcdefgh",
        "zqzzqzqqzqzzqzqqzqqzqzzqzqzzwkxjvbm",
        "11111111111111112222222233334444556789",
    ],
)
def test_a_well_known_repetitive_or_short_secret_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="openssl rand"):
        strong_secret(value)


@pytest.mark.parametrize("value", [None, STRONG, OTHER, "ÄÖÜßéŁøæŻğñçìœŵÿşžαβγ", "dGVzdFNlY3JldA9x7Zq1pLw2Vb8Km3Ty6Rc"])
def test_a_strong_secret_is_kept_as_it_is(value: str | None) -> None:
    assert strong_secret(value) == value


@pytest.mark.parametrize("length", [16, 24, 32, 48, 64])
def test_what_a_generator_makes_is_strong_enough(length: int) -> None:
    generator = random.Random(length)

    for _ in range(500):
        made = generator.randbytes(length)
        for text in (made.hex(), base64.b64encode(made).decode(), base64.urlsafe_b64encode(made).decode().rstrip("=")):
            assert len(text) < SECRET_MIN_BYTES or strong_secret(text) == text


def test_a_long_run_of_words_is_judged_at_once() -> None:
    began = time.perf_counter()

    with pytest.raises(ValueError, match="openssl rand"):
        strong_secret("secretkey" * 2000)

    assert time.perf_counter() - began < 1


def test_production_refuses_what_it_cannot_run_with_all_at_once(env: Env) -> None:
    problems = env.problems(GatewaySettings, ENVIRONMENT="production", DEBUG="1", GATEWAY_OPERATIONS_PORT="5001")

    assert named(problems) == [
        "DEBUG",
        "SERVICE_SECRET",
        "GATEWAY_OPERATIONS_PORT",
        "REDIS_URL",
        "USER_SERVICE_URL or AUTH_SERVICE_URL",
    ]


def test_wrong_values_do_not_hide_what_contradicts_itself(env: Env) -> None:
    problems = env.problems(GatewaySettings, ENVIRONMENT="production", DEBUG="1", RATE_LIMIT_WINDOW="soon")

    assert sorted(problem.partition(":")[0] for problem in problems) == [
        "DEBUG",
        "RATE_LIMIT_WINDOW",
        "REDIS_URL",
        "SERVICE_SECRET",
        "USER_SERVICE_URL or AUTH_SERVICE_URL",
    ]


def test_production_refuses_a_service_without_database_and_secret(env: Env) -> None:
    problems = env.problems(ThingSettings, ENVIRONMENT="production", DEBUG="1")

    assert named(problems) == ["DEBUG", "SERVICE_SECRET", "THINGS_DATABASE_URL or DATABASE_URL"]


@pytest.mark.parametrize("name", SECRETS)
def test_production_refuses_a_weak_secret(env: Env, name: str) -> None:
    sound = {"REDIS_URL": "redis://r", "USER_SERVICE_URL": "http://u", "SERVICE_SECRET": STRONG}
    given = {"ENVIRONMENT": "production", **sound, name: "changeme"}

    assert named(env.problems(GatewaySettings, **given)) == ["JWT_SECRET_KEY or SECRET_KEY"]


@pytest.mark.parametrize("users", ["USER_SERVICE_URL", "AUTH_SERVICE_URL"])
def test_production_runs_with_all_that_it_needs(env: Env, users: str) -> None:
    env(ENVIRONMENT="production", SERVICE_SECRET=STRONG, DATABASE_URL="postgresql://d/x")

    assert env.gateway(**{"REDIS_URL": "redis://r", users: "http://u"}).is_production
    assert env.thing().is_production


def test_the_operations_listener_needs_a_port_of_its_own(env: Env) -> None:
    assert named(env.problems(GatewaySettings, GATEWAY_PORT="5101")) == ["GATEWAY_OPERATIONS_PORT"]


def test_settings_cannot_be_changed(env: Env) -> None:
    settings = env.gateway()

    with pytest.raises(ValueError, match="frozen"):
        settings.debug = True


def test_every_setting_is_documented(env: Env) -> None:
    for settings in (GatewaySettings, ServiceSettings):
        undocumented = [row.names for row in documented(settings) if not row.description]
        # each service describes its own database
        assert undocumented in ([], [("DATABASE_URL",)])
    rows = {row.names: row for row in documented(GatewaySettings)}

    assert rows[("RATE_LIMIT_REQUESTS",)].default == "100"
    assert rows[("JWT_SECRET_KEY", "SECRET_KEY")].default == ""
    assert rows[("GATEWAY_OPERATIONS_PORT",)].default == "5101"


def test_a_development_run_shares_a_secret_that_only_its_owner_can_read(env: Env, tmp_path: Path) -> None:
    settings = env.thing(VAR_DIR=str(tmp_path / "var"))

    secret = settings.effective_service_secret()

    file = tmp_path / "var" / "service_secret"
    assert secret == env.thing().effective_service_secret() == file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in file.parent.iterdir()] == ["service_secret"]


def test_a_given_service_secret_is_used_and_no_file_made(env: Env, tmp_path: Path) -> None:
    assert env.thing(SERVICE_SECRET=STRONG, VAR_DIR=str(tmp_path / "var")).effective_service_secret() == STRONG
    assert not (tmp_path / "var").exists()


def test_a_weak_shared_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weak").write_text("changeme")

    with pytest.raises(ValueError, match="well-known"):
        shared_development_secret(tmp_path / "weak")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4096", 4096),
        (4096, 4096),
        ("0", 0),
        ("1B", 1),
        ("1KB", 1024),
        ("512 KB", 512 << 10),
        ("10MB", 10 << 20),
        ("10mb", 10 << 20),
        ("10MiB", 10 << 20),
        (" 1 GB ", 1 << 30),
        ("2GiB", 2 << 30),
    ],
)
def test_a_size_is_read_with_its_unit(text: object, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text", ["", "MB", "-1", "+1", "1.5MB", "10 TB", "10MBit", "1e3", "0x10", "10 M B", "1 2", None, True]
)
def test_what_is_not_a_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" , ", []),
        ("127.0.0.1", ["127.0.0.1/32"]),
        ("10.0.0.0/8, 192.0.2.7", ["10.0.0.0/8", "192.0.2.7/32"]),
        ("::1,fd00::/8", ["::1/128", "fd00::/8"]),
        ("0.0.0.0/0", ["0.0.0.0/0"]),
        ((), []),
    ],
)
def test_networks_are_read(text: object, expected: list[str]) -> None:
    assert [str(network) for network in parse_networks(text)] == expected


@pytest.mark.parametrize("entry", ["everywhere", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "*", "::1::", "proxy.internal"])
def test_what_is_not_a_network_is_refused_by_name(entry: str) -> None:
    with pytest.raises(ValueError, match="is not an address or network") as refused:
        parse_networks(f"127.0.0.1, {entry}")

    assert repr(entry) in str(refused.value)
