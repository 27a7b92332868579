"""An OpenAPI document, compiled once for all requests.

Taken are the operations, parameters and bodies that we understand; of the others nothing is known, so requests for them
are not held against anything:

- operations whose path has a name within a segment (`/files/{name}.json`)
- parameters that are cookies, in an odd style, or described by a media type; formats (`date-time`) are annotations
- bodies that are not JSON, but for their media type
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import quote, unquote, urlsplit

import orjson
from jsonschema_rs import Draft202012, Draft202012Validator, FancyRegexOptions, Registry, Validator

from gateway.openapi.operations import Contract, Operation
from gateway.openapi.parts import ListStyle, Parameter, RequestBody, is_json
from gateway.openapi.schemas import for_requests

Node = Mapping[str, Any]

METHODS = ("get", "put", "post", "delete", "patch", "options", "trace")
PATTERN = FancyRegexOptions(backtrack_limit=100_000)  # what takes longer does not match
_HERE = "urn:document"
_NOT_PARAMETERS = ("accept", "content-type", "authorization")  # header fields that OpenAPI says elsewhere


class NotOpenAPI(Exception):
    """The document is none that can be used; the text says why."""


def compiled(text: bytes) -> Contract:
    """Raises `NotOpenAPI`."""
    try:
        return contract_of(orjson.loads(text))
    except orjson.JSONDecodeError:
        raise NotOpenAPI("is not JSON") from None


def contract_of(document: object) -> Contract:
    """Raises `NotOpenAPI`."""
    if not isinstance(document, Mapping) or not str(cast("Node", document).get("openapi", "")).startswith("3."):
        raise NotOpenAPI("is no OpenAPI document of version 3")
    try:
        return _Compiler(for_requests(cast("Node", document))).contract()
    # jsonschema_rs raises ValueErrors
    except (TypeError, AttributeError, LookupError, ValueError, RecursionError) as error:
        raise NotOpenAPI(f"can't be understood ({type(error).__name__})") from error


class _Compiler:
    def __init__(self, document: Node) -> None:
        self._document = document
        self._registry = Registry([(_HERE, cast("Any", document))], draft=Draft202012)

    def contract(self) -> Contract:
        servers = self._document.get("servers") or [{}]
        base = urlsplit(str(servers[0].get("url", ""))).path.rstrip("/")
        return Contract(self._operations(), "" if "{" in base else base, _names(self._document))

    def _operations(self) -> Iterator[Operation]:
        for template, item in self._document["paths"].items():
            names = [part for part in template.split("/") if "{" in part]
            if not all(part.startswith("{") and part.endswith("}") for part in names):
                continue
            at = f"/paths/{_escaped(template)}"
            for method in METHODS:
                if method in item:
                    yield self._operation(method, template, item, at)

    def _operation(self, method: str, template: str, item: Node, at: str) -> Operation:
        said: dict[tuple[str, str], Parameter] = {}
        for node, where in ((item, at), (item[method], f"{at}/{method}")):
            for position in range(len(node.get("parameters", ()))):
                parameter = self._parameter(*self._resolved(f"{where}/parameters/{position}"))
                if parameter is not None:
                    said[parameter.name, parameter.place] = parameter
        has_body = "requestBody" in item[method]
        body = self._body(*self._resolved(f"{at}/{method}/requestBody")) if has_body else None
        return Operation(method.upper(), template, tuple(said.values()), body)

    def _parameter(self, node: Node, at: str) -> Parameter | None:
        name, place = str(node["name"]), str(node["in"])
        is_field = place == "header" and name.lower() in _NOT_PARAMETERS
        style = node.get("style", "form" if place == "query" else "simple")
        if place not in ("query", "path", "header") or is_field or style != ("form" if place == "query" else "simple"):
            return None
        if "schema" not in node:  # described by a media type
            return None
        is_exploded = place == "query" and node.get("explode", True)
        types = self._types(f"{at}/schema")
        if "object" in types:
            return None
        types -= {"null"}
        is_list: ListStyle = ""
        if "array" in types:
            is_list = "repeated" if is_exploded else "by comma"
        schema = self._schema(f"{at}/schema")
        return Parameter(name, place, node.get("required") is True, is_list, schema, types != {"integer"})

    def _types(self, at: str, depth: int = 8) -> set[str]:
        """That a schema names, itself or in what it is made of."""
        node, at = self._resolved(at)
        if not isinstance(cast("object", node), Mapping) or not depth:  # true, false
            return set()
        own = node.get("type", [])
        found = {own} if isinstance(own, str) else set(own)
        for key in ("anyOf", "oneOf", "allOf"):
            for position in range(len(node.get(key, ()))):
                found |= self._types(f"{at}/{key}/{position}", depth - 1)
        return found

    def _body(self, node: Node, at: str) -> RequestBody:
        content: Node = node.get("content", {})
        described = next((key for key in content if is_json(key.partition(";")[0].strip().lower())), None)
        has_schema = described is not None and "schema" in content[described]
        schema = self._schema(f"{at}/content/{_escaped(described or '')}/schema") if has_schema else None
        media_types = frozenset(key.partition(";")[0].strip().lower() for key in content)
        return RequestBody(node.get("required") is True, media_types, schema)

    def _schema(self, at: str) -> Validator:
        return Draft202012Validator(
            {"$ref": f"{_HERE}#{quote(at)}"}, registry=self._registry, pattern_options=PATTERN, offline=True
        )

    def _resolved(self, at: str) -> tuple[Node, str]:
        """What a JSON pointer leads to, in the end."""
        for _ in range(16):
            node: Any = self._document
            for part in at.split("/")[1:]:
                key = part.replace("~1", "/").replace("~0", "~")
                node = node[int(key)] if isinstance(node, list) else node[key]
            reference = node.get("$ref") if isinstance(node, Mapping) else None
            if not isinstance(reference, str):
                return node, at
            if not reference.startswith("#/"):
                raise NotOpenAPI("refers to other documents")
            at = unquote(reference[1:])
        raise NotOpenAPI("has references that lead in a circle")


def _names(node: object) -> Iterator[str]:
    if isinstance(node, list):
        for each in cast("list[object]", node):
            yield from _names(each)
    elif isinstance(node, Mapping):
        known = cast("Node", node)
        if isinstance(known.get("properties"), Mapping):
            yield from known["properties"]
        if isinstance(known.get("name"), str) and "in" in known:
            yield known["name"]
        for each in known.values():
            yield from _names(each)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
