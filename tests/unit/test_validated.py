"""The policy `validated`: what follows when a request is not what the document describes."""

from __future__ import annotations

import io
import json
import re
import time
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from common.problems import Problem
from gateway.exchange import Exchange
from gateway.openapi.documents import DOUBT_S, Documents
from gateway.policies.layers import layers
from gateway.policies.validated import MOST_BYTES, validated
from gateway.runtime import Runtime
from tests.unit import parts
from tests.unit.advised import faults, of_things

MARKER = "hunter2-is-my-password"
JSON = {"content-type": "application/json"}
SCHEMA = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}},
    "additionalProperties": False,
}
DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "paths": {
        "/v1/items": {
            "post": {"requestBody": {"required": True, "content": {"application/json": {"schema": SCHEMA}}}},
            "get": {"parameters": [{"name": "page", "in": "query", "schema": {"type": "integer"}}]},
        },
        "/v1/items/{id}": {
            "get": {"parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}]},
            "put": {"requestBody": {"content": {"application/json": {"schema": SCHEMA}, "text/plain": {}}}},
        },
        "/reviews/{id}": {"get": {"parameters": [{"name": "x", "in": "query", "required": True, "schema": {}}]}},
    },
}
ROUTES = [
    {"path": "/", "name": "items"},
    {"path": "/<id>", "name": "item"},
    {"path": "/<id>/reviews", "name": "reviews", "rewrite": {"path": "/reviews/<id>"}},
    {"path": "/raw", "name": "raw", "validate": False},
    {"path": "/seen", "name": "seen", "validate": "report", "rewrite": {"path": "/v1/items"}},
]
ENTRIES = {
    "strict": {"url": "http://127.0.0.1:1", "path": "/v1/items", "validate": "enforce", "routes": ROUTES},
    "lenient": {"url": "http://127.0.0.1:1", "path": "/v1/items", "validate": "report", "routes": ROUTES},
    "unknown": {"url": "http://127.0.0.1:1", "validate": "enforce"},
}


class Clock:
    now = 1000.0


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return parts.runtime(tmp_path_factory.mktemp("gateway"), ENTRIES)


@pytest.fixture(autouse=True)
def clock(runtime: Runtime) -> Clock:
    texts = {"unknown": b"{}"}
    made = Clock()
    runtime.documents = Documents(
        runtime.metrics, lambda backend: texts.get(backend.service.name, orjson.dumps(DOCUMENT)), lambda: made.now
    )
    runtime.documents.round(runtime.table)
    return made


def asked(
    runtime: Runtime, method: str, target: str, body: object = b"", headers: dict[str, str] | None = None, **given: Any
) -> Exchange:
    """A request that the router has seen; a body that is not bytes goes as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = (JSON if raw else {}) if headers is None else headers
    exchange = parts.exchange(runtime, method, target, fields, body=raw, **given)
    runtime.table.router.match(exchange)
    return exchange


def refusal(exchange: Exchange) -> Problem | None:
    try:
        validated(parts.answering())(exchange)
    except Problem as problem:
        return problem
    exchange.body.close()
    return None


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "expected"),
    [
        ("POST", "", {"name": "a"}, None, None),
        ("POST", "", {"name": 5}, None, (422, "VALIDATION_ERROR", ["name"])),
        ("POST", "", {"name": "a", "x": 1}, None, (422, "VALIDATION_ERROR", ["x"])),
        ("POST", "", b"{", None, (400, "BAD_REQUEST", [])),
        ("POST", "", b"", None, (400, "BAD_REQUEST", [])),
        ("POST", "", {"name": "a"}, {"content-type": "text/plain"}, (415, "UNSUPPORTED_MEDIA_TYPE", [])),
        ("POST", "", {"name": "a"}, {}, (415, "UNSUPPORTED_MEDIA_TYPE", [])),
        ("POST", "", {"name": "a"}, {**JSON, "content-encoding": "gzip"}, (415, "UNSUPPORTED_MEDIA_TYPE", [])),
        ("POST", "", {"name": "a"}, {**JSON, "content-encoding": "identity"}, None),
        ("GET", "?page=2", b"", None, None),
        ("GET", "?page=x", b"", None, (422, "VALIDATION_ERROR", ["page"])),
        ("HEAD", "?page=x", b"", None, (422, "VALIDATION_ERROR", ["page"])),
        ("GET", "/7", b"", None, None),
        ("GET", "/abc", b"", None, (404, "ROUTE_NOT_FOUND", [])),
        ("PUT", "/7", b"", None, None),  # a body that is not required
        ("PUT", "/7", b"words", {"content-type": "text/plain; charset=utf-8"}, None),
        ("PUT", "/7", {"name": 5}, None, (422, "VALIDATION_ERROR", ["name"])),
        ("DELETE", "/7", {"name": 5}, None, None),  # the document knows no such operation
        ("GET", "/7/reviews", b"", None, (422, "VALIDATION_ERROR", ["x"])),  # by the path that the service sees
        ("GET", "/7/reviews?x=", b"", None, None),
    ],
)
def test_what_the_document_does_not_describe_is_refused(
    runtime: Runtime,
    method: str,
    path: str,
    body: object,
    headers: dict[str, str] | None,
    expected: tuple[int, str, list[str]] | None,
) -> None:
    found = refusal(asked(runtime, method, f"/strict{path}", body, headers))

    told = found and (found.status, found.code, [error.field for error in found.errors])
    assert told == expected


def test_a_refusal_says_no_word_of_what_was_sent(runtime: Runtime) -> None:
    sent = {"name": [MARKER], MARKER: MARKER}

    found = refusal(asked(runtime, "POST", f"/strict?page={MARKER}", sent))

    assert found is not None
    text = found.body("id", "gateway").decode()
    assert text.count(MARKER) == 1  # the name of the field, as the services do
    assert {error.field for error in found.errors} == {"name", MARKER}


@pytest.mark.parametrize(
    ("service", "route", "outcome"),
    [
        ("strict", "", "refused"),
        ("lenient", "", "reported"),
        ("strict", "/seen", "reported"),
        ("strict", "/raw", None),
        ("unknown", "", "unknown"),
    ],
)
def test_a_bad_request_is_refused_reported_or_let_pass_as_the_file_says(
    runtime: Runtime, service: str, route: str, outcome: str | None
) -> None:
    exchange = asked(runtime, "POST", f"/{service}{route}", {"name": 5})
    before = counts(runtime)

    found = refusal(exchange)

    assert (found is not None) == (outcome == "refused")
    changed = {labels for labels, count in counts(runtime).items() if before.get(labels) != count}
    assert changed == ({f'outcome="{outcome}",route="{exchange.route.name}",service="{service}"'} if outcome else set())


def counts(runtime: Runtime) -> dict[str, str]:
    lines = re.findall(r"^gateway_validated_total\{(.*)\} (.*)$", runtime.metrics.page().decode(), re.MULTILINE)
    return dict(lines)


def test_a_report_is_one_line_a_field_and_minute_without_anything_that_was_sent(runtime: Runtime) -> None:
    with capture_logs() as logs:
        for _ in range(3):
            refusal(asked(runtime, "POST", "/lenient", {"name": [MARKER], MARKER: 1}))
            refusal(asked(runtime, "POST", "/lenient", b"{"))

    told = [(line["event"], line["to"], line["route"], line["code"], line["field"]) for line in logs]
    assert sorted(told) == [
        ("request_unlike_openapi", "lenient", "lenient.items", "BAD_REQUEST", ""),
        ("request_unlike_openapi", "lenient", "lenient.items", "VALIDATION_ERROR", "*"),
        ("request_unlike_openapi", "lenient", "lenient.items", "VALIDATION_ERROR", "name"),
    ]
    assert MARKER not in str(logs)


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(MOST_BYTES, 0), (MOST_BYTES + 1, 413)])
def test_a_body_that_is_too_long_to_be_looked_at_is_refused(
    runtime: Runtime, size: int, status: int, *, is_chunked: bool
) -> None:
    raw = b'{"name": "' + b"x" * (size - 12) + b'"}'

    found = refusal(asked(runtime, "POST", "/strict", raw, is_chunked=is_chunked))

    assert (found.status if found else 0) == status


def test_a_body_that_is_too_long_is_not_read(runtime: Runtime) -> None:
    exchange = asked(runtime, "POST", "/strict", b"x" * (MOST_BYTES + 1))

    refusal(exchange)

    assert exchange.body.is_at_start
    assert not exchange.body.is_taken_in


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("service", ["strict", "lenient"])
def test_the_service_gets_the_body_whole(runtime: Runtime, service: str, *, is_chunked: bool) -> None:
    exchange = asked(runtime, "POST", f"/{service}", {"name": "a"}, is_chunked=is_chunked)
    got: list[bytes] = []

    def service_reads(seen: Exchange) -> Any:
        got.append(seen.body.read(1000))
        return parts.answering()(seen)

    validated(service_reads)(exchange)
    exchange.body.close()

    assert got == [b'{"name": "a"}']


def test_an_empty_chunked_body_is_none(runtime: Runtime) -> None:
    found = refusal(asked(runtime, "POST", "/strict", b"", JSON, is_chunked=True))

    assert found is not None
    assert (found.status, found.detail) == (400, "The body is missing; send a JSON document.")


def test_a_body_that_was_torn_is_told_as_such(runtime: Runtime) -> None:
    exchange = asked(runtime, "POST", "/lenient", {"name": "a"})
    exchange.body.length = 100

    found = refusal(exchange)

    assert found is not None
    assert found.code == "INCOMPLETE_BODY"


class Slow(io.BytesIO):
    """A caller who needs a moment."""

    def read(self, size: int | None = -1, /) -> bytes:
        time.sleep(0.02)
        return super().read(size)


def test_waiting_for_the_callers_body_costs_the_service_no_time(runtime: Runtime) -> None:
    exchange = asked(runtime, "POST", "/strict", {"name": "a"})
    exchange.body.reader = Slow(b'{"name": "a"}')

    refusal(exchange)

    assert exchange.body.waited_s >= 0.02


def test_a_refusal_makes_the_worker_look_for_a_newer_document(runtime: Runtime, clock: Clock) -> None:
    asked_for: list[str] = []
    runtime.documents.read = lambda backend: asked_for.append(backend.service.name) or orjson.dumps(DOCUMENT)
    clock.now += DOUBT_S

    refusal(asked(runtime, "POST", "/strict", {"name": 5}))
    runtime.documents.round(runtime.table)

    assert "strict" in asked_for


@pytest.mark.parametrize(
    ("method", "target", "headers", "words"),
    [
        ("GET", "/strict?page=2", {}, "is like GET /v1/items; the body's fields are not looked at beforehand"),
        ("GET", "/strict?page=x", {}, "422 VALIDATION_ERROR"),
        ("GET", "/lenient?page=x", {}, "would be refused, but is only reported: 422 VALIDATION_ERROR"),
        ("POST", "/strict", {"content-type": "text/csv"}, "415 UNSUPPORTED_MEDIA_TYPE"),
        ("POST", "/strict", JSON, "is like POST /v1/items; the body's fields are not looked at beforehand"),
        ("DELETE", "/strict/7", {}, "the OpenAPI document knows nothing of this method and path"),
        ("GET", "/strict/raw", {}, "validate is off"),
        ("GET", "/unknown", {}, "no OpenAPI document of unknown is known here yet"),
    ],
)
def test_explain_says_what_would_become_of_a_request(
    runtime: Runtime, method: str, target: str, headers: dict[str, str], words: str
) -> None:
    exchange = asked(runtime, method, target, b"{}" if method == "POST" else b"", headers)
    (layer,) = layers(validated(parts.answering()))

    try:
        told = layer.judge(exchange, False)
    except Problem as problem:
        told = f"{problem.status} {problem.code}"

    assert told == words
    assert exchange.body.is_at_start
    assert not exchange.body.is_taken_in


@pytest.mark.parametrize(
    "entry", ["validate: report\n    buffered: false", "buffered: false\n    routes: [{path: /, validate: enforce}]"]
)
def test_what_is_not_taken_in_cannot_be_looked_at(entry: str) -> None:
    (told,) = faults(of_things(entry))

    assert told.endswith("validate: wants buffered: true, else no body is there to be looked at")
