"""What workers tell each other of instances, by the bus; no request waits for it.

    topic       what                                                  for whom
    standing    a verdict, an ejection; all of them at each interval  the workers of the same host
    breaker     opened, for how long yet; closed                      the workers of the same host
    drain       an operator's word                                    all workers of all hosts

A host is one gunicorn master with its workers. They have one network between them and the instances, so what one of
them has found out holds for the others. It need not hold for another host: one whose own network is broken finds every
instance dead, and must not make all other hosts leave them alone. Each host finds out for itself, which takes a few
requests. An operator's word is no finding; it holds everywhere, and Redis keeps it (`drains`).

Whoever learns something does not tell it again. The bus keeps what it can't send while Redis is away; such old news
about the standing and the breakers of instances are passed over. (The workers of a host have one clock.)

*Who was not there.* A worker that begins to listen, or listens again, asks; the one on duty (`checks`) answers with all
that it knows. Besides, it tells the verdicts of a service whenever it has checked all its instances, which heals what
was missed: a worker may hear of an instance before its own table has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Protocol, cast

import gevent
import redis
import structlog

from gateway.backend.backend import Backend
from gateway.backend.drains import Drains, Name, Word
from gateway.backend.duty import Duty
from gateway.backend.instance import Instance
from gateway.backend.standing import LONGEST_TOLD_S, Report
from gateway.bus import Message, Take

log = structlog.get_logger("sharing")

STANDING, BREAKER, DRAIN = "standing", "breaker", "drain"
MOST_TOLD = 64  # reports in one message, which has its largest size
GATHER_S = 0.1  # those who ask at the same time get one answer
RETRY_S = 1.0
OLD_S = 3.0


class News(Protocol):
    """`gateway.bus.Bus`, or what behaves like it."""

    on_reconnect: list[Callable[[], None]]

    @property
    def is_connected(self) -> bool: ...
    def on(self, topic: str, take: Take) -> None: ...
    def tell(self, topic: str, message: Message) -> None: ...


class UnknownInstance(Exception):
    """No service of that name has an instance of that URL."""


class Sharing:
    """Of one worker. Its greenlets share it: the one that listens, and those that find something out. Nothing here
    switches between a look and the change that follows."""

    def __init__(
        self,
        bus: News,
        drains: Drains,
        duty: Duty,
        *,
        clock: Callable[[], float] = time.time,
        spawn_later: Callable[[float, Callable[[], None]], object] = gevent.spawn_later,
    ) -> None:
        """Who has the `duty` answers those who ask; `clock` gives the Unix time."""
        self._bus, self._drains, self._duty = bus, drains, duty
        self._clock, self._spawn_later = clock, spawn_later
        self._backends: Mapping[str, Backend] = {}
        self._words: dict[Name, Word] = {}  # the last of the operators about each instance
        self._heard_at: dict[str, float] = {}
        self._will_answer = False
        bus.on(STANDING, self._standing_told)
        bus.on(BREAKER, self._breaker_told)
        bus.on(DRAIN, self._drain_told)
        bus.on_reconnect.append(self._catch_up)

    def follow(self, backends: Mapping[str, Backend]) -> None:
        """Speak for the instances of these, by the service's key, from now on. Neither waits nor raises."""
        self._backends = backends
        self._heard_at = {key: at for key, at in self._heard_at.items() if key in backends}
        for backend in backends.values():
            backend.greet = partial(self._greet, backend.service.key)
            for instance in backend.instances:
                backend.greet(instance)

    def silent_s(self, service: str) -> float:
        """For how long nobody has told the verdicts of this service; the first time that one asks counts as a word."""
        now = self._clock()
        return now - self._heard_at.setdefault(service, now)

    def tell_all(self, backend: Backend) -> None:
        """All that is known of the instances of a service."""
        reports = [instance.fitness.report().to_dict() for instance in backend.instances]
        for begin in range(0, len(reports), MOST_TOLD):
            self._tell_standing(backend.service.key, reports[begin : begin + MOST_TOLD], is_whole=True)

    def drain(self, service: str, url: str, is_draining: bool, *, by: str) -> Instance:
        """An operator, `by`, wants no new requests to go to an instance, or wants them to again. Returns it.

        Raises `UnknownInstance`, and `redis.RedisError` when the others can't be told; then nothing has changed.
        """
        instance = self._find(service, url)
        if instance is None:
            raise UnknownInstance
        name = service, url
        said_at, known = self._clock(), self._words.get(name)
        # the last word, also if a host whose clock is fast had the one before
        word = Word(is_draining, max(said_at, known.said_at + 0.001) if known else said_at)
        self._drains.put(name, word)
        self._hear(name, word, by=by)
        self._bus.tell(DRAIN, {"service": service, "url": url, **asdict(word)})
        return instance

    def _greet(self, service: str, instance: Instance) -> None:
        """An instance joins the table, or goes over to another one: it is to be spoken for."""
        instance.fitness.tell = lambda report: self._tell_standing(service, [report.to_dict()])
        if instance.breaker:
            instance.breaker.tell = partial(self._tell_breaker, service, instance.url)
        word = self._words.get((service, instance.url))
        if word and word.is_draining:
            instance.fitness.set_draining(True)

    def _find(self, service: str, url: str) -> Instance | None:
        backend = self._backends.get(service)
        instances = backend.instances if backend else ()
        return next((instance for instance in instances if instance.url == url), None)

    def _tell_standing(self, service: str, reports: Sequence[Mapping[str, object]], *, is_whole: bool = False) -> None:
        news = {"service": service, "is_whole": is_whole, "reports": list(reports)}
        self._bus.tell(STANDING, {**self._stamp(), **news})

    def _tell_breaker(self, service: str, url: str, state: str, left_s: float) -> None:
        self._bus.tell(BREAKER, {**self._stamp(), "service": service, "url": url, "state": state, "left_s": left_s})

    def _stamp(self) -> dict[str, object]:
        return {"host": self._duty.host, "at": self._clock()}

    def _is_ours(self, news: Message) -> bool:
        """From this host, and fresh."""
        match news:
            case {"host": self._duty.host, "at": int() | float() as at}:
                return abs(self._clock() - at) <= OLD_S
            case _:
                return False

    def _standing_told(self, news: Message) -> None:
        match news:
            case _ if not self._is_ours(news):
                pass
            case {"asks": True}:
                self._answer_soon()
            case {"service": str(service), "is_whole": is_whole, "reports": list(reports)}:
                if is_whole is True and service in self._backends:
                    self._heard_at[service] = self._clock()
                self._learn(service, cast("list[object]", reports))
            case _:
                pass  # nonsense

    def _learn(self, service: str, reports: Iterable[object]) -> None:
        for report in filter(None, map(Report.from_dict, islice(reports, MOST_TOLD))):
            if instance := self._find(service, report.url):
                instance.fitness.learn(report)

    def _breaker_told(self, news: Message) -> None:
        match news:
            case {"service": str(service), "url": str(url), "state": str(state), "left_s": int() | float() as left_s}:
                instance = self._find(service, url)
                if instance and instance.breaker and self._is_ours(news) and 0 <= left_s <= LONGEST_TOLD_S:
                    instance.breaker.learn(state, left_s)
            case _:
                pass  # nonsense

    def _drain_told(self, news: Message) -> None:
        match news:
            case {
                "service": str(service),
                "url": str(url),
                "is_draining": bool(is_draining),
                "said_at": int() | float() as said_at,
            }:
                self._hear((service, url), Word(is_draining, said_at))
            case _:
                pass  # nonsense

    def _hear(self, name: Name, word: Word, *, by: str = "") -> None:
        if not word.is_later_than(self._words.get(name)):
            return
        self._words[name] = word
        if instance := self._find(*name):
            instance.fitness.set_draining(word.is_draining, by=by)

    def _catch_up(self) -> None:
        """The bus is (again) listened to: what was told before must be found out."""
        self._bus.tell(STANDING, {**self._stamp(), "asks": True})
        self._spawn_later(0, self._compare_drains)

    def _compare_drains(self) -> None:
        """Take over what operators have said meanwhile, and write down again what Redis has forgotten."""
        if not self._bus.is_connected:
            return  # it will be caught up again
        try:
            written = self._drains.all()
            for name, word in list(self._words.items()):
                if word.is_later_than(written.get(name)):
                    self._drains.put(name, word)
        except redis.RedisError as error:
            log.warning("drains_unread", reason=type(error).__name__)
            self._spawn_later(RETRY_S, self._compare_drains)
            return
        for name, word in written.items():
            self._hear(name, word)

    def _answer_soon(self) -> None:
        if self._duty.is_mine and not self._will_answer:
            self._will_answer = True
            self._spawn_later(GATHER_S, self._answer)

    def _answer(self) -> None:
        self._will_answer = False
        for key, backend in self._backends.items():
            self.tell_all(backend)
            for instance in backend.instances:
                if instance.breaker and instance.breaker.left_s > 0:
                    self._tell_breaker(key, instance.url, instance.breaker.state, instance.breaker.left_s)
