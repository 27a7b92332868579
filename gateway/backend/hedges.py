"""Which requests of a service get a second try beside the first, and when it begins; `hedging` says why and how.

GET and HEAD without a body, where the service wants it (`hedge` in the services file), the first try has lasted for
longer than 95 % of them do (or `after_ms`), another instance can be had, and the budget allows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.backend.call import Call
from gateway.backend.hedging import LatencyQuantile, first_good
from gateway.backend.retries import RetryBudget
from gateway.exchange import Answer
from gateway.observability.metrics import Metrics
from gateway.services import HedgeRule


@dataclass(slots=True)
class _Race:
    """What becomes of one request."""

    is_on: bool = False  # there is a second try
    second_try: Callable[[], Answer] | None = None
    second_answer: Answer | None = None


class Hedges:
    """Of one service in one worker, shared by its greenlets; nothing switches between a look and a change."""

    def __init__(self, service: str, rule: HedgeRule, metrics: Metrics) -> None:
        self._service, self._metrics = service, metrics
        self._after_s = rule.after_s
        self._latency = LatencyQuantile()
        self._budget = RetryBudget(rule.budget)

    @staticmethod
    def wants(call: Call) -> bool:
        """Whether nothing speaks against sending it twice."""
        return call.method in ("GET", "HEAD") and call.body.length == 0 and not call.is_copy

    def ask(self, call: Call, first: Callable[[], Answer], second: Callable[[], Callable[[], Answer] | None]) -> Answer:
        """The first good answer of `first` and, if that is late, of the try that `second` gives then, or None where
        there is nobody else to ask; else the failure of `first`. Raises what that raises."""
        self._budget.request()
        race = _Race()

        def may_start_second() -> bool:
            race.second_try = second()
            race.is_on = race.second_try is not None and self._budget.take()
            if not race.is_on:
                self._metrics.hedged(self._service, "refused")
            return race.is_on

        def noted_second() -> Answer:
            assert race.second_try is not None
            race.second_answer = race.second_try()
            return race.second_answer

        answer: Answer | None = None
        try:
            answer = first_good(
                lambda: self._observed(first),
                noted_second,
                after_s=self._latency.value_s if self._after_s is None else self._after_s,
                may_start_second=may_start_second,
                discard=Answer.close,
                is_good=_is_good,
            )
            return answer
        finally:
            if race.is_on:
                call.notes["hedged"] = outcome = "won" if answer and answer is race.second_answer else "lost"
                self._metrics.hedged(self._service, outcome)

    def _observed(self, first: Callable[[], Answer]) -> Answer:
        began = time.monotonic()
        try:
            return first()
        finally:
            self._latency.observe(time.monotonic() - began)


def _is_good(answer: Answer) -> bool:
    return answer.status < 500
