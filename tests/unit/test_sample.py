"""Every single change of one thing in a services file that has every key: each is found at its line.

The changes are generated: a key is misspelt, stands twice, is empty, or has a value that its JSON Schema does not
allow, by type, by range, or of another form. The schema, which editors use, must refuse them as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jsonschema
import pytest
import yaml

from common.yaml_file import Location, parse
from gateway.services import ServicesError, configuration_of
from gateway.services_file import ServicesFile
from tests.unit import parts

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "tests/unit/sample.yaml").read_text()
SETTINGS = parts.settings(request_timeout=30)
SCHEMA = ServicesFile.model_json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
OF_TYPE = {"boolean": "true", "integer": "5", "number": "5.5", "string": "text", "array": "[5]", "object": "{a: 5}"}
ALSO = {"number": ("integer",)}


class Key(NamedTuple):
    """One key of the sample, and what the schema says of its value."""

    location: Location
    key: yaml.Node
    value: yaml.Node
    options: tuple[Mapping[str, Any], ...]  # one of which the value has to be; none: the key is not one of the schema's
    model: str  # title of the mapping that it is in

    @property
    def line(self) -> int:
        return self.key.start_mark.line + 1

    @property
    def name(self) -> str:
        return str(self.location[-1])


def keys_of(node: yaml.Node, options: Sequence[Mapping[str, Any]], location: Location = ()) -> Iterator[Key]:
    """All keys below `node`, with the schemas that apply to them."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            known = [below for option in options for below in below_of(option, key.value)]
            owner = next((option for option in options if key.value in option.get("properties", ())), None)
            here = (*location, key.value)
            yield Key(here, key, value, tuple(known), str(owner["title"]) if owner else "")
            yield from keys_of(value, known, here)
    elif isinstance(node, yaml.SequenceNode):
        items = [one for option in options if "items" in option for one in expanded(option["items"])]
        for position, value in enumerate(node.value):
            yield from keys_of(value, items, (*location, position))


def below_of(schema: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    if key in schema.get("properties", ()):
        yield from expanded(schema["properties"][key])
    elif schema.get("patternProperties") or isinstance(schema.get("additionalProperties"), dict):
        for below in (*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")):
            yield from expanded(below) if below else ()


def expanded(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "$ref" in schema:
        yield from expanded(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])
    elif "anyOf" in schema:
        for option in schema["anyOf"]:
            yield from expanded(option)
    else:
        yield schema


ROOT_NODE = yaml.compose(TEXT, Loader=yaml.SafeLoader)
assert ROOT_NODE is not None
KEYS = list(keys_of(ROOT_NODE, [SCHEMA]))
NAMED = [key for key in KEYS if key.model]


def renamed(key: Key, name: str) -> str:
    """The sample with another name for `key`."""
    return TEXT[: key.key.start_mark.index] + name + TEXT[key.key.end_mark.index :]


def with_value(key: Key, value: str) -> str:
    """The sample with another value under `key`, in the line of the key."""
    end = len(TEXT[: key.value.end_mark.index].rstrip())  # the mark of a block is where the next one begins
    return f"{TEXT[: key.key.end_mark.index]}: {value}{TEXT[end:]}"


def faults(text: str) -> list[str]:
    """Each as `line:column: words`."""
    with pytest.raises(ServicesError) as caught:
        configuration_of(parse(text, "f"), SETTINGS, {})
    return [problem.removeprefix("f:") for problem in caught.value.problems]


def lines_of(text: str) -> set[int]:
    return {int(fault.partition(":")[0]) for fault in faults(text)}


def is_refused_by_schema(text: str) -> bool:
    return bool(refusals(text))


def refusals(text: str) -> list[str]:
    """What the schema has against a file."""
    document = cast("dict[str, Any]", parse(text, "f").document)
    return [error.message for error in VALIDATOR.iter_errors(document)]


def of(keys: Sequence[Key]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("key", keys, ids=lambda key: ".".join(map(str, key.location)))


def test_the_sample_has_every_key_that_the_file_knows() -> None:
    known = {(model["title"], key) for model in [SCHEMA, *SCHEMA["$defs"].values()] for key in model["properties"]}

    assert {(key.model, key.name) for key in NAMED} == known


@pytest.mark.parametrize("path", ["tests/unit/sample.yaml", "gateway/services.yaml", "tests/e2e/services.yaml"])
def test_files_that_are_well_are_so_for_the_schema_too(path: str) -> None:
    text = (ROOT / path).read_text()

    assert configuration_of(parse(text, "f"), SETTINGS, {}).warnings == ()
    assert refusals(text) == []


def test_editors_find_the_schema_from_the_file() -> None:
    first = (ROOT / "gateway/services.yaml").read_text().splitlines()[0]

    assert first == "# yaml-language-server: $schema=services.schema.json"
    assert (ROOT / "gateway/services.schema.json").exists()


@of(NAMED)
@pytest.mark.parametrize("change", ["doubled", "dropped", "swapped"])
def test_a_misspelt_key_is_found_and_the_right_one_suggested(key: Key, change: str) -> None:
    spelt = {
        "doubled": key.name + key.name[-1],
        "dropped": key.name[:-1],
        "swapped": key.name[:-2] + key.name[-1] + key.name[-2],
    }[change]
    if spelt in {key.name, "host"} or (change != "doubled" and len(key.name) < 5):
        spelt = key.name + "_"
    text = renamed(key, spelt)

    place = f"{key.line}:{key.key.start_mark.column + 1}: "
    (told,) = [fault for fault in faults(text) if "unknown key" in fault]
    assert told.startswith(place)
    assert re.search(rf"did you mean [^?]*\b{key.name}\b[^?]*\?", told)
    assert is_refused_by_schema(text)


@of(KEYS)
def test_a_key_that_stands_twice_is_found_and_nothing_else(key: Key) -> None:
    line = TEXT.splitlines()[key.key.start_mark.line]
    in_front = line[: key.key.start_mark.column].strip()
    again = f"{key.name}: 5, " if in_front.strip("- ") else f"{key.name}: 5\n{' ' * key.key.start_mark.column}"
    text = TEXT[: key.key.start_mark.index] + again + TEXT[key.key.start_mark.index :]

    (told,) = faults(text)
    assert told.startswith(f"{key.line + again.count(chr(10))}:")
    assert told.endswith(f"the key '{key.name}' stands twice, first in line {key.line}")


@of(KEYS)
def test_an_empty_value_is_found_at_its_line_and_nothing_else(key: Key) -> None:
    text = with_value(key, "")

    assert lines_of(text) == {key.line}
    assert is_refused_by_schema(text)


def wrong_values(key: Key) -> Iterator[str]:
    """Of another type, out of range, or of another form."""
    types = {option["type"] for option in key.options if "type" in option}
    types |= {also for name in types for also in ALSO.get(name, ())}
    yield from (value for name, value in OF_TYPE.items() if name not in types)
    for option in key.options:
        step = 1 if option.get("type") == "integer" else 0.001
        if "minimum" in option:
            yield str(option["minimum"] - step)
        if "exclusiveMinimum" in option:
            yield str(option["exclusiveMinimum"])
        if "maximum" in option:
            yield str(option["maximum"] + step)
        if "pattern" in option:
            yield "'?? nothing that is known'"
        if "enum" in option and False not in option["enum"]:
            yield "599" if "type" in option and option["type"] == "integer" else "nonsense"


WRONG = [(key, value) for key in KEYS for value in dict.fromkeys(wrong_values(key))]


@pytest.mark.parametrize(
    ("key", "value"), WRONG, ids=[f"{'.'.join(map(str, key.location))}={value}" for key, value in WRONG]
)
def test_a_value_that_cannot_be_is_found_at_its_line_and_nothing_else(key: Key, value: str) -> None:
    text = with_value(key, value)

    assert lines_of(text) == {key.line}
    assert is_refused_by_schema(text)


def test_the_changes_are_many() -> None:
    assert len(KEYS) > 120
    assert len(WRONG) > 500


REQUIRED = [key for key in NAMED if key.name in SCHEMA["$defs"].get(key.model, SCHEMA).get("required", ())]


@of(REQUIRED)
def test_a_key_that_must_be_there_is_missed(key: Key) -> None:
    text = renamed(key, "zzz")

    told = "\n".join(faults(text))
    assert f"{'.'.join(map(str, key.location))}: is missing" in told
    assert is_refused_by_schema(text)
