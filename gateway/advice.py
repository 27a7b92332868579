"""Faults of the services file in words: where it stands, what is seen, what would be right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gateway.services_file import ServiceEntry, ServicesFile
from gateway.yaml_file import YamlFile


def fault_texts(error: ValidationError, file: YamlFile) -> list[str]:
    """Each fault as `file:line:column: words`."""
    return [f"{file.place(fault['loc'])}: {_words(fault)}" for fault in error.errors(include_url=False)]


def _words(fault: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in fault["loc"] if part != "[key]") or "the file"
    if fault["type"] == "extra_forbidden":
        known = ", ".join(ServiceEntry.model_fields if len(fault["loc"]) > 1 else ServicesFile.model_fields)
        return f"{where}: nobody knows this key; known are {known}"
    is_telling = not isinstance(fault["input"], dict) and "@" not in str(fault["input"])  # a password may stand there
    here = f" (here: {fault['input']!r})" if is_telling else ""
    return f"{where}: {str(fault['msg']).removeprefix('Value error, ')}{here}"
