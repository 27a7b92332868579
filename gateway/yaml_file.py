"""A YAML file and the places in it: what each value says, and at which line and column it stands.

Keys that stand twice are refused: the first one would be lost without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Location = tuple[int | str, ...]
"""Where a value is: keys and list positions from the top, such as `("services", "users", "limits")`."""


class YamlError(Exception):
    """The file can't be read, or is not YAML; the text is `file:line:column: what is wrong`."""


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A file as it was read. `path` is what messages call it."""

    path: str
    text: str
    document: object
    root: yaml.Node | None

    def place(self, location: Location) -> str:
        """`file:line:column` of the key or list entry at `location`, or of the nearest one above it."""
        marks = list(_marks(self.root, location))
        return f"{self.path}:{marks[-1].line + 1}:{marks[-1].column + 1}" if marks else f"{self.path}:1:1"

    def line(self, location: Location) -> str:
        """`file:line` of what stands at `location`, "" if nothing does."""
        marks = list(_marks(self.root, location))
        return f"{self.path}:{marks[-1].line + 1}" if len(marks) > len(location) else ""


class _UniqueKeys(yaml.SafeLoader):
    pass


def _construct_mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be text", key.start_mark)
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
        seen.add(key.value)
    loader.flatten_mapping(node)
    return {
        loader.construct_object(key, deep=True): loader.construct_object(value, deep=True) for key, value in node.value
    }


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def read(path: Path) -> YamlFile:
    """The file at `path`. Raises `YamlError`."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise YamlError(f"{path}: can't be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise YamlError(f"{path}: is not UTF-8 text") from None


def parse(text: str, path: str) -> YamlFile:
    """`text`, which messages say to be from `path`. Raises `YamlError`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        raise YamlError(f"{place}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise YamlError(f"{path}: {error}") from None
    return YamlFile(path, text, document, root)


def _marks(node: yaml.Node | None, location: Location) -> Iterator[yaml.Mark]:
    """Of the whole, then of each step of `location` as far as it leads."""
    if node is not None and node.start_mark is not None:
        yield node.start_mark
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                return
            yield pair[0].start_mark
            node = pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            if node is not None and node.start_mark is not None:
                yield node.start_mark
        else:
            return
