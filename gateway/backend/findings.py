"""Which instances does a service have? What its sources say, put together.

The list in the file is known from the beginning. A name and the registry are silent until they were asked, which takes
a moment, and for longer if nobody answers. Once they have spoken, their last word holds. An address that several
sources give is one instance; it has the weight that the first of them gives.

When a service is described anew while the gateway runs, what was found before is not forgotten:

- A source that it had before says what it said before.
- If its sources are all new and nobody has found an instance yet (a list was replaced by a name), the instances of
  before serve on, until a source has found one or all of them have spoken.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.notation import REGISTRY
from gateway.services import Address, Sources


class Findings:
    """Those of one service. Shared by the greenlets of a worker; each method is one step."""

    def __init__(self, sources: Sources, before: Findings | None = None) -> None:
        """`before` are those of the service as it was described until now."""
        said = before._said if before else {}
        asked = [source.text for source, _weight in sources.dns]
        if sources.registered is not None:
            asked.append(REGISTRY)
        self._static = sources.static
        self._said: dict[str, tuple[Address, ...] | None] = {text: said.get(text) for text in asked}  # None: silent
        self._before = before.addresses if before else ()

    def take(self, source: str, found: Iterable[Address]) -> None:
        """All that `source` (`dns:...` or `registry`) finds now. One that the service does not have is passed over: it
        was asked on behalf of the service as it was before."""
        if source in self._said:
            self._said[source] = tuple(found)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The instances, each once."""
        found: dict[str, Address] = {}
        for addresses in (self._static, *self._said.values()):
            for address in addresses or ():
                found.setdefault(address.url, address)
        if not found and None in self._said.values():
            return self._before
        return tuple(found.values())
