"""Each service against its own OpenAPI document: the document is valid, and generated requests find no lie in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
import requests
from openapi_spec_validator import validate

from deploy.local.valkey import Valkey
from tests.e2e.conftest import MANY
from tests.support.ports import free_port
from tests.support.shop import Parts

SERVICES = ("users", "orders", "products")
EXAMPLES = 12
RUN_TIMEOUT_S = 240


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Generator[Parts]:
    directory = tmp_path_factory.mktemp("contract")
    with (
        Valkey(directory / "valkey", port=free_port()) as redis,
        Parts(directory, {**MANY, "REDIS_URL": redis.url, "WEB_CONCURRENCY": "1"}) as parts,
    ):
        yield parts


def base_url(shop: Parts, service: str) -> str:
    return f"http://127.0.0.1:{getattr(shop.ports, service)}"


@pytest.mark.parametrize("service", SERVICES)
def test_the_document_is_valid_openapi(shop: Parts, service: str) -> None:
    document = requests.get(f"{base_url(shop, service)}/openapi.json", timeout=10).json()

    validate(document)

    assert document["openapi"].startswith("3.1")


@pytest.mark.parametrize("service", SERVICES)
def test_the_gateway_hands_the_document_on(shop: Parts, service: str) -> None:
    through = shop.call("GET", f"/openapi/{service}.json")

    assert through.json() == requests.get(f"{base_url(shop, service)}/openapi.json", timeout=10).json()


@pytest.mark.timeout(RUN_TIMEOUT_S + 60)
@pytest.mark.parametrize("caller", ["anonymous", "customer", "administrator"])
@pytest.mark.parametrize("service", SERVICES)
def test_generated_requests_find_no_lie_in_the_document(shop: Parts, service: str, caller: str, tmp_path: Path) -> None:
    tokens = {"anonymous": [], "customer": ["alice", "password123"], "administrator": ["admin", "admin"]}
    credentials = tokens[caller]
    header = ["-H", f"Authorization: Bearer {shop.log_in(*credentials)}"] if credentials else []

    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{base_url(shop, service)}/openapi.json"),
            *("--checks", "all", "-n", str(EXAMPLES), "--seed", "20261122", "--no-color", *header),
            *("--exclude-checks", "positive_data_acceptance"),  # a product id of the right shape need not exist
        ],
        capture_output=True,
        cwd=tmp_path,
        timeout=RUN_TIMEOUT_S,
        text=True,
    )

    assert "Test cases:" in done.stdout
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
