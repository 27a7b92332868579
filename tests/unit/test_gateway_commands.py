"""`flask --app gateway check | schema | services`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flask import Flask

from gateway import create_app
from tests.unit import parts

ROOT = Path(__file__).resolve().parents[2]
WELL = """
services:
  users: {url: "http://u"}
  orders: {url: "http://o"}
  products: {instances: ["http://p:1", "http://p:2"]}
  students: {url: "http://s"}
"""


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    file = tmp_path / "services.yaml"
    file.write_text(WELL)
    return create_app(parts.settings(gateway_services=file))


def test_a_file_without_faults_exits_with_0(app: Flask) -> None:
    done = app.test_cli_runner().invoke(args=["check"])

    assert (done.exit_code, done.output.endswith("services.yaml: 4 services, no faults\n")) == (0, True)


def test_all_faults_of_a_file_are_told_and_exit_with_1(app: Flask, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(WELL.replace('"http://u"', "nowhere").replace('"http://s"}', '"http://s", cach: true}'))

    done = app.test_cli_runner().invoke(args=["check", str(broken)])

    assert done.exit_code == 1
    assert [line.partition(": ")[0].rpartition("broken.yaml:")[2] for line in done.stderr.splitlines()] == [
        "3:11",
        "6:31",
    ]


def test_programs_get_faults_as_json(app: Flask, tmp_path: Path) -> None:
    done = app.test_cli_runner().invoke(args=["check", str(tmp_path / "missing.yaml"), "--json"])

    assert done.exit_code == 1
    assert json.loads(done.stdout)["faults"] == [f"{tmp_path}/missing.yaml: can't be read (No such file or directory)"]


def test_every_service_is_listed_with_its_routes(app: Flask) -> None:
    done = app.test_cli_runner().invoke(args=["services", "--json"])

    routes = {(row["path"], tuple(row["methods"])) for row in json.loads(done.output)["routes"]}
    assert routes >= {("/auth/login", ("POST",)), ("/products/", ("GET",)), ("/students/<path:rest>", ("*",))}


def test_people_get_the_services_as_a_table(app: Flask) -> None:
    done = app.test_cli_runner().invoke(args=["services"])

    assert "POST               /users/login                 users        users.login\n" in done.output


def test_the_schema_that_is_shipped_is_the_one_that_is_printed(app: Flask) -> None:
    done = app.test_cli_runner().invoke(args=["schema"])

    assert done.output == (ROOT / "gateway/services.schema.json").read_text()
