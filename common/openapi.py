"""What every service's OpenAPI document has in common, and the repairs that APIFlask's own document needs.

APIFlask gives the document from the schemas; `repair` makes it true: errors are problem documents, bodies are required,
nested pydantic models get their own short name back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from apiflask import APIFlask
from pydantic import BaseModel, ConfigDict

from common.problems import MEDIA_TYPE

Document = dict[str, Any]
APIFLASK_ERROR_SCHEMAS = ("HTTPError", "ValidationError")
METHODS = ("get", "put", "post", "delete", "patch", "options", "head")


class FieldFault(BaseModel):
    """One fault of the caller's input."""

    model_config = ConfigDict(populate_by_name=True)

    field: str
    message: str
    location: str


class ProblemDocument(BaseModel):
    """RFC 9457, with the members `error`, `message`, `code` and `request_id` that older clients read."""

    type: str
    title: str
    status: int
    detail: str
    error: str
    message: str
    code: str
    request_id: str
    source: str


def init_app(app: APIFlask, *, title: str, version: str, description: str) -> None:
    app.title, app.version = title, version
    app.config.update(
        DESCRIPTION=description,
        OPENAPI_VERSION="3.1.0",
        VALIDATION_ERROR_STATUS_CODE=422,
        AUTO_404_RESPONSE=False,
        SYNC_LOCAL_SPEC=False,
    )
    app.security_schemes = {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    app.spec_processor(_repaired)


def _repaired(document: Document | str) -> Document | str:
    return document if isinstance(document, str) else repair(document)


def repair(document: Document) -> Document:
    """The document APIFlask made, corrected. Raises `ValueError` when two schemas want the same short name."""
    _shorten_names(document)
    for path_item in document.get("paths", {}).values():
        for method in METHODS:
            if operation := path_item.get(method):
                _repair_operation(operation)
    return document


def _repair_operation(operation: Document) -> None:
    if "requestBody" in operation:
        operation["requestBody"]["required"] = True
    for status, answer in operation.get("responses", {}).items():
        if str(status)[:1] in "45":
            content = answer.setdefault("content", {})
            content.pop("application/json", None)
            content[MEDIA_TYPE] = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}


def _shorten_names(document: Document) -> None:
    """`Order.Line` and `NewOrder.Line` are one schema `Line`, provided that they are the same."""
    _walk(document, _shorten_reference)  # first: equal schemas must refer to their own nested ones by the same name
    schemas: Document = document.get("components", {}).get("schemas", {})
    short: Document = {}
    for name, schema in schemas.items():
        if name in APIFLASK_ERROR_SCHEMAS:
            continue
        last = name.rsplit(".", 1)[-1]
        if last in short and short[last] != schema:
            raise ValueError(f"two different schemas are called {last}; rename one of the models")
        short[last] = schema
    short.setdefault("ProblemDocument", ProblemDocument.model_json_schema())
    document.setdefault("components", {})["schemas"] = short


def _shorten_reference(node: Document) -> None:
    reference = node.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/components/schemas/"):
        node["$ref"] = "#/components/schemas/" + reference.rsplit("/", 1)[-1].rsplit(".", 1)[-1]


def _walk(node: object, visit: Callable[[Document], None]) -> None:
    if isinstance(node, dict):
        visit(node)
        for value in node.values():
            _walk(value, visit)
    elif isinstance(node, list):
        for value in node:
            _walk(value, visit)
