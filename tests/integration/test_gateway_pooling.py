"""Connections to services are shared by all callers; nothing else is, and nothing of the machine gets in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.conftest import Gateway, GatewayFactory, bearer, ready
from tests.support import wire
from tests.support.ports import free_port
from tests.support.stub import StubService

REQUEST = wire.request_bytes("GET", "/open/x")


def ask(gateway: Gateway, count: int) -> set[int]:
    """The statuses of `count` requests, one after the other on one connection."""
    with gateway.connect() as connection:
        return {connection.exchange(REQUEST).status for _ in range(count)}


def test_2000_requests_need_fewer_than_50_connections(gateway: Gateway) -> None:
    one_after_the_other = ask(gateway, 500)
    with ThreadPoolExecutor(20) as threads:
        side_by_side = set[int]().union(*threads.map(ask, [gateway] * 20, [75] * 20))

    assert one_after_the_other == side_by_side == {200}
    assert len(gateway.arrived) == 2000
    assert gateway.stub.connections < 50


def test_cookie_set_for_one_caller_never_goes_out_with_another(gateway: Gateway) -> None:
    for _ in range(6):
        assert len(gateway.get("/open/repeated", bearer("a")).all("Set-Cookie")) == 2

    for _ in range(6):
        gateway.get("/open/echo", bearer("b"))

    assert [received.all("Cookie") for received in gateway.arrived] == [[]] * 12


def test_each_caller_gets_its_own_answer(gateway: Gateway) -> None:
    def own(number: int) -> bool:
        with gateway.connect() as connection:
            answers = [
                connection.exchange(wire.request_bytes("GET", f"/open/{number}/{turn}", bearer(f"u{number}")))
                for turn in range(10)
            ]
        targets = [answer.json()["target"] for answer in answers]
        users = [value for answer in answers for name, value in _fields(answer) if name == "X-User-Id"]
        return targets == [f"/{number}/{turn}" for turn in range(10)] and users == [f"u{number}"] * 10

    with ThreadPoolExecutor(20) as threads:
        assert all(threads.map(own, range(40)))


def _fields(answer: wire.RawAnswer) -> list[tuple[str, str]]:
    headers = answer.json()["headers"]
    assert isinstance(headers, list)
    return [(str(name), str(value)) for name, value in headers]


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[StubService], dict[str, str]]:
    """The environment of a machine with a .netrc and a proxy, both of which would get in the way."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("default login intruder password hunter2\n")
    netrc.chmod(0o600)

    def environment(proxy: StubService) -> dict[str, str]:
        names = ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
        return {
            "HOME": str(tmp_path),
            "NETRC": str(netrc),
            "REQUESTS_CA_BUNDLE": str(tmp_path / "missing.pem"),
            **dict.fromkeys(names, proxy.url),
        }

    return environment


def test_netrc_and_proxies_of_the_machine_are_ignored(
    start_gateway: GatewayFactory, machine: Callable[[StubService], dict[str, str]]
) -> None:
    with StubService(free_port()) as proxy:
        gateway = start_gateway(WEB_CONCURRENCY="1", **machine(proxy))
        ready(gateway)
        token = bearer("u1")

        assert gateway.get("/orders", token).status == 200
        assert gateway.get("/open/x").status == 200
        assert gateway.operations("/health/services").status == 200

    first, second = [received for received in gateway.arrived if received.path != "/health"]
    assert first.all("Authorization") == [token[0][1]]
    assert second.all("Authorization") == []
    assert proxy.requests == proxy.malformed == []


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_redirects_are_not_followed(gateway: Gateway, method: str) -> None:
    assert gateway.request(method, "/open/redirect").status == 302

    assert len(gateway.arrived) == 1
