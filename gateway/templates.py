"""Which of many path templates fit a path, the most specific first?

A tree of segments. At each segment a literal beats `<name>`, which takes one segment, and that beats `<path:name>`,
which takes all that follow, even none. What the names are called makes no difference, nor does a slash at the end.

A look-up follows the path's segments, not the templates: it goes back where a branch leads nowhere, so it sees at most
one node for each way of reading the path as literals and names.

Items that have one template between them are kept in the order in which they are asked: the more conditions the
earlier; then the more telling host; then one that names its methods before one that takes any; then as they came.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from gateway.matching import Conditions, host_rank

T = TypeVar("T")


class Templates(Generic[T]):
    """A node of the tree, and all below it. Filled first, only read afterwards; greenlets share it without a lock."""

    __slots__ = ("_here", "_literals", "_one", "_rest")

    def __init__(self) -> None:
        self._literals: dict[str, Templates[T]] = {}
        self._one: Templates[T] | None = None
        self._here: list[T] = []
        self._rest: list[T] = []

    def put(self, template: str, item: T, order: Callable[[T], Precedence]) -> None:
        """Add an item under `template`, behind those that go before it by `order`."""
        insort(self.same(template), item, key=order)  # behind its equals: they keep the file's order

    def same(self, template: str) -> list[T]:
        """The items of all templates that are equal to this one but for names."""
        node = self
        for segment in segments_of(template):
            if segment.startswith("<path:"):
                return node._rest
            if segment.startswith("<"):
                node._one = node._one or Templates()
                node = node._one
            else:
                node = node._literals.setdefault(segment, Templates())
        return node._here

    def fitting(self, segments: Sequence[str], position: int = 0) -> list[list[T]]:
        """Items whose template fits what stands from `position` on; those of one template together, perhaps none."""
        if position >= len(segments):
            return [self._here, self._rest]
        found: list[list[T]] = []
        literal = self._literals.get(segments[position])
        if literal is not None:
            found += literal.fitting(segments, position + 1)
        if self._one is not None:
            found += self._one.fitting(segments, position + 1)
        found.append(self._rest)
        return found

    def __iter__(self) -> Iterator[T]:
        yield from (*self._here, *self._rest)
        for below in (*self._literals.values(), *((self._one,) if self._one else ())):
            yield from below


Precedence = tuple[int, tuple[int, int, int], bool]


def precedence(conditions: Conditions, methods: Iterable[str]) -> Precedence:
    """The lower, the earlier is a route asked among those with its template. Of several hosts the vaguest counts."""
    kind, labels, port = min(map(host_rank, conditions.hosts), default=host_rank(None))
    return -len(conditions), (-kind, -labels, -port), "*" in methods


def segments_of(path: str) -> list[str]:
    """Without empty ones: a slash at the end makes no difference."""
    return [segment for segment in path.split("/") if segment]
