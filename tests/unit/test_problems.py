"""The one error shape: its members, its fields, and what becomes of errors that nobody foresaw."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from flask import Flask, Response, abort
from structlog.testing import capture_logs
from werkzeug.exceptions import MethodNotAllowed, ServiceUnavailable, TooManyRequests

from common import logs, problems
from common.problems import FieldError, Problem

MEMBERS = {"type", "title", "status", "detail", "error", "message", "code", "request_id", "source"}
TABLE = [
    (problems.BadRequest, 400, "Bad Request", "BAD_REQUEST"),
    (problems.Unauthorized, 401, "Unauthorized", "UNAUTHORIZED"),
    (problems.Forbidden, 403, "Forbidden", "FORBIDDEN"),
    (problems.NotFound, 404, "Not Found", "NOT_FOUND"),
    (problems.MethodNotAllowed, 405, "Method Not Allowed", "METHOD_NOT_ALLOWED"),
    (problems.RequestTimeout, 408, "Request Timeout", "REQUEST_TIMEOUT"),
    (problems.Conflict, 409, "Conflict", "CONFLICT"),
    (problems.PayloadTooLarge, 413, "Content Too Large", "PAYLOAD_TOO_LARGE"),
    (problems.UriTooLong, 414, "URI Too Long", "URI_TOO_LONG"),
    (problems.UnsupportedMediaType, 415, "Unsupported Media Type", "UNSUPPORTED_MEDIA_TYPE"),
    (problems.ExpectationFailed, 417, "Expectation Failed", "EXPECTATION_FAILED"),
    (problems.UnprocessableContent, 422, "Unprocessable Content", "VALIDATION_ERROR"),
    (problems.TooManyRequests, 429, "Too Many Requests", "RATE_LIMIT_EXCEEDED"),
    (problems.HeadersTooLarge, 431, "Request Header Fields Too Large", "HEADERS_TOO_LARGE"),
    (problems.InternalError, 500, "Internal Server Error", "INTERNAL_ERROR"),
    (problems.NotImplementedProblem, 501, "Not Implemented", "NOT_IMPLEMENTED"),
    (problems.BadGateway, 502, "Bad Gateway", "BAD_GATEWAY"),
    (problems.ServiceUnavailable, 503, "Service Unavailable", "SERVICE_UNAVAILABLE"),
    (problems.GatewayTimeout, 504, "Gateway Timeout", "GATEWAY_TIMEOUT"),
]


def test_the_table_has_every_class() -> None:
    assert {kind for kind, *_ in TABLE} == set(Problem.__subclasses__())


@pytest.mark.parametrize(("kind", "status", "title", "code"), TABLE)
def test_each_problem_has_one_shape(kind: Callable[[str], Problem], status: int, title: str, code: str) -> None:
    problem = kind("Try again with more cheese.")

    document = json.loads(problem.body("req-1", "gateway"))

    assert document == {
        "type": f"/problems/{code.lower().replace('_', '-')}",
        "title": title,
        "status": status,
        "detail": "Try again with more cheese.",
        "error": title,
        "message": "Try again with more cheese.",
        "code": code,
        "request_id": "req-1",
        "source": "gateway",
    }
    assert (problem.status, str(problem)) == (status, "Try again with more cheese.")


@pytest.mark.parametrize(("kind", "code"), [(kind, code) for kind, _, _, code in TABLE])
def test_each_answer_is_a_problem_document_that_no_cache_keeps(kind: Callable[[str], Problem], code: str) -> None:
    fields = problems.fields(kind("x"))

    assert fields[:2] == [("Content-Type", "application/problem+json"), ("Cache-Control", "no-store")]


def test_a_problem_may_have_a_code_of_its_own() -> None:
    document = problems.BadGateway("x", code="SERVICE_UNREACHABLE").document("", "")

    assert (document["code"], document["type"]) == ("SERVICE_UNREACHABLE", "/problems/service-unreachable")


def test_faults_of_the_input_are_listed_one_a_field() -> None:
    errors = [FieldError("lines.0.quantity", "must be more than 0"), FieldError("page", "is too large", "query")]

    document = problems.UnprocessableContent("x", errors=errors).document("", "")

    assert document.keys() == MEMBERS | {"errors"}
    assert document["errors"] == [
        {"field": "lines.0.quantity", "message": "must be more than 0", "in": "body"},
        {"field": "page", "message": "is too large", "in": "query"},
    ]


def test_a_problem_may_have_more_members() -> None:
    assert problems.TooManyRequests("x", limit="login").document("", "")["limit"] == "login"


def test_a_body_ends_its_line() -> None:
    assert problems.NotFound("x").body("", "").endswith(b"}\n")


@pytest.mark.parametrize(
    ("problem", "field"),
    [
        (problems.Unauthorized("x"), ("WWW-Authenticate", "Bearer")),
        (
            problems.Unauthorized("Expired.", error="invalid_token"),
            ("WWW-Authenticate", 'Bearer error="invalid_token", error_description="Expired."'),
        ),
        (problems.ServiceUnavailable("x"), ("Retry-After", "1")),
        (problems.ServiceUnavailable("x", retry_after_s=7), ("Retry-After", "7")),
        (problems.ServiceUnavailable("x", retry_after_s=0), ("Retry-After", "1")),
        (problems.MethodNotAllowed("x", headers=[("Allow", "GET")]), ("Allow", "GET")),
    ],
)
def test_fields_that_belong_to_a_status_are_sent(problem: Problem, field: tuple[str, str]) -> None:
    assert problems.fields(problem)[2:] == [field]


@pytest.mark.parametrize(("kind", "status", "title", "code"), TABLE)
def test_a_bare_status_finds_its_class(kind: type[Problem], status: int, title: str, code: str) -> None:
    for detail in ("", title):
        problem = problems.for_status(status, detail)

        assert (type(problem), problem.status, problem.code) == (kind, status, code)
        assert problem.detail


@pytest.mark.parametrize(
    ("status", "told"), [(402, 400), (418, 400), (451, 400), (499, 400), (505, 500), (599, 500), (999, 500)]
)
def test_a_status_without_a_class_keeps_its_hundred(status: int, told: int) -> None:
    problem = problems.for_status(status, "")

    assert problem.status == told
    assert problem.detail


def test_what_is_known_better_than_the_bare_status_is_told() -> None:
    assert problems.for_status(404, "No such product.").detail == "No such product."
    assert "JSON" in problems.for_status(400, "").detail


@pytest.fixture
def app() -> Flask:
    app = Flask("x")
    problems.init_app(app, "thing_service")

    @app.get("/raise/<name>")
    def fail(name: str) -> Response:
        raise ERRORS[name]

    @app.get("/abort/<int:status>")
    def stop(status: int) -> Response:
        abort(status)

    return app


ERRORS: dict[str, Exception] = {
    "problem": problems.Conflict("It is sold.", code="SOLD_OUT"),
    "surprise": ValueError("postgresql://user:hunter2@db/x"),
    "method": MethodNotAllowed(["GET", "PUT"]),
    "many": TooManyRequests(retry_after=9),
    "away": ServiceUnavailable(retry_after=30),
}


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/raise/problem", 409, "SOLD_OUT"),
        ("/raise/surprise", 500, "INTERNAL_ERROR"),
        ("/nowhere", 404, "NOT_FOUND"),
        ("/abort/418", 400, "BAD_REQUEST"),
        ("/abort/503", 503, "SERVICE_UNAVAILABLE"),
        ("/abort/401", 401, "UNAUTHORIZED"),
    ],
)
def test_every_error_of_an_app_becomes_a_problem_document(app: Flask, path: str, status: int, code: str) -> None:
    logs.bind_request("req-7")

    answer = app.test_client().get(path)

    document = answer.get_json()
    assert (answer.status_code, document["status"], document["code"]) == (status, status, code)
    assert document.keys() == MEMBERS
    assert (document["request_id"], document["source"]) == ("req-7", "thing_service")
    assert answer.content_type == "application/problem+json"
    assert answer.headers.getlist("Cache-Control") == ["no-store"]


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("/raise/method", "Allow", "GET, PUT"),
        ("/raise/many", "Retry-After", "9"),
        ("/raise/away", "Retry-After", "30"),
    ],
)
def test_fields_that_a_framework_gives_are_kept(app: Flask, path: str, field: str, value: str) -> None:
    assert app.test_client().get(path).headers.getlist(field) == [value]


def test_a_wrong_method_is_told_with_those_that_are_right(app: Flask) -> None:
    answer = app.test_client().post("/raise/problem")

    assert (answer.status_code, answer.get_json()["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


def test_a_surprise_is_logged_with_its_cause_and_not_told(app: Flask) -> None:
    with capture_logs() as lines:
        answer = app.test_client().get("/raise/surprise")

    assert b"hunter2" not in answer.data
    assert b"ValueError" not in answer.data
    assert [(line["event"], line["log_level"]) for line in lines] == [("unexpected_error", "error")]
    assert lines[0]["exc_info"] is ERRORS["surprise"]
