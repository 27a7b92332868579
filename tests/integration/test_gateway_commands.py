"""The commands, and the pages that they ask, at a gateway that runs: two workers that share what they refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import Result

from gateway import create_app
from tests.integration.conftest import ADMIN, Gateway, GatewayFactory, bearer, ready
from tests.integration.test_gateway_statuses import REFUSALS, SERVICES
from tests.support import wire
from tests.support.ports import free_port
from tests.support.processes import clean_environment, wait_until
from tests.support.wire import Pairs, RawAnswer
from tests.unit import parts

ROOT = Path(__file__).resolve().parents[2]
TOKEN = ADMIN[0][1].removeprefix("Bearer ")

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def gateway(start_gateway: GatewayFactory) -> Gateway:
    made = start_gateway(
        services=SERVICES % (free_port(), free_port()),
        CIRCUIT_BREAKER_FAILURE_THRESHOLD="4",
        CORS_ORIGINS='["https://shop.example"]',
    )
    made.request("POST", "/auth/login", [], b"{}")
    return made


@pytest.fixture(scope="module")
def command(gateway: Gateway) -> Command:
    return commands_for(gateway)


def commands_for(gateway: Gateway) -> Command:
    """Runs commands in this process, which ask `gateway`."""
    url = f"http://127.0.0.1:{gateway.operations_port}"
    with parts.clean_environment():
        runner = create_app(parts.settings()).test_cli_runner()
    return lambda *words: runner.invoke(args=[*map(str, words), "--url", url])


def read(done: Result) -> dict[str, Any]:
    return json.loads(done.stdout)


def refused(gateway: Gateway, status: int, *request: Any) -> RawAnswer:
    """The answer, once it has this status: a breaker opens after some failures in each worker."""
    answers: list[RawAnswer] = []

    def ask() -> bool:
        answers.append(gateway.request(*request))
        return answers[-1].status == status

    wait_until(ask, f"{status} for {request[:2]}")
    return answers[-1]


PLACES = {
    "UNSAFE_PATH": "gateway/edge.py",
    "TOKEN_REQUIRED": "gateway/policies/identity.py",
    "PERMISSION_REQUIRED": "gateway/policies/identity.py",
    "SERVICE_NOT_FOUND": "gateway/router.py",
    "METHOD_NOT_ALLOWED": "gateway/router.py",
    "PAYLOAD_TOO_LARGE": "gateway/policies/sized.py",
    "URI_TOO_LONG": "gunicorn/http/message.py",
    "RATE_LIMIT_EXCEEDED": "gateway/policies/limited.py",
    "HEADERS_TOO_LARGE": "gunicorn/http/message.py",
    "METHOD_NOT_IMPLEMENTED": "gateway/edge.py",
    "SERVICE_UNREACHABLE": "gateway/backend/backend.py",
    "BAD_ANSWER": "gateway/backend/backend.py",
    "CIRCUIT_OPEN": "gateway/backend/backend.py",
    "SERVICE_TIMEOUT": "gateway/backend/backend.py",
}


@pytest.mark.parametrize(("status", "code", "method", "target", "headers", "body"), REFUSALS)
def test_each_refusal_is_explained_by_its_request_id(
    gateway: Gateway, command: Command, status: int, code: str, method: str, target: str, headers: Pairs, body: bytes
) -> None:
    answer = refused(gateway, status, method, target, headers, body)

    done = command("explain", answer.header("X-Request-ID"), "--json")

    incident = read(done)["incident"]
    path = "" if PLACES[code].startswith("gunicorn") else target.partition("?")[0]
    assert done.exit_code == 0
    assert (incident["status"], incident["code"], incident["detail"]) == (status, code, answer.json()["detail"])
    assert incident["whence"]["place"].rpartition(":")[0] == PLACES[code]
    assert (incident["asked"]["method"], incident["asked"]["path"]) == (method if path else "", path)
    assert incident["asked"]["caller"] == "127.0.0.1"
    assert incident["way_out"]


def test_a_refused_preflight_is_explained_by_its_request_id(gateway: Gateway, command: Command) -> None:
    asked = [("Origin", "https://evil.example"), ("Access-Control-Request-Method", "GET")]

    answer = refused(gateway, 403, "OPTIONS", "/products", asked, b"")

    incident = read(command("explain", answer.header("X-Request-ID"), "--json"))["incident"]
    assert (incident["status"], incident["code"]) == (403, "ORIGIN_REFUSED")
    assert (incident["asked"]["method"], incident["asked"]["path"]) == ("OPTIONS", "/products")


@pytest.mark.parametrize(
    ("status", "code", "method", "target", "headers", "body"),
    [row for row in REFUSALS if row[1] not in ("SERVICE_UNREACHABLE", "BAD_ANSWER", "SERVICE_TIMEOUT")],
)
def test_each_refusal_that_has_a_lasting_cause_is_foretold(
    gateway: Gateway, command: Command, status: int, code: str, method: str, target: str, headers: Pairs, body: bytes
) -> None:
    refused(gateway, status, method, target, headers, body)
    words = [word for name, value in headers for word in ("-H", f"{name}: {value}")]

    def told() -> dict[str, Any]:
        return read(command("explain", method, target, *words, "--body-bytes", len(body), "--json"))

    wait_until(lambda: told()["code"] == code, f"an explanation with {code}")


def test_what_happened_and_what_would_happen_now_is_told_to_people(gateway: Gateway, command: Command) -> None:
    answer = gateway.request("POST", "/products?card=secret", bearer(), b"{}")

    done = command("explain", answer.header("X-Request-ID"))

    then, _, now = done.stdout.partition("\nNow,")
    assert done.exit_code == 0
    assert "POST /products: 403 PERMISSION_REQUIRED\n" in then
    assert "  user        u1 (customer)\n" in then
    assert "POST /products: 403 PERMISSION_REQUIRED, refused by require_jwt\n" in now
    assert "secret" not in done.output


def test_every_worker_knows_what_one_of_them_refused(gateway: Gateway) -> None:
    request_id = gateway.get("/nowhere").header("X-Request-ID") or ""

    with redis.Redis.from_url(gateway.env["REDIS_URL"]) as client:
        wait_until(lambda: client.hexists("gateway:incidents", request_id), "the incident in Redis")

    found = [gateway.operations(f"/explain/{request_id}").status for _ in range(12)]
    assert found == [200] * 12


def test_a_services_own_refusal_is_not_the_gateways(gateway: Gateway, command: Command) -> None:
    answer = gateway.get("/open/status/409")

    done = command("explain", answer.header("X-Request-ID"))

    assert done.exit_code == 1
    assert "NOT_FOUND: Nobody remembers a request of that id" in done.stderr


def test_a_refusal_of_a_page_is_explained_too(gateway: Gateway, command: Command) -> None:
    answers = gateway.get("/metrics"), gateway.request("DELETE", "/health"), gateway.get("/problems/none")

    found = [read(command("explain", answer.header("X-Request-ID"), "--json"))["incident"] for answer in answers]

    assert [(each["code"], each["whence"]["place"].rpartition(":")[0]) for each in found] == [
        ("TOKEN_REQUIRED", "gateway/policies/identity.py"),
        ("METHOD_NOT_ALLOWED", ""),
        ("NOT_FOUND", "gateway/blueprints/pages.py"),
    ]


def test_a_request_is_explained_with_what_the_running_gateway_has_counted(gateway: Gateway, command: Command) -> None:
    gateway.get("/products", bearer("counted"))

    done = command("explain", "GET", "/products", "--token", bearer("counted")[0][1].removeprefix("Bearer "))

    assert "for user counted, 1 so far; " in done.stdout


def test_a_token_is_verified_with_the_keys_of_the_running_gateway(command: Command) -> None:
    good, bad = (command("explain", "GET", "/orders", "--token", token) for token in (TOKEN, TOKEN[:-5] + "xxxxx"))

    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert "boss has one of: orders:read" in good.stdout
    assert "401 INVALID_TOKEN, refused by require_jwt" in bad.stdout
    assert TOKEN[-40:-5] not in good.output + bad.output


def test_explaining_sends_nothing(gateway: Gateway, command: Command) -> None:
    ready(gateway)

    command("explain", "GET", "/open/echo")

    assert gateway.arrived == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/explain"), ("GET", "/explain/req-1"), ("GET", "/config/routes"), ("POST", "/config/diff")],
)
def test_the_public_listener_has_no_such_pages(gateway: Gateway, method: str, path: str) -> None:
    answer = gateway.request(method, path, ADMIN)

    assert (answer.status, answer.json()["code"]) == (404, "SERVICE_NOT_FOUND")


def test_a_malformed_question_is_told_what_is_wrong(gateway: Gateway) -> None:
    json_type = [("Content-Type", "application/json")]

    answer = wire.request(gateway.operations_port, "POST", "/explain", json_type, b'{"method": "GET", "urll": "/"}')

    assert answer.status == 422
    assert {error["field"] for error in json.loads(answer.body)["errors"]} == {"url", "urll"}


def cli(gateway: Gateway, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A command as an operator runs it, with the environment that the gateway has."""
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "gateway", *words],
        cwd=ROOT,
        env=clean_environment({**gateway.env, "FLASK_SKIP_DOTENV": "1", **env}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.fixture
def reloadable(start_gateway: GatewayFactory) -> Gateway:
    return start_gateway()


def test_the_configuration_is_compared_changed_and_changed_back(reloadable: Gateway, tmp_path: Path) -> None:
    gateway, other = reloadable, tmp_path / "other.yaml"
    before = gateway.services_file.read_text()
    other.write_text(
        before.replace("timeout_s: 0.5", "timeout_s: 0.6")
        + f'  more: {{url: "{gateway.stub.url}", public: true, path: /}}\n'
    )
    command = commands_for(gateway)

    same, differs = command("diff", gateway.services_file), command("diff", other)
    gateway.services_file.write_text(other.read_text())
    reloaded = command("reload", "--token", TOKEN)
    wait_until(lambda: [gateway.get("/more/echo").status for _ in range(6)] == [200] * 6, "the new service")
    back = command("rollback", "--token", TOKEN, "--json")

    assert (same.exit_code, differs.exit_code, reloaded.exit_code, back.exit_code) == (0, 1, 0, 0)
    assert same.stdout == f"{gateway.services_file} means the same as revision 1\n"
    assert differs.stdout.splitlines() == [
        "brisk: timeout_s: 0.5 -> 0.6",
        "brisk: try_timeout_s: 0.5 -> 0.6",
        "more: added",
    ]
    assert "revision 2" in reloaded.stdout
    assert (read(back)["revision"], read(back)["previous"]) == (3, 2)


def test_a_bad_file_is_told_by_every_command_and_changes_nothing(reloadable: Gateway) -> None:
    gateway = reloadable
    gateway.services_file.write_text(gateway.services_file.read_text().replace("roles:", "rolls:"))

    refused = cli(gateway, "reload", GATEWAY_TOKEN=TOKEN)
    services = cli(gateway, "services")
    checked = cli(gateway, "check")

    assert (refused.returncode, services.returncode, checked.returncode) == (1, 0, 1)
    assert "CONFIGURATION_REFUSED" in refused.stderr
    assert all("did you mean roles?" in text for text in (refused.stderr, services.stdout, checked.stderr))
    assert services.stdout.startswith(f"revision 1 at http://127.0.0.1:{gateway.operations_port}\n")


@pytest.mark.parametrize(
    ("token", "code"), [("not a token", "INVALID_TOKEN"), (bearer()[0][1][7:], "PERMISSION_REQUIRED")]
)
def test_nobody_but_administrators_changes_the_configuration(command: Command, token: str, code: str) -> None:
    reload, rollback = command("reload", "--token", token), command("rollback", "--token", token, "--json")

    assert (reload.exit_code, rollback.exit_code) == (1, 1)
    assert code in reload.stderr
    assert read(rollback)["code"] == code


def test_services_tell_an_open_breaker(gateway: Gateway, command: Command) -> None:
    def breakers() -> set[str]:
        rows = read(command("services", "--json"))["services"]
        return {instance["breaker"] for row in rows if row["name"] == "tired" for instance in row["instances"]}

    for _ in range(12):
        gateway.get("/tired/x")

    wait_until(lambda: breakers() == {"open"}, "an open breaker")
    assert read(command("services", "--json"))["is_running"] is True


def test_the_commands_find_the_running_gateway_by_its_settings(gateway: Gateway) -> None:
    done = cli(gateway, "explain", "GET", "/orders", "--json")

    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert (found["is_running"], found["source"]) == (True, f"http://127.0.0.1:{gateway.operations_port}")


def test_routes_are_listed_by_the_package_itself(gateway: Gateway) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "routes"],
        cwd=ROOT,
        env=clean_environment({**gateway.env, "FLASK_SKIP_DOTENV": "1"}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"revision 1 at http://127.0.0.1:{gateway.operations_port}\n")


def test_without_redis_a_worker_explains_its_own(start_gateway: GatewayFactory) -> None:
    gateway = start_gateway(redis_url=parts.NOWHERE, WEB_CONCURRENCY="1")
    known = gateway.get("/nowhere").header("X-Request-ID") or ""

    found, unknown = gateway.operations(f"/explain/{known}"), gateway.operations("/explain/req-unknown")

    assert (found.status, json.loads(found.body)["incident"]["code"]) == (200, "SERVICE_NOT_FOUND")
    assert unknown.status == 404
    assert "Redis is away, so this worker knows its own requests only." in json.loads(unknown.body)["detail"]
