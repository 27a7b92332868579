"""The addresses of a host: believed for as long as their TTL, and longer only where nobody answers."""

from __future__ import annotations

import socket

import gevent
import pytest

from gateway.backend import places
from gateway.backend.dns import UNSURE_TTL_S, NotResolved, Resolved
from gateway.backend.places import Places
from tests.support.naming import at, nowhere

V4, V6 = socket.AF_INET, socket.AF_INET6


class Clock:
    """Stands for `time.monotonic`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(places, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", V4), ("::1", V6)])
def test_a_numeric_address_is_never_asked_for(host: str, family: socket.AddressFamily) -> None:
    asked: list[str] = []

    assert Places(host, at("10.0.0.7", asked=asked)).find(1.0) == [(family, host)]
    assert asked == []


def test_a_name_is_asked_for_when_its_ttl_is_over(clock: Clock) -> None:
    asked: list[str] = []
    named = Places("things.internal", at("10.0.0.7", "fd00::7", ttl_s=9, asked=asked))

    found = [named.find(1.0) for _ in range(3)]
    clock.now += 8.9
    named.find(1.0)
    before = len(asked)
    clock.now += 0.2
    named.find(1.0)

    assert found == [[(V4, "10.0.0.7"), (V6, "fd00::7")]] * 3
    assert (before, len(asked)) == (1, 2)


def test_a_name_that_is_doubted_is_asked_for_at_once(clock: Clock) -> None:
    asked: list[str] = []
    named = Places("things.internal", at("10.0.0.7", asked=asked))
    named.find(1.0)

    named.doubt()
    named.find(1.0)

    assert len(asked) == 2


def test_what_only_the_system_knows_is_kept_for_a_while(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def by_the_system(host: str, *_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        asked.append(host)
        return [(V4, socket.SOCK_STREAM, 6, "", ("10.0.0.9", 0)), (V4, socket.SOCK_STREAM, 6, "", ("10.0.0.9", 0))]

    monkeypatch.setattr(places, "getaddrinfo", by_the_system)
    named = Places("printer.local", nowhere)

    found = [named.find(1.0), named.find(1.0)]
    clock.now += UNSURE_TTL_S + 0.1
    named.find(1.0)

    assert found == [[(V4, "10.0.0.9")]] * 2
    assert asked == ["printer.local"] * 2


def test_a_name_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(socket.gaierror):
        Places("things.invalid", nowhere).find(5.0)


def test_what_was_known_is_used_on_when_nobody_answers(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolve(name: str) -> Resolved:
        asked.append(name)
        if len(asked) > 1:
            raise NotResolved(name)
        return Resolved(("10.0.0.7",), 9)

    def by_the_system(*_: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(places, "getaddrinfo", by_the_system)
    named = Places("things.internal", resolve)
    named.find(1.0)

    clock.now += 10
    meanwhile = [named.find(1.0) for _ in range(3)]
    asked_meanwhile = len(asked)
    clock.now += UNSURE_TTL_S + 0.1
    named.find(1.0)

    assert meanwhile == [[(V4, "10.0.0.7")]] * 3
    assert (asked_meanwhile, len(asked)) == (2, 3)


def test_while_one_asks_the_others_go_on_with_what_was_known(clock: Clock) -> None:
    asked: list[str] = []

    def resolve(name: str) -> Resolved:
        asked.append(name)
        if len(asked) > 1:
            gevent.sleep(0.05)
            return Resolved(("10.0.0.8",), 30)
        return Resolved(("10.0.0.7",), 9)

    named = Places("things.internal", resolve)
    named.find(1.0)
    clock.now += 10

    finding = [gevent.spawn(named.find, 5.0) for _ in range(3)]
    gevent.joinall(finding, timeout=10, raise_error=True)

    assert [each.value for each in finding] == [[(V4, "10.0.0.8")], *[[(V4, "10.0.0.7")]] * 2]
    assert len(asked) == 2


def test_who_waits_for_too_long_gives_up() -> None:
    def resolve(_name: str) -> Resolved:
        gevent.sleep(5)
        raise AssertionError

    with pytest.raises(TimeoutError):
        Places("things.internal", resolve).find(0.05)
