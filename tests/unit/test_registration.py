"""A worker's lease: kept while it serves, given back when it stops, and no trouble while Redis is away."""

from __future__ import annotations

import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import ClassVar, cast

import gevent
import pytest
import redis
from structlog.testing import capture_logs

from common.registration import Registration, address_of, announce, client
from common.registry import Leases, key_of
from common.service_settings import ServiceSettings
from common.settings import SettingsError, load
from deploy.local.valkey import Valkey
from tests.support.ports import free_port
from tests.support.processes import ROOT, clean_environment

KEY = key_of("things")
URL = "http://10.0.0.1:80"
MINE = f"{URL}#by=me".encode()
LOOPBACK = "redis://127.0.0.1:6379/0"


class ThingSettings(ServiceSettings):
    name: ClassVar[str] = "thing_service"
    plural: ClassVar[str] = "things"
    port: int = 5009


def settings(**given: object) -> ThingSettings:
    return load(ThingSettings, "thing_service", _env_file=None, **given)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as server:
        yield server


@pytest.fixture
def valkey(server: Valkey) -> Generator[redis.Redis]:
    """A client of an empty server."""
    with client(server.url) as empty:
        empty.flushall()
        yield empty


@pytest.fixture
def fragile(tmp_path: Path) -> Generator[Valkey]:
    """A server that a test may kill and freeze."""
    with Valkey(tmp_path, port=free_port()) as server:
        yield server


def registration(
    connection: redis.Redis, address: Callable[[], str] = lambda: URL, *, weight: float = 1, lease_s: float = 15
) -> Registration:
    return Registration(Leases(connection), "things", address, by="me", weight=weight, lease_s=lease_s)


def events(logs: list[dict[str, object]]) -> list[tuple[object, object]]:
    return [(line["event"], line["log_level"]) for line in logs]


def leases(connection: redis.Redis) -> list[bytes]:
    return cast("list[bytes]", connection.zrange(KEY, 0, -1))


def has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(("::1", 6379))
    except OSError:
        return False
    return True


class Nights:
    """Sleeps without waiting, and stops what is kept after `lasting_s`."""

    def __init__(self, lasting_s: float) -> None:
        self.slept_s, self.lasting_s = 0.0, lasting_s

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds

    def is_wanted(self) -> bool:
        return self.slept_s < self.lasting_s


class Beats(Leases):
    """Notes when it was written to; with `is_away` it can't be."""

    def __init__(self, connection: redis.Redis, nights: Nights) -> None:
        super().__init__(connection)
        self.nights, self.is_away = nights, False
        self.at_s: list[float] = []

    def register(self, service: str, url: str, *, weight: float = 1.0, by: str = "", lease_s: float = 15.0) -> bool:
        self.at_s.append(self.nights.slept_s)
        if self.is_away:
            raise redis.ConnectionError
        return super().register(service, url, weight=weight, by=by, lease_s=lease_s)

    @property
    def pauses_s(self) -> list[float]:
        return [after - before for before, after in zip(self.at_s, self.at_s[1:], strict=False)]


def kept(connection: redis.Redis, *, lease_s: float, is_away: bool = False, for_s: float = 200) -> Beats:
    """What a registration wrote that was kept for so long."""
    nights = Nights(for_s)
    beats = Beats(connection, nights)
    beats.is_away = is_away
    made = Registration(beats, "things", lambda: URL, by="me", lease_s=lease_s)
    made.keep(nights.is_wanted, sleep=nights.sleep)
    return beats


def test_a_lease_is_taken_at_once_with_its_weight_and_told(valkey: redis.Redis) -> None:
    with capture_logs() as logs:
        registration(valkey, weight=3).renew()

    assert leases(valkey) == [f"{URL}#weight=3&by=me".encode()]
    assert events([dict(line) for line in logs]) == [("registered", "info")]


def test_a_lease_is_renewed_every_third_of_it_with_jitter(valkey: redis.Redis) -> None:
    random.seed(1)

    pauses_s = kept(valkey, lease_s=15).pauses_s

    assert len(pauses_s) > 30
    assert 3.6 <= min(pauses_s) < 4.5
    assert 5.5 < max(pauses_s) <= 6.4


def test_while_redis_is_away_it_is_tried_every_second(valkey: redis.Redis) -> None:
    random.seed(1)

    pauses_s = kept(valkey, lease_s=15, is_away=True).pauses_s

    assert 0.6 <= min(pauses_s) < max(pauses_s) <= 1.4


def test_a_short_lease_is_not_renewed_more_slowly_while_redis_is_away(valkey: redis.Redis) -> None:
    assert max(kept(valkey, lease_s=1, is_away=True, for_s=20).pauses_s) < 0.6


def test_a_lease_that_is_not_wanted_any_more_is_given_back_within_a_tenth_of_a_second(valkey: redis.Redis) -> None:
    beats = kept(valkey, lease_s=3600, for_s=10)

    assert leases(valkey) == []
    assert beats.at_s == [0]
    assert beats.nights.slept_s < 10.15


def test_who_is_not_wanted_from_the_start_is_not_registered(valkey: redis.Redis) -> None:
    assert kept(valkey, lease_s=15, for_s=0).at_s == []


def test_nothing_is_renewed_after_the_end(valkey: redis.Redis) -> None:
    ended = registration(valkey)
    ended.renew()

    ended.end()
    ended.renew()

    assert leases(valkey) == []


def test_the_end_comes_once_and_takes_no_lease_of_others(valkey: redis.Redis) -> None:
    mine = registration(valkey)
    mine.renew()
    valkey.zadd(KEY, {f"{URL}#by=other": 2e9})

    with capture_logs() as logs:
        mine.end()
        mine.end()

    assert leases(valkey) == [f"{URL}#by=other".encode()]
    assert events([dict(line) for line in logs]) == [("deregistered", "info")]


def test_the_end_of_what_never_was_registered_asks_nobody(valkey: redis.Redis) -> None:
    before = valkey.info("stats")["total_commands_processed"]

    with capture_logs() as logs:
        registration(valkey).end()

    assert valkey.info("stats")["total_commands_processed"] == before + 1  # our own question
    assert logs == []


def test_redis_going_away_is_one_warning_and_coming_back_one_line(fragile: Valkey) -> None:
    with client(fragile.url) as connection, capture_logs() as logs:
        mine = registration(connection)
        mine.renew()
        fragile.kill()
        for _ in range(5):
            mine.renew()
        fragile.start()
        for _ in range(3):
            mine.renew()

        assert leases(connection) == [MINE]  # though the server has forgotten everything
    assert events([dict(line) for line in logs]) == [
        ("registered", "info"),
        ("registry_away", "warning"),
        ("registry_back", "info"),
    ]


def test_redis_away_from_the_start_is_told_and_made_up_for(fragile: Valkey) -> None:
    fragile.kill()
    with client(fragile.url) as connection, capture_logs() as logs:
        mine = registration(connection)
        mine.renew()
        fragile.start()
        mine.renew()

        assert leases(connection) == [MINE]
    assert [line["event"] for line in logs] == ["registry_away", "registered"]


def test_a_frozen_redis_holds_up_neither_a_renewal_nor_the_end(fragile: Valkey) -> None:
    with client(fragile.url) as connection, capture_logs() as logs:
        mine = registration(connection)
        mine.renew()

        fragile.freeze()
        began = time.monotonic()
        mine.renew()
        mine.end()
        took_s = time.monotonic() - began
        fragile.thaw()

    assert took_s < 4
    assert [line["event"] for line in logs] == ["registered", "registry_away"]


def test_an_address_that_is_not_known_yet_is_asked_for_again(valkey: redis.Redis) -> None:
    answers = iter([socket.gaierror("not yet"), URL])

    def address() -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    with capture_logs() as logs:
        mine = registration(valkey, address)
        for _ in range(3):
            mine.renew()

    assert leases(valkey) == [MINE]
    assert [line["event"] for line in logs] == ["registry_away", "registered"]


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, "http://127.0.0.1:5009"),
        ({"service_host": "10.1.2.3", "port": 80}, "http://10.1.2.3:80"),
        ({"service_host": "things.internal"}, "http://things.internal:5009"),
        ({"service_host": "fd00::7"}, "http://[fd00::7]:5009"),
        ({"service_host": "[fd00::7]"}, "http://[fd00::7]:5009"),
        ({"service_host": "0.0.0.0", "registry_url": LOOPBACK}, "http://127.0.0.1:5009"),
        ({"service_host": "::", "registry_url": LOOPBACK}, "http://127.0.0.1:5009"),
        ({"service_host": "[::]", "registry_url": LOOPBACK}, "http://127.0.0.1:5009"),
        ({"service_host": "0.0.0.0", "registry_url": "unix:///run/redis.sock"}, "http://127.0.0.1:5009"),
        ({"service_host": "0.0.0.0", "advertised_url": "https://things.example"}, "https://things.example"),
    ],
)
def test_the_address_is_the_one_advertised_or_listened_on(given: dict[str, object], address: str) -> None:
    assert address_of(settings(**given)) == address


@pytest.mark.skipif(not has_ipv6_loopback(), reason="needs a second address that any machine has")
def test_who_listens_everywhere_gives_the_address_from_which_it_speaks_to_redis() -> None:
    assert address_of(settings(service_host="::", registry_url="redis://[::1]:6379")) == "http://[::1]:5009"


def test_the_name_of_a_redis_that_is_unknown_is_an_error_of_the_network() -> None:
    with pytest.raises(OSError, match=r".+"):
        address_of(settings(service_host="0.0.0.0", registry_url="redis://nobody.invalid:6379"))


def test_without_a_registry_nothing_is_announced() -> None:
    asked: list[bool] = []

    announce(settings(), lambda: bool(asked.append(True)))
    gevent.idle()

    assert asked == []


def test_a_service_announces_itself_by_its_plural_until_it_is_not_wanted(valkey: redis.Redis, server: Valkey) -> None:
    wanted = [True]

    announce(settings(registry_url=server.url, registry_weight=2, registry_lease_s=30), lambda: wanted[0])
    gevent.sleep(0.05)
    (member,) = leases(valkey)
    until = valkey.zscore(KEY, member)
    wanted.clear()
    wanted.append(False)
    gevent.sleep(0.3)

    assert isinstance(until, float)
    assert member.startswith(f"http://127.0.0.1:5009#weight=2&by={socket.gethostname()}-".encode())
    assert until - time.time() == pytest.approx(30, abs=2)
    assert leases(valkey) == []


ENDS_WHILE_WANTED = """
from gevent import monkey
monkey.patch_all()
import sys, types
import gevent
from common.registration import announce

settings = types.SimpleNamespace(
    plural="things", service_host="10.0.0.1", port=80, registry_url=sys.argv[1], advertised_url=None,
    registry_weight=1, registry_lease_s=600,
)
announce(settings, lambda: True)
gevent.sleep(0.5)
sys.exit(0)
"""


def test_a_process_that_ends_before_its_greenlet_has_looked_gives_its_lease_back(
    valkey: redis.Redis, server: Valkey
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_WHILE_WANTED, server.url],
        cwd=ROOT,
        env=clean_environment({}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert re.findall(r"\b(?:de)?registered\b", ended.stdout) == ["registered", "deregistered"], ended.stderr
    assert leases(valkey) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("registry_url", "http://localhost:6379"),
        ("registry_url", "redis://localhost:many"),
        ("advertised_url", "things:80"),
        ("advertised_url", "http://things:80/path"),
        ("advertised_url", "http://me:hush@things:80"),
        ("advertised_url", "http://things:80#by=2"),
        ("registry_weight", 0),
        ("registry_weight", 1001),
        ("registry_lease_s", 0.5),
    ],
)
def test_what_can_not_be_announced_stops_the_start(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name.upper()) as caught:
        settings(**{name: value})

    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("name", ["REGISTRY_URL", "ADVERTISED_URL"])
def test_an_empty_variable_counts_as_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "")

    assert getattr(settings(), name.lower()) is None
