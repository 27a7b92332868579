"""A `Backend` is the live thing that talks to a service: it picks an instance, and another one where that may help.

    Failure of a try                    told as                     breaker    another instance is tried
    no connection                       502 SERVICE_UNREACHABLE     counts     always
    reset, cut short, not HTTP          502 BAD_ANSWER              counts     for idempotent methods, in the budget
    no answer in time                   504 SERVICE_TIMEOUT         counts     the same, while time is left
    an answer with 5xx                  as it is                    counts     the same, for `retry_on`
    its breaker is open                 503 CIRCUIT_OPEN                       always
    all connections of the pool in use  503 SERVICE_BUSY            no         no
    the caller cut its own body short   400 INCOMPLETE_BODY         no         no

A service with one instance is tried once; only a failed connection is tried again, for nothing of it has gone out. Once
a byte of a long body was read from the caller there is no other try: it could not be sent again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import gevent
from urllib3.exceptions import EmptyPoolError

from common.problems import ServiceUnavailable
from gateway.backend.balancing import Balancer
from gateway.backend.breaker import BreakerOpen
from gateway.backend.instance import Instance, TryFailed
from gateway.backend.retries import Failure, RetryBudget, backoff_s, may_retry
from gateway.body import Body
from gateway.exchange import Answer
from gateway.observability.metrics import Metrics
from gateway.services import Address, Service
from gateway.settings import GatewaySettings

BACKOFF_BASE_S = 0.025
BACKOFF_LONGEST_S = 0.25


@dataclass(frozen=True, slots=True)
class Call:
    """What is to be sent, whichever instance gets it. `key` is what the `hash` balancer goes by."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: Body
    key: str = ""


class Backend:
    """Talks to the instances of a service. Shared by the greenlets of a worker; nothing here switches between a look
    and the change that follows from it."""

    def __init__(
        self, service: Service, settings: GatewaySettings, metrics: Metrics, *, instances: Iterable[Instance] = ()
    ) -> None:
        """`instances` are those of the backend before: what is equal is taken over with all that it has learnt."""
        self.service = service
        self.instances: tuple[Instance, ...] = ()
        self._known = {instance.url: instance for instance in instances if instance.suits(service)}
        self._found: dict[str, tuple[Address, ...]] = {}
        self._settings, self._metrics = settings, metrics
        self._balancer = Balancer(service.balance)
        self._budget = RetryBudget(service.retry_budget)
        self.take("static", service.sources.static)

    def take(self, source: str, found: Iterable[Address]) -> None:
        """What one source of instances (the list in the file, a name, the registry) says now: all of its instances.

        Instances that stay keep their connections; requests to those that are gone may finish.
        """
        self._found[source] = tuple(found)
        known = self._known | {instance.url: instance for instance in self.instances}
        self._known = {}
        wanted: dict[str, Instance] = {}
        for address in (address for addresses in self._found.values() for address in addresses):
            instance = known.get(address.url) or Instance(self.service, address.url, self._settings, self._metrics)
            instance.share = address.weight
            wanted.setdefault(address.url, instance)
        self.instances = tuple(wanted.values())

    def send(self, call: Call) -> Answer:
        """The service's answer, whatever its status. Raises the problems listed on top, and `CallerGone`."""
        give_up_at = time.monotonic() + self.service.timeout_s
        self._budget.request()
        left = list(self.instances)
        tries = 0
        while True:
            instance = self._pick(left, call.key)
            left.remove(instance)
            tries += 1
            time_left_s = max(0.001, give_up_at - time.monotonic())
            try:
                answer = self._try(instance, call, time_left_s)
            except BreakerOpen:  # somebody else has just taken its trial, or opened it
                tries -= 1
                continue
            except TryFailed as failed:
                if not self._goes_on(failed.failure, call, left, tries, give_up_at):
                    raise failed.problem from failed
                continue
            if answer.status not in self.service.retry_on or not self._goes_on(
                Failure.STATUS, call, left, tries, give_up_at
            ):
                return answer
            answer.close()

    def _pick(self, left: list[Instance], key: str) -> Instance:
        admitting = [instance for instance in left if instance.admits]
        if admitting:
            return self._balancer.pick(admitting, key)
        if not self.instances:
            raise ServiceUnavailable(
                f"No instance of the service {self.service.key} is known just now.", code="NO_INSTANCE", retry_after_s=1
            )
        self._metrics.called(self.service.key, "breaker_open")
        raise ServiceUnavailable(
            f"The service {self.service.key} failed repeatedly and is being left alone for a moment.",
            code="CIRCUIT_OPEN",
            retry_after_s=min((i.breaker.seconds_left for i in self.instances if i.breaker), default=1),
        )

    def _try(self, instance: Instance, call: Call, time_left_s: float) -> Answer:
        is_only = len(self.instances) == 1 and self.service.retries > 0
        try:
            answer = instance.call(call.method, call.target, call.headers, call.body, time_left_s, is_only=is_only)
        except TryFailed as failed:
            self._metrics.called(self.service.key, failed.outcome)
            raise
        except EmptyPoolError:
            self._metrics.called(self.service.key, "busy")
            raise ServiceUnavailable(
                f"The service {self.service.key} is busy: too many requests are waiting for it.", code="SERVICE_BUSY"
            ) from None
        self._metrics.called(self.service.key, "5xx" if answer.status >= 500 else "ok")
        return answer

    def _goes_on(self, failure: Failure, call: Call, left: list[Instance], tries: int, give_up_at: float) -> bool:
        """Whether another instance is to be tried; waits a moment if so."""
        is_free = failure is Failure.NOT_CONNECTED  # nobody has borne that try
        if not may_retry(failure, call.method, is_body_untouched=call.body.rewind()):
            return False
        if not any(instance.admits for instance in left) or (not is_free and tries > self.service.retries):
            return False
        wait_s = 0.0 if is_free else backoff_s(tries, base_s=BACKOFF_BASE_S, longest_s=BACKOFF_LONGEST_S)
        if time.monotonic() + wait_s >= give_up_at or not (is_free or self._budget.take()):
            return False
        self._metrics.retried(self.service.key, failure.value)
        gevent.sleep(wait_s)
        return True
