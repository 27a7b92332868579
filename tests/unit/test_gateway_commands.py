"""The commands of `flask --app gateway`, where no gateway runs: by the file, with exit codes for CI."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flask import Flask
from flask.cli import FlaskGroup

from gateway import cli, create_app
from gateway.__main__ import main
from gateway.commands.asking import Surroundings, surround
from gateway.settings import GatewaySettings
from tests.support.ports import free_port
from tests.support.tokens import KeyPair, claims
from tests.unit import parts

ROOT = Path(__file__).resolve().parents[2]
WELL = """
services:
  users: {url: "http://u"}
  orders: {url: "http://o"}
  products: {instances: ["http://p:1", "http://p:2"]}
  students: {url: "http://s"}
"""
ODD = WELL.replace('"http://s"}', '"http://s", hash_by: address}')

Run = Callable[..., Result]


@pytest.fixture
def services(tmp_path: Path) -> Path:
    file = tmp_path / "services.yaml"
    file.write_text(WELL)
    return file


@pytest.fixture
def app(services: Path) -> Generator[Flask]:
    with parts.clean_environment():
        yield create_app(parts.settings(gateway_services=services, operations_port=free_port()))


@pytest.fixture
def run(app: Flask) -> Run:
    return lambda *words: app.test_cli_runner().invoke(args=[str(word) for word in words])


def read(done: Result) -> dict[str, Any]:
    """The one document on standard output."""
    return json.loads(done.stdout)


def note(done: Result) -> bool:
    """Whether it was said that nobody runs."""
    return done.stderr.startswith("no gateway answers at http://127.0.0.1:")


def test_check_of_a_file_without_faults_exits_with_0(run: Run) -> None:
    done = run("check")

    assert (done.exit_code, done.output.endswith("services.yaml: 4 services, no faults\n")) == (0, True)


def test_check_tells_all_faults_of_a_file_and_exits_with_1(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(WELL.replace('"http://u"', "nowhere").replace('"http://s"}', '"http://s", cach: true}'))

    done = run("check", broken)

    places = [line.partition(": ")[0].rpartition("broken.yaml:")[2] for line in done.stderr.splitlines()]
    assert (done.exit_code, places) == (1, ["3:11", "6:31"])


def test_check_tells_programs_the_faults_as_json(run: Run, tmp_path: Path) -> None:
    done = run("check", tmp_path / "missing.yaml", "--json")

    assert done.exit_code == 1
    assert read(done)["faults"] == [f"{tmp_path}/missing.yaml: can't be read (No such file or directory)"]


def test_check_finds_services_that_want_the_same_prefix(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text(WELL.replace('"http://s"}', '"http://s", prefixes: [/orders]}'))

    done = run("check", file)

    assert done.exit_code == 1
    assert "orders" in done.stderr


def test_check_counts_warnings_only_if_it_is_strict(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(ODD)

    mild, strict, told = run("check", file), run("check", file, "--strict"), run("check", file, "--json")

    assert [done.exit_code for done in (mild, strict, told)] == [0, 1, 0]
    assert mild.stderr.startswith("warning: ")
    assert "hash_by" in read(told)["warnings"][0]


def test_the_schema_that_is_shipped_is_the_one_that_is_printed(run: Run) -> None:
    assert run("schema").output == (ROOT / "gateway/services.schema.json").read_text()


def test_services_are_listed_with_their_instances(run: Run) -> None:
    done = run("services")

    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.exit_code == 0
    assert note(done)
    assert ["products", "/products", "http://p:1", "well", "closed", "0"] in lines
    assert ["http://p:2", "well", "closed", "0"] in lines


def test_a_service_without_instances_is_listed_too(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "found.yaml"
    file.write_text(WELL.replace('url: "http://s"', "instances: [registry]"))

    done = run("services", "--file", file)

    assert ["students", "/students", "none", "-", "-", "-"] in [line.split() for line in done.stdout.splitlines()]


def test_programs_get_services_as_json(run: Run, services: Path) -> None:
    found = read(run("services", "--json"))

    assert (found["is_running"], found["source"]) == (False, str(services))
    assert [row["name"] for row in found["services"]] == ["users", "orders", "products", "students"]


def test_routes_are_listed_with_their_policies_and_places(run: Run) -> None:
    done = run("routes")

    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.exit_code == 0
    (login,) = [line for line in lines if line[:3] == ["POST", "/auth/login", "users.login"]]
    assert login[3:-1] == ["limited", "sized", "begins_session", "validated", "1", "of", "1"]
    assert [line[0] for line in lines if line[1].startswith("/students")] == ["ANY"]


def test_programs_get_routes_as_json(run: Run, services: Path) -> None:
    found = read(run("routes", "--json", "--file", services))

    (browse,) = [row for row in found["routes"] if row["path"] == "/products/" and row["methods"] == ["GET"]]
    assert (browse["name"], browse["service"]) == ("products.browse", "products")
    assert browse["policies"] == ["limited", "sized", "validated", "cached"]
    assert browse["place"] == f"{services}:5"
    assert [instance["state"] for instance in browse["instances"]] == ["well", "well"]


def test_where_somebody_should_be_and_is_not_exits_with_1(run: Run) -> None:
    done = run("services", "--url", f"http://127.0.0.1:{free_port()}/")

    assert (done.exit_code, done.stdout) == (1, "")
    assert "no gateway answers at http://127.0.0.1:" in done.stderr


def test_a_file_and_a_gateway_at_once_are_a_wrong_call(run: Run, services: Path) -> None:
    assert run("routes", "--file", services, "--url", "http://127.0.0.1:1").exit_code == 2


def test_explain_exits_with_0_for_a_request_that_would_pass(run: Run) -> None:
    done = run("explain", "GET", "/api/v1/products?page=2", "-H", "X-Own: a: b", "-H", "Cookie: secret")

    assert done.exit_code == 0
    assert done.stdout.startswith("GET /api/v1/products?page=2: passes, to products\n")
    assert "  X-Own: a: b\n" in done.stdout
    assert "secret" not in done.output


def test_explain_exits_with_1_for_a_refusal_and_tells_what_to_do(run: Run) -> None:
    done = run("explain", "GET", "/orders")

    last = done.stdout.splitlines()[-2:]
    assert done.exit_code == 1
    policy, verdict, place = last[0].split()[:3]
    assert (policy, verdict, place.partition(":")[0]) == ("require_jwt", "refuses", "gateway/blueprints/orders.py")
    assert last[1] == "What to do: Send `Authorization: Bearer <token>`."


def test_caller_and_length_of_the_body_can_be_said(run: Run) -> None:
    done = run("explain", "POST", "/orders", "--caller", "192.0.2.77", "--body-bytes", "99999999", "--json")

    found = read(done)
    assert (done.exit_code, found["status"], found["decided_by"]) == (1, 413, "sized")
    assert "192.0.2.77" in found["steps"][0]["words"]


def test_a_token_is_verified_and_not_shown(run: Run) -> None:
    done = run("explain", "GET", "/orders", "--token", "not.a.token")

    assert done.exit_code == 1
    assert "INVALID_TOKEN" in done.stdout
    assert "not.a.token" not in done.output


def test_instances_that_are_to_be_found_are_taken_for_there(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "found.yaml"
    file.write_text(WELL.replace('url: "http://s"', "instances: [registry], public: true"))

    done = run("explain", "GET", "/students/", "--file", file)

    assert done.exit_code == 0
    assert "GET /students/ to one of registry" in done.stdout


def test_what_goes_wrong_meanwhile_does_not_stand_between_the_json(services: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    settings = parts.settings(gateway_services=services, operations_port=free_port(), user_service_url=nobody)
    token = KeyPair.generate("k1").sign(claims("u1", iss="user_service", aud="shop"))
    with parts.clean_environment():
        runner = create_app(settings).test_cli_runner()

        done = runner.invoke(args=["explain", "GET", "/orders", "--token", token, "--json"])

    assert read(done)["code"] == "IDENTITY_UNAVAILABLE"


def test_a_redirect_is_no_refusal(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "moved.yaml"
    moved = '"http://s", public: true, routes: [{path: /, redirect: {to: /new}}]}'
    file.write_text(WELL.replace('"http://s"}', moved))

    done = run("explain", "GET", "/students", "--file", file, "--json")

    assert (done.exit_code, read(done)["location"]) == (0, "/new")


@pytest.mark.parametrize(
    "words",
    [["GET", "/x", "y"], [], ["GET", "/x", "-H", "no colon"], ["GET", "/x", "--body-bytes", "-1"]],
    ids=["three words", "none", "no header", "no length"],
)
def test_a_wrong_call_of_explain_exits_with_2(run: Run, words: list[str]) -> None:
    assert run("explain", *words).exit_code == 2


def test_a_request_id_wants_a_running_gateway(run: Run, services: Path) -> None:
    assert run("explain", "req-1").exit_code == 1
    assert run("explain", "req-1", "--file", services).exit_code == 2


def test_diff_exits_with_0_for_a_file_that_means_the_same(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "same.yaml"
    file.write_text("# otherwise\n" + WELL.replace('"http://s"}', '"http://s", retries: 1}'))

    done = run("diff", file)

    assert done.exit_code == 0
    assert "same.yaml means the same as" in done.stdout


def test_diff_tells_differences_and_exits_with_1(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(WELL.replace('"http://s"}', '"http://s", retries: 2}'))

    done, told = run("diff", file), run("diff", file, "--json")

    assert (done.exit_code, done.stdout) == (1, "students: retries: 1 -> 2\n")
    assert read(told)["differences"] == [
        {"kind": "changed", "key": "students", "field": "retries", "before": "1", "after": "2"}
    ]


def test_diff_tells_faults_with_the_files_own_name(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(WELL.replace('"http://s"}', '"http://s", retries: x}'))

    done = run("diff", file)

    assert done.exit_code == 1
    assert f"{file}:6:31: services.students.retries" in done.stderr


@pytest.mark.parametrize("text", [None, b"\xff"])
def test_diff_exits_with_1_for_a_file_that_can_not_be_read(run: Run, tmp_path: Path, text: bytes | None) -> None:
    if text is not None:
        (tmp_path / "x.yaml").write_bytes(text)

    done = run("diff", tmp_path / "x.yaml")

    assert done.exit_code == 1
    assert "x.yaml can't be read" in done.stderr


CASES = """
cases:
  - {name: good, request: GET /products, expect: {status: passes}}
  - {name: bad, request: GET /orders, expect: {status: 403}}
"""


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    file = tmp_path / "cases.yaml"
    file.write_text(CASES)
    return file


def test_cases_that_hold_exit_with_0(run: Run, cases: Path) -> None:
    cases.write_text(CASES.replace("403", "401"))

    done = run("test", cases)

    assert done.exit_code == 0
    assert "cases.yaml: 2 cases, 0 failed (" in done.stdout


def test_cases_that_fail_are_told_with_the_steps_and_exit_with_1(run: Run, cases: Path) -> None:
    done = run("test", cases)

    assert done.exit_code == 1
    assert "cases.yaml: 2 cases, 1 failed (" in done.stdout
    lines = done.stderr.splitlines()
    assert lines[0].endswith("cases.yaml:4:5: bad")
    assert lines[1:3] == [
        "  status: expected 403, got 401",
        "  GET /orders: 401 TOKEN_REQUIRED, refused by require_jwt",
    ]
    assert lines[-1].split()[:2] == ["require_jwt", "refuses"]


def test_another_services_file_can_be_tested(run: Run, cases: Path, tmp_path: Path) -> None:
    services = tmp_path / "other.yaml"
    services.write_text("services: {}\n")

    done = run("test", cases, "--services", services, "--json")

    assert done.exit_code == 1
    assert [row["explanation"]["code"] for row in read(done)["failed"]] == ["SERVICE_NOT_FOUND"] * 2


def test_a_report_is_written_for_ci(run: Run, cases: Path, tmp_path: Path) -> None:
    run("test", cases, "--junit", tmp_path / "report.xml")

    assert b'tests="2" failures="1"' in (tmp_path / "report.xml").read_bytes()


def test_faults_of_the_cases_are_told(run: Run, cases: Path) -> None:
    cases.write_text(CASES.replace("status", "statu"))

    done = run("test", cases)

    assert done.exit_code == 1
    assert done.stderr.count("did you mean status?") == 2


def test_faults_of_the_services_are_told(run: Run, cases: Path, tmp_path: Path) -> None:
    services = tmp_path / "other.yaml"
    services.write_text(WELL.replace("url", "ulr"))

    done = run("test", cases, "--services", services)

    assert done.exit_code == 1
    assert "did you mean url?" in done.stderr


def test_many_cases_make_one_gateway(app: Flask, run: Run, cases: Path, services: Path) -> None:
    made: list[GatewaySettings] = []

    def create(settings: GatewaySettings) -> Flask:
        made.append(settings)
        return create_app(settings)

    surround(app, Surroundings(parts.settings(gateway_services=services), create))
    row = "  - {{name: n{0}, request: GET /products/{0}, expect: {{status: passes, path: /products/{0}}}}}\n"
    cases.write_text("cases:\n" + "".join(row.format(number) for number in range(500)))

    done = run("test", cases, "--json")

    found = read(done)
    assert (done.exit_code, found["cases"], len(made)) == (0, 500, 1)


@pytest.mark.parametrize("command", ["reload", "rollback"])
def test_a_change_without_a_token_is_a_wrong_call(run: Run, command: str) -> None:
    done = run(command)

    assert done.exit_code == 2
    assert "GATEWAY_TOKEN" in done.stderr


@pytest.mark.parametrize("command", ["reload", "rollback"])
def test_a_change_where_nobody_runs_exits_with_1(run: Run, command: str) -> None:
    done = run(command, "--token", "secret")

    assert done.exit_code == 1
    assert "no gateway answers" in done.stderr
    assert "secret" not in done.output


# What an operator needs while the file that is in use has faults.


@pytest.fixture
def broken(services: Path) -> Path:
    services.write_text(WELL.replace("url", "ulr"))
    return services


def command(group: FlaskGroup, broken: Path, *words: str) -> Result:
    port = str(free_port())
    env = {"GATEWAY_SERVICES": str(broken), "GATEWAY_OPERATIONS_PORT": port, "FLASK_SKIP_DOTENV": "1"}
    with parts.clean_environment(**env):
        return CliRunner().invoke(group, list(words))


def test_check_tells_programs_the_faults_of_the_file_in_use(broken: Path) -> None:
    done = command(main, broken, "check", "--json")

    assert done.exit_code == 1
    assert len(read(done)["faults"]) >= 4


def test_another_file_can_be_looked_at_while_the_one_in_use_has_faults(broken: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(WELL)

    done = command(main, broken, "explain", "GET", "/products", "--file", str(other))

    assert done.exit_code == 0


def test_the_running_gateway_can_be_asked_while_the_file_has_faults(broken: Path) -> None:
    done = command(main, broken, "services", "--url", "http://127.0.0.1:1")

    assert (done.exit_code, "no gateway answers at http://127.0.0.1:1" in done.stderr) == (1, True)


def test_the_faults_of_the_file_are_told_where_no_gateway_runs(broken: Path) -> None:
    done = command(main, broken, "services")

    assert done.exit_code == 1
    assert "did you mean url?" in done.stderr


def test_no_gateway_that_could_serve_is_made_of_a_file_with_faults(broken: Path) -> None:
    serving = FlaskGroup(create_app=create_app)

    done = command(serving, broken, "routes")  # Flask's own, like `run`: it wants the whole app

    assert done.exit_code == 1
    assert "did you mean url?" in done.stderr


def test_flasks_own_command_lists_the_routes_of_the_file_too(services: Path) -> None:
    with parts.clean_environment(GATEWAY_SERVICES=str(services), FLASK_SKIP_DOTENV="1"):
        done = CliRunner().invoke(FlaskGroup(create_app=create_app), ["routes"])

    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.exit_code == 0
    assert ["products.browse", "GET", "/products/<product_id>"] in lines
    assert ["pages.home", "GET", "/"] in lines


def test_ours_is_reached_where_flasks_own_is_not(services: Path) -> None:
    port = str(free_port())
    env = {"GATEWAY_SERVICES": str(services), "GATEWAY_OPERATIONS_PORT": port, "FLASK_SKIP_DOTENV": "1"}
    with parts.clean_environment(**env):
        done = CliRunner().invoke(main, ["routes", "--json"])

    assert read(done)["is_running"] is False


def test_outside_of_commands_flasks_map_has_the_gateways_own_pages_only(app: Flask) -> None:
    assert not [rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("products.")]


def test_the_documentation_has_every_command_and_no_other() -> None:
    page = (ROOT / "docs/commands.md").read_text()

    named = set(re.findall(r"^[$ ]*(?:flask --app|python -m) gateway ([a-z]+)", page, re.MULTILINE))

    assert named | {"schema"} == {command.name for command in cli.COMMANDS}
    assert "| `schema` |" in page
