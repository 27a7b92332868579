"""Whom the gateway takes for the caller, and what it tells services of how a request came."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.callers import Forwarding, IPNetwork, forwarded_field, forwarding_of, is_trusted, whose_address


def networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


PRIVATE = networks("10.0.0.0/8", "192.168.7.7/32", "fd00::/8")


def traced(peer: str, incoming: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """The caller, and the proxies between it and us."""
    found = forwarding_of(peer, "http", "h", "1.1", incoming, PRIVATE)
    return found.caller, found.proxies


@pytest.mark.parametrize(
    ("peer", "field", "caller", "proxies"),
    [
        ("10.0.0.1", None, "10.0.0.1", ()),
        ("10.0.0.1", "", "10.0.0.1", ()),
        ("10.0.0.1", " , ,", "10.0.0.1", ()),
        ("10.0.0.1", "192.0.2.1", "192.0.2.1", ("10.0.0.1",)),
        ("10.0.0.1", "192.0.2.1,", "192.0.2.1", ("10.0.0.1",)),
        ("10.0.0.1", "6.6.6.6, 192.0.2.1", "192.0.2.1", ("10.0.0.1",)),
        ("10.0.0.1", "6.6.6.6, 10.0.0.9, 192.0.2.1", "192.0.2.1", ("10.0.0.1",)),
        ("10.0.0.1", "192.0.2.1, 10.0.0.2", "192.0.2.1", ("10.0.0.2", "10.0.0.1")),
        ("10.0.0.1", "6.6.6.6, 192.0.2.1, 10.0.0.3, 10.0.0.2", "192.0.2.1", ("10.0.0.3", "10.0.0.2", "10.0.0.1")),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3", ("10.0.0.2", "10.0.0.1")),
        ("10.0.0.1", "192.0.2.1, nonsense", "10.0.0.1", ()),
        ("10.0.0.1", "192.0.2.1, nonsense, 10.0.0.2", "10.0.0.2", ("10.0.0.1",)),
        ("10.0.0.1", "192.0.2.1:443", "10.0.0.1", ()),
        ("10.0.0.1", "unknown", "10.0.0.1", ()),
        ("192.168.7.7", "192.0.2.1", "192.0.2.1", ("192.168.7.7",)),
        ("fd00::1", "2001:db8::1, fd00::2", "2001:db8::1", ("fd00::2", "fd00::1")),
        ("fd00::1", "[2001:db8::1]", "2001:db8::1", ("fd00::1",)),
        ("fd00::1", "2001:DB8:0::0001", "2001:db8::1", ("fd00::1",)),
        ("fd00::1", "fe80::1%eth0", "fd00::1", ()),  # a zone means something on its own machine only
        ("::ffff:10.0.0.1", "192.0.2.1", "192.0.2.1", ("::ffff:10.0.0.1",)),
        ("10.0.0.1", "192.0.2.1, ::ffff:10.0.0.2", "192.0.2.1", ("10.0.0.2", "10.0.0.1")),
        ("10.0.0.1", "::ffff:192.0.2.1", "192.0.2.1", ("10.0.0.1",)),
    ],
)
def test_caller_is_the_last_address_that_a_trusted_proxy_does_not_vouch_for(
    peer: str, field: str | None, caller: str, proxies: tuple[str, ...]
) -> None:
    incoming = {} if field is None else {"x-forwarded-for": field}

    assert traced(peer, incoming) == (caller, proxies)


@pytest.mark.parametrize("peer", ["192.0.2.1", "11.0.0.1", "192.168.7.8", "2001:db8::1", "::ffff:192.0.2.1", "", "x"])
@pytest.mark.parametrize("trusted", [PRIVATE, ()])
def test_untrusted_peer_is_the_caller_whatever_it_says(peer: str, trusted: tuple[IPNetwork, ...]) -> None:
    told = {
        "x-forwarded-for": "6.6.6.6, 10.0.0.1",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "x",
        "via": "1.1 x",
    }

    assert forwarding_of(peer, "http", "h", "1.1", told, trusted) == Forwarding(peer, "http", "h", ())


@pytest.mark.parametrize("field", ["forwarded", "x-real-ip", "x-client-ip", "cf-connecting-ip", "true-client-ip"])
def test_only_x_forwarded_for_tells_the_caller(field: str) -> None:
    assert traced("10.0.0.1", {field: "for=6.6.6.6"}) == ("10.0.0.1", ())


@pytest.mark.parametrize(
    ("address", "networks_", "expected"),
    [
        ("10.1.2.3", networks("10.0.0.0/8"), True),
        ("::ffff:10.1.2.3", networks("10.0.0.0/8"), True),
        ("::ffff:192.0.2.1", networks("10.0.0.0/8"), False),
        ("10.1.2.3", networks("::/0"), False),
        ("::1", networks("0.0.0.0/0"), False),
        ("::1", networks("::1/128"), True),
        ("10.1.2.3", (), False),
        ("localhost", networks("0.0.0.0/0"), False),
    ],
)
def test_address_is_trusted_when_it_lies_in_a_network(
    address: str, networks_: tuple[IPNetwork, ...], expected: bool
) -> None:
    assert is_trusted(address, networks_) is expected


OUTSIDE = st.ip_addresses(v=4, network="192.0.2.0/24").map(str) | st.ip_addresses(v=6, network="2001:db8::/32").map(str)
INSIDE = st.ip_addresses(v=4, network="10.0.0.0/8").map(str) | st.ip_addresses(v=6, network="fd00::/8").map(str)
LINE = st.text(st.characters(exclude_characters="\r\n"), max_size=8)
SAID = st.lists(OUTSIDE | INSIDE | LINE | st.just("[::1]:80"), max_size=5).map(", ".join)


@given(said=SAID, peer=OUTSIDE)
def test_nothing_that_an_untrusted_peer_says_changes_who_it_is(said: str, peer: str) -> None:
    assert traced(peer, {"x-forwarded-for": said}) == (peer, ())


@given(said=SAID, caller=OUTSIDE, proxies=st.lists(INSIDE, max_size=3), peer=INSIDE)
def test_nothing_that_stands_before_an_untrusted_address_changes_the_result(
    said: str, caller: str, proxies: list[str], peer: str
) -> None:
    written_by_proxies = ", ".join([caller, *proxies])

    honest = traced(peer, {"x-forwarded-for": written_by_proxies})
    spoofed = traced(peer, {"x-forwarded-for": f"{said}, {written_by_proxies}"})

    assert honest == spoofed == (caller, (*proxies, peer))


@pytest.mark.parametrize(
    ("told", "scheme", "host", "via"),
    [
        ({}, "http", "h", ""),
        ({"x-forwarded-proto": "https"}, "https", "h", ""),
        ({"x-forwarded-proto": "HTTPS"}, "https", "h", ""),
        ({"x-forwarded-proto": "gopher"}, "http", "h", ""),
        ({"x-forwarded-host": "shop.example:8443"}, "http", "shop.example:8443", ""),
        ({"x-forwarded-host": "shop.example/x"}, "http", "h", ""),
        ({"x-forwarded-host": ""}, "http", "h", ""),
        ({"via": "1.1 edge"}, "http", "h", "1.1 edge"),
    ],
)
def test_a_trusted_proxy_is_believed_what_it_says(told: dict[str, str], scheme: str, host: str, via: str) -> None:
    found = forwarding_of("10.0.0.1", "http", "h", "1.0", told, PRIVATE)

    assert (found.scheme, found.host, found.via, found.protocol) == (scheme, host, via, "1.0")


def test_what_comes_again_is_made_once_and_what_is_long_each_time() -> None:
    def asked(chain: str) -> Forwarding:
        return forwarding_of("10.0.0.1", "http", "h", "1.1", {"x-forwarded-for": chain}, PRIVATE)

    assert asked("192.0.2.1") is asked("192.0.2.1")
    assert asked("192.0.2.1") is not asked("192.0.2.2")
    assert asked("x" * 300 + ", 192.0.2.1") is not asked("x" * 300 + ", 192.0.2.1")


def test_logs_hold_a_network_and_limits_count_an_address() -> None:
    found = forwarding_of("192.0.2.77", "http", "h", "1.1", {}, ())

    assert (found.network, found.counted_as) == ("192.0.2.0", "address:192.0.2.77")


def test_a_host_cannot_break_out_of_its_quotes_in_forwarded() -> None:
    forwarding = Forwarding("192.0.2.1", "http", 'h";for=6.6.6.6;x="\\', ())

    assert forwarded_field(forwarding) == r'for=192.0.2.1;proto=http;host="h\";for=6.6.6.6;x=\"\\"'


@pytest.mark.parametrize(
    ("address", "whose"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("no address", "no address"),
    ],
)
def test_an_ipv6_caller_is_a_network_of_64_bits_and_ipv4_is_ipv4_in_any_clothes(address: str, whose: str) -> None:
    assert whose_address(address) == whose
