"""A YAML file and the places in it: what each value says, and at which line and column it stands.

The text is composed once; the document is made from the nodes that the places come from. Two things differ from what
YAML says, both to keep faults from going by without a word:

- Keys are text, as they are written: `2` and `on` are no number and no truth value. Keys that stand twice are noted in
  `YamlFile.faults`; of these the last one counts, so that whoever reads on finds the other faults, too.
- A lone `!` is a fault: YAML takes it for an empty text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

if TYPE_CHECKING:
    QuickLoader = yaml.SafeLoader
else:  # a PyYAML without libyaml reads the same, ten times slower
    QuickLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Location = tuple[int | str, ...]
"""Where a value is: keys and list positions from the top, such as `("services", "users", "limits")`."""

_STRING, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_LONGEST_SHOWN = 80
_HINTS = (
    ("character '\\t'", "a tab can't indent; use blanks"),
    ("cannot start any token", "put the value in quotes"),
    ("expected <block end>", "the indentation fits no line above, or a text goes on behind its quotes"),
    ("mapping values are not allowed", "put a value with a colon and a blank in quotes"),
    ("could not find expected ':'", "a key wants a colon and a blank behind it"),
    ("while scanning an alias", "put a value that begins with * in quotes"),
    ("undefined alias", "put a value that begins with * in quotes"),
    ("constructor for the tag", "put a value that begins with ! in quotes"),
)


class YamlError(Exception):
    """The file can't be read, or is not YAML; the text is `file:line:column: what is wrong`."""


class Place(NamedTuple):
    """Both from 1."""

    line: int
    column: int

    @classmethod
    def of(cls, mark: yaml.Mark | None) -> Place:
        return cls(1, 1) if mark is None else cls(mark.line + 1, mark.column + 1)


class KeyFault(NamedTuple):
    """What is wrong with a key, or with a text that YAML reads as none."""

    place: Place
    words: str


_Pairs = dict[str, tuple[yaml.Node, yaml.Node]]


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A file as it was read. `path` is what messages call it. Who reads on has to tell its `faults`."""

    path: str
    text: str
    document: object
    root: yaml.Node | None
    faults: tuple[KeyFault, ...] = ()
    _pairs: dict[int, _Pairs] = field(default_factory=dict[int, _Pairs], repr=False, compare=False)

    def at(self, location: Location) -> Place:
        """Of the key or list entry at `location`, or of the nearest one above it."""
        return Place.of([node for node, _value in self._steps(location)][-1].start_mark) if self.root else Place(1, 1)

    def place(self, location: Location) -> str:
        """`file:line:column`, as `at`."""
        return self.named(self.at(location))

    def named(self, place: Place) -> str:
        return f"{self.path}:{place.line}:{place.column}"

    def line(self, location: Location) -> str:
        """`file:line` of what stands at `location`, "" if nothing does."""
        is_there = len(list(self._steps(location))) > len(location)
        return f"{self.path}:{self.at(location).line}" if is_there else ""

    def written(self, location: Location) -> str:
        """The value at `location` as it is written, a text in quotes; what kind it is if it has parts; "" for none."""
        steps = list(self._steps(location))
        if len(steps) <= len(location):
            return ""
        match steps[-1][1]:
            case yaml.MappingNode():
                return "a mapping"
            case yaml.SequenceNode():
                return "a list"
            case yaml.Node(tag=tag, value=value):
                return shown(value) if tag == _STRING else value

    def _steps(self, location: Location) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """Key and value of the whole, then of each step of `location` as far as it leads."""
        node = self.root
        if node is None:
            return
        yield node, node
        for part in location:
            if isinstance(node, yaml.MappingNode):
                pair = self._pairs_of(node).get(str(part))
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                pair = node.value[part], node.value[part]
            else:
                return
            if pair is None:
                return
            yield pair
            node = pair[1]

    def _pairs_of(self, node: yaml.MappingNode) -> _Pairs:
        """By key; made once, as a file may have thousands. What `<<` brought in stands before the node's own."""
        if id(node) not in self._pairs:
            self._pairs[id(node)] = {key.value: (key, value) for key, value in node.value if _is_text(key)}
        return self._pairs[id(node)]


def shown(text: str) -> str:
    """`text` in quotes for a message, not longer than a line, and not at all if it might have a password in it."""
    if "@" in text:
        return "not shown"
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}...")


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
        try:
            return _parsed(_Quick, text, path)
        except yaml.YAMLError:
            return _parsed(_Telling, text, path)  # says better what is wrong
    except yaml.MarkedYAMLError as error:
        place = Place.of(error.problem_mark)
        raise YamlError(f"{path}:{place.line}:{place.column}: {_explained(error)}") from None
    except yaml.YAMLError as error:
        raise YamlError(f"{path}: {str(error).partition(' in ')[0].strip()}") from None
    except RecursionError:
        raise YamlError(f"{path}: is nested too deeply") from None
    except UnicodeEncodeError:  # half a character, which no file has
        raise YamlError(f"{path}: is not UTF-8 text") from None


def _parsed(kind: type[_Quick | _Telling], text: str, path: str) -> YamlFile:
    loader = kind(text)
    try:
        root = loader.get_single_node()
        faults = tuple(_faults(root, set())) if root else ()
        document: object = loader.construct_document(root) if root else None
        return YamlFile(path, text, document, root, faults)
    finally:
        loader.dispose()


def _explained(error: yaml.MarkedYAMLError) -> str:
    context, problem = error.context or "", error.problem or ""
    hint = next((hint for symptom, hint in _HINTS if symptom in f"{context} {problem}"), "")
    if problem.startswith("but "):
        problem = f"{context}, {problem}"
    for kind in ("undefined alias", "the tag"):  # what follows may be a password
        problem = problem.partition(f"{kind} ")[0] + kind if kind in problem else problem
    return f"{problem}; {hint}" if hint else problem


def _is_text(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode)


def _faults(node: yaml.Node, seen: set[int]) -> Iterator[KeyFault]:
    """In `node` and all below it, each node looked at once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        yield from _key_faults(node)
        for _key, value in node.value:
            yield from _faults(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _faults(value, seen)
    elif node.tag == _STRING and node.value == "" and not getattr(node, "style", ""):
        yield KeyFault(Place.of(node.start_mark), "a lone ! must be in quotes: '!'")


def _key_faults(node: yaml.MappingNode) -> Iterator[KeyFault]:
    first: dict[str, Place] = {}
    for key, _value in node.value:
        place = Place.of(key.start_mark)
        if not _is_text(key):
            yield KeyFault(place, "a key must be text")
        elif key.value in first:
            yield KeyFault(place, f"the key {shown(key.value)} stands twice, first in line {first[key.value].line}")
        else:
            first[key.value] = place


class _Construction(yaml.constructor.SafeConstructor):
    """Values from nodes. Keys are text; what can't be a value has its place told."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, IndexError, AttributeError):  # of dates like 2001-99-99 and tags like !!int x
            raise yaml.constructor.ConstructorError(
                None, None, "is no value that YAML knows; put it in quotes", node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)  # `<<`
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value if _is_text(key)}


class _Quick(_Construction, QuickLoader):
    pass


class _Telling(_Construction, yaml.SafeLoader):
    pass


_Quick.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _Quick.construct_mapping)
_Telling.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _Telling.construct_mapping)
