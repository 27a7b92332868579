"""As much of a services file as can be used: what is wrong with single values is noted and left out.

So the rest can be looked at, too, and all faults are told at once. `Sound.damaged` says what was left out of each
service, so that nobody concludes anything from what is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from pydantic import ValidationError

from common.yaml_file import Location, YamlFile
from gateway.advice import values
from gateway.advice.findings import Finding
from gateway.services_file import ServicesFile

ALL = "*"
"""As a damaged key: the whole entry is missing."""
WHOLE = ""
"""As a damaged service: the file."""


@dataclass(frozen=True, slots=True)
class Sound:
    """`entries` are all that is well; `damaged` has, by service, the keys that are not."""

    entries: ServicesFile
    damaged: Mapping[str, frozenset[str]]
    findings: tuple[Finding, ...]


def sound(file: YamlFile) -> Sound:
    """What `file` has to say, and what is wrong with it."""
    document, damaged, found = file.document, dict[str, set[str]](), list[Finding]()
    while True:
        try:
            entries = ServicesFile.model_validate(document)
        except ValidationError as error:
            # once more: some things are only looked at when all keys of an entry are well
            found += values.findings(error, file)
            locations = [fault["loc"] for fault in error.errors(include_url=False)]
            rest = _without(document, locations, damaged)
            if rest == document:  # a key is told otherwise than it stands there, such as half a surrogate pair
                damaged.setdefault(WHOLE, set()).add("services")
                rest = {"services": {}}
            document = rest
            continue
        return Sound(entries, {name: frozenset(keys) for name, keys in damaged.items()}, tuple(found))


def _without(document: object, locations: Iterable[Location], damaged: dict[str, set[str]]) -> Mapping[str, object]:
    """`document` without what the locations are in; the same where none of them leads anywhere."""
    top = _copy(document)
    services = _copy(top.get("services"))
    for location in locations:
        match location:
            case ("services", str(name), str(key), *rest) if key != "[key]" and isinstance(services.get(name), Mapping):
                services[name] = _dropped(_copy(services[name]), key, rest)
                damaged.setdefault(name, set()).add(key)
            case ("services", str(name), *_):
                services.pop(name, None)
                damaged.setdefault(name, set()).add(ALL)
            case (str(key), *_):
                top.pop(key, None)
                damaged.setdefault(WHOLE, set()).add(key)
            case _:
                pass
    return {**top, "services": services}


def _dropped(entry: dict[str, object], key: str, rest: Sequence[int | str]) -> dict[str, object]:
    """A service's entry without `key`, or of several versions or routes without the one that is damaged."""
    value = entry.get(key)
    if key == "versions" and rest and isinstance(value, Mapping):
        return {**entry, key: {version: other for version, other in _copy(value).items() if version != rest[0]}}
    if key == "routes" and rest and isinstance(value, list):
        stub = {"path": f"/damaged-{rest[0]}"}  # positions stay, and this one is in nobody's way
        routes = enumerate(cast("list[object]", value))
        return {**entry, key: [stub if position == rest[0] else route for position, route in routes]}
    return {other: value for other, value in entry.items() if other != key}


def _copy(value: object) -> dict[str, object]:
    return dict(cast("Mapping[str, object]", value)) if isinstance(value, Mapping) else {}
