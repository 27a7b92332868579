"""What is to be asked of a service, whichever of its instances gets it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.backend.countdown import Countdown
from gateway.body import Body
from gateway.observability.stages import Stages
from gateway.services_file import Priority


@dataclass(slots=True)
class Call:
    """One request on its way to a service. `key` is what the `hash` balancer goes by."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: Body
    time: Countdown
    try_timeout_s: float
    key: str = ""
    priority: Priority = "normal"
    tells_time: bool = True  # the service is told for how long somebody waits
    is_copy: bool = False  # of a request that another service answers: sent once, or not at all
    notes: dict[str, str | int | float] = field(default_factory=dict[str, str | int | float])  # for the access line
    stages: Stages | None = None

    @property
    def is_hasty(self) -> bool:
        """The caller wants to wait for less than the service may take."""
        return self.time.wish_s is not None and self.time.wish_s < min(self.time.total_s, self.try_timeout_s)
