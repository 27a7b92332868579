"""An OpenAPI document as JSON Schema 2020-12 understands it, which that of 3.1 is by itself.

- 3.0 says `nullable: true` for "or null", and `exclusiveMinimum: true` beside the bound.
- What is `readOnly` belongs to answers; a request need not have it, though it is `required` (OAS 3.1.1, 4.8.24.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

Node = Mapping[str, Any]
_BOUNDS = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}


def for_requests(document: Node) -> dict[str, Any]:
    """A copy that can be held against requests."""
    is_old = str(document.get("openapi", "")).startswith("3.0")
    return cast("dict[str, Any]", _rewritten(document, is_old=is_old))


def _rewritten(node: object, *, is_old: bool) -> object:
    if isinstance(node, list):
        return [_rewritten(each, is_old=is_old) for each in cast("list[object]", node)]
    if not isinstance(node, Mapping):
        return node
    copy = {key: _rewritten(value, is_old=is_old) for key, value in cast("Node", node).items()}
    _let_answers_go(copy)
    return _modern(copy) if is_old else copy


def _let_answers_go(schema: dict[str, Any]) -> None:
    wanted, fields = schema.get("required"), schema.get("properties")
    if isinstance(wanted, list) and isinstance(fields, Mapping):
        known = cast("Node", fields)
        schema["required"] = [name for name in cast("list[str]", wanted) if not _is_read_only(known.get(name))]


def _is_read_only(schema: object) -> bool:
    return isinstance(schema, Mapping) and cast("Node", schema).get("readOnly") is True


def _modern(schema: dict[str, Any]) -> dict[str, Any]:
    for exclusive, bound in _BOUNDS.items():
        if schema.get(exclusive) is True and bound in schema:
            schema[exclusive] = schema.pop(bound)
        elif isinstance(schema.get(exclusive), bool):
            del schema[exclusive]
    if schema.get("nullable") is True and ("type" in schema or "$ref" in schema or "allOf" in schema):
        del schema["nullable"]
        return {"anyOf": [schema, {"type": "null"}], "readOnly": schema.get("readOnly", False)}
    return schema
