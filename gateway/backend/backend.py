"""A `Backend` is the live thing that talks to a service: it picks an instance, and another one where that may help.

    Failure of a try                     told as                     breaker    another try
    no connection                        502 SERVICE_UNREACHABLE     counts     always
    no trusted connection (TLS)          502 SERVICE_NOT_TRUSTED     counts     always
    reset, cut short, not HTTP           502 BAD_ANSWER              counts     for idempotent methods, in the budget
    no answer in time                    504 SERVICE_TIMEOUT         counts     the same, while time is left
    no answer in the caller's own time   504 SERVICE_TIMEOUT         no         no
    an answer with 5xx                   as it is                    counts     the same, for `retry_on`
    its breaker is open                  503 CIRCUIT_OPEN                       at another instance
    all connections of the pool in use   503 SERVICE_BUSY            no         no
    the caller cut its own body short    400 INCOMPLETE_BODY         no         no

Before the first try: no place at the gate is 503 OVERLOADED (`shedding`), no time left 504 DEADLINE_EXCEEDED.

One request passes through `Entrance` (may it in?), and then for each try `Tries` (whom has it been to, and does it go
on?), `Balancer` (whom of those?), `Hedges` (two at once?) and `Instance`. Each says itself how it decides. Once a byte
of a long body was read from the caller there is no other try: it could not be sent again.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable

import gevent
from gevent import GreenletExit

from common.problems import GatewayTimeout, Problem, ServiceUnavailable
from gateway.backend.admission import Gate
from gateway.backend.balancing import Balancer
from gateway.backend.breaker import BreakerOpen
from gateway.backend.call import Call
from gateway.backend.findings import Findings
from gateway.backend.hedges import Hedges
from gateway.backend.instance import Instance, NoPlace, TryFailed
from gateway.backend.retries import Failure, RetryBudget, Tries, retry_after_s
from gateway.backend.shedding import Entrance
from gateway.backend.standing import electable
from gateway.exchange import Answer
from gateway.observability.metrics import Metrics
from gateway.services import Address, Service
from gateway.settings import GatewaySettings


class Backend:
    """Talks to the instances of a service. Shared by the greenlets of a worker; nothing here switches between a look
    and the change that follows from it."""

    def __init__(
        self, service: Service, settings: GatewaySettings, metrics: Metrics, *, before: Backend | None = None
    ) -> None:
        """`before` is that of the service as it was described until now. What it has found is known here too, and
        instances that are equal are taken over with all that they have learnt."""
        self.service, self._name = service, service.key
        self._settings, self._metrics = settings, metrics
        self._findings = Findings(service.sources, before._findings if before else None)
        self.greet: Callable[[Instance], None] = _nobody
        """Told of each instance that joins, from now on."""
        known = before.instances if before else ()
        self.instances = self._gathered(instance for instance in known if instance.suits(service))
        former = {instance.url: instance for instance in known}
        for instance in self.instances:
            if instance.url in former:
                instance.fitness.take_over(former[instance.url].fitness)
        self._balancer = Balancer(service.balance)
        self._budget = RetryBudget(service.retry_budget)
        self._hedges = Hedges(service.key, service.hedge, metrics) if service.hedge else None
        load = service.load
        gate = Gate(in_flight=load.in_flight, queue=load.queue, wait_s=load.wait_s) if load else None
        self._entrance = Entrance(service.key, gate, metrics) if gate else None

    def take(self, source: str, found: Iterable[Address]) -> None:
        """What one source of instances (a name, the registry) says now: all of its instances.

        Instances that stay keep their connections; requests to those that are gone may finish.
        """
        self._findings.take(source, found)
        before, self.instances = self.instances, self._gathered(self.instances)
        for instance in before:
            if instance not in self.instances:
                instance.close()

    def _gathered(self, known: Iterable[Instance]) -> tuple[Instance, ...]:
        """An instance for each address that was found, those that are `known` as they are."""
        by_address = {(instance.url, instance.host): instance for instance in known}
        gathered: list[Instance] = []
        for address in self._findings.addresses:
            instance = by_address.get((address.url, address.host))
            if instance is None:
                joined_at = time.monotonic() if by_address else None
                instance = Instance(
                    self.service, address.url, self._settings, self._metrics, host=address.host, joined_at=joined_at
                )
                self.greet(instance)
            instance.share = address.weight
            instance.fitness.fellows = lambda: self.instances
            gathered.append(instance)
        return tuple(gathered)

    def send(self, call: Call) -> Answer:
        """The service's answer, whatever its status. Raises the problems listed on top, and `CallerGone`."""
        if not call.time.left_s():
            raise GatewayTimeout("The time for this request was over before its work began.", code="DEADLINE_EXCEEDED")
        if self._entrance is None:
            return self._send(call)
        return self._entrance.admit(call, self._send)

    @property
    def crowd(self) -> str:
        """How many are at it in this worker, in words; "" where nothing bounds them."""
        return self._entrance.crowd if self._entrance else ""

    def would_pick(self, key: str) -> Instance:
        """Whom the next request would go to; nothing changes by asking. Raises what `send` would."""
        candidates = electable(self._admitting(), time.monotonic())
        if not candidates:
            raise self._nobody(is_asked=False)
        return copy.deepcopy(self._balancer).pick(candidates, key)

    def _send(self, call: Call) -> Answer:
        tries = Tries(call.method, self.service.retries, self._budget)
        if not call.is_copy:
            self._budget.request()
        try:
            return self._answer(call, tries)
        finally:
            if tries.made > 1:
                call.notes["tries"] = tries.made

    def _answer(self, call: Call, tries: Tries) -> Answer:
        while True:
            try:
                answer = self._ask(call, tries)
            except BreakerOpen:  # somebody else has just taken its trial, or opened it
                continue
            except TryFailed as failed:
                reason, rest_s = failed.failure, self._rest_s(failed.failure, call, tries)
                if rest_s is None:
                    raise failed.take_problem() from failed
            else:
                reason, rest_s = Failure.STATUS, self._rest_after_s(answer, call, tries)
                if rest_s is None:
                    return answer
                answer.close()
            self._metrics.retried(self.service.key, reason.value)
            gevent.sleep(rest_s)

    def _ask(self, call: Call, tries: Tries) -> Answer:
        """One try, or two beside each other. Raises `TryFailed`, `BreakerOpen` and the problem if there is nobody."""
        first = self._first(call, tries)
        if call.stages:
            call.stages.ended("instance")
        try:
            if self._hedges is None or tries.made or not self._hedges.wants(call):
                return self._try(first, call, tries)

            def second() -> Callable[[], Answer] | None:
                elected = electable(self._admitting(), time.monotonic())
                others = [instance for instance in elected if instance is not first and instance.has_place]
                chosen = self._pick(others, call.key) if others else None
                return None if chosen is None else lambda: self._try(chosen, call, tries)

            return self._hedges.ask(call, lambda: self._try(first, call, tries), second)
        finally:
            if call.stages:
                call.stages.ended("service")

    def _first(self, call: Call, tries: Tries) -> Instance:
        """Who is asked next. Raises the problem if there is nobody."""
        now = time.monotonic()
        if not tries.made and self._are_all_ready(now):
            return self._balancer.pick(self.instances, call.key)
        candidates = electable(tries.candidates(self._admitting()), now)
        if not candidates:
            raise self._nobody()
        return self._pick(candidates, call.key)

    def _are_all_ready(self, now: float) -> bool:
        """The usual case, in which nothing but the balancer decides."""
        for instance in self.instances:
            if not instance.is_ready(now):
                return False
        return bool(self.instances)

    def _pick(self, candidates: list[Instance], key: str) -> Instance:
        with_place = [instance for instance in candidates if instance.has_place]
        return self._balancer.pick(with_place or candidates, key)

    def _admitting(self) -> list[Instance]:
        """Who may get a request just now, as far as breakers and operators say."""
        return [instance for instance in self.instances if instance.admits]

    def _nobody(self, *, is_asked: bool = True) -> Problem:
        """What is told where no instance may get a request."""
        if all(instance.standing.is_draining for instance in self.instances):
            return ServiceUnavailable(
                f"No instance of the service {self.service.key} is there to be asked just now.",
                code="NO_INSTANCE",
                retry_after_s=1,
            )
        if is_asked:
            self._metrics.called(self.service.key, "breaker_open")
        return ServiceUnavailable(
            f"The service {self.service.key} failed repeatedly and is being left alone for a moment.",
            code="CIRCUIT_OPEN",
            retry_after_s=min((i.breaker.seconds_left for i in self.instances if i.breaker), default=1),
        )

    def _try(self, instance: Instance, call: Call, tries: Tries) -> Answer:
        service = self._name
        tries.begin(instance)
        call.notes["instance"] = instance.url
        try:
            answer = instance.call(call, call.time.limit(call.try_timeout_s))
        except BreakerOpen:
            tries.was_refused(instance)
            raise
        except TryFailed as failed:
            self._metrics.called(service, failed.outcome)
            raise
        except NoPlace:
            self._metrics.called(service, "busy")
            raise ServiceUnavailable(
                f"The service {service} is busy: too many requests are waiting for it.", code="SERVICE_BUSY"
            ) from None
        except GreenletExit:
            self._metrics.called(service, "called_off")
            raise
        self._metrics.called(service, "5xx" if answer.status >= 500 else "ok")
        call.notes["instance"] = instance.url  # not that of a try beside it
        return answer

    def _rest_after_s(self, answer: Answer, call: Call, tries: Tries) -> float | None:
        """As `_rest_s`, after an answer; None if it is the one to give back."""
        if answer.status not in self.service.retry_on or (answer.status == 504 and call.is_hasty):
            return None
        tries.put_off(answer.instance_url, retry_after_s(answer.header("retry-after"), time.time()))
        return self._rest_s(Failure.STATUS, call, tries)

    def _rest_s(self, failure: Failure, call: Call, tries: Tries) -> float | None:
        """How long to rest until the next try, None if there is to be none."""
        if call.is_copy:
            return None
        return tries.pause_s(
            failure, self._admitting(), left_s=call.time.left_s(), is_body_untouched=call.body.rewind()
        )


def _nobody(instance: Instance) -> None:
    pass
