"""What may stand at a place of the services file, in words. From the JSON Schema, so that editors say the same."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from common.yaml_file import Location
from gateway.advice.findings import listed
from gateway.services_file import ServicesFile

Schema = Mapping[str, Any]

_LEAST = {"minimum": "of {} or more", "exclusiveMinimum": "above {}"}


def words(location: Location) -> str:
    """`must be true or false`; for what can be several things, all of them."""
    options = list(_at(location))
    if len(options) == 1 and (said := options[0].get("patternErrorMessage")):
        return str(said)
    return "must be " + " or ".join(dict.fromkeys(map(_words, options)))


def choices(location: Location) -> list[str]:
    """The texts of which one must be chosen, if it must be."""
    return [str(choice) for option in _at(location) for choice in option.get("enum", ()) if isinstance(choice, str)]


def keys(location: Location) -> list[str]:
    """The keys of the mapping at `location`; none if any will do."""
    return [key for option in _at(location) for key in option.get("properties", ())]


@functools.cache
def elsewhere(key: str) -> tuple[str, ...]:
    """Where `key` may stand: `services.NAME.breaker.failures`."""
    return tuple(path for path in dict.fromkeys(_paths("", _schema())) if path.rpartition(".")[2] == key)


@functools.cache
def _schema() -> Schema:
    return ServicesFile.model_json_schema()


def _at(location: Location) -> Iterator[Schema]:
    options = list(_options(_schema()))
    for part in location:
        options = [below for option in options for below in _below(option, part)]
    yield from options


def _options(schema: Schema) -> Iterator[Schema]:
    """What it refers to and stands for: no references, no alternatives."""
    if "$ref" in schema:
        yield from _options(_schema()["$defs"][schema["$ref"].rpartition("/")[2]])
    elif "anyOf" in schema:
        for option in schema["anyOf"]:
            yield from _options(option)
    else:
        yield schema


def _below(schema: Schema, part: int | str) -> Iterator[Schema]:
    if isinstance(part, int):
        found = [schema["items"]] if "items" in schema else []
    elif part in schema.get("properties", {}):
        found = [schema["properties"][part]]
    else:
        found = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties", False)]
    for below in found:
        if isinstance(below, Mapping):
            yield from _options(below)


def _words(schema: Schema) -> str:
    match schema:
        case {"enum": [False, "off"]}:
            return "off"
        case {"enum": choices}:
            return f"one of {listed(map(str, choices))}"
        case {"type": "boolean"}:
            return "true or false"
        case {"type": "integer"}:
            return f"a whole number {_bounds(schema)}".strip()
        case {"type": "number"}:
            return f"a number {_bounds(schema)}".strip()
        case {"type": "array"}:
            return "a list that is not empty" if schema.get("minItems") else "a list"
        case {"type": "object", "properties": properties}:
            return f"a mapping with keys of {listed(properties)}"
        case {"type": "object"}:
            return "a mapping"
        case _:
            return "text; put it in quotes"


def _bounds(schema: Schema) -> str:
    """`from 0 to 5`, `above 0, at most 60`, `of 1 or more`."""
    if "minimum" in schema and "maximum" in schema:
        return f"from {schema['minimum']:g} to {schema['maximum']:g}"
    least = [words.format(f"{schema[key]:g}") for key, words in _LEAST.items() if key in schema]
    return ", ".join(least + ([f"at most {schema['maximum']:g}"] if "maximum" in schema else []))


def _paths(path: str, schema: Schema) -> Iterator[str]:
    """Of `schema`, which stands at `path`, and of all below it."""
    yield path
    for option in _options(schema):
        for key, below in option.get("properties", {}).items():
            yield from _paths(f"{path}.{key}".lstrip("."), below)
        for below in option.get("patternProperties", {}).values():
            yield from _paths(f"{path}.NAME", below)
        if "items" in option:
            yield from _paths(path, option["items"])
