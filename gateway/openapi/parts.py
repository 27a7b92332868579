"""What an operation of an OpenAPI document wants: parameters and a body, and what is wrong with those of a request.

A parameter is a text. It fits if one of its readings does: as it is, as a number, as true or false, so that frameworks
which are lenient with texts ("+5", "yes") find no request refused that they would take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jsonschema_rs import Validator
from pydantic import TypeAdapter, ValidationError

from common.problems import FieldError
from gateway.openapi.faults import WHOLE, faults, is_of_other_type

Place = Literal["query", "path", "header"]
ListStyle = Literal["", "repeated", "by comma"]

_WHOLE, _FRACTION, _TRUTH = TypeAdapter(int), TypeAdapter(float), TypeAdapter(bool)


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    place: Place
    is_required: bool
    is_list: ListStyle
    schema: Validator
    has_fractions: bool  # else "1e1" is no number: no reader of integers takes it for one

    def faults(self, values: Sequence[str]) -> list[FieldError]:
        """Of what stands in the request under its name, each time that it does."""
        if not values:
            return [FieldError(self.name, "is missing", self.place)] if self.is_required else []
        if self.is_list:
            parts = values if self.is_list == "repeated" else values[0].split(",")
            return self._of([[self._readings(part)[0] for part in parts], list(parts)])
        return [fault for value in values for fault in self._of(self._readings(value))][:1]

    def _of(self, readings: Sequence[object]) -> list[FieldError]:
        if any(self.schema.is_valid(reading) for reading in readings):
            return []
        errors = [list(self.schema.iter_errors(reading)) for reading in readings]
        meant = next((found for found in errors if not is_of_other_type(found)), errors[0])
        return faults(meant, self.place, self.name)[:1]

    def _readings(self, text: str) -> list[object]:
        """What a text may stand for, the most telling first."""
        found: list[object] = []
        for kind in (_WHOLE, _FRACTION, _TRUTH) if self.has_fractions else (_WHOLE, _TRUTH):
            try:
                found.append(kind.validate_python(text))
            except ValidationError:
                continue
        return [*(value for value in found if not (isinstance(value, float) and not math.isfinite(value))), text]


@dataclass(frozen=True, slots=True)
class RequestBody:
    is_required: bool
    media_types: frozenset[str]  # that are described, in lower case; perhaps `text/*` and `*/*`
    schema: Validator | None  # of JSON; None: any

    def takes(self, media_type: str) -> bool:
        kind = media_type.partition("/")[0]
        return bool({media_type, f"{kind}/*", "*/*"} & self.media_types) or (
            is_json(media_type) and any(is_json(known) for known in self.media_types)
        )

    def faults(self, value: object) -> list[FieldError]:
        try:
            if self.schema is None or self.schema.is_valid(value):
                return []
            return faults(self.schema.iter_errors(value), "body")
        except ValueError:  # jsonschema_rs goes 255 levels deep
            return [FieldError(WHOLE, "is nested too deeply", "body")]


def is_json(media_type: str) -> bool:
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))
