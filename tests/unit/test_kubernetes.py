"""What the cluster is told: settings in ConfigMaps, secrets in Secrets, and never the one in the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.settings import documented, load, strong_secret
from deploy.kubernetes.make_secrets import NAMESPACE, manifest, values
from gateway.settings import GatewaySettings
from order_service.settings import OrderSettings
from product_service.settings import ProductSettings
from user_service.settings import UserSettings

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
PROCESSES = {"gateway": GatewaySettings, "auth": UserSettings, "order": OrderSettings, "product": ProductSettings}
IS_SECRET = re.compile(r"SECRET(?!S_DIR)|PASSWORD(?!_MIN)|TOKEN(?!_TTL)|DATABASE_URL|REDIS_URL|REGISTRY_URL")
KNOWN = {name for settings in PROCESSES.values() for row in documented(settings) for name in row.names}


def documents() -> list[Any]:
    return [manifest for path in sorted(FOLDER.glob("*.yaml")) for manifest in yaml.safe_load_all(path.read_text())]


def settings_of(kind: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in documents():
        if one["kind"] == kind:
            found |= one["data"]
    return found


def test_everything_is_in_the_namespace() -> None:
    made: list[Any] = [manifest("gateway", {}), *documents()]

    assert [one["metadata"]["name"] for one in made if one["kind"] == "Namespace"] == [NAMESPACE]
    assert {one["metadata"]["namespace"] for one in made if one["kind"] != "Namespace"} == {NAMESPACE}


def test_a_config_map_has_settings_that_are_read_and_no_secret() -> None:
    given = settings_of("ConfigMap")

    assert given
    assert {name for name in set(given) - KNOWN if not name.endswith("_SERVICE_URL")} == {"SECRETS_DIR"}
    assert [name for name in given if IS_SECRET.search(name)] == []
    assert [value for value in given.values() if not isinstance(value, str) or "@" in value] == []


def test_no_file_of_the_repository_holds_a_secret() -> None:
    assert [one["kind"] for one in documents() if one["kind"] == "Secret"] == []


def test_every_secret_is_random_strong_and_named_like_a_setting() -> None:
    first, second = values(), values()

    for reader, mine in first.items():
        assert all(mine[name] != second[reader][name] and len(mine[name]) >= 32 for name in mine)
        if reader in PROCESSES:
            names = {name for row in documented(PROCESSES[reader]) for name in row.names}
            assert {name.upper() for name in mine} <= names


@pytest.mark.parametrize("process", PROCESSES)
def test_each_process_starts_in_production_with_what_the_cluster_gives_it(
    process: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in values()[process].items():
        (tmp_path / name).write_text(value)
    for name, value in settings_of("ConfigMap").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))

    settings = load(PROCESSES[process], process)

    assert settings.is_production
    assert strong_secret(settings.service_secret) == settings.service_secret is not None
