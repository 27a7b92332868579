"""The example of docs/your-service.md: a service that the gateway learns of by configuration alone."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.ports import free_port
from tests.support.processes import Process
from tests.support.shop import Shop


def test_a_foreign_service_needs_one_variable_and_wants_a_token(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "examples.student_service:create_app()"]

    with (
        Process("students", command, directory=tmp_path, env={}, ready_url=f"{url}/health"),
        Shop(tmp_path, {"STUDENTS_SERVICE_URL": url}) as shop,
    ):
        token = shop.register("teacher")
        paths = ["/students/", "/students", "/api/v1/students/", "/api/students"]
        without = {shop.call("GET", path).status_code for path in paths}
        answers = [shop.call("GET", path, token=token) for path in paths]
        unknown = shop.call("GET", "/students/99", token=token)

    assert without == {401}
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["asked_by"] for answer in answers} == {"teacher"}
    assert (unknown.status_code, unknown.json()) == (404, {"error": "no such student"})
