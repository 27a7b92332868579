"""A request as it arrived at a stub."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.http1 import all_values


@dataclass(frozen=True, slots=True)
class Received:
    """Everything as it stood on the wire, read as latin-1; `body` is decoded if it was chunked."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    @property
    def path(self) -> str:
        """The target before its question mark, not decoded."""
        return self.target.partition("?")[0]

    def all(self, name: str) -> list[str]:
        """Every value of a header, its name in any case."""
        return all_values(self.headers, name)

    def header(self, name: str) -> str | None:
        """The only value of a header, None without it. Raises ValueError when it was repeated."""
        values = self.all(name)
        if len(values) > 1:
            raise ValueError(f"{name} was sent {len(values)} times: {values}")
        return values[0] if values else None
