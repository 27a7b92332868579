"""The bus: what one worker learns, the workers of all hosts are told, by Redis' pub/sub.

No request waits for it. `tell` puts the news into a queue; one greenlet sends what is in it, all that has gathered in
one go; another one listens, and hands on what others said. Redis keeps no news: who does not listen misses it.

    listening    `is_connected`. When Redis has been quiet for a second, it is asked for a sign of life: a connection
                 whose other end is frozen or gone looks like a quiet one. After another second the stream is lost
    lost         one warning. After 0.1 to 2 s, with jitter, a new stream is tried
    listening    one line, and `on_reconnect` is called: what was told meanwhile must be found out in some other way.
    again        The first time as well, for a worker is not there from the beginning

While Redis is away the queue keeps the latest news, in their order, and sends them when it is back; what became of a
message is not always known when a connection breaks, so it may arrive twice.

The changes of the registry (`common.registry`), which not only workers tell, come as the topic `registry`.
"""

from __future__ import annotations

import random
import re
import threading
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import gevent
import orjson
import redis
import structlog
from redis.client import PubSub

from common.registry import REGISTRY
from gateway.services_file import TARGET_NAME
from gateway.shared import PREFIX

log = structlog.get_logger("bus")

CHANNEL = f"{PREFIX}:bus"
REGISTRY_TOPIC = "registry"
MOST_UNSENT = 1024
MOST_AT_ONCE = 128
LARGEST_BYTES = 64 * 1024
QUIET_S = 1.0
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
COMPLAINT_INTERVAL_S = 10.0

Message = Mapping[str, object]
Take = Callable[[Message], None]


class Bus:
    """One worker's end. The greenlets of the worker share it: what they share is changed without a switch between."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        me: str = "",
        spawn: Callable[[Callable[[], None]], object] = gevent.spawn,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`me` is this worker's name among all, by default one that nobody else has and that it gets when it starts.
        `client` sends, and is the pattern for the connection that listens."""
        self._client, self._me, self._spawn, self._clock = client, me, spawn, clock
        self.on_reconnect: list[Callable[[], None]] = []
        self._takers: defaultdict[str, list[Take]] = defaultdict(list)
        self._unsent: deque[bytes] = deque(maxlen=MOST_UNSENT)
        self._news = threading.Event()  # gevent has patched it, and `time.sleep`, in a worker
        self._is_connected: bool | None = None  # None: it was not tried yet
        self._complaints = _Complaints(clock)

    @property
    def is_connected(self) -> bool:
        """Whether others' news arrive now."""
        return self._is_connected is True

    def on(self, topic: str, take: Take) -> None:
        """`take` gets what others tell about `topic`, in the greenlet that listens: so it must not wait for long.

        Anything may arrive, and arrive twice.
        """
        self._takers[topic].append(take)

    def tell(self, topic: str, message: Message) -> None:
        """Send `message`, JSON, to all other workers, soon. Never waits, never raises; the newest news win."""
        try:
            text = orjson.dumps({"from": self._me, "topic": topic, "body": dict(message)})
        except Exception as error:  # noqa: BLE001 - no caller's request fails for it
            self._complaints.make("news_dropped", topic=topic, reason=str(error))
            return
        if len(text) > LARGEST_BYTES:
            self._complaints.make("news_dropped", topic=topic, reason="too large")
            return
        if len(self._unsent) == MOST_UNSENT:
            self._complaints.make("news_dropped", reason="too many wait to be sent")
        self._unsent.append(text)
        self._news.set()

    def start(self, is_running: Callable[[], bool]) -> None:
        """Begin to send and to listen, until it `is_running` no longer. In the worker: no greenlet survives a fork."""
        self._me = self._me or uuid.uuid4().hex
        self._spawn(lambda: self._send(is_running))
        self._spawn(lambda: self._listen(is_running))

    def _send(self, is_running: Callable[[], bool]) -> None:
        failures = 0
        while is_running():
            if not self._unsent:
                self._news.wait(QUIET_S)
            self._news.clear()
            batch = [self._unsent.popleft() for _ in range(min(len(self._unsent), MOST_AT_ONCE))]
            if not batch:
                continue
            try:
                self._publish(batch)
                failures = 0
            except Exception as error:  # noqa: BLE001 - the greenlet must go on
                self._put_back(batch)
                self._complaints.make("news_wait", reason=type(error).__name__)
                time.sleep(_pause_s(failures))
                failures += 1

    def _publish(self, batch: list[bytes]) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            for text in batch:
                pipe.publish(CHANNEL, text)
            pipe.execute()

    def _put_back(self, batch: list[bytes]) -> None:
        """Before the others, in its order; where there is no room for all, the newest win."""
        room = MOST_UNSENT - len(self._unsent)
        if room < len(batch):
            self._complaints.make("news_dropped", reason="too many wait to be sent")
        self._unsent.extendleft(reversed(batch[max(0, len(batch) - room) :]))

    def _listen(self, is_running: Callable[[], bool]) -> None:
        failures = 0
        while is_running():
            began_at = self._clock()
            try:
                self._hear(is_running)
            except Exception as error:  # noqa: BLE001 - as above
                self._turn_lost(error)
                # a stream that is lost as soon as it stands must not be tried without a pause
                failures = 0 if self._clock() - began_at > 2 * LONGEST_PAUSE_S else failures + 1
                time.sleep(_pause_s(failures))
        self._is_connected = None

    def _hear(self, is_running: Callable[[], bool]) -> None:
        """Hand on what comes, until it `is_running` no longer. Raises `redis.RedisError` when the stream is lost."""
        pattern = self._client.connection_pool
        # a connection of our own, for the others are few; its health is our affair: redis-py asks, and misses no answer
        wanted: dict[str, Any] = {**pattern.connection_kwargs, "health_check_interval": 0, "decode_responses": False}
        own = redis.ConnectionPool(connection_class=pattern.connection_class, max_connections=1, **wanted)
        stream = redis.Redis(connection_pool=own).pubsub()
        try:
            stream.subscribe(CHANNEL, REGISTRY)
            self._hear_from(stream, is_running)
        finally:
            stream.close()

    def _hear_from(self, stream: PubSub, is_running: Callable[[], bool]) -> None:
        is_asked, unconfirmed = False, {CHANNEL.encode(), REGISTRY.encode()}
        while is_running():
            message = stream.get_message(timeout=QUIET_S)
            if message is None and is_asked:
                raise redis.TimeoutError("no sign of life")
            is_asked = message is None
            if message is None:
                stream.ping()
            elif message["type"] == "subscribe":
                unconfirmed.discard(message["channel"])
                if not unconfirmed:
                    self._turn_connected()
            elif message["type"] == "message":
                self._receive(cast("bytes", message["channel"]), cast("bytes", message["data"]))

    def _turn_connected(self) -> None:
        self._is_connected = True
        log.info("bus_connected")
        for catch_up in self.on_reconnect:
            self._call(catch_up, "on_reconnect")

    def _turn_lost(self, error: Exception) -> None:
        if self._is_connected is not False:
            log.warning("bus_lost", reason=type(error).__name__)
        self._is_connected = False

    def _receive(self, channel: bytes, text: bytes) -> None:
        try:
            news = _change_of_registry(text) if channel == REGISTRY.encode() else _news(text)
        except ValueError as error:
            self._complaints.make("news_malformed", reason=str(error))
            return
        if news.sender != self._me:
            for take in self._takers.get(news.topic, ()):
                self._call(partial(take, news.body), news.topic)

    def _call(self, work: Callable[[], None], topic: str) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - as above
            self._complaints.make("news_not_taken", topic=topic, exc_info=error)


@dataclass(frozen=True, slots=True)
class _News:
    sender: str
    topic: str
    body: Message


def _news(text: bytes) -> _News:
    """What a worker has sent. Raises ValueError."""
    if len(text) > LARGEST_BYTES:
        raise ValueError("too large")
    match orjson.loads(text):
        case {"from": str(sender), "topic": str(topic), "body": dict(body)}:
            return _News(sender, topic, cast("Message", body))
        case _:
            raise ValueError("not an object with from, topic and body")


def _change_of_registry(text: bytes) -> _News:
    """What was told of a service's instances. Raises ValueError."""
    if not re.fullmatch(TARGET_NAME, name := text[:100].decode("ascii", "replace")):
        raise ValueError("not the name of a service")
    return _News("", REGISTRY_TOPIC, {"service": name})


def _pause_s(failures: int) -> float:
    return min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * 2 ** min(failures, 10)) * random.uniform(0.75, 1.25)


class _Complaints:
    """Warnings that might come by the thousand: of each kind one line in ten seconds, which counts the others."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._silent_until: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()

    def make(self, event: str, **words: object) -> None:
        now = self._clock()
        if now < self._silent_until.get(event, 0.0):
            self._unsaid[event] += 1
            return
        self._silent_until[event] = now + COMPLAINT_INTERVAL_S
        log.warning(event, more=self._unsaid.pop(event, 0), **words)
