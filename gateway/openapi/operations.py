"""Which operation of a service's OpenAPI document is a request for?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from gateway.openapi.parts import Parameter, RequestBody
from gateway.templates import Templates


@dataclass(frozen=True, slots=True)
class Operation:
    """What may be asked by one method at one path."""

    method: str
    template: str
    parameters: tuple[Parameter, ...]
    body: RequestBody | None

    def path_values(self, segments: Sequence[str]) -> Iterator[tuple[str, str]]:
        """What the names in the path stand for in a path that fits."""
        for wanted, segment in zip(self.template.split("/")[1:], segments, strict=False):
            if wanted.startswith("{"):
                yield wanted[1:-1], segment


class Contract:
    """One document's operations. Never changed after it was made, so greenlets share it."""

    def __init__(self, operations: Iterable[Operation], base: str = "", names: Iterable[str] = ()) -> None:
        """`base` is what all paths begin with, as the document's first server says; `names` are those of all fields and
        parameters."""
        self.base, self.names = base, frozenset(names)
        self.operations = tuple(operations)
        self._templates = Templates[Operation]()
        for operation in self.operations:
            template = "/".join(_segment(part) for part in operation.template.split("/"))
            self._templates.put(template, operation, lambda _operation: (0, (0, 0, 0), False))

    def find(self, method: str, path: str) -> tuple[Operation, tuple[str, ...]] | None:
        """The operation for a path of the service, as it is on the wire, and the path's segments; None if the document
        does not know it."""
        if not path.startswith(self.base):
            return None
        segments = tuple(unquote(segment) for segment in path.removeprefix(self.base).split("/") if segment)
        for asked in (method, "GET") if method == "HEAD" else (method,):
            for operations in self._templates.fitting(segments):
                for operation in operations:
                    if operation.method == asked:
                        return operation, segments
        return None


def _segment(part: str) -> str:
    return f"<{part[1:-1]}>" if part.startswith("{") else unquote(part)
