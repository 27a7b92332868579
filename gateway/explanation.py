"""What would become of a request, step by step; `explaining` finds it out, `telling` puts it in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from pydantic import TypeAdapter

from common.codes import CODES
from gateway.rehearsing import HeaderPairs
from gateway.rewriting import HeaderChanges

Outcome = Literal["passes", "refuses", "answers"]

NOT_SHOWN = "(not shown)"
_SECRET_FIELDS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})


@dataclass(frozen=True, slots=True)
class Step:
    """What one part of the gateway says."""

    part: str  # parser, edge, page, router, a policy's name, backend
    outcome: Outcome
    words: str
    place: str = ""  # file:line of the configuration or the code that says so


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would become of a request. `status` 0: the service's to say."""

    method: str
    target: str
    status: int
    code: str
    route: str
    service: str
    instance: str
    instances: tuple[tuple[str, str], ...]  # address and state of each, where the request gets that far
    outgoing: str  # what the service would be asked for, "" if nothing
    outgoing_headers: HeaderPairs
    response_headers: HeaderChanges  # what would be changed of the answer
    location: str  # of a redirect
    passed_over: tuple[str, ...]  # candidates that lost, each with the reason
    steps: tuple[Step, ...]

    @property
    def decided_by(self) -> str:
        """The part that refuses or answers, "" where the request passes."""
        return next((step.part for step in self.steps if step.outcome != "passes"), "")

    @property
    def passes(self) -> bool:
        return not self.decided_by

    @property
    def way_out(self) -> str:
        return way_out(self.code)

    @property
    def shown_headers(self) -> HeaderPairs:
        """`outgoing_headers` without credentials."""
        pairs = self.outgoing_headers
        return tuple((name, NOT_SHOWN if name.lower() in _SECRET_FIELDS else value) for name, value in pairs)

    def to_dict(self) -> dict[str, object]:
        """For JSON, without credentials."""
        more = {"outgoing_headers": self.shown_headers, "decided_by": self.decided_by, "way_out": self.way_out}
        return {**asdict(self), **more}


def from_dict(read: object) -> Explanation:
    """An explanation, as `to_dict` gave it and JSON brought it."""
    return TypeAdapter(Explanation).validate_python(read)


def way_out(code: str) -> str:
    """What to do about a problem, "" for a code that is not ours."""
    return next((known.way_out for known in CODES if known.name == code), "")
