"""docker-compose.yml keeps its promises, and what it runs before the workers can be run again and again."""

from __future__ import annotations

import re
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from common.serving import GRACEFUL_TIMEOUT_S
from common.settings import documented
from deploy.compose.make_databases import make_database
from deploy.compose.make_secrets import DATABASES, READERS, make_all
from deploy.reference import PROCESSES
from tests.support.postgres import Unavailable, postgres_server
from tests.support.processes import ROOT

COMPOSE: Mapping[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
CONTAINERS: Mapping[str, Mapping[str, Any]] = COMPOSE["services"]
SETUPS = ("secrets", "database_setup", "user_setup", "product_setup", "order_setup")
WORKERS = ("gateway", "user_service", "product_service", "order_service")
STORES = ("postgres", "redis")

DECIDED_BY_COMPOSE = {
    "AUTH_SERVICE_URL": "USER_SERVICE_URL wins over it",
    "DATABASE_URL": "in .env it is of a run without containers; each service has a database and a role of its own",
    "USERS_DATABASE_URL": "comes as a file in SECRETS_DIR",
    "PRODUCTS_DATABASE_URL": "comes as a file in SECRETS_DIR",
    "ORDERS_DATABASE_URL": "comes as a file in SECRETS_DIR",
    "VAR_DIR": "the containers are read-only and keep nothing there",
    "GATEWAY_SERVICES": "is a path in the image",
    "GATEWAY_OPERATIONS_HOST": "stays on the container's loopback: it must not be published",
    "GATEWAY_OPERATIONS_PORT": "stays on the container's loopback: it must not be published",
    "PROMETHEUS_MULTIPROC_DIR": "is a path in the container",
    "ADMIN_USERNAME": "is for user_setup only",
    "ADMIN_PASSWORD": "is for user_setup only",
}


def environment(name: str) -> dict[str, str | None]:
    return CONTAINERS[name].get("environment") or {}


def volumes(name: str) -> list[str]:
    return CONTAINERS[name].get("volumes") or []


def test_every_container_is_one_that_these_tests_know() -> None:
    assert set(CONTAINERS) == {*SETUPS, *WORKERS, *STORES}


def test_only_the_gateway_is_published_and_only_to_this_machine() -> None:
    published = {name: container["ports"] for name, container in CONTAINERS.items() if "ports" in container}

    assert published == {"gateway": ["${GATEWAY_PUBLISH_ADDRESS:-127.0.0.1}:${GATEWAY_PORT:-5001}:5001"]}
    assert not any("network_mode" in CONTAINERS[name] for name in (*WORKERS, *STORES))


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_can_do_no_more_than_it_must(name: str) -> None:
    container = CONTAINERS[name]

    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & set(container)
    assert container["mem_limit"]
    assert container["pids_limit"]
    assert container["logging"]["options"] == {"max-size": "10m", "max-file": "3"}


@pytest.mark.parametrize("name", CONTAINERS)
def test_no_container_runs_as_root(name: str) -> None:
    container = CONTAINERS[name]

    if container["image"] == "api-gateway":
        assert "user" not in container  # then it is the image's
        users = re.findall(r"^USER (\d+):\d+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        assert users == ["10001"]
    else:
        assert container["user"] == name


@pytest.mark.parametrize("name", CONTAINERS)
def test_no_secret_has_a_value_in_the_file(name: str) -> None:
    secret = re.compile(r"SECRET(?!S_DIR)|PASSWORD(?!_MIN|_FILE)|DATABASE_URL")

    assert {value for key, value in environment(name).items() if secret.search(key)} <= {None}


@pytest.mark.parametrize("name", [*WORKERS, *STORES])
def test_what_keeps_running_says_how_it_is_and_comes_back(name: str) -> None:
    container = CONTAINERS[name]

    assert container["healthcheck"]["test"]
    assert container["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SETUPS)
def test_what_runs_once_is_not_started_again_by_the_engine(name: str) -> None:
    assert CONTAINERS[name]["restart"] == "no"


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_has_more_time_to_stop_than_its_requests_have_to_end(name: str) -> None:
    assert int(CONTAINERS[name]["stop_grace_period"].removesuffix("s")) > GRACEFUL_TIMEOUT_S


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_is_waited_for_is_waited_for_until_it_is_good(name: str) -> None:
    for awaited, how in CONTAINERS[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if awaited in SETUPS else "service_healthy"

        assert how == {"condition": wanted}


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name != "secrets"])
def test_whoever_runs_our_image_starts_after_it_was_built(name: str) -> None:
    """Only `secrets` builds it; Compose v1 would try to pull it for a container that comes earlier."""
    awaited, found = [name], set[str]()
    while awaited:
        found.add(container := awaited.pop())
        awaited += CONTAINERS[container].get("depends_on", {})

    assert "build" not in CONTAINERS[name]
    assert "secrets" in found or CONTAINERS[name]["image"] != "api-gateway"


@pytest.mark.parametrize("plural", DATABASES)
def test_only_a_service_and_its_setup_can_read_its_secrets(plural: str) -> None:
    noun = plural.removesuffix("s")
    readers = {name for name in CONTAINERS if any(v.startswith(f"{plural}_secrets:") for v in volumes(name))}

    assert readers == {"secrets", "database_setup", f"{noun}_setup", f"{noun}_service"}


def test_only_the_gateway_can_read_its_secrets() -> None:
    readers = {name for name in CONTAINERS if any(v.startswith("gateway_secrets:") for v in volumes(name))}

    assert readers == {"secrets", "gateway"}


def test_only_the_maker_can_write_secrets() -> None:
    writers = {name for name in CONTAINERS if any("_secrets:" in v and not v.endswith(":ro") for v in volumes(name))}

    assert writers == {"secrets"}


def test_everything_that_is_kept_is_in_a_named_volume() -> None:
    named = {volume.split(":")[0] for name in CONTAINERS for volume in volumes(name)}

    assert named == set(COMPOSE["volumes"])


def test_the_databases_cannot_be_reached_from_the_gateways_network() -> None:
    assert "databases" not in CONTAINERS["gateway"]["networks"]
    assert CONTAINERS["postgres"]["networks"] == ["databases"]
    assert CONTAINERS["redis"]["networks"] == ["cache"]
    assert COMPOSE["networks"]["databases"] == COMPOSE["networks"]["cache"] == {"internal": True}


@pytest.mark.parametrize("process", PROCESSES)
def test_every_setting_of_a_process_reaches_its_container(process: str) -> None:
    """If this fails: name the setting, without a value, in docker-compose.yml; it then comes from .env."""
    settings = PROCESSES[process]
    container = getattr(settings, "name", "gateway")
    names = {name for row in documented(settings) for name in row.names}

    assert names - set(environment(container)) - set(DECIDED_BY_COMPOSE) == set()


@pytest.mark.parametrize("noun", ["user", "product", "order"])
def test_a_setup_has_the_settings_of_its_service(noun: str) -> None:
    wanted = {name: value for name, value in environment(f"{noun}_service").items() if name != "DEMO_DATA"}

    assert wanted.items() <= environment(f"{noun}_setup").items()


def test_without_an_env_file_it_is_a_production_system_without_demo_data() -> None:
    assert all(environment(name)["ENVIRONMENT"] == "${ENVIRONMENT:-production}" for name in WORKERS)
    assert environment("user_setup")["DEMO_DATA"] == environment("product_setup")["DEMO_DATA"] == "${DEMO_DATA:-false}"


def test_the_file_uses_nothing_that_one_of_both_compose_versions_lacks() -> None:
    known = {"services", "networks", "volumes"}  # `name` is unknown to v1, `version` is obsolete in v2

    assert {key for key in COMPOSE if not key.startswith("x-")} == known


def test_only_what_is_named_goes_into_the_image() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    assert rules[0] == "*"
    assert [rule for rule in rules if rule.startswith("!")] == [
        "!requirements.txt",
        "!common",
        "!gateway",
        "!*_service",
        "!deploy/__init__.py",
        "!deploy/compose",
    ]


@pytest.fixture
def room(tmp_path: Path) -> Path:
    for name in ("postgres", *READERS):
        (tmp_path / name).mkdir()
    return tmp_path


def contents(room: Path) -> dict[str, str]:
    return {str(path.relative_to(room)): path.read_text() for path in room.rglob("*") if path.is_file()}


def test_secrets_are_made_once_and_never_changed(room: Path) -> None:
    made = make_all(room)
    first = contents(room)

    assert len(made) == len(first) == 8
    assert make_all(room) == []
    assert contents(room) == first


def test_a_secret_that_was_lost_is_made_anew_and_fits_the_others(room: Path) -> None:
    make_all(room)
    first = contents(room)
    (room / "orders" / "service_secret").unlink()
    (room / "orders" / "orders_database_url").unlink()

    make_all(room)

    changed = {name for name, value in contents(room).items() if first[name] != value}
    assert changed == {"orders/orders_database_url"}  # service_secret is the same for all


def test_an_interrupted_run_leaves_no_half_secret(room: Path) -> None:
    (room / "postgres" / ".postgres_password").write_text("half")

    make_all(room)

    assert len((room / "postgres" / "postgres_password").read_text()) >= 32
    assert not (room / "postgres" / ".postgres_password").exists()


def test_only_the_server_password_can_be_read_by_another_user(room: Path) -> None:
    open_to_others = {path.name for path in make_all(room) if stat.S_IMODE(path.stat().st_mode) & stat.S_IROTH}

    assert open_to_others == {"postgres_password"}  # PostgreSQL runs as another user


def test_a_database_is_made_once_for_its_role_only() -> None:
    try:
        with postgres_server() as server:
            url = server.url("postgres").replace("+psycopg", "")
            with psycopg.connect(url, autocommit=True) as admin:
                is_new = [make_database(admin, name, f"secret of {name}") for name in ("cats", "dogs", "cats")]

                assert is_new == [True, True, False]
                with psycopg.connect(url, user="cats", password="secret of cats", dbname="cats") as cats:
                    cats.execute("CREATE TABLE naps ()")
                with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                    psycopg.connect(url, user="cats", password="secret of cats", dbname="dogs")

                make_database(admin, "cats", "another secret")
                with psycopg.connect(url, user="cats", password="another secret", dbname="cats") as cats:
                    cats.execute("SELECT FROM naps")
                for name in ("cats", "dogs"):
                    admin.execute(f"DROP DATABASE {name}".encode())
                    admin.execute(f"DROP ROLE {name}".encode())
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(
    ("demo", "address", "commands", "status"),
    [
        ("", "", ["db upgrade", "ensure-admin"], 0),
        ("false", "0.0.0.0", ["db upgrade", "ensure-admin"], 0),
        ("true", "", ["db upgrade", "ensure-admin", "seed-demo"], 0),
        ("true", "127.0.0.2", ["db upgrade", "ensure-admin", "seed-demo"], 0),
        ("true", "0.0.0.0", ["db upgrade", "ensure-admin"], 1),
        ("true", "192.0.2.7", ["db upgrade", "ensure-admin"], 1),
        ("maybe", "", ["db upgrade", "ensure-admin"], 1),
    ],
)
def test_demo_users_are_made_where_only_this_machine_can_log_in(
    tmp_path: Path, demo: str, address: str, commands: list[str], status: int
) -> None:
    flask = tmp_path / "flask"
    flask.write_text('#!/bin/sh\nshift 2\necho "$*"\n')
    flask.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "DEMO_DATA": demo, "GATEWAY_PUBLISH_ADDRESS": address}
    script = ["sh", str(ROOT / "deploy/compose/setup.sh"), "user_service", "ensure-admin"]

    ended = subprocess.run(script, env=env, capture_output=True, text=True, check=False)

    assert (ended.stdout.splitlines(), ended.returncode) == (commands, status)
    assert bool(ended.stderr) == bool(status)


def test_demo_data_are_asked_only_of_services_that_have_some() -> None:
    asked = {name for name in SETUPS if environment(name).get("DEMO_DATA", "false") != "false"} - {"secrets"}

    assert asked == {"user_setup", "product_setup"}
