"""What is wrong with a value, field by field, in words that never repeat it.

The names are those that our services use: a dotted path (`lines.0.quantity`), `_schema` for the whole. Of several forms
that a value may have (`anyOf`) the first that is of its type is taken for the one that was meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from jsonschema_rs import ValidationError, ValidationErrorKind

from common.problems import FieldError

MOST = 20
WHOLE = "_schema"
UNKNOWN_FIELD = "is not known here"
_LONGEST_NAME = 100  # of a field that the caller named

_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def faults(errors: Iterable[ValidationError], location: str, name: str = "") -> list[FieldError]:
    """At most `MOST`, each field once. `name` is that of a parameter, "" for a body."""
    found: dict[str, FieldError] = {}
    for error in islice(errors, 4 * MOST):
        for field, words in _told(error, name):
            found.setdefault(field, FieldError(field, words, location))
    return list(found.values())[:MOST]


def _told(error: ValidationError, name: str) -> Iterator[tuple[str, str]]:
    place = ".".join(filter(None, (name, *(str(part)[:_LONGEST_NAME] for part in error.instance_path))))
    match error.kind:
        case ValidationErrorKind.Required(property=missing):
            yield _joined(place, missing), "is missing"
        case ValidationErrorKind.AdditionalProperties(unexpected=names):
            yield from ((_joined(place, each), UNKNOWN_FIELD) for each in names[:MOST])
        case ValidationErrorKind.UnevaluatedProperties(unexpected=names):
            yield from ((_joined(place, each), UNKNOWN_FIELD) for each in names[:MOST])
        case ValidationErrorKind.AnyOf(context=forms) | ValidationErrorKind.OneOfNotValid(context=forms):
            meant = [form for form in forms if form and not is_of_other_type(form)]
            if meant:
                yield from (told for below in meant[0] for told in _told(below, name))
            else:
                yield place or WHOLE, _types({kind for form in forms for kind in _types_of(form)})
        case kind:
            yield place or WHOLE, _words(kind)


def _joined(place: str, field: str) -> str:
    return f"{place}.{field[:_LONGEST_NAME]}" if place else field[:_LONGEST_NAME]


def _types_of(form: list[ValidationError]) -> Iterator[str]:
    for error in form:
        if isinstance(error.kind, ValidationErrorKind.Type):
            yield from error.kind.types
        elif isinstance(error.kind, ValidationErrorKind.AnyOf):
            yield from (kind for below in error.kind.context for kind in _types_of(below))


def is_of_other_type(form: list[ValidationError]) -> bool:
    """Whether a value is not even of the type that this form wants."""
    depth = min(len(error.instance_path) for error in form)
    for error in form:
        if len(error.instance_path) == depth:
            if isinstance(error.kind, ValidationErrorKind.Type):
                return True
            if isinstance(error.kind, ValidationErrorKind.AnyOf):
                return all(is_of_other_type(below) for below in error.kind.context)
    return False


def _types(names: Iterable[str]) -> str:
    wanted = [_TYPES[name] for name in _TYPES if name in set(names)]
    return f"must be {' or '.join(wanted)}" if wanted else "is none of what may stand here"


def _words(kind: ValidationErrorKind) -> str:
    match kind:
        case ValidationErrorKind.Type(types=names):
            return _types(names)
        case ValidationErrorKind.MinLength(limit=limit):
            return f"must have at least {limit} characters"
        case ValidationErrorKind.MaxLength(limit=limit):
            return f"must have at most {limit} characters"
        case ValidationErrorKind.Minimum(limit=limit):
            return f"must be {limit} or more"
        case ValidationErrorKind.Maximum(limit=limit):
            return f"must be {limit} or less"
        case ValidationErrorKind.ExclusiveMinimum(limit=limit):
            return f"must be more than {limit}"
        case ValidationErrorKind.ExclusiveMaximum(limit=limit):
            return f"must be less than {limit}"
        case ValidationErrorKind.MultipleOf(multiple_of=step):
            return f"must be a multiple of {step}"
        case ValidationErrorKind.MinItems(limit=limit):
            return f"must have at least {limit} entries"
        case ValidationErrorKind.MaxItems(limit=limit):
            return f"must have at most {limit} entries"
        case ValidationErrorKind.MinProperties(limit=limit):
            return f"must have at least {limit} fields"
        case ValidationErrorKind.MaxProperties(limit=limit):
            return f"must have at most {limit} fields"
        case ValidationErrorKind.UniqueItems():
            return "must not have an entry twice"
        case ValidationErrorKind.Enum(options=options):
            return f"must be one of {', '.join(str(option) for option in options[:MOST])}"
        case ValidationErrorKind.Pattern(pattern=pattern):
            return f"must match {pattern}"
        case _:
            return "is not what may stand here"
