"""The bus over a real Valkey: what one tells the others hear, and what becomes of it when Redis is away."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import UserDict
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from typing import NoReturn

import orjson
import pytest
import redis
from redis.client import Pipeline
from structlog.testing import capture_logs

from common.registration import client
from common.registry import REGISTRY
from deploy.local.valkey import Valkey
from gateway import shared
from gateway.backend.registry import Registry
from gateway.bus import CHANNEL, LARGEST_BYTES, MOST_AT_ONCE, MOST_UNSENT, Bus, Message
from tests.support.processes import ROOT, clean_environment, wait_until
from tests.unit import parts

NOTHING = b'{"from": "nobody", "topic": "nothing", "body": {}}'
SOON_S = 1.0
FROZEN_SEEN_S = 6.0
BACK_S = 10.0


def in_thread(work: Callable[[], None]) -> None:
    """As `gevent.spawn` does in a worker, where everything is patched."""
    threading.Thread(target=work, daemon=True).start()


class Worker:
    """A bus that runs until the end of the `with`, and what it heard of topic `t` and of the registry."""

    def __init__(self, url: str, me: str, *, pool_size: int = 2) -> None:
        settings = parts.settings(redis_url=url, redis_timeout_ms=300, redis_pool_size=pool_size)
        self.client = shared.client(shared.pool(settings))
        self.bus = Bus(self.client, me=me, spawn=in_thread)
        self.heard: list[Message] = []
        self.changes: list[Message] = []
        self.reconnects = 0
        self.is_running = True
        self.bus.on("t", self.heard.append)
        self.bus.on("registry", self.changes.append)
        self.bus.on_reconnect.append(self.count)

    def count(self) -> None:
        self.reconnects += 1

    def start(self) -> None:
        self.bus.start(lambda: self.is_running)

    def stop(self) -> None:
        """Return once it listens no longer, or Redis is away."""
        self.is_running = False
        with suppress(redis.RedisError):
            self.client.publish(CHANNEL, NOTHING)  # so that it looks up at once
        wait_until(lambda: not self.bus.is_connected, "the end", timeout_s=FROZEN_SEEN_S)

    def hears(self, *numbers: int, within_s: float = SOON_S) -> None:
        """Return once it has heard these numbers, in this order and no others."""
        wait_until(lambda: len(self.heard) >= len(numbers), f"{len(numbers)} news", timeout_s=within_s)
        assert [message["n"] for message in self.heard] == list(numbers)


Start = Callable[..., Worker]


@pytest.fixture
def start() -> Generator[Start]:
    """Starts workers, which listen when it returns; they are stopped after the test."""
    with ExitStack() as stack:

        def started(server: Valkey, me: str, **more: int) -> Worker:
            worker = Worker(server.url, me, **more)
            worker.start()
            stack.callback(worker.stop)
            wait_until(lambda: worker.bus.is_connected, f"the bus of {me}", timeout_s=SOON_S)
            return worker

        yield started


def names(logs: list[dict[str, object]], *of: str) -> list[object]:
    return [line["event"] for line in logs if line["event"] in of]


def test_what_one_tells_the_other_hears_within_a_second_and_not_itself(server: Valkey, start: Start) -> None:
    one, other = start(server, "one"), start(server, "other")

    one.bus.tell("t", {"n": 1, "nested": {"list": [1, None, "ä"]}})
    other.hears(1)
    other.bus.tell("t", {"n": 2})
    one.hears(2)

    assert other.heard == [{"n": 1, "nested": {"list": [1, None, "ä"]}}]


def test_news_arrive_in_their_order(server: Valkey, start: Start) -> None:
    one, other = start(server, "one"), start(server, "other")

    for number in range(500):
        one.bus.tell("t", {"n": number})

    other.hears(*range(500), within_s=5)


def test_only_those_hear_a_topic_who_want_it(server: Valkey, start: Start) -> None:
    one, other = start(server, "one"), start(server, "other")
    besides: list[Message] = []
    other.bus.on("t", besides.append)

    one.bus.tell("unknown", {"n": 0})
    one.bus.tell("t", {"n": 1})

    other.hears(1)
    wait_until(lambda: besides == [{"n": 1}], "the second who wants it")


def test_a_change_of_the_registry_is_a_topic_of_its_own(server: Valkey, start: Start) -> None:
    worker = start(server, "one")
    with client(server.url) as connection:
        Registry(connection).register("things@2", "http://10.0.0.1:80")
        connection.publish(REGISTRY, "students")

    wait_until(lambda: len(worker.changes) == 2, "the changes", timeout_s=SOON_S)

    assert worker.changes == [{"service": "things@2"}, {"service": "students"}]


@pytest.mark.parametrize(
    ("channel", "text"),
    [
        (CHANNEL, b""),
        (CHANNEL, b"{"),
        (CHANNEL, b"\xff"),
        (CHANNEL, b"[" * 5000),
        (CHANNEL, b"null"),
        (CHANNEL, b'{"from": "x", "topic": "t"}'),
        (CHANNEL, b'{"from": "x", "topic": "t", "body": []}'),
        (CHANNEL, b'{"from": "x", "topic": 1, "body": {}}'),
        (CHANNEL, b'{"from": null, "topic": "t", "body": {}}'),
        (CHANNEL, orjson.dumps({"from": "x", "topic": "t", "body": {"n": "x" * LARGEST_BYTES}})),
        (REGISTRY, b""),
        (REGISTRY, b"\xff"),
        (REGISTRY, b"Things"),
        (REGISTRY, b"things\n"),
        (REGISTRY, b"t" * 200),
    ],
)
def test_malformed_news_are_dropped_with_one_line_however_many(
    server: Valkey, start: Start, channel: str, text: bytes
) -> None:
    worker = start(server, "one")

    with capture_logs() as logs, client(server.url) as connection:
        for _ in range(50):
            connection.publish(channel, text)
        connection.publish(CHANNEL, b'{"from": "x", "topic": "t", "body": {"n": 1}, "more": 1}')
        worker.hears(1)

    assert [line["event"] for line in logs] == ["news_malformed"]
    assert worker.changes == []


class Fickle(UserDict[str, object]):
    """Can't be read."""

    def __iter__(self) -> NoReturn:
        raise RuntimeError


@pytest.mark.parametrize(
    "message",
    [{"n": object()}, Fickle(), {"n": 1 << 70}, {"n": "\ud800"}, {1: 1}, {"n": "x" * LARGEST_BYTES}, ["n"], None],
    ids=["object", "fickle", "number", "surrogate", "key", "size", "list", "None"],
)
def test_what_can_not_be_told_is_dropped_with_one_line(server: Valkey, start: Start, message: Message) -> None:
    one, other = start(server, "one"), start(server, "other")

    with capture_logs() as logs:
        for _ in range(20):
            one.bus.tell("t", message)
        one.bus.tell("t", {"n": 1})

    other.hears(1)
    assert [line["event"] for line in logs] == ["news_dropped"]


def test_lines_that_were_not_logged_are_counted_in_a_later_one() -> None:
    times_s = iter([100.0, 101.0, 109.0, 110.1, 121.0])
    bus = Bus(redis.Redis.from_url(parts.NOWHERE), me="one", clock=lambda: next(times_s))

    with capture_logs() as logs:
        for _ in range(5):
            bus.tell("t", {"n": object()})

    assert [line["more"] for line in logs] == [0, 2, 0]


def test_what_was_told_is_not_changed_afterwards(server: Valkey, start: Start) -> None:
    other, one = start(server, "other"), Worker(server.url, "one")
    message: dict[str, object] = {"n": 1}

    one.bus.tell("t", message)
    message["n"] = 2
    one.bus.start(lambda: other.is_running)

    other.hears(1)


def test_who_fails_to_take_news_is_told_in_the_log_and_keeps_nobody_else_from_them(
    server: Valkey, start: Start
) -> None:
    def fail(_message: Message) -> None:
        raise ZeroDivisionError

    one = start(server, "one")
    worker = Worker(server.url, "other")
    worker.bus = Bus(worker.client, me="other", spawn=in_thread)
    worker.bus.on("t", fail)
    worker.bus.on("t", worker.heard.append)
    worker.bus.on_reconnect.append(lambda: fail({}))

    with capture_logs() as logs:
        worker.bus.start(lambda: one.is_running)
        wait_until(lambda: worker.bus.is_connected, "the bus")
        for number in range(3):
            one.bus.tell("t", {"n": number})
        worker.hears(0, 1, 2)

    failures = [line for line in logs if line["event"] == "news_not_taken"]
    assert len(failures) == 1
    assert "exc_info" in failures[0]


def test_the_stream_takes_no_connection_from_those_who_share_a_pool(server: Valkey, start: Start) -> None:
    worker = start(server, "one", pool_size=1)

    assert all(worker.client.ping() for _ in range(3))


def test_a_bus_that_is_told_to_stop_listens_no_longer(server: Valkey, start: Start) -> None:
    worker = start(server, "one")
    with client(server.url) as connection, capture_logs() as logs:
        worker.stop()

        wait_until(lambda: connection.pubsub_numsub(CHANNEL)[0][1] == 0, "nobody to listen", timeout_s=3)
    assert logs == []


def test_redis_restarted_is_one_line_each_way_and_news_flow_again(fragile: Valkey, start: Start) -> None:
    one, other = start(fragile, "one"), start(fragile, "other")

    with capture_logs() as logs:
        fragile.kill()
        wait_until(lambda: not one.bus.is_connected and not other.bus.is_connected, "the loss", timeout_s=SOON_S)
        time.sleep(1)  # in which several new streams are tried
        fragile.start()
        wait_until(lambda: one.bus.is_connected and other.bus.is_connected, "both to be back", timeout_s=BACK_S)
        one.bus.tell("t", {"n": 1})
        other.hears(1)

    assert names([dict(line) for line in logs], "bus_lost", "bus_connected") == ["bus_lost"] * 2 + ["bus_connected"] * 2
    assert (one.reconnects, other.reconnects) == (2, 2)


def test_a_frozen_redis_is_noticed_though_its_connections_stand(fragile: Valkey, start: Start) -> None:
    one, other = start(fragile, "one"), start(fragile, "other")

    fragile.freeze()
    wait_until(lambda: not other.bus.is_connected, "the loss", timeout_s=FROZEN_SEEN_S)
    began = time.monotonic()
    for number in range(10):
        one.bus.tell("t", {"n": number})
    telling_s = time.monotonic() - began
    fragile.thaw()

    wait_until(lambda: other.bus.is_connected, "the bus to be back", timeout_s=BACK_S)
    assert telling_s < 0.1
    assert other.reconnects == 2


def test_a_quiet_stream_is_not_taken_for_a_lost_one(server: Valkey, start: Start) -> None:
    worker = start(server, "one")

    with capture_logs() as logs:
        time.sleep(3.5)

    assert worker.bus.is_connected
    assert logs == []


def test_a_stream_that_is_cut_again_and_again_is_tried_less_and_less_often(server: Valkey, start: Start) -> None:
    worker = start(server, "one")

    with capture_logs() as logs, client(server.url) as connection:
        ends_at = time.monotonic() + 3
        while time.monotonic() < ends_at:
            connection.client_kill_filter(_type="pubsub")
            time.sleep(0.01)
        wait_until(lambda: worker.bus.is_connected, "the bus to be back", timeout_s=BACK_S)

    assert 2 <= len(names([dict(line) for line in logs], "bus_lost")) <= 7


def test_redis_away_from_the_start_is_one_line_until_it_is_there(fragile: Valkey) -> None:
    fragile.kill()
    worker = Worker(fragile.url, "one")

    with capture_logs() as logs:
        worker.start()
        time.sleep(1)  # in which it is tried several times
        was_connected = worker.bus.is_connected
        fragile.start()
        wait_until(lambda: worker.bus.is_connected, "the bus", timeout_s=BACK_S)
        worker.stop()

    assert not was_connected
    assert [line["event"] for line in logs] == ["bus_lost", "bus_connected"]


class Moody(redis.Redis):
    """Sends nothing while it `is_away`; what happens `meanwhile`, happens before it has failed."""

    is_away: bool = True
    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def pipeline(self, transaction: bool = True, shard_hint: object = None) -> Pipeline:
        if self.is_away:
            self.meanwhile()
            raise redis.ConnectionError
        return super().pipeline(transaction, shard_hint)


def test_the_latest_news_wait_in_their_order_until_they_can_be_sent(server: Valkey, start: Start) -> None:
    other, moody = start(server, "other"), Moody(connection_pool=redis.ConnectionPool.from_url(server.url))
    bus = Bus(moody, me="one", spawn=in_thread)
    told = MOST_UNSENT + 300

    with capture_logs() as logs:
        bus.start(lambda: other.is_running)
        for number in range(told):
            bus.tell("t", {"n": number})
            if number % 100 == 0:
                time.sleep(0.05)  # so that it is tried in between
        moody.is_away = False
        other.hears(*range(told - MOST_UNSENT, told), within_s=5)

    assert sorted({str(line["event"]) for line in logs} - {"bus_connected"}) == ["news_dropped", "news_wait"]
    assert len(logs) == 3


def test_news_that_could_not_be_sent_keep_their_place_before_those_that_came_meanwhile(
    server: Valkey, start: Start
) -> None:
    other, moody = start(server, "other"), Moody(connection_pool=redis.ConnectionPool.from_url(server.url))
    bus = Bus(moody, me="one", spawn=in_thread)
    first, room, told = MOST_AT_ONCE + 72, 50, MOST_UNSENT + MOST_AT_ONCE - 50

    def tell_more() -> None:
        for number in range(first, told):
            bus.tell("t", {"n": number})
        moody.is_away = False

    moody.meanwhile = tell_more
    for number in range(first):
        bus.tell("t", {"n": number})
    with capture_logs() as logs:
        bus.start(lambda: other.is_running)
        other.hears(*range(MOST_AT_ONCE - room, told), within_s=5)

    assert "news_dropped" in [line["event"] for line in logs]


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
from common.registration import client
from gateway.bus import Bus

heard = {"one": [], "other": []}
buses = {name: Bus(client(sys.argv[1]), me=name) for name in heard}
for name, bus in buses.items():
    bus.on("t", heard[name].append)
    bus.start(lambda: True)
turns = 0

def count():
    global turns
    while True:
        turns += 1
        gevent.sleep(0.01)

gevent.spawn(count)
with gevent.Timeout(5):
    while not all(bus.is_connected for bus in buses.values()):
        gevent.sleep(0.01)
began = time.monotonic()
buses["one"].tell("t", {"n": 1})
buses["other"].tell("t", {"n": 2})
with gevent.Timeout(5):
    while not all(heard.values()):
        gevent.sleep(0.001)
took_s = time.monotonic() - began
turns = 0
gevent.sleep(2.5)
print(heard["one"], heard["other"], took_s < 1, turns > 100)
"""


def test_two_buses_exchange_news_in_greenlets_and_leave_the_others_their_turns(server: Valkey) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", GREENLETS, server.url],
        cwd=ROOT,
        env=clean_environment({}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert ended.stdout.splitlines()[-1:] == ["[{'n': 2}] [{'n': 1}] True True"], ended.stderr


def test_to_tell_needs_no_redis_and_no_time() -> None:
    bus = Bus(redis.Redis.from_url(parts.NOWHERE), me="one", spawn=in_thread)
    began = time.monotonic()

    for number in range(1000):
        bus.tell("t", {"n": number})

    assert time.monotonic() - began < 0.5
    assert not bus.is_connected
