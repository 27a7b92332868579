"""OpenAPI documents, compiled: which operation a request is for, and what is wrong with it by that."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from common.problems import FieldError
from gateway.openapi.compiling import NotOpenAPI, compiled, contract_of
from gateway.openapi.faults import MOST
from gateway.openapi.operations import Contract, Operation
from tests.support.stub import StubService

Node = dict[str, Any]
MARKER = "hunter2-is-my-password"


def document(paths: Mapping[str, object], *, version: str = "3.1.0", **more: object) -> Node:
    return {"openapi": version, "info": {"title": "t", "version": "1"}, "paths": dict(paths), **more}


def body_of(schema: object) -> Node:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def only(contract: Contract) -> Operation:
    (operation,) = contract.operations
    return operation


def body_faults(schema: object, value: object, **given: Any) -> list[FieldError]:
    body = only(contract_of(document({"/": {"post": {"requestBody": body_of(schema)}}}, **given))).body
    assert body is not None
    return body.faults(value)


def fields(found: list[FieldError]) -> list[str]:
    return sorted(f"{fault.field}: {fault.message}" for fault in found)


def parameter_fields(parameter: Node, *values: str) -> list[str]:
    operation = only(contract_of(document({"/": {"get": {"parameters": [parameter]}}})))
    return [
        f"{fault.location} {fault.field}: {fault.message}" for p in operation.parameters for fault in p.faults(values)
    ]


PATHS = {
    "/shop": {"get": {}, "post": {}},
    "/shop/{id}": {"get": {}, "delete": {}},
    "/shop/new": {"get": {}},
    "/shop/{id}/reviews/{review}": {"get": {}},
    "/files/{name}.json": {"get": {}},
    "/caf%C3%A9": {"get": {}},
}


@pytest.mark.parametrize(
    ("method", "path", "template"),
    [
        ("GET", "/shop", "/shop"),
        ("GET", "/shop/", "/shop"),
        ("HEAD", "/shop", "/shop"),
        ("PUT", "/shop", None),
        ("GET", "/shop/7", "/shop/{id}"),
        ("GET", "/shop/new", "/shop/new"),
        ("DELETE", "/shop/new", "/shop/{id}"),
        ("GET", "/shop/7/reviews/8", "/shop/{id}/reviews/{review}"),
        ("GET", "/shop/7/reviews", None),
        ("GET", "/sh%6Fp", "/shop"),
        ("GET", "/files/x.json", None),  # a name within a segment: nothing is known
        ("GET", "/caf%c3%a9", "/caf%C3%A9"),
        ("GET", "/", None),
    ],
)
def test_the_operation_for_a_request_is_found(method: str, path: str, template: str | None) -> None:
    found = contract_of(document(PATHS)).find(method, path)

    assert (found and found[0].template) == template


def test_what_the_names_in_a_path_stand_for_is_known() -> None:
    found = contract_of(document(PATHS)).find("GET", "/shop/a%20b/reviews/8")

    assert found is not None
    assert dict(found[0].path_values(found[1])) == {"id": "a b", "review": "8"}


@pytest.mark.parametrize(
    ("url", "path", "is_found"),
    [
        ("https://x.example/api/v2", "/api/v2/shop", True),
        ("/api/v2/", "/api/v2/shop", True),
        ("/api/v2", "/shop", False),
        ("/{tenant}", "/shop", True),
        ("https://x.example", "/shop", True),
    ],
)
def test_paths_begin_where_the_first_server_is(url: str, path: str, *, is_found: bool) -> None:
    contract = contract_of(document(PATHS, servers=[{"url": url}, {"url": "/other"}]))

    assert (contract.find("GET", path) is not None) == is_found


@pytest.mark.parametrize(
    ("schema", "values", "faults"),
    [
        ({"type": "integer", "maximum": 5}, ["5"], []),
        ({"type": "integer", "maximum": 5}, ["6"], ["query q: must be 5 or less"]),
        ({"type": "integer"}, ["x"], ["query q: must be a whole number"]),
        ({"type": "integer"}, ["1e1"], ["query q: must be a whole number"]),
        ({"type": "integer"}, ["1", "x"], ["query q: must be a whole number"]),
        ({"type": "integer"}, ["9" * 5000], ["query q: must be a whole number"]),
        ({"type": "number"}, ["1e1"], []),
        ({"type": "number"}, ["nan"], ["query q: must be a number"]),
        ({"type": "number"}, ["inf"], ["query q: must be a number"]),
        ({"type": "boolean"}, ["TRUE"], []),
        ({"type": "boolean"}, ["maybe"], ["query q: must be true or false"]),
        ({"type": "string", "maxLength": 2}, ["12"], []),
        ({"type": "string", "maxLength": 2}, ["123"], ["query q: must have at most 2 characters"]),
        ({"type": "string", "enum": ["1", "2"]}, ["1"], []),
        ({"type": ["integer", "null"]}, ["7"], []),
        ({"type": "array", "items": {"type": "integer"}}, ["1", "2"], []),
        ({"type": "array", "items": {"type": "integer"}}, ["1", "x"], ["query q.1: must be a whole number"]),
        ({"type": "array", "items": {"type": "string"}}, ["1", "x"], []),
        ({"type": "array", "maxItems": 1}, ["1", "2"], ["query q: must have at most 1 entries"]),
        ({"type": "object"}, ["x"], []),  # in a style that is not understood
        ({}, ["x"], []),
        (True, ["x"], []),
    ],
)
def test_a_parameter_fits_if_one_of_its_readings_does(schema: object, values: list[str], faults: list[str]) -> None:
    assert parameter_fields({"name": "q", "in": "query", "schema": schema}, *values) == faults


@pytest.mark.parametrize(
    ("parameter", "faults"),
    [
        ({"name": "q", "in": "query", "required": True, "schema": {}}, ["query q: is missing"]),
        ({"name": "q", "in": "query", "schema": {}}, []),
        ({"name": "X-Team", "in": "header", "required": True, "schema": {}}, ["header X-Team: is missing"]),
        ({"name": "Authorization", "in": "header", "required": True, "schema": {}}, []),
        ({"name": "c", "in": "cookie", "required": True, "schema": {}}, []),
        ({"name": "q", "in": "query", "required": True, "content": {"application/json": {}}}, []),
        ({"name": "q", "in": "query", "required": True, "style": "deepObject", "schema": {}}, []),
    ],
)
def test_what_is_required_and_understood_is_missed(parameter: Node, faults: list[str]) -> None:
    assert parameter_fields(parameter) == faults


def test_a_list_by_comma_is_taken_apart() -> None:
    said = {"name": "q", "in": "query", "explode": False, "schema": {"type": "array", "items": {"type": "integer"}}}

    assert parameter_fields(said, "1,2") == []
    assert parameter_fields(said, "1,x") == ["query q.1: must be a whole number"]


def test_an_operations_parameter_goes_before_that_of_its_path_and_references_are_followed() -> None:
    number = {"name": "q", "in": "query", "schema": {"$ref": "#/components/schemas/Small"}}
    item = {
        "parameters": [
            {"name": "q", "in": "query", "schema": {"type": "boolean"}},
            {"$ref": "#/components/parameters/P"},
        ],
        "get": {"parameters": [number]},
    }
    components = {
        "schemas": {"Small": {"type": "integer", "maximum": 3}},
        "parameters": {"P": {"name": "p", "in": "query", "required": True, "schema": {"type": "string"}}},
    }

    operation = only(contract_of(document({"/{a b}": item}, components=components)))

    told = {parameter.name: fields(parameter.faults(["4"])) for parameter in operation.parameters}
    assert told == {"q": ["q: must be 3 or less"], "p": []}


LINES = {
    "type": "object",
    "required": ["lines"],
    "additionalProperties": False,
    "properties": {
        "lines": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Line"}},
        "note": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
    },
}
LINE = {"Line": {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer", "minimum": 1}}}}


@pytest.mark.parametrize(
    ("value", "faults"),
    [
        ({"lines": [{"id": 1}]}, []),
        ({}, ["lines: is missing"]),
        ([], ["_schema: must be an object"]),
        (None, ["_schema: must be an object"]),
        ({"lines": []}, ["lines: must have at least 1 entries"]),
        ({"lines": [{"id": 0}, {}]}, ["lines.0.id: must be 1 or more", "lines.1.id: is missing"]),
        ({"lines": [5]}, ["lines.0: must be an object"]),
        ({"lines": [{"id": 1}], "x": 1, "y": 2}, ["x: is not known here", "y: is not known here"]),
        ({"lines": [{"id": 1}], "note": "abcd"}, ["note: must have at most 3 characters"]),
        ({"lines": [{"id": 1}], "note": 5}, ["note: must be text or null"]),
    ],
)  # fmt: skip
def test_each_field_of_a_body_that_is_wrong_is_named(value: object, faults: list[str]) -> None:
    assert fields(body_faults(LINES, value, components={"schemas": LINE})) == faults


EACH = {
    "type": {"type": "integer"}, "minLength": {"type": "string", "minLength": 100},
    "maxLength": {"type": "string", "maxLength": 1}, "pattern": {"type": "string", "pattern": "^a$"},
    "enum": {"enum": ["a", "b"]}, "const": {"const": "a"}, "not": {"not": {}}, "false": False,
    "anyOf": {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]},
    "oneOf": {"oneOf": [{"type": "integer"}, {"type": "boolean"}]}, "format": {"type": "string", "format": "date"},
}  # fmt: skip


@pytest.mark.parametrize("keyword", EACH)
def test_no_fault_repeats_a_value(keyword: str) -> None:
    found = body_faults({"type": "object", "properties": {"a": EACH[keyword]}}, {"a": MARKER})

    assert [fault.field for fault in found] == ([] if keyword == "format" else ["a"])  # formats are annotations
    assert not any(MARKER in fault.message for fault in found)


def test_there_is_an_end_to_the_faults_and_to_the_names_that_callers_invent() -> None:
    value = {f"{number}{'x' * 1000}": 1 for number in range(1000)}

    found = body_faults({"properties": {"a": {}}, "additionalProperties": False}, value)

    assert len(found) == MOST
    assert all(len(fault.field) <= 100 for fault in found)


@pytest.mark.parametrize("depth", [300, 900])
def test_a_body_that_is_nested_too_deeply_is_refused(depth: int) -> None:
    value = orjson.loads(b"[" * depth + b"]" * depth)

    assert fields(body_faults({"type": "object"}, value)) == ["_schema: is nested too deeply"]


def test_a_pattern_that_would_take_for_ever_does_not_match() -> None:
    schema = {"type": "string", "pattern": r"^(a|aa|aaa)+\1b$"}
    began = time.perf_counter()

    assert body_faults(schema, "a" * 5000) != []
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    ("schema", "value", "is_good"),
    [
        ({"type": "string", "nullable": True}, None, True),
        ({"type": "string"}, None, False),
        ({"$ref": "#/components/schemas/A", "nullable": True}, None, True),
        ({"type": "number", "minimum": 5, "exclusiveMinimum": True}, 5, False),
        ({"type": "number", "minimum": 5, "exclusiveMinimum": True}, 6, True),
        ({"type": "number", "minimum": 5, "exclusiveMinimum": False}, 5, True),
        ({"type": "number", "maximum": 5, "exclusiveMaximum": True}, 5, False),
        ({"type": "object", "properties": {"nullable": {"type": "boolean"}}}, {"nullable": True}, True),
    ],
)
def test_a_document_of_3_0_is_read_by_its_own_rules(schema: object, value: object, *, is_good: bool) -> None:
    found = body_faults(schema, value, version="3.0.3", components={"schemas": {"A": {"type": "string"}}})

    assert (found == []) == is_good


def test_3_1_has_no_nullable() -> None:
    assert body_faults({"type": "string", "nullable": True}, None) != []


@pytest.mark.parametrize("version", ["3.0.3", "3.1.0"])
def test_what_only_answers_have_is_not_required_of_requests(version: str) -> None:
    fields_ = {"id": {"type": "string", "readOnly": True, "nullable": True}, "name": {"type": "string"}}
    schema = {"type": "object", "required": ["id", "name"], "properties": fields_}

    assert fields(body_faults(schema, {}, version=version)) == ["name: is missing"]


def media(*types: str) -> Any:
    content = {kind: {"schema": {"type": "object"}} for kind in types}
    return only(contract_of(document({"/": {"post": {"requestBody": {"content": content}}}}))).body


@pytest.mark.parametrize(
    ("described", "sent", "is_taken"),
    [
        (("application/json",), "application/json", True),
        (("application/json; charset=utf-8",), "application/json", True),
        (("application/json",), "application/vnd.x+json", True),
        (("application/json",), "text/plain", False),
        (("application/json",), "", False),
        (("application/json", "multipart/form-data"), "multipart/form-data", True),
        (("text/*",), "text/csv", True),
        (("*/*",), "image/png", True),
        (("multipart/form-data",), "application/json", False),
    ],
)
def test_media_types_that_are_described_are_taken(described: tuple[str, ...], sent: str, *, is_taken: bool) -> None:
    assert media(*described).takes(sent) == is_taken


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"openapi": "3.1.0"}',
        b'{"swagger": "2.0", "paths": {}}',
        b'{"openapi": "2.0", "paths": {}}',
        b'{"openapi": "3.1.0", "paths": {"/": {"get": {"parameters": [{}]}}}}',
        b'{"openapi": "3.1.0", "paths": {"/": {"get": {"parameters": [{"$ref": "#/nowhere"}]}}}}',
        b'{"openapi": "3.1.0", "paths": {"/": {"get": {"parameters": [{"$ref": "other.json"}]}}}}',
        b'{"openapi": "3.1.0", "paths": {"/": {"get": {"requestBody": {"$ref": "#/paths/~1/get/requestBody"}}}}}',
        b'{"openapi": "3.1.0", "paths": {"/": {"get": {"parameters": [{"name": "q", "in": "query", '
        b'"schema": {"type": "nonsense"}}]}}}}',
        b'{"openapi": "3.1.0", "paths": {"/": {"get": {"parameters": [{"name": "q", "in": "query", '
        b'"schema": {"$ref": "http://127.0.0.1:1/secret"}}]}}}}',
    ],
)
def test_what_is_no_document_that_can_be_used_is_refused(text: bytes) -> None:
    with pytest.raises(NotOpenAPI):
        compiled(text)


def test_a_document_makes_us_ask_nobody() -> None:
    with StubService() as stub:
        schema = {"$ref": f"{stub.url}/schema.json"}
        stub.json["/schema.json"] = {"type": "object"}

        with pytest.raises(NotOpenAPI):
            contract_of(document({"/": {"post": {"requestBody": body_of(schema)}}}))

        assert stub.requests == []
