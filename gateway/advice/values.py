"""Single values: what the types of the services file say against them, in words that name what would be right.

Beside the words stands the value as the file has it, unless it might be a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from common.yaml_file import Location, YamlFile
from gateway.advice import allowed
from gateway.advice.findings import Finding, alike, listed, question

MOST_LIKELY = 3

_SECRET_PARTS = frozenset({"set", "add", "headers", "query", "body"})


def findings(error: ValidationError, file: YamlFile) -> Iterator[Finding]:
    for fault in error.errors(include_url=False):
        location = tuple(part for part in fault["loc"] if part != "[key]")
        yield Finding(location, _words(fault, location, file))


def _words(fault: Mapping[str, Any], location: Location, file: YamlFile) -> str:
    match fault["type"]:
        case "extra_forbidden":
            return _unknown(location)
        case "missing":
            return "is missing"
        case "value_error":
            words = str(fault["ctx"]["error"])
            is_of_key = fault["loc"] != location
            return words if is_of_key or isinstance(fault["input"], dict) else words + _here(location, file)
        case "literal_error":
            written = str(fault["input"])
            likely = question(alike(written, allowed.choices(location))).rstrip()
            return f"{allowed.words(location)}; {likely}".removesuffix("; ") + _here(location, file)
        case _ if fault["input"] is None:
            return f"is empty; {allowed.words(location)}"
        case _:
            return allowed.words(location) + _here(location, file)


def _unknown(location: Location) -> str:
    key, known = str(location[-1]), allowed.keys(location[:-1])
    likely = [*alike(key, known), *allowed.elsewhere(key)][:MOST_LIKELY]
    return f"unknown key; {question(likely)}allowed here: {listed(known)}"


def _here(location: Location, file: YamlFile) -> str:
    written = file.written(location)
    if not written or not _SECRET_PARTS.isdisjoint(location):
        return ""
    return f" (here: {written})"
