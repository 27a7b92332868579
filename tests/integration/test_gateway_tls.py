"""HTTPS at the gateway, from the caller's side of the socket, and to services behind it."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest

from tests.integration.conftest import Gateway, GatewayFactory
from tests.support import wire
from tests.support.certificates import Authority, Pair
from tests.support.processes import wait_until
from tests.support.scripted import Scripted

OPEN = 'services:\n  users: {{url: "{url}"}}\n  open: {{url: "{url}", public: true, path: /}}\n'
TLS = """
services:
  users: {{url: "{url}"}}
  safe: {{url: "%s", public: true, path: /, retries: 0, tls: {{ca: %s, client_certificate: %s, client_key: %s}}}}
  fooled: {{url: "%s", public: true, path: /, retries: 0, tls: {{ca: %s}}}}
"""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


@pytest.fixture
def start_with(start_gateway: GatewayFactory, authority: Authority) -> Callable[..., tuple[Gateway, Pair]]:
    def start(**env: str) -> tuple[Gateway, Pair]:
        pair = authority.issue()
        files = {"TLS_CERTIFICATE": pair.certificate, "TLS_KEY": pair.key, "WEB_CONCURRENCY": "1"}
        return start_gateway(services=OPEN, is_ready=False, **files | env), pair

    return start


def ask(
    gateway: Gateway,
    authority: Authority,
    target: str,
    *,
    us: Pair | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes, str]:
    """Status, body, and serial number of the certificate that was shown."""
    context = ssl.create_default_context(cafile=authority.path)
    if us:
        context.load_cert_chain(us.certificate, us.key)
    connection = http.client.HTTPSConnection("127.0.0.1", gateway.port, context=context, timeout=10)
    try:
        connection.request("GET", target, headers=headers or {})
        shown = cast("dict[str, object]", connection.sock.getpeercert())
        answer = connection.getresponse()
        return answer.status, answer.read(), str(shown["serialNumber"])
    finally:
        connection.close()


def test_the_public_listener_speaks_https_and_services_are_told(
    start_with: Callable[..., tuple[Gateway, Pair]], authority: Authority
) -> None:
    gateway, _pair = start_with()

    status, _body, _serial = ask(gateway, authority, "/open/x", headers={"X-Forwarded-Proto": "http"})

    (arrived,) = gateway.arrived
    assert status == 200
    assert dict(arrived.headers)["X-Forwarded-Proto"] == "https"
    assert json.loads(wire.get(gateway.operations_port, "/health").body)["status"]


def test_large_bodies_go_both_ways_through_https(
    start_with: Callable[..., tuple[Gateway, Pair]], authority: Authority
) -> None:
    gateway, _pair = start_with()
    content = b"x" * 500_000
    context = ssl.create_default_context(cafile=authority.path)
    connection = http.client.HTTPSConnection("127.0.0.1", gateway.port, context=context, timeout=10)

    connection.request("PUT", "/open/echo", body=content)
    answer = connection.getresponse()
    answer.read()
    connection.close()

    assert answer.status == 200
    assert gateway.arrived[0].body == content


def test_who_speaks_no_tls_or_stops_in_the_middle_gets_nothing_and_harms_nobody(
    start_with: Callable[..., tuple[Gateway, Pair]], authority: Authority
) -> None:
    gateway, _pair = start_with(HEAD_TIMEOUT="1")

    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        told = b""
        with suppress(ConnectionResetError):
            while piece := plain.recv(65536):
                told += piece
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as silent:
        silent.sendall(b"\x16\x03\x01")
        assert ask(gateway, authority, "/open/x")[0] == 200
        assert silent.recv(100) == b""

    assert b"HTTP/" not in told
    wait_until(lambda: len(gateway.events("handshake_failed")) == 2, "two lines about failed handshakes")
    assert gateway.errors() == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_that_are_safe_are_spoken(
    start_with: Callable[..., tuple[Gateway, Pair]], authority: Authority, version: ssl.TLSVersion
) -> None:
    gateway, _pair = start_with()
    context = ssl.create_default_context(cafile=authority.path)
    context.minimum_version = context.maximum_version = version

    with (
        socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as connection,
        context.wrap_socket(connection, server_hostname="127.0.0.1") as secured,
    ):
        assert secured.version() == version.name.replace("_", ".")


def test_an_old_version_is_refused(start_with: Callable[..., tuple[Gateway, Pair]], authority: Authority) -> None:
    gateway, _pair = start_with()
    context = ssl.create_default_context(cafile=authority.path)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1

    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as connection, pytest.raises(OSError):  # noqa: PT011
        context.wrap_socket(connection, server_hostname="127.0.0.1")


def test_callers_need_a_certificate_where_the_operator_wants_one(
    start_with: Callable[..., tuple[Gateway, Pair]], authority: Authority, tmp_path: Path
) -> None:
    gateway, _pair = start_with(TLS_CLIENT_CA=authority.path)
    (tmp_path / "others").mkdir()
    stranger = Authority(tmp_path / "others").issue("stranger")

    assert ask(gateway, authority, "/open/x", us=authority.issue("us"))[0] == 200
    for us in (None, stranger):
        with pytest.raises(OSError):  # noqa: PT011 - in TLS 1.3 the end comes with the first read
            ask(gateway, authority, "/open/x", us=us)
    assert len(gateway.arrived) == 1


def test_a_renewed_certificate_is_shown_without_a_restart(
    start_with: Callable[..., tuple[Gateway, Pair]], authority: Authority
) -> None:
    gateway, _pair = start_with()
    before = ask(gateway, authority, "/open/x")[2]

    authority.issue()

    assert ask(gateway, authority, "/open/x")[2] != before


def test_files_that_went_bad_end_nothing_not_even_with_a_hup(
    start_with: Callable[..., tuple[Gateway, Pair]], authority: Authority
) -> None:
    gateway, pair = start_with()
    before = ask(gateway, authority, "/open/x")[2]
    workers = gateway.process.children()
    Path(pair.key).write_text("nonsense")

    gateway.process.hup()
    wait_until(lambda: not set(workers) & set(gateway.process.children()), "other workers", timeout_s=20)

    assert ask(gateway, authority, "/open/x")[2] == before


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ({"TLS_CERTIFICATE": "nowhere.pem"}, "TLS_CERTIFICATE: there is no such file"),
        ({"TLS_KEY": "other.key"}, "TLS_KEY: is not the key of the certificate"),
        ({"TLS_CLIENT_CA": "nowhere.pem"}, "TLS_CLIENT_CA: there is no such file"),
    ],
)
def test_a_start_with_files_that_cannot_be_used_ends_with_their_names(
    start_with: Callable[..., tuple[Gateway, Pair]],
    authority: Authority,
    tmp_path: Path,
    env: dict[str, str],
    line: str,
) -> None:
    authority.issue("other")
    given = {name: str(tmp_path / file) for name, file in env.items()}

    with pytest.raises(Exception, match="gateway cannot start") as caught:
        start_with(**given)

    assert line in str(caught.value)


def test_services_are_asked_by_https_and_who_is_not_trusted_is_a_502(
    start_gateway: GatewayFactory, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "others").mkdir()
    stranger, us = Authority(tmp_path / "others"), authority.issue("us")
    with Scripted(tls=authority.issue().server_context(client_ca=authority.path)) as server:
        services = TLS % (server.url, authority.path, *us, server.url, stranger.path)
        gateway = start_gateway(services=services, WEB_CONCURRENCY="1")

        good, bad = gateway.get("/safe/x"), gateway.get("/fooled/x")

    assert (good.status, bad.status) == (200, 502)
    assert json.loads(bad.body)["code"] == "SERVICE_NOT_TRUSTED"
    (line,) = gateway.events("call_failed")
    assert (line["outcome"], line["reason"]) == ("not_trusted", "self-signed certificate in certificate chain")
